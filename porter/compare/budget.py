"""Budgets of a comparison and what became of them; what changed since the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from porter import check
from porter.check import Budget
from porter.errors import PorterError

# metric: where it stands in a target's part of the document, in the user's unit, and whether more is better
LIMITS: Mapping[str, tuple[str, float, bool]] = {
    "latency_ms": ("latency_s", 1e3, False),
    "ttft_ms": ("serving.ttft_s", 1e3, False),
    "tpot_ms": ("serving.tpot_s", 1e3, False),
    "memory_gb": ("memory.chip_bytes", 1e-9, False),
    "chips": ("chips", 1, False),
    "usd_per_million_tokens": ("usd_per_million_tokens", 1, False),
    "usd_per_thousand_runs": ("usd_per_thousand_runs", 1, False),
    "tokens_per_s": ("tokens_per_s", 1, True),
    "per_second": ("per_second", 1, True),
}
CHANGES = {**{path: more for path, _, more in LIMITS.values()}, "error.sqnr_db": True, "memory.weights_bytes": False}
SAME = 1e-9  # relative: figures that differ by less were printed by the same computation


def read(values: Sequence[str]) -> tuple[dict[str, float], tuple[Budget, ...]]:
    """--budget METRIC=X[,METRIC=X]: the limits of this room, and the budgets of the error, which the checker reads."""
    limits: dict[str, float] = {}
    errors: list[str] = []
    for text in (part.strip() for value in values for part in value.split(",")):
        metric, _, number = text.partition("=")
        if metric not in LIMITS:
            errors.append(text)
            continue
        try:
            limits[metric] = float(number)
        except ValueError:
            raise PorterError(f"--budget {text}", expected="METRIC=X with X a number") from None
    try:
        return limits, check.budgets(errors)
    except PorterError as e:
        if not all("=" in text for text in errors):
            raise
        raise PorterError(str(e).splitlines()[0], expected=f"a metric of the error, or {', '.join(LIMITS)}") from None


def at(document: Mapping[str, Any], path: str) -> Any:
    """The figure at a dotted path, None where there is none."""
    found: Any = document
    for word in path.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def missed(target: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """The budgets that a target misses, each as a sentence. A figure that nobody has misses its budget."""
    said = []
    for metric, limit in limits.items():
        path, unit, more = LIMITS[metric]
        value = at(target, path)
        if value is None:
            said.append(f"{metric} is not known, allowed {'>=' if more else '<='} {limit:g}")
        elif not (value * unit >= limit if more else value * unit <= limit):
            said.append(f"{metric} is {value * unit:.4g}, allowed {'>=' if more else '<='} {limit:g}")
    return said


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What changed between two documents: target, figure, both values, and whether it is worse."""
    if not isinstance(before.get("targets"), list):
        raise PorterError("--baseline", expected="a document of porter compare --json", found="something else")
    old = {t["target"]: t for t in before["targets"]}
    found: list[dict[str, Any]] = []
    for t in after["targets"]:
        if (was := old.pop(t["target"], None)) is None:
            found.append({"target": t["target"], "figure": "target", "before": None, "after": "new", "worse": False})
            continue
        if was["runs"] != t["runs"]:
            found.append(
                {
                    "target": t["target"],
                    "figure": "runs",
                    "before": was["runs"],
                    "after": t["runs"],
                    "worse": not t["runs"],
                }
            )
        if was["precision"] != t["precision"]:
            found.append(
                {
                    "target": t["target"],
                    "figure": "precision",
                    "before": was["precision"],
                    "after": t["precision"],
                    "worse": False,
                }
            )
        for path, more in CHANGES.items():
            a, b = at(was, path), at(t, path)
            if a is None or b is None or abs(a - b) <= SAME * max(abs(a), abs(b)):
                continue
            found.append({"target": t["target"], "figure": path, "before": a, "after": b, "worse": (b < a) == more})
    found += [{"target": n, "figure": "target", "before": "compared", "after": None, "worse": False} for n in old]
    return found
