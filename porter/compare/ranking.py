"""Which choice is best at what, which is dominated, and what the order hangs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from porter.compare.budget import at
from porter.compare.price import winning

# column: whether more is better
COLUMNS = {
    "latency_s": False,
    "per_second": True,
    "tokens_per_s": True,
    "usd_per_million_tokens": False,
    "usd_per_thousand_runs": False,
    "error.sqnr_db": True,
    "chips": False,
    "memory.chip_bytes": False,
}
TIMELESS = ("error.sqnr_db", "chips", "memory.chip_bytes")
DECIDES = {"latency_s": False, "cost": False, "error.sqnr_db": True}  # what one choice must beat another in
EPSILON = 1e-9


def cost_of(target: dict[str, Any]) -> float | None:
    """Dollars per unit of work: a million tokens where there are tokens, else a thousand runs."""
    found: float | None = (
        target["usd_per_million_tokens"] if target["tokens_per_s"] is not None else target["usd_per_thousand_runs"]
    )
    return found


def rank(targets: Sequence[dict[str, Any]]) -> None:
    """Writes into each target: "best" (columns), "dominated_by", "break_even_usd_per_hour".

    A target that leaves more to the host than another is untimed there: it is neither best at anything that takes time,
    nor does it dominate.
    """
    able = [t for t in targets if t["runs"]]
    fair = [t for t in able if not untimed(t, able)]
    for t in targets:
        t["best"], t["dominated_by"], t["break_even_usd_per_hour"] = [], None, None
    for path, more in COLUMNS.items():
        among = able if path in TIMELESS else fair
        values = [(_shown(path, at(t, path)), t) for t in among if at(t, path) is not None]
        if len({v for v, _ in values}) > 1:
            top = max(v for v, _ in values) if more else min(v for v, _ in values)
            for v, t in values:
                if v == top:
                    t["best"].append(path)
    for t in able:
        t["dominated_by"] = next((o["target"] for o in fair if o is not t and _dominates(o, t)), None)
    for t in able:
        others = [c for o in fair if o is not t and (c := cost_of(o)) is not None]
        mine = cost_of(t)
        if others and (mine is None or mine > min(others)):
            t["break_even_usd_per_hour"] = _price_for(t, min(others))


def untimed(target: dict[str, Any], among: Sequence[dict[str, Any]]) -> list[str]:
    """The operators that a target leaves to the host while another does not: its figures have no time for them."""
    return sorted({op for o in among for op in target["host"].keys() - o["host"].keys()})


def _shown(path: str, value: float) -> float:
    """A figure as exactly as it is printed: what looks the same is equally good."""
    return round(value, 1) if path == "error.sqnr_db" else float(f"{value:.3g}")


def _price_for(t: dict[str, Any], cost: float) -> float:
    """The chip hour at which a target costs `cost` per unit of work."""
    if t["tokens_per_s"] is not None:
        return winning(cost, t["chips"], t["tokens_per_s"])
    return winning(cost * 1000, t["chips"], t["per_second"])


def _dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether a is nowhere worse than b and somewhere better. Without a price nobody dominates or is dominated."""
    better = False
    for path, more in DECIDES.items():
        x, y = (cost_of(a), cost_of(b)) if path == "cost" else (at(a, path), at(b, path))
        if path != "cost" and x is None and y is None:
            continue
        if x is None or y is None:
            return False
        if path == "error.sqnr_db":
            x, y = round(x), round(y)  # less than a decibel is the luck of the inputs
        gain = (x - y if more else y - x) / max(abs(x), abs(y), EPSILON)
        if gain < -EPSILON:
            return False
        better = better or gain > EPSILON
    return better


def hangs_on(targets: Sequence[dict[str, Any]], quick: bool, weights: bool = True) -> list[str]:
    """What the order rests on, in sentences: prices, origins, assumptions."""
    able = [t for t in targets if t["runs"]]
    unit = "a million tokens" if any(t["tokens_per_s"] is not None for t in able) else "a thousand runs"
    priced = sorted((t for t in able if cost_of(t) is not None), key=lambda t: cost_of(t) or 0.0)
    ranked = [t for t in priced if not untimed(t, able)]
    said = [_decision(ranked, unit)] if ranked else []
    if (start := _starts(able)) is not None:
        said.append(start)
    said += [f"{t['target']}: {_priced(t)}{_would(t)}." for t in priced]
    if free := [t for t in able if t["price"] is None]:
        said.append(f"no public price: {', '.join(t['target'] + _would(t) for t in free)}.")
    said += [
        f"{t['target']} leaves {', '.join(ops)} to the host, which is not timed: its figures are no match for the others'."
        for t in able
        if (ops := untimed(t, able))
    ]
    said.append(
        "Latency, throughput and cost come from a model in which every peak rate is reached: bounds, not measurements."
    )
    said += [
        f"{t['target']}: {t['vendor_timed'][0]} of {t['vendor_timed'][1]} launches are timed by the vendor's compiler, in its own"
        " layouts; the others, and the start of all, by the model."
        for t in able
        if t["vendor_timed"][0]
    ]
    said.append(
        "Weights are shapes only: numerics were not checked, and there is no error to compare."
        if not weights
        else "The error was not computed (--quick)."
        if quick
        else "The error is that of the tile programs, run here under the device's number formats."
    )
    said += [
        f"{', '.join(names)}: {label}." for label, names in _by(able, lambda t: [t["label"]] if t["label"] else [])
    ]
    assumed = _by(able, lambda t: [a.split(" (")[0] for a in t["assumed"]])
    together: dict[tuple[str, ...], list[str]] = {}
    for parameter, names in assumed:
        together.setdefault(tuple(names), []).append(parameter)
    said += [f"assumed of {_names(names, able)}: {', '.join(ps)}." for names, ps in together.items()]
    return said


def _decision(ranked: Sequence[dict[str, Any]], unit: str) -> str:
    """What is cheapest, and how much has to change until it is not."""
    first = ranked[0]
    text = f"{first['target']} makes {unit} cheapest, at {cost_of(first):.4g} dollars"
    if len(ranked) == 1:
        return f"{text}: the only one with a price."
    second = ranked[1]
    ratio = (cost_of(second) or 0.0) / (cost_of(first) or 1.0)
    hour = first["price"]["usd_per_hour"] * ratio
    return (
        f"{text}. That hangs on its price, {first['price']['usd_per_hour']:.4g} dollars per chip hour: above {hour:.3g}"
        f" ({ratio:.2g} times as much) {second['target']} is cheaper."
    )


def _starts(able: Sequence[dict[str, Any]]) -> str | None:
    """A sentence where an assumed start of kernels is most of the time of a choice."""
    found = [
        t
        for t in able
        if t["spent_s"] is not None
        and t["spent_s"]["overhead"] > sum(t["spent_s"].values()) / 2
        and any(a.startswith("overhead.launch_s") for a in t["assumed"])
    ]
    if not found:
        return None
    share = [f"{t['target']} {100 * t['spent_s']['overhead'] / sum(t['spent_s'].values()):.0f}%" for t in found]
    return f"The order by time hangs on the start of kernels, whose figure is assumed: {', '.join(share)} of the time."


def _would(t: dict[str, Any]) -> str:
    price = t["break_even_usd_per_hour"]
    return f" (cheapest below {price:.3g} dollars per chip hour)" if price is not None else ""


def _by(
    targets: Sequence[dict[str, Any]], words: Callable[[dict[str, Any]], Sequence[str]]
) -> list[tuple[str, list[str]]]:
    """Each word, and the targets that have it."""
    found: dict[str, list[str]] = {}
    for t in targets:
        for word in dict.fromkeys(words(t)):
            found.setdefault(word, []).append(t["target"])
    return list(found.items())


def _names(names: Sequence[str], able: Sequence[dict[str, Any]]) -> str:
    return "all" if len(names) == len(able) > 1 else ", ".join(names)


def _priced(t: dict[str, Any]) -> str:
    p = t["price"]
    return f"{p['usd_per_hour']:.4g} dollars per chip hour, {p['source']} ({p['date']})"
