"""The pipeline of each precision: the words that `--precision` stands for."""

from __future__ import annotations

from collections.abc import Sequence

from porter.check import Budget
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
