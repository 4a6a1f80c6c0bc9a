"""The gates: when a tensor of the changed model is close enough, by contract, and the sentence when it is not.

The three-way gate holds the error of the changed model against float64 against the error that the model had before and
the error its formats must have (the larger is `base`): at most 1.5 times as an rms and 5 times at the worst element,
both errors floored at half an ulp of the tensor's rms. 1.5 is the spread of two equally good orders of evaluation; 5 is
how far the largest of many thousand normal errors lies above another sample's largest. The rms of few errors scatters
by itself, which `spread` adds: a tensor of one element has one error, which may be four times what it is on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from porter import formats
from porter.check import measure
from porter.check.contract import Budget
from porter.check.measure import Distance
from porter.errors import PorterError

RMS_RATIO = 1.5
WORST_RATIO = 5.0
FEW = 64  # elements up to which the rms of a tensor's errors scatters by more than a tenth
ALGEBRAIC = 1e-10  # of the tensor's rms: float64 has 1e-16, and no model loses six digits to honest reordering


@dataclass(frozen=True)
class Judged:
    """Whether a tensor passes, how far it is from the truth, and the limit it crossed, as a sentence part."""

    ok: bool
    distance: Distance
    limit: str = ""
    values: dict[str, float] = field(default_factory=dict)


def exact(before: np.ndarray, after: np.ndarray) -> Judged:
    """Bitwise, any NaN being equal to any other, and -0 not to +0."""
    apart = measure.moved(before, after)
    distance = measure.distance(before, after)
    if not apart.any():
        return Judged(True, distance)
    if distance.moved == 0:  # only signs of zero differ: show one
        at = np.unravel_index(int(np.argmax(apart)), apart.shape)
        return Judged(False, distance, f"a zero changed its sign at {[int(i) for i in at]}, allowed none")
    return Judged(False, distance, "allowed 0")


def algebraic(truth: np.ndarray, after: np.ndarray) -> Judged:
    """Both in float64: within 1e-10 of the tensor's rms; integers and booleans equal."""
    finite = np.isfinite(truth) if truth.dtype.kind == "f" else np.ones(truth.shape, bool)
    distance = measure.distance(truth, after)
    allowed = ALGEBRAIC * measure.rms(truth[finite]) if truth.dtype.kind == "f" else 0.0
    if distance.max_abs <= allowed:
        return Judged(True, distance)
    return Judged(False, distance, f"allowed {allowed:.2g}")


@dataclass
class Errors:
    """Errors of one tensor against float64, gathered over draws: of after, of before, and of the formats."""

    floor: float = 0.0
    after: list[tuple[float, float]] = field(default_factory=list)  # (rms, worst) per draw
    before: list[tuple[float, float]] = field(default_factory=list)
    must: list[tuple[float, float]] = field(default_factory=list)

    def add(self, kind: str, truth: np.ndarray, value: np.ndarray, scale: float = 1.0) -> None:
        error = measure.difference(truth, value) * scale
        getattr(self, kind).append((measure.rms(error), float(np.max(error, initial=0.0))))

    def judge(self, truth: np.ndarray, after: np.ndarray) -> Judged:
        """The three-way gate over all draws so far; `truth` and `after` are the latest. Elements count as moved when
        their error is beyond what one element may have."""
        rms = _root([r for r, _ in self.after])
        worst = max((w for _, w in self.after), default=0.0)
        base_rms = max(_root([r for r, _ in self.before]), _root([r for r, _ in self.must]), self.floor)
        scatters = after.dtype.kind not in "iub"  # integers are not rounded at random
        ratio_allowed = RMS_RATIO * (spread(after.size * len(self.after)) if scatters else 1.0)
        base_worst = max([w for _, w in (*self.before, *self.must)] + [self.floor])
        ratio = rms / base_rms if base_rms else np.inf if rms else 1.0
        values = {
            "error_rms": rms,
            "error_base": base_rms,
            "error_ratio": ratio,
            "error_allowed": ratio_allowed,
            "error_before": _root([r for r, _ in self.before]),
            "error_formats": _root([r for r, _ in self.must]),
            "error_floor": self.floor,
            "error_worst": worst,
            "error_worst_allowed": WORST_RATIO * base_worst,
        }
        allowed = WORST_RATIO * base_worst
        distance = measure.distance(truth, after)
        beyond = int(np.count_nonzero(measure.difference(truth, after) > allowed))
        distance = replace(distance, moved=beyond or distance.moved)
        if rms > ratio_allowed * base_rms:
            limit = f"rms error {rms:.3g} is {ratio:.3g} times what the formats make, allowed {ratio_allowed:.3g}"
            return Judged(False, distance, f"allowed {allowed:.3g}; {limit}" if beyond else limit, values)
        if worst > allowed:
            return Judged(False, distance, f"allowed {allowed:.3g}", values)
        return Judged(True, distance, values=values)

    @property
    def marginal(self) -> bool:
        """Whether a failure may be chance: less than four times the limit. More draws decide."""
        rms = _root([r for r, _ in self.after])
        worst = max((w for _, w in self.after), default=0.0)
        base = [(r, w) for r, w in (*self.before, *self.must)] + [(self.floor, self.floor)]
        return rms <= 4 * RMS_RATIO * max(r for r, _ in base) and worst <= 4 * WORST_RATIO * max(w for _, w in base)


def derived(tensor: str, values: Mapping[str, float]) -> list[str]:
    """How the limit of a tensor came about, line by line; `values` are those of its `Judged`."""
    v = values
    formats_make = f"{v['error_formats']:.3g}" if v["error_formats"] else "not asked: the others suffice"
    scatter = v["error_allowed"] / RMS_RATIO
    return [
        f"output '{tensor}': rms error against float64 {v['error_rms']:.3g}, allowed {v['error_allowed'] * v['error_base']:.3g}",
        f"  = {v['error_allowed']:.3g} times the largest of: the first model's own error {v['error_before']:.3g}; what "
        f"rounding at random in its formats makes ({formats_make}); half an ulp of the tensor's rms {v['error_floor']:.3g}",
        f"  {v['error_allowed']:.3g} = {RMS_RATIO:g} (equally good orders of evaluation) x {scatter:.3g} "
        "(how the rms of so many errors scatters)",
        f"  worst element {v['error_worst']:.3g}, allowed {v['error_worst_allowed']:.3g} = "
        f"{WORST_RATIO:g} times the worst of those",
    ]


def spread(count: int) -> float:
    """How far the rms of `count` normal errors may lie above their true one, but for a chance of 1e-4: the root of the
    chi-squared quantile over `count`, in Wilson and Hilferty's approximation."""
    n = max(count, 1)
    return float((1 - 2 / (9 * n) + 3.72 * (2 / (9 * n)) ** 0.5) ** 1.5)


def samples(counts: Iterable[int]) -> int:
    """How many stochastic evaluations say what error the formats must have: 2 where tensors have many elements."""
    return 2 if min(counts, default=FEW) >= FEW else 8


def floor(truth: np.ndarray, dtype: np.dtype) -> float:
    """Half an ulp, in the tensor's own format, of its rms; for integers half a step."""
    if dtype.name not in formats.FORMATS or not formats.of(dtype.name).is_float:
        return 0.5
    values = truth[np.isfinite(truth)] if truth.dtype.kind == "f" else truth
    return float(formats.of(dtype.name).ulp(measure.rms(values))) / 2


def within(budgets: tuple[Budget, ...], name: str, truth: np.ndarray, after: np.ndarray) -> Judged:
    """The user's budgets, each measured against float64."""
    distance = measure.distance(truth, after)
    values: dict[str, float] = {}
    for budget in budgets:
        if not budget.judges(name):
            continue
        value = _measured(budget, distance, truth, after)
        values[budget.metric] = value
        if not budget.allows(value):
            return Judged(False, distance, f"{budget.metric} is {value:.4g}, allowed {budget}", values)
    return Judged(True, distance, values=values)


def bound(limits: Iterable[Budget], inputs: Mapping[str, np.ndarray]) -> tuple[Budget, ...]:
    """The budgets on a sample: perplexity is that of the sample's own tokens, each after those before it."""
    return tuple(
        replace(b, measure=partial(_perplexity, inputs)) if b.metric == "perplexity" and b.measure is None else b
        for b in limits
    )


def _perplexity(inputs: Mapping[str, np.ndarray], truth: np.ndarray, after: np.ndarray) -> float:
    tokens = [a for a in inputs.values() if a.dtype.kind in "iu" and a.shape == truth.shape[:-1] and a.size]
    if not tokens or tokens[0].shape[-1] < 2:
        raise PorterError(
            f"budget perplexity of an output of shape {list(truth.shape)}",
            expected=f"an input of token ids of shape {list(truth.shape[:-1])}, two tokens or more",
            found=", ".join(f"{n} {list(a.shape)}" for n, a in inputs.items()) or "no inputs",
            hint="--budget OUTPUT:perplexity=0.01 names the output that is logits",
        )
    return measure.perplexity(after, tokens[0]) / measure.perplexity(truth, tokens[0]) - 1


def _measured(budget: Budget, distance: Distance, truth: np.ndarray, after: np.ndarray) -> float:
    if budget.measure is not None:
        return float(budget.measure(truth, after))
    match budget.metric:
        case "kl":
            return measure.kl(truth, after)
        case "top1":
            return measure.top1(truth, after)
        case metric:
            return float(getattr(distance, metric))


def _root(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else 0.0
