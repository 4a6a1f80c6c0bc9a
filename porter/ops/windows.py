"""What numpy has no function for: convolution, reductions over windows, and erf, without loops over elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.ops.namespace import highest, lowest

_REDUCE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def conv(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    group: int = 1,
    stretch: Sequence[int] | None = None,
) -> np.ndarray:
    """Correlate x (N, C, *spatial) with w (M, C/group, *kernel); `stretch` puts zeros between elements of x first.

    Returns (N, M, *out). Negative pads crop.
    """
    x = _padded(x, pads, stretch)
    kernel = w.shape[2:]
    windows = _windows(x, kernel, strides, dilations)
    n, out = x.shape[0], windows.shape[2 : 2 + len(kernel)]
    if x.dtype.kind in "iub":
        # BLAS has no integers; einsum keeps them exact
        windows, w = windows.astype(np.int64, copy=False), w.astype(np.int64, copy=False)
    if w.shape[1] == 1 and group > 1:
        return _depthwise(windows, w, group)
    parts = []
    step, rows = w.shape[1], w.shape[0] // group
    for g in range(group):
        columns = windows[:, g * step : (g + 1) * step]
        axes = (1, *range(2 + len(kernel), 2 + 2 * len(kernel)))
        weights = w[g * rows : (g + 1) * rows]
        part = np.tensordot(columns, weights, (axes, (1, *range(2, w.ndim))))
        parts.append(np.moveaxis(part, -1, 1))
    y = parts[0] if group == 1 else np.concatenate(parts, axis=1)
    return np.ascontiguousarray(y.reshape(n, w.shape[0], *out))


def _depthwise(windows: np.ndarray, w: np.ndarray, group: int) -> np.ndarray:
    """One kernel per input channel: a multiply and an add per kernel element, each over the whole picture."""
    n, _, *rest = windows.shape
    kernel = w.shape[2:]
    out = rest[: len(kernel)]
    many = w.shape[0] // group
    y = np.zeros((n, group, many, *out), windows.dtype)
    spread = (1,) * len(out)
    for offset in np.ndindex(*kernel):
        y += windows[..., *offset][:, :, None] * w[:, 0][:, *offset].reshape(1, group, many, *spread)
    return y.reshape(n, w.shape[0], *out)


def _padded(x: np.ndarray, pads: Sequence[tuple[int, int]], stretch: Sequence[int] | None) -> np.ndarray:
    stretch = tuple(stretch or (1,) * len(pads))
    sizes = [(n - 1) * s + 1 if n else 0 for n, s in zip(x.shape[2:], stretch, strict=True)]
    if any(s > 1 for s in stretch):
        wide = np.zeros((*x.shape[:2], *sizes), x.dtype)
        places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stretch))
        wide[places] = x
        x = wide
    if any(a < 0 or b < 0 for a, b in pads):
        kept: tuple[Any, ...] = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(sizes, pads, strict=True))
        x = x[(..., *kept)]
        pads = [(max(a, 0), max(b, 0)) for a, b in pads]
    return np.pad(x, [(0, 0), (0, 0), *pads]) if any(a or b for a, b in pads) else x


def _windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """A view (N, C, *out, *kernel) of every window."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in strides) + tuple(slice(None, None, d) for d in dilations)
    return view[(slice(None), slice(None), *steps)]


def window_reduce(
    kind: str,
    x: np.ndarray,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> np.ndarray:
    """Reduce every window over the trailing axes with 'sum', 'max' or 'min'; padding is the reduction's identity."""
    reduce = _REDUCE[kind]
    identity = {"sum": 0, "max": lowest(x.dtype), "min": highest(x.dtype)}[kind]
    lead = x.ndim - len(window)
    if any(a or b for a, b in pads):
        x = np.pad(x, [(0, 0)] * lead + list(pads), constant_values=identity)
    # all three reductions are separable: one axis at a time
    for i, (k, s, d) in enumerate(zip(window, strides, dilations, strict=True)):
        axis, n = lead + i, x.shape[lead + i]
        count = (n - (k - 1) * d - 1) // s + 1
        if s == 1 and d == 1 and k == n:
            x = reduce.reduce(x, axis=axis, keepdims=True)
            continue
        before = (slice(None),) * axis
        parts = (x[(*before, slice(o * d, o * d + (count - 1) * s + 1, s))] for o in range(k))
        y = next(parts).copy()
        for part in parts:
            reduce(y, part, out=y)
        x = y
    return x


# erf by W. J. Cody's rational approximations (Rational Chebyshev Approximations for the Error Function, Math. Comp. 23
# (1969)), coefficients as in the public-domain CALERF of netlib's SPECFUN: within 6e-19 relative before rounding.
_A = (3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02, 3.20937758913846947e03,
      1.85777706184603153e-1)  # fmt: skip
_B = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
_C = (5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e01, 2.98635138197400131e02,
      8.81952221241769090e02, 1.71204761263407058e03, 2.05107837782607147e03, 1.23033935479799725e03,
      2.15311535474403846e-8)  # fmt: skip
_D = (1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02, 1.62138957456669019e03,
      3.29079923573345963e03, 4.36261909014324716e03, 3.43936767414372164e03, 1.23033935480374942e03)  # fmt: skip
_P = (3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2,
      6.58749161529837803e-4, 1.63153871373020978e-2)  # fmt: skip
_Q = (2.56852019228982242e00, 1.87295284992346725e00, 5.27905102951428412e-1, 6.05183413124413191e-2,
      2.33520497626869185e-3)  # fmt: skip


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, computed in float64 and rounded to x's own type."""
    v = np.asarray(x, np.float64)
    y = np.abs(v)
    # |x| <= 0.46875: x * P(x^2) / Q(x^2); the clips keep each branch finite where another one is taken
    z = np.square(np.minimum(y, 0.5))
    top, bottom = _A[4] * z, z
    for a, b in zip(_A[:3], _B[:3], strict=True):
        top, bottom = (top + a) * z, (bottom + b) * z
    small = v * (top + _A[3]) / (bottom + _B[3])
    # up to 4: 1 - exp(-x^2) P(x) / Q(x)
    t = np.clip(y, 0.46875, 4.0)
    top, bottom = _C[8] * t, t
    for c, d in zip(_C[:7], _D[:7], strict=True):
        top, bottom = (top + c) * t, (bottom + d) * t
    middle = 1 - np.exp(-t * t) * (top + _C[7]) / (bottom + _D[7])
    # beyond: 1 - exp(-x^2) / x (1/sqrt(pi) - R(1/x^2)); nothing is left of it in float64 past 6
    u = np.clip(y, 4.0, 6.0)
    z = 1 / (u * u)
    top, bottom = _P[5] * z, z
    for p, q in zip(_P[:4], _Q[:4], strict=True):
        top, bottom = (top + p) * z, (bottom + q) * z
    r = z * (top + _P[4]) / (bottom + _Q[4])
    large = 1 - np.exp(-u * u) / u * (1 / math.sqrt(math.pi) - r)
    out = np.where(y <= 0.46875, small, np.sign(v) * np.where(y <= 4, middle, large))
    return np.where(np.isnan(v), np.nan, out).astype(np.asarray(x).dtype)
