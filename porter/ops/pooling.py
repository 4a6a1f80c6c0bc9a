"""Pooling over windows and over whole pictures, with its inverse."""

from __future__ import annotations

import math
from typing import Any

from porter.ops.convolution import paired, spatial
from porter.ops.namespace import ints, lowest
from porter.ops.reduction import mean
from porter.ops.registry import op


def _geometry(x, kernel, auto_pad, pads, strides, dilations, ceil_mode):
    """Strides, dilations, pads that put every window inside, and the pads that the model asked for."""
    rank = len(kernel)
    strides, dilations = spatial(strides, rank), spatial(dilations, rank)
    sizes = x.shape[2:]
    own = paired(pads, auto_pad, sizes, kernel, strides, dilations)
    full = []
    for n, k, s, d, (a, b) in zip(sizes, kernel, strides, dilations, own, strict=True):
        reach = (k - 1) * d + 1
        if not ceil_mode:
            full.append((a, b))
            continue
        count = -(-(n + a + b - reach) // s) + 1
        if (count - 1) * s >= n + a:  # the last window must start inside the picture or the padding before it
            count -= 1
        full.append((a, (count - 1) * s + reach - n - a))
    return strides, dilations, full, own


def _cropped(x, pads):
    """Pads without the negative ones, and how much of x they leave: a last window may not reach the end."""
    low = [0, 0] + [max(-a, 0) for a, _ in pads]
    high = [*x.shape[:2], *(n - max(-b, 0) for n, (_, b) in zip(x.shape[2:], pads, strict=True))]
    return [(max(a, 0), max(b, 0)) for a, b in pads], low, high


def _pool(xp, kind, x, kernel, strides, dilations, pads):
    pads, low, high = _cropped(x, pads)
    x = xp.slice(x, low, high)
    return xp.window_reduce(kind, x, window=kernel, strides=strides, pads=pads, dilations=dilations)


@op("MaxPool")
def max_pool(
    xp,
    x,
    *,
    auto_pad="NOTSET",
    ceil_mode=0,
    dilations=None,
    kernel_shape,
    pads=None,
    storage_order=0,
    strides=None,
    outputs=1,
):
    """Largest element of every window, padding never chosen; on request its flat index in x (first of equals)."""
    kernel = tuple(kernel_shape)
    strides, dilations, full, _ = _geometry(x, kernel, auto_pad, pads, strides, dilations, ceil_mode)
    y = _pool(xp, "max", x, kernel, strides, dilations, full)
    return y if outputs == 1 else (y, _places(xp, x, y, kernel, strides, dilations, full, storage_order))


def _places(xp, x, y, kernel, strides, dilations, pads, column_major):
    """The flat index in x of each window's first largest element."""
    sizes, out = x.shape[2:], y.shape[2:]
    rank = len(kernel)
    order = range(rank - 1, -1, -1) if column_major else range(rank)
    coordinates = []
    for i in range(rank):
        place, step = xp.arange(out[i]) * strides[i] - pads[i][0], xp.arange(kernel[i]) * dilations[i]
        shape = [1] * (2 * rank)
        shape[i], shape[rank + i] = out[i], kernel[i]
        coordinates.append(xp.reshape(xp.reshape(place, (-1, 1)) + xp.reshape(step, (1, -1)), shape))
    inside: Any = True
    flat: Any = 0  # among the elements of one channel, in the order of x's memory
    index: Any = 0  # the same place as the output counts it
    for at, n in zip(coordinates, sizes, strict=True):
        inside = xp.logical_and(inside, xp.logical_and(xp.greater_equal(at, 0), xp.less(at, n)))
        flat = flat * n + xp.minimum(xp.maximum(at, 0), n - 1)
    for i in order:
        index = index * sizes[i] + coordinates[i]
    # one row of candidates per window
    many, each = math.prod(out), math.prod(kernel)
    flat, index, inside = (xp.reshape(xp.broadcast_to(v, (*out, *kernel)), (many, each)) for v in (flat, index, inside))
    n, c = x.shape[:2]
    rows = xp.take(xp.reshape(x, (n * c, -1)), flat, 1)
    rows = xp.where(inside[None], rows, xp.full((), lowest(x.dtype), x.dtype))
    best = xp.argmax(rows, axis=2)
    chosen = xp.take_along_axis(
        xp.broadcast_to(index[None], (n * c, many, each)), xp.reshape(best, (n * c, many, 1)), 2
    )
    base = xp.reshape(xp.arange(n * c), (-1, 1)) * math.prod(sizes)
    return xp.reshape(xp.reshape(chosen, (n * c, many)) + base, y.shape)


@op("AveragePool")
def average_pool(
    xp,
    x,
    *,
    auto_pad="NOTSET",
    ceil_mode=0,
    count_include_pad=0,
    dilations=None,
    kernel_shape,
    pads=None,
    strides=None,
):
    """Sum of every window / number of its elements, padding counted only on request."""
    kernel = tuple(kernel_shape)
    strides, dilations, full, own = _geometry(x, kernel, auto_pad, pads, strides, dilations, ceil_mode)
    total = _pool(xp, "sum", x, kernel, strides, dilations, full)
    return total / _count(xp, total, kernel, x.shape[2:], strides, dilations, full, own, count_include_pad)


def _count(xp, total, kernel, sizes, strides, dilations, full, own, include):
    """How many elements each window averages: of the picture, or with the padding that the model asked for."""
    count = float(math.prod(k for k, p in zip(kernel, full, strict=True) if p == (0, 0)))
    for axis, (k, n, s, d, (before, after)) in enumerate(zip(kernel, sizes, strides, dilations, full, strict=True), 2):
        if (before, after) == (0, 0):
            continue
        low, high = (-own[axis - 2][0], n + own[axis - 2][1]) if include else (0, n)
        # kernel elements j of the window at `place` with low <= place + j * d < high
        place = xp.arange(total.shape[axis]) * s - before
        first = xp.maximum((low - place) if d == 1 else _up(xp, low - place, d), 0)
        last = xp.minimum((high - place) if d == 1 else _up(xp, high - place, d), k)
        along = [-1 if i == axis else 1 for i in range(total.ndim)]
        count = xp.reshape(xp.cast(last - first, total.dtype), along) * count
    return count


def _up(xp, x, d):
    """x / d rounded up."""
    return -xp.truncated_divide(-x - xp.remainder(-x, d), d)


@op("LpPool", since=2)
def lp_pool(xp, x, *, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape, p=2, pads=None, strides=None):
    """(sum of |x| ** p) ** (1 / p) of every window."""
    kernel = tuple(kernel_shape)
    strides, dilations, full, _ = _geometry(x, kernel, auto_pad, pads, strides, dilations, ceil_mode)
    return _root(xp, _pool(xp, "sum", _powered(xp, x, p), kernel, strides, dilations, full), p)


def _powered(xp, x, p):
    return x * x if p == 2 else xp.abs(x) if p == 1 else xp.power(xp.abs(x), float(p))


def _root(xp, x, p):
    return xp.sqrt(x) if p == 2 else x if p == 1 else xp.power(x, 1.0 / p)


@op("GlobalAveragePool")
def global_average_pool(xp, x):
    """Mean over the spatial axes."""
    return mean(xp, x, tuple(range(2, x.ndim)))


@op("GlobalMaxPool")
def global_max_pool(xp, x):
    """Largest element over the spatial axes."""
    return xp.max(x, axis=tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalLpPool", since=2)
def global_lp_pool(xp, x, *, p=2):
    """(sum of |x| ** p) ** (1 / p) over the spatial axes."""
    return _root(xp, xp.sum(_powered(xp, x, p), axis=tuple(range(2, x.ndim)), keepdims=True), p)


@op("MaxUnpool", since=9, static=("output_shape",), moves=True)
def max_unpool(xp, x, indices, output_shape=None, *, kernel_shape, pads=None, strides=None):
    """x put back at the flat indices that MaxPool returned, 0 elsewhere."""
    rank = len(kernel_shape)
    strides = spatial(strides, rank)
    edges = paired(pads, "NOTSET", x.shape[2:], kernel_shape, strides, (1,) * rank)
    small = [(n - 1) * s + k - a - b for n, s, k, (a, b) in zip(x.shape[2:], strides, kernel_shape, edges, strict=True)]
    # the indices count in the picture of that size, whatever the size of the output
    shape = (*x.shape[:2], *small)
    flat = xp.scatter_nd(
        xp.full((math.prod(shape),), 0, x.dtype),
        xp.reshape(indices, (-1, 1)),
        xp.reshape(x, (-1,)),
        "none",
    )
    y = xp.reshape(flat, shape)
    if output_shape is None:
        return y
    want = ints(output_shape)
    return xp.pad(y, [(0, w - n) for w, n in zip(want, shape, strict=True)])
