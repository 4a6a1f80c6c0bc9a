"""The pipeline of each precision: the words that `--precision` stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from porter.check import Budget
from porter.pipeline.text import Stage, parse
from porter.precision.contract import WIDE, Formats
from porter.precision.schemes import SCHEMES, least

PRECISIONS = ("fp32", "bf16", *SCHEMES)
FIRST, LAST = "cleanup, fusion, layout", "quantization.decoded, tiling.partition"
UNCHECKED = -300.0  # dB: a user's budget in another metric decides, at the end of the port


def pipeline(precision: str, budgets: Sequence[Budget] = (), **options: str) -> str:
    """The pipeline text; `options` are those of quantization.narrow (formats, clip, calibrate, method).

    A user's budget takes the place of the precision's own in every step: sqnr_db is held after each, others at the end.
    """
    if precision == "fp32":
        return f"{FIRST}, {LAST}"
    given = [b.limit for b in budgets if b.metric == "sqnr_db" and b.output is None]
    floor = max(given) if given else UNCHECKED if budgets else least(precision)
    wide = f"quantization.bf16{{db={floor!r}}}"
    if precision == "bf16":
        return f"{FIRST}, {wide}, {LAST}"
    words = {"scheme": precision, "db": repr(floor), **{k: v for k, v in options.items() if v}}
    return f"{FIRST}, quantization.narrow{{{','.join(f'{k}={v}' for k, v in words.items())}}}, {wide}, {LAST}"


def stages(precision: str, budgets: Sequence[Budget] = (), formats: str = "", calibrate: str = "") -> tuple[Stage, ...]:
    """The pipeline with a precision contract's path and a place of samples, which may hold any character."""
    base = precision
    if formats:
        base = Formats.read(formats).default
        base = base if base in SCHEMES else "int8w"
        budgets = tuple(budgets) or (Budget("sqnr_db", UNCHECKED),)
    return tuple(
        replace(s, work=replace(s.work, formats=formats, calibrate=calibrate)) if s.name == "quantization.narrow" else s  # type: ignore[call-arg]
        for s in parse(pipeline(base, budgets))
    )


def asked(precision: str, formats: str = "") -> Formats:
    """What each layer is to be, of a precision or of a contract's file."""
    return Formats.read(formats) if formats else Formats(precision if precision in SCHEMES else WIDE)
