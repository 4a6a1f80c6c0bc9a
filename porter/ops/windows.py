"""What numpy has no function for: convolution and reductions over windows, without loops over elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.ops.namespace import highest, lowest

# Elements of a block of columns, and of a block of channels, that are worked on at a time: a few megabytes of float32,
# a few hundred kilobytes.
_COLUMNS = 1 << 19
_PLANES = 1 << 15
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
    if x.dtype.kind in "iub":
        # BLAS has no integers; numpy's own loops keep them exact
        x, w = x.astype(np.int64, copy=False), w.astype(np.int64, copy=False)
    windows = _windows(x, kernel, strides, dilations)
    n, out = x.shape[0], windows.shape[2 : 2 + len(kernel)]
    if w.shape[1] == 1 and group > 1 and math.prod(kernel) > 1:
        y = _depthwise(windows, w, group)
    else:
        y = _product(windows, w, group)
    return y.reshape(n, w.shape[0], *out)


def _product(windows: np.ndarray, w: np.ndarray, group: int) -> np.ndarray:
    """One matrix product per group, weights by windows as columns; so many columns at a time as stay in the cache."""
    kernel = w.shape[2:]
    rank, n, channels = len(kernel), windows.shape[0], windows.shape[1]
    out = windows.shape[2 : 2 + rank]
    weights = w.reshape(group, w.shape[0] // group, w.shape[1] * math.prod(kernel))
    lead = (n, group, weights.shape[2])
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    column = n * channels * math.prod(kernel)
    row = math.prod(out[1:])
    some = max(1, _COLUMNS // max(1, column * row))
    if math.prod(kernel) == 1 or some >= out[0]:  # a window of one element needs no copy
        return np.matmul(weights, windows.transpose(order).reshape(*lead, math.prod(out)))
    y = np.empty((n, group, weights.shape[1], math.prod(out)), windows.dtype)
    for first in range(0, out[0], some):
        part = windows[:, :, first : first + some]
        columns = part.transpose(order).reshape(*lead, part.shape[2] * row)
        start = first * row
        np.matmul(weights, columns, out=y[..., start : start + columns.shape[-1]])
    return y


def _depthwise(windows: np.ndarray, w: np.ndarray, group: int) -> np.ndarray:
    """One kernel per input channel: a multiply and an add per kernel element, over channels that stay in the cache."""
    kernel = w.shape[2:]
    n, _, *rest = windows.shape
    out = rest[: len(kernel)]
    many = w.shape[0] // group
    w = w.reshape(group, many, *kernel)
    y = np.empty((n, group, many, *out), windows.dtype)
    some = max(1, _PLANES // max(1, n * many * math.prod(out)))
    for first in range(0, group, some):
        part, weights, into = (
            windows[:, first : first + some, None],
            w[first : first + some],
            y[:, first : first + some],
        )
        term = np.empty_like(into)
        for number, offset in enumerate(np.ndindex(*kernel)):
            factor = weights[(..., *offset)].reshape(1, *weights.shape[:2], *(1,) * len(out))
            np.multiply(part[(..., *offset)], factor, out=term if number else into)
            if number:
                into += term
    return y


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
    short = [max(0, r - n) for r, n in zip(reach, x.shape[2:], strict=True)]
    if any(short):  # no window fits: the axis is empty
        x = np.pad(x, [(0, 0), (0, 0), *((0, m) for m in short)])
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    view = view[(slice(None), slice(None), *(slice(0 if m else None) for m in short))]
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
