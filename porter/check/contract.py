"""What a pass may claim of itself, and the budgets a user may set: the four contracts.

exact       the same operators on the same values; bitwise in the source dtypes
algebraic   the same function over the reals
rounding    the same function, rounded elsewhere
precision   a cheaper number format, within a stated budget
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from porter.errors import PorterError

if TYPE_CHECKING:
    import numpy as np


class Kind(Enum):
    """The contracts, strictest first."""

    EXACT = "exact"
    ALGEBRAIC = "algebraic"
    ROUNDING = "rounding"
    PRECISION = "precision"


# Metric -> whether a larger value is better.
METRICS = {"sqnr_db": True, "cosine": True, "top1": True, "max_abs": False, "max_rel": False, "rms": False, "kl": False,
           "perplexity": False}  # fmt: skip
LOGITS = ("kl", "top1", "perplexity")
"""Metrics of logits, over the last axis; `perplexity` is by how much it rises over float64's (0.03: 3%), on the sample's own
tokens. They say nothing about a cache."""
_SHORT = {"sqnr": "sqnr_db"}


@dataclass(frozen=True)
class Budget:
    """A limit on one metric of the error against float64: of every output, or of the one named.

    `measure` is the user's own function of (float64 outputs, outputs) of one tensor, smaller is better; as a word of the
    command line FILE.py:FUNCTION=LIMIT.
    """

    metric: str
    limit: float
    output: str | None = None
    measure: Callable[[np.ndarray, np.ndarray], float] | None = field(default=None, compare=False)

    def allows(self, value: float) -> bool:
        """Whether a measured value keeps the budget; NaN never does."""
        return value >= self.limit if METRICS.get(self.metric, False) else value <= self.limit

    def worse(self, a: float, b: float) -> float:
        """Of two measured values the one nearer to a miss."""
        return min(a, b) if METRICS.get(self.metric, False) else max(a, b)

    def judges(self, output: str) -> bool:
        """Whether the limit holds for an output."""
        if self.output is None:
            return self.metric not in LOGITS or "present" not in output
        return self.output == output

    def __str__(self) -> str:
        sign = ">=" if METRICS.get(self.metric, False) else "<="
        return f"{self.metric}{f' of {self.output}' if self.output else ''} {sign} {self.limit:g}"


@dataclass(frozen=True)
class Contract:
    """A claim and, for `precision`, its budgets.

    `arithmetic` is the format that contractions take and keep ('bf16'): the error is then also held against the one
    that this format must make, so that a fault cannot hide inside a generous budget.
    """

    kind: Kind
    budgets: tuple[Budget, ...] = ()
    arithmetic: str | None = None

    @property
    def name(self) -> str:
        return self.kind.value

    def __str__(self) -> str:
        return self.name + (f"({', '.join(str(b) for b in self.budgets)})" if self.budgets else "")


exact = Contract(Kind.EXACT)
algebraic = Contract(Kind.ALGEBRAIC)
rounding = Contract(Kind.ROUNDING)


def precision(
    metric: str | None = None,
    limit: float | None = None,
    *,
    db: float | None = None,
    arithmetic: str | None = None,
    **limits: float,
) -> Contract:
    """A contract with budgets: precision("sqnr", db=30), precision("cosine", 0.999), precision(sqnr_db=40, kl=0.01);
    with arithmetic="bf16" the error is held against bfloat16's own too."""
    if metric is not None:
        value = limit if limit is not None else db
        if value is None:
            raise PorterError(f"precision({metric!r})", expected="a limit", hint=f"precision({metric!r}, 30)")
        limits = {metric: value, **limits}
    return Contract(Kind.PRECISION, budgets(limits), arithmetic)


def budgets(limits: Mapping[str, float] | Iterable[str | Budget]) -> tuple[Budget, ...]:
    """Budgets from {'sqnr_db': 40} or from the command line's words: 'sqnr_db=40', 'logits:kl=0.01'.

    An unknown metric or a limit that is no number raises PorterError.
    """
    if isinstance(limits, Mapping):
        return tuple(_budget(name, limit) for name, limit in limits.items())
    made = []
    for word in limits:
        if isinstance(word, Budget):
            made.append(word)
            continue
        metric, equals, limit = word.partition("=")
        if not equals:
            raise PorterError(f"budget {word!r}", expected="METRIC=LIMIT", hint="--budget sqnr_db=40")
        made.append(_budget(metric, limit))
    return tuple(made)


def _function(file: str, name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The user's function of that name in a Python file."""
    path = Path(file)
    if not path.is_file():
        raise PorterError(f"budget {file}:{name}", expected="a Python file", found="no such file")
    space = runpy.run_path(str(path))
    if not callable(space.get(name)):
        known = ", ".join(sorted(n for n, x in space.items() if callable(x) and not n.startswith("_")))
        raise PorterError(f"budget {file}:{name}", expected=f"a function of {path.name}", found=known or "none there")
    made: Callable[[np.ndarray, np.ndarray], float] = space[name]
    return made


def _budget(name: str, limit: float | str) -> Budget:
    output, colon, metric = name.rpartition(":")
    own = None
    if output.endswith(".py"):
        output, own, metric = "", _function(output, metric), name
    metric = _SHORT.get(metric, metric)
    if own is None and metric not in METRICS:
        raise PorterError(f"budget metric {metric!r}", expected=", ".join(METRICS))
    try:
        value = float(limit)
    except ValueError:
        value = float("nan")
    if value != value:
        raise PorterError(f"budget {name}={limit}", expected="a number", found=repr(limit))
    return Budget(metric, value, output or None if colon else None, own)
