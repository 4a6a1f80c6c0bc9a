"""The pipeline of each precision: the words that `--precision` stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from porter.check import Budget
from porter.pipeline.text import Stage, parse
from porter.precision.calibrate import Samples
from porter.precision.contract import WIDE, Formats
from porter.precision.schemes import SCHEMES, USUAL, least

PRECISIONS = ("fp32", "bf16", *SCHEMES)
FIRST, LAST = (
    "cleanup, fusion, layout",
    "quantization.flavour, quantization.decoded, quantization.packed, tiling",
)
OPTIONS = {
    "clip": "clip",
    "rounding": "rounding",
    "ranges": "method",
}  # a contract's methods, as quantization.narrow has them
UNCHECKED = -300.0  # dB: a user's budget in another metric decides, at the end of the port


def pipeline(
    precision: str,
    budgets: Sequence[Budget] = (),
    methods: Mapping[str, str] = MappingProxyType({}),
    count: int = USUAL,
    measured: float | None = None,
) -> str:
    """The pipeline text. A user's budget takes the place of the precision's own in every step: sqnr_db is held after each,
    others at the end.

    methods   weight methods, as a contract has them
    count     of layers, over which errors add up
    measured  dB that the model must keep, where it was measured (porter/precision/growth.py)
    """
    if precision == "fp32":
        return f"{FIRST}, {LAST}"
    given = [b.limit for b in budgets if b.metric == "sqnr_db" and b.output is None]
    floor = (
        max(given)
        if given
        else UNCHECKED
        if budgets
        else least(precision, count, methods.get("cache", "none"), measured)
    )
    wide = f"quantization.bf16{{db={floor!r}}}"
    if precision == "bf16":
        return f"{FIRST}, {wide}, {LAST}"
    words = {"scheme": precision, "db": repr(floor)}
    words |= {option: methods[word] for word, option in OPTIONS.items() if word in methods}
    narrow = f"quantization.narrow{{{','.join(f'{k}={v}' for k, v in words.items())}}}"
    if (cache := methods.get("cache", "none")) != "none":
        words = {"format": cache, "per": methods.get("per", "head"), "db": repr(floor)}
        words |= {"method": methods["ranges"]} if "ranges" in methods else {}
        narrow += f", quantization.cache{{{','.join(f'{k}={v}' for k, v in words.items())}}}"
    rule = methods.get("smooth", "none")
    if rule != "none":
        narrow = f"quantization.smooth{{rule={rule},alpha={methods.get('alpha', 0.5)},scheme={precision}}}, {narrow}"
    return f"{FIRST}, {narrow}, {wide}, {LAST}"


def stages(
    formats: Formats,
    budgets: Sequence[Budget],
    calibrate: Samples = "",
    count: int = USUAL,
    measured: float | None = None,
) -> tuple[Stage, ...]:
    """The pipeline of a contract."""
    base = formats.default if formats.default in SCHEMES else next(iter(formats.patterns.values()), "int8w")
    base = base if base in SCHEMES else "int8w"
    given: dict[str, Any] = {"calibrate": calibrate}
    whole = {**given, "formats": formats.text()} if formats.patterns or formats.default == WIDE else given
    options = {"quantization.narrow": whole, "quantization.smooth": given, "quantization.cache": given}
    return tuple(
        replace(s, work=replace(s.work, **options[s.name])) if s.name in options else s  # type: ignore[type-var]
        for s in parse(pipeline(base, budgets, formats.methods, count, measured))
    )
