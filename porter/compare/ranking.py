"""Which choice is best at what, which is dominated, and what the order hangs on."""

from __future__ import annotations

from collections.abc import Sequence
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
DECIDES = {"latency_s": False, "cost": False, "error.sqnr_db": True}  # what one choice must beat another in
EPSILON = 1e-9


def cost_of(target: dict[str, Any]) -> float | None:
    """Dollars per unit of work: a million tokens where there are tokens, else a thousand runs."""
    found: float | None = (
        target["usd_per_million_tokens"] if target["tokens_per_s"] is not None else target["usd_per_thousand_runs"]
    )
    return found


def rank(targets: Sequence[dict[str, Any]]) -> None:
    """Writes into each target: "best" (columns), "dominated_by", "break_even_usd_per_hour"."""
    able = [t for t in targets if t["runs"]]
    for t in targets:
        t["best"], t["dominated_by"], t["break_even_usd_per_hour"] = [], None, None
    for path, more in COLUMNS.items():
        values = [(_shown(path, at(t, path)), t) for t in able if at(t, path) is not None]
        if len({v for v, _ in values}) > 1:
            top = max(v for v, _ in values) if more else min(v for v, _ in values)
            for v, t in values:
                if v == top:
                    t["best"].append(path)
    for t in able:
        t["dominated_by"] = next((o["target"] for o in able if o is not t and _dominates(o, t)), None)
    priced = [c for t in able if (c := cost_of(t)) is not None]
    for t in able:
        others = [c for o in able if o is not t and (c := cost_of(o)) is not None]
        if t["price"] is None and priced:
            t["break_even_usd_per_hour"] = _price_for(t, min(priced))
        elif others and cost_of(t) is not None and cost_of(t) > min(others):  # type: ignore[operator]
            t["break_even_usd_per_hour"] = _price_for(t, min(others))


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


def hangs_on(targets: Sequence[dict[str, Any]], quick: bool) -> list[str]:
    """What the order rests on, in sentences: prices, origins, assumptions."""
    able = [t for t in targets if t["runs"]]
    unit = "a million tokens" if any(t["tokens_per_s"] is not None for t in able) else "a thousand runs"
    priced = sorted((t for t in able if cost_of(t) is not None), key=lambda t: cost_of(t) or 0.0)
    said = []
    if priced:
        first = priced[0]
        said.append(
            f"{first['target']} makes {unit} cheapest, at {cost_of(first):.4g} dollars, if its price holds: {_priced(first)}."
        )
        said += [
            f"{t['target']}: {_priced(t)}; it would be cheapest below {t['break_even_usd_per_hour']:.3g} dollars."
            if t["break_even_usd_per_hour"] is not None
            else f"{t['target']}: {_priced(t)}."
            for t in priced[1:]
        ]
    for t in able:
        if t["price"] is None:
            price = t["break_even_usd_per_hour"]
            would = f"; it would be cheapest below {price:.3g} dollars per chip hour" if price is not None else ""
            said.append(f"{t['target']}: no public price{would}.")
    said.append(
        "Latency, throughput and cost come from a model in which every peak rate is reached: bounds, not measurements."
    )
    said.append(
        "The error was not computed (--quick)."
        if quick
        else "The error is that of the tile programs, run here under the device's number formats."
    )
    said += [f"{t['target']}: {t['label']}." for t in able if t["label"]]
    said += [
        f"{t['target']} assumes {', '.join(a.split(' (')[0] for a in t['assumed'])}." for t in able if t["assumed"]
    ]
    return said


def _priced(t: dict[str, Any]) -> str:
    p = t["price"]
    return f"{p['usd_per_hour']:.4g} dollars per chip hour, {p['source']} ({p['date']})"
