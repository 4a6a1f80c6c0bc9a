"""How far two tensors are apart: the metrics that verdicts, budgets and reports speak of.

All are of `actual` against `expected`, both taken to float64. NaN equals NaN and an infinity equals itself; where only
one side has one, the distance is infinite.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from porter import formats

EQUAL_DB = 300.0  # what SQNR says of equal tensors; float64 itself reaches about 310 dB


@dataclass(frozen=True)
class Distance:
    """The metrics of one pair of tensors.

    max_abs, rms    of the difference
    max_rel         largest |difference| / |expected|, over expected values of at least 1e-3 of the tensor's rms
                    (below that a relative error says nothing: see the rms floor of the gates)
    ulp             largest difference in units of the format's spacing at the expected value, or at 1e-3 of the
                    tensor's rms where that is larger; 0 for integers
    sqnr_db         10 log10(sum expected^2 / sum difference^2), at most 300, and 300 when equal
    cosine          of the two as vectors; 1 when equal
    moved, size     how many elements differ, of how many
    worst           index of the largest difference, with both values
    """

    max_abs: float
    max_rel: float
    rms: float
    ulp: float
    sqnr_db: float
    cosine: float
    moved: int
    size: int
    worst: tuple[int, ...]
    expected: float
    actual: float

    def json(self) -> dict[str, object]:
        """Plain numbers; infinities as text, which JSON lacks."""
        plain = asdict(self) | {"worst": list(self.worst)}
        return {k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in plain.items()}


def distance(expected: np.ndarray, actual: np.ndarray, *, format: str | None = None) -> Distance:
    """The metrics of `actual` against `expected`, which have one shape. `format` is the one whose spacing counts ULPs:
    that of actual's dtype if not given."""
    spacing = _format(actual.dtype if format is None else format)
    e, a = expected.astype(np.float64).reshape(-1), actual.astype(np.float64).reshape(-1)
    if e.size == 0:
        return Distance(0.0, 0.0, 0.0, 0.0, EQUAL_DB, 1.0, 0, 0, (), 0.0, 0.0)
    error = difference(e, a)
    size = np.abs(e)
    finite = np.isfinite(e)
    level = rms(e[finite]) if finite.any() else 0.0
    big = finite & (size >= 1e-3 * level) & (size > 0)
    worst = int(np.argmax(error))
    with np.errstate(over="ignore"):
        ulp = 0.0 if spacing is None else float(np.max(error / spacing.ulp(np.maximum(size, 1e-3 * level))))
    noise, power = float(np.sum(np.square(error))), float(np.sum(np.square(e[finite])))
    return Distance(
        max_abs=float(error[worst]),
        max_rel=float(np.max(error[big] / size[big], initial=0.0)),
        rms=float(np.sqrt(noise / e.size)),
        ulp=ulp,
        sqnr_db=decibel(power, noise),
        cosine=cosine(e, a),
        moved=int(np.count_nonzero(error)),
        size=int(e.size),
        worst=tuple(int(i) for i in np.unravel_index(worst, expected.shape)),
        expected=float(e[worst]),
        actual=float(a[worst]),
    )


def difference(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """|actual - expected| in float64, 0 where both are NaN or the same infinity, Inf where only one is."""
    e, a = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - e)
    same = (e == a) | (np.isnan(e) & np.isnan(a))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def identical(expected: np.ndarray, actual: np.ndarray) -> bool:
    """Bitwise equality of arrays of one dtype and shape, but that any NaN equals any other; -0 is not +0."""
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return False
    return not moved(expected, actual).any()


def moved(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Where two arrays of one dtype differ as bits, NaN being equal to NaN."""
    if expected.dtype.kind in "OUS":
        return np.asarray(expected != actual)
    raw = np.dtype(f"u{expected.dtype.itemsize}")
    e, a = np.ascontiguousarray(expected), np.ascontiguousarray(actual)
    apart = np.asarray(e.view(raw) != a.view(raw)) if e.ndim else np.asarray(e.tobytes() != a.tobytes())
    if is_float(expected.dtype):
        apart &= ~(np.isnan(e.astype(np.float32)) & np.isnan(a.astype(np.float32)))
    return apart


def rms(x: np.ndarray) -> float:
    """Root of the mean square, over float64, scaled so that nothing overflows; 0 for an empty tensor."""
    if x.size == 0:
        return 0.0
    top = float(np.max(np.abs(x)))
    if top == 0 or not np.isfinite(top):
        return top
    return top * float(np.sqrt(np.mean(np.square(x.astype(np.float64) / top))))


def decibel(power: float, noise: float) -> float:
    """10 log10(power / noise), between -300 and 300; 300 where there is no noise, even on no signal."""
    if noise == 0:
        return EQUAL_DB
    if not np.isfinite(noise) or power == 0:
        return -EQUAL_DB
    return float(np.clip(10 * np.log10(power / noise), -EQUAL_DB, EQUAL_DB))


def cosine(e: np.ndarray, a: np.ndarray) -> float:
    """Cosine of two flat vectors over what is finite in both; 1 when both are zero, 0 when one is."""
    finite = np.isfinite(e) & np.isfinite(a)
    e, a = e[finite], a[finite]
    top_e, top_a = np.max(np.abs(e), initial=0.0), np.max(np.abs(a), initial=0.0)
    if top_e == 0 or top_a == 0:
        return 1.0 if top_e == top_a else 0.0
    e, a = e / top_e, a / top_a
    return float(np.clip((e @ a) / np.sqrt((e @ e) * (a @ a)), -1.0, 1.0))


def kl(expected: np.ndarray, actual: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats between the softmaxes over the last axis."""
    p, q = log_softmax(expected.astype(np.float64)), log_softmax(actual.astype(np.float64))
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    return float(np.mean(np.sum(terms, axis=-1))) if terms.size else 0.0


def perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean negative log likelihood, in float64, of each token [..., n] after those before it; logits [..., n, words]."""
    scores = log_softmax(logits[..., :-1, :].astype(np.float64))
    seen = np.take_along_axis(scores, tokens[..., 1:, None].astype(np.int64), axis=-1)
    return float(np.exp(-np.mean(seen)))


def top1(expected: np.ndarray, actual: np.ndarray) -> float:
    """Share of rows (last axis) whose largest entry is the same."""
    if expected.size == 0:
        return 1.0
    return float(np.mean(np.argmax(expected, axis=-1) == np.argmax(actual, axis=-1)))


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def is_float(dtype: np.dtype) -> bool:
    """Whether the dtype is a floating point one, ml_dtypes' own included."""
    return dtype.kind == "f" or (dtype.name in formats.FORMATS and formats.of(dtype.name).is_float)


def _format(dtype: np.dtype | str) -> formats.Format | None:
    name = dtype if isinstance(dtype, str) else dtype.name
    found = formats.FORMATS.get(name)
    return found if found is not None and found.is_float else None
