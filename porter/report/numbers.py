"""Figures as the page says them."""

from __future__ import annotations

from typing import Any


def amount(value: float | None, unit: str = "") -> str:
    """141 GB; an en dash for none."""
    if value is None:
        return "–"
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g} {letter}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def seconds(value: float | None) -> str:
    """12.3 µs."""
    if value is None:
        return "–"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def figure(value: Any, digits: int = 3) -> str:
    """A number to so many digits; other things as they are."""
    if value is None:
        return "–"
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def percent(part: float, whole: float) -> str:
    """A share; below a hundredth of a percent it says so."""
    share = 100 * part / whole if whole else 0.0
    return "<0.01 %" if 0 < share < 0.01 else f"{share:.3g} %"


def decibel(value: Any) -> str:
    """Signal to error; 300 and more is exact."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return "exact" if value >= 300 else f"{value:.1f} dB"


def share(value: float) -> str:
    """A part of one as a percentage; nothing is not negative."""
    return f"{100 * value + 0.0:.1f} %".replace("-0.0 %", "0.0 %")
