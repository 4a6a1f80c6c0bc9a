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
    if x.dtype.kind in "iub":
        # BLAS has no integers; numpy's own loops keep them exact
        x, w = x.astype(np.int64, copy=False), w.astype(np.int64, copy=False)
    x = _padded(x, pads, stretch)
    kernel = w.shape[2:]
    out = _places(x.shape[2:], kernel, strides, dilations)
    if not math.prod(out):
        return np.zeros((x.shape[0], w.shape[0], *out), x.dtype)
    if math.prod(kernel) == 1:  # nothing to copy, save what strides leave out
        steps: tuple[Any, ...] = (..., *(slice(None, None, s) for s in strides))
        x = x if max(strides) == 1 else x[steps]
        weights = w.reshape(group, w.shape[0] // group, w.shape[1])
        y = np.matmul(weights, x.reshape(x.shape[0], group, w.shape[1], math.prod(out)))
    elif w.shape[1] == 1 and group > 1:
        y = _depthwise(x, w, group, out, strides, dilations)
    elif strides[0] == 1 and _rows_pay(x, w, out):
        y = _row_products(x, w, group, out, strides, dilations)
    else:
        y = _product(every_window(x, kernel, strides, dilations), w, group)
    return y.reshape(x.shape[0], w.shape[0], *out)


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
    if some >= out[0]:
        return np.matmul(weights, windows.transpose(order).reshape(*lead, math.prod(out)))
    y = np.empty((n, group, weights.shape[1], math.prod(out)), windows.dtype)
    for first in range(0, out[0], some):
        part = windows[:, :, first : first + some]
        columns = part.transpose(order).reshape(*lead, part.shape[2] * row)
        start = first * row
        np.matmul(weights, columns, out=y[..., start : start + columns.shape[-1]])
    return y


def _rows_pay(x: np.ndarray, w: np.ndarray, out: Sequence[int]) -> bool:
    """Whether `_row_products` touches fewer elements than `_product` copies into columns."""
    rows, each = w.shape[2], math.prod(w.shape[3:])
    if rows == 1:
        return False
    n, channels = x.shape[:2]
    whole = n * channels * rows * each * math.prod(out)
    parts = n * channels * each * x.shape[2] * math.prod(out[1:]) + w.size
    sums = (rows - 1) * n * w.shape[0] * math.prod(out)
    return parts + sums // 3 < whole  # an addition in order costs about a third of a copy out of order


def _row_products(
    x: np.ndarray, w: np.ndarray, group: int, out: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> np.ndarray:
    """As `_product`, where windows move by one row: columns of one row's windows serve each row of the kernel in its turn.

    The columns are as many times smaller as the kernel has rows, and the products of its rows are added up.
    """
    n, rows, step = x.shape[0], w.shape[2], dilations[0]
    rank, row = len(out), math.prod(out[1:])
    lines = every_window(x, (1, *w.shape[3:]), (1, *strides[1:]), (1, *dilations[1:]))
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    depth = w.shape[1] * math.prod(w.shape[3:])
    weights = np.moveaxis(w.reshape(group, w.shape[0] // group, w.shape[1], rows, math.prod(w.shape[3:])), 3, 0)
    weights = weights.reshape(rows, group, w.shape[0] // group, depth)
    y = np.empty((n, group, w.shape[0] // group, out[0] * row), x.dtype)
    some = max(1, _COLUMNS // max(1, n * group * depth * row) - (rows - 1) * step)
    some = max(some, min(out[0], 4 * (rows - 1) * step))  # rows that two blocks read are copied twice
    term = np.empty((*y.shape[:3], min(some, out[0]) * row), x.dtype)
    for first in range(0, out[0], some):
        count = min(some, out[0] - first)
        part = lines[:, :, first : first + count + (rows - 1) * step]
        columns = part.transpose(order).reshape(n, group, depth, part.shape[2] * row)
        into = y[..., first * row : (first + count) * row]
        for i in range(rows):
            read = columns[..., i * step * row : (i * step + count) * row]
            if i:
                into += np.matmul(weights[i], read, out=term[..., : count * row])
            else:
                np.matmul(weights[i], read, out=into)
    return y


def _depthwise(
    x: np.ndarray, w: np.ndarray, group: int, out: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> np.ndarray:
    """One kernel per input channel: a multiply and an add per kernel element, over channels that stay in the cache."""
    kernel = w.shape[2:]
    n, many = x.shape[0], w.shape[0] // group
    shape = tuple(out)
    if len(out) == 2 and max(strides) == 1:
        # whole rows of x, so that an element's rows follow each other in one line; what lies between them is not read
        wide = x.shape[3]
        x = x.reshape(n, group, x.shape[2] * wide)
        offsets = [i * dilations[0] * wide + j * dilations[1] for i, j in np.ndindex(*kernel)]
        size = (out[0] - 1) * wide + out[1]
        views = [x[:, :, None, o : o + size] for o in offsets]
        shape = (size,)
    else:
        windows = every_window(x, kernel, strides, dilations)[:, :, None]
        views = [windows[(..., *offset)] for offset in np.ndindex(*kernel)]
    factors = w.reshape(1, group, many, math.prod(kernel), *(1,) * len(shape))
    lines = (n, group, many, *shape) if shape == tuple(out) else (n, group, many, out[0] * wide)
    y = np.empty(lines, x.dtype)
    some = max(1, _PLANES // max(1, n * many * math.prod(shape)))
    for first in range(0, group, some):
        into = y[:, first : first + some, :, : shape[0]] if len(shape) == 1 else y[:, first : first + some]
        term = np.empty(into.shape, x.dtype)
        for number, view in enumerate(views):
            factor = factors[:, first : first + some, :, number]
            np.multiply(view[:, first : first + some], factor, out=term if number else into)
            if number:
                into += term
    return y if shape == tuple(out) else y.reshape(n, group * many, out[0], wide)[..., : out[1]]


def _padded(x: np.ndarray, pads: Sequence[tuple[int, int]], stretch: Sequence[int] | None) -> np.ndarray:
    """x with zeros between its elements and around them; negative pads crop."""
    if stretch is not None and any(s > 1 for s in stretch):
        sizes = [(n - 1) * s + 1 if n else 0 for n, s in zip(x.shape[2:], stretch, strict=True)]
        wide = np.zeros((*x.shape[:2], *sizes), x.dtype)
        places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stretch))
        wide[places] = x
        x = wide
    return bordered(x, [(0, 0), (0, 0), *pads], 0)


def bordered(x: np.ndarray, widths: Sequence[tuple[int, int]], value: Any) -> np.ndarray:
    """x with borders of one value; negative widths crop."""
    if any(a < 0 or b < 0 for a, b in widths):
        x = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, widths, strict=True))]
    if not any(a > 0 or b > 0 for a, b in widths):
        return x
    pairs = [(max(a, 0), max(b, 0)) for a, b in widths]
    out = np.full([n + a + b for n, (a, b) in zip(x.shape, pairs, strict=True)], value, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pairs, strict=True))] = x
    return out


def _places(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """How many windows fit along each axis."""
    axes = zip(sizes, kernel, strides, dilations, strict=True)
    return tuple(max(0, (n - (k - 1) * d - 1) // s + 1) for n, k, s, d in axes)


def every_window(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """A view (N, C, *places, *kernel) of the windows of x (N, C, *sizes) that fit."""
    along, out = x.strides[2:], _places(x.shape[2:], kernel, strides, dilations)
    steps = [a * s for a, s in zip(along, strides, strict=True)] + [
        a * d for a, d in zip(along, dilations, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(x, (*x.shape[:2], *out, *kernel), (*x.strides[:2], *steps), writeable=False)


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
    x = bordered(x, [(0, 0)] * lead + list(pads), identity)
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
