"""Operators that move elements and compute nothing: shapes, transposes, slices; and what reads shapes."""

from __future__ import annotations

import math

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import ints, normal, normals
from porter.ops.registry import op
from porter.ops.types import dtype_of


@op("Reshape", since=5, static=("shape",), moves=True)
def reshape(xp, data, shape, *, allowzero=0):
    """The same elements in another shape; 0 keeps a dimension (unless allowzero), one -1 takes what is left."""
    dims = [data.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(ints(shape) if shape.size else ())]
    if -1 in dims:
        rest = math.prod(n for n in dims if n != -1)
        dims[dims.index(-1)] = math.prod(data.shape) // rest if rest else 0
    if math.prod(dims) != math.prod(data.shape):
        raise PorterError("Reshape", expected=f"a shape of {math.prod(data.shape)} elements", found=str(list(dims)))
    return xp.reshape(data, tuple(dims))


@op("Flatten", moves=True)
def flatten(xp, x, *, axis=1):
    """A matrix: the dimensions before `axis` in rows, the others in columns."""
    axis = axis + x.ndim if axis < 0 else axis
    return xp.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@op("Transpose", moves=True)
def transpose(xp, data, *, perm=None):
    """Axes in the order of `perm`, reversed where it is not given."""
    return xp.transpose(data, tuple(reversed(range(data.ndim))) if perm is None else perm)


@op("Squeeze", since=13, static=("axes",), moves=True)
def squeeze(xp, data, axes=None):
    """Without the named axes of length 1, or all of them."""
    gone = normals(ints(axes), data.ndim) if axes is not None else [i for i, n in enumerate(data.shape) if n == 1]
    if any(data.shape[a] != 1 for a in gone):
        raise PorterError("Squeeze", expected="axes of length 1", found=f"axes {list(gone)} of {list(data.shape)}")
    return xp.reshape(data, tuple(n for i, n in enumerate(data.shape) if i not in gone))


@op("Unsqueeze", since=13, static=("axes",), moves=True)
def unsqueeze(xp, data, axes):
    """With new axes of length 1 at the named places of the result."""
    places = ints(axes)
    rank = data.ndim + len(places)
    new = normals(places, rank)
    kept = iter(data.shape)
    return xp.reshape(data, tuple(1 if i in new else next(kept) for i in range(rank)))


@op("Expand", since=8, static=("shape",), moves=True)
def expand(xp, x, shape):
    """Broadcast to the common shape of x and `shape`, both ways."""
    return xp.broadcast_to(x, np.broadcast_shapes(tuple(x.shape), tuple(int(n) for n in shape)))


@op("Tile", since=6, static=("repeats",), moves=True)
def tile(xp, x, repeats):
    """The whole repeated along every axis."""
    pairs = [(int(r), n) for r, n in zip(repeats, x.shape, strict=True)]
    spread = xp.broadcast_to(
        xp.reshape(x, tuple(m for _, n in pairs for m in (1, n))), tuple(m for pair in pairs for m in pair)
    )
    return xp.reshape(spread, tuple(r * n for r, n in pairs))


@op("Concat", since=4, moves=True)
def concat(xp, *inputs, axis):
    """End to end along one axis."""
    return xp.concatenate(inputs, axis=normal(axis, inputs[0].ndim))


@op("Split", since=13, static=("lengths",), moves=True)
def split(xp, x, lengths=None, *, axis=0, num_outputs=None, outputs=1):
    """Cut along one axis, at the given lengths or into equal parts, the last one smaller where it does not divide."""
    axis = normal(axis, x.ndim)
    n, parts = x.shape[axis], num_outputs or outputs
    sizes = ints(lengths) if lengths is not None else [-(-n // parts)] * (parts - 1)
    if lengths is None:
        sizes = [*sizes, n - sum(sizes)]
    if sum(sizes) != n or len(sizes) != outputs:
        raise PorterError("Split", expected=f"{outputs} lengths with the sum {n}", found=str(list(sizes)))
    pieces, at = [], 0
    for size in sizes:
        low, high = [0] * x.ndim, list(x.shape)
        low[axis], high[axis] = at, at + size
        pieces.append(xp.slice(x, low, high))
        at += size
    return tuple(pieces)


@op("Slice", since=10, static=("starts", "ends", "axes", "steps"), moves=True)
def slice_(xp, data, starts, ends, axes=None, steps=None):
    """data[start:end:step] along the named axes, as numpy cuts; bounds beyond an axis stop at its end."""
    low, high, step = [0] * data.ndim, list(data.shape), [1] * data.ndim
    named = normals(ints(axes), data.ndim) if axes is not None else range(np.size(starts))
    jumps = ints(steps) if steps is not None else (1,) * np.size(starts)
    if 0 in jumps:
        raise PorterError("steps", expected="steps other than 0", found=str(list(jumps)))
    for axis, a, b, s in zip(named, ints(starts), ints(ends), jumps, strict=True):
        low[axis], high[axis], step[axis] = _bounds(a, b, s, data.shape[axis])
    return xp.slice(data, low, high, step)


def _bounds(start: int, end: int, step: int, n: int) -> tuple[int, int | None, int]:
    """Bounds as Python's slice takes them; an end before element 0 is None when going backwards."""
    first, last, _ = slice(start, end, step).indices(n)
    return first, (None if step < 0 and last < 0 else max(last, 0)), step


@op("Pad", since=11, static=("pads", "axes"), moves=True)
def pad(xp, data, pads, value=None, axes=None, *, mode="constant"):
    """Borders of a constant, of the mirror image ("reflect"), of the edge, or the far side ("wrap"); negative cuts."""
    named = normals(ints(axes), data.ndim) if axes is not None else tuple(range(data.ndim))
    flat = ints(pads)
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(named):
        widths[axis] = (flat[i], flat[i + len(named)])
    low = [max(-a, 0) for a, _ in widths]
    high = [n - max(-b, 0) for n, (_, b) in zip(data.shape, widths, strict=True)]
    data = xp.slice(data, low, high)
    widths = [(max(a, 0), max(b, 0)) for a, b in widths]
    if mode == "constant":
        fill = 0 if value is None else value.reshape(()) if xp.concrete(value) else xp.reshape(value, ())
        return xp.pad(data, widths, fill)
    for axis, (a, b) in enumerate(widths):
        if a or b:
            data = _bordered(xp, data, axis, a, b, mode)
    return data


def _bordered(xp, data, axis, before, after, mode):
    """The axis between two borders, each a piece of the axis itself: mirrored, repeated, or from the far side."""
    n = data.shape[axis]

    def piece(start, stop):
        low, high = [0] * data.ndim, list(data.shape)
        low[axis], high[axis] = start, stop
        return xp.slice(data, low, high)

    def stretched(start, count):
        return xp.broadcast_to(piece(start, start + 1), (*data.shape[:axis], count, *data.shape[axis + 1 :]))

    if mode == "edge":
        borders = [(stretched(0, before), before), (stretched(n - 1, after), after)]
    elif max(before, after) >= n + (mode == "wrap"):  # the border is longer than what it repeats
        return xp.take(data, _border(n, before, after, mode), axis)
    elif mode == "wrap":
        borders = [(piece(n - before, n), before), (piece(0, after), after)]
    else:
        borders = [
            (xp.flip(piece(1, 1 + before), axis), before),
            (xp.flip(piece(n - 1 - after, n - 1), axis), after),
        ]
    (left, some), (right, more) = borders
    return xp.concatenate([*([left] if some else []), data, *([right] if more else [])], axis=axis)


def _border(n: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which element stands at each place of an axis padded by more than its own length."""
    at = np.arange(-before, n + after)
    if mode == "wrap":
        return at % n
    period = max(2 * n - 2, 1)  # there and back, without repeating the edges
    at = at % period
    return np.where(at < n, at, period - at)


@op("DepthToSpace", moves=True)
def depth_to_space(xp, x, *, blocksize, mode="DCR"):
    """Channels to blocks of pixels: the block index is the outer part of the channel (DCR) or the inner (CRD)."""
    n, c, h, w = x.shape
    b, d = blocksize, c // (blocksize * blocksize)
    if mode == "DCR":
        y = xp.transpose(xp.reshape(x, (n, b, b, d, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = xp.transpose(xp.reshape(x, (n, d, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return xp.reshape(y, (n, d, h * b, w * b))


@op("SpaceToDepth", moves=True)
def space_to_depth(xp, x, *, blocksize, mode="DCR"):
    """Blocks of pixels to channels, the inverse of DepthToSpace."""
    n, c, h, w = x.shape
    b = blocksize
    y = xp.reshape(x, (n, c, h // b, b, w // b, b))
    y = xp.transpose(y, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return xp.reshape(y, (n, c * b * b, h // b, w // b))


@op("Shape", moves=True)
def shape_(xp, data, *, start=0, end=None):
    """The dimensions as int64, from `start` to `end` as Python slices them."""
    return np.array(tuple(data.shape)[start:end], np.int64)


@op("Size", moves=True)
def size_(xp, data):
    """The number of elements."""
    return np.array(math.prod(data.shape), np.int64)


@op("Constant", moves=True)
def constant(
    xp,
    *,
    value=None,
    value_float=None,
    value_floats=None,
    value_int=None,
    value_ints=None,
    value_string=None,
    value_strings=None,
    sparse_value=None,
):
    """The value of the attribute that is set."""
    if value is not None:
        return xp.asarray(value)
    for number, kind in (
        (value_float, np.float32),
        (value_floats, np.float32),
        (value_int, np.int64),
        (value_ints, np.int64),
    ):
        if number is not None:
            return np.asarray(number, kind)
    raise PorterError("Constant", expected="a dense tensor of numbers", found="strings or a sparse tensor")


@op("ConstantOfShape", since=9, static=("shape",), moves=True)
def constant_of_shape(xp, shape, *, value=None):
    """The one value everywhere; float 0 where none is given."""
    value = np.zeros(1, np.float32) if value is None else value
    return xp.full(tuple(int(n) for n in shape), value.reshape(()), value.dtype)


@op("EyeLike", since=9, moves=True)
def eye_like(xp, x, *, dtype=None, k=0, types=()):
    """1 on diagonal k, 0 elsewhere, in the shape of x."""
    rows, columns = (xp.reshape(xp.arange(n), s) for n, s in zip(x.shape, ((-1, 1), (1, -1)), strict=True))
    return xp.cast(xp.equal(rows + k, columns), types[0] if dtype is None else dtype_of(dtype))


@op("Trilu", since=14, static=("k",), moves=True)
def trilu(xp, x, k=None, *, upper=1):
    """The part on and above diagonal k (or on and below it), 0 elsewhere."""
    rows, columns = x.shape[-2:]
    above = xp.reshape(xp.arange(columns), (1, -1)) - xp.reshape(xp.arange(rows), (-1, 1))
    edge = 0 if k is None else ints(k)[0]
    keep = xp.greater_equal(above, edge) if upper else xp.less_equal(above, edge)
    return xp.where(keep, x, xp.full((), 0, x.dtype))


@op("Range", since=11, static=("start", "limit", "delta"))
def range_(xp, start, limit, delta, *, stash_type=1, types=()):
    """start, start + delta, ... before the limit."""
    first, last, step = (v.reshape(()) for v in (start, limit, delta))
    if step == 0:
        raise PorterError("the delta of Range", expected="a number other than 0", found="0")
    wide = np.float64 if types[0].kind not in "iu" else np.int64
    count = max(math.ceil((last.astype(wide) - first.astype(wide)) / step.astype(wide)), 0)
    if types[0].kind in "iu":
        ramp = xp.arange(count, np.int64)
        ramp = ramp if int(step) == 1 else ramp * int(step)
        return ramp if int(first) == 0 else ramp + int(first)
    # each element is start plus a multiple of delta, so that nothing accumulates
    kind = xp.float_type(types[0])
    return xp.cast(xp.arange(count, np.int32), kind) * float(step) + float(first)


@op("ReverseSequence", since=10, moves=True)
def reverse_sequence(xp, x, sequence_lens, *, batch_axis=1, time_axis=0):
    """The first sequence_lens[b] steps of each batch element in reverse, the rest as they are."""
    steps, batch = x.shape[time_axis], x.shape[batch_axis]
    at = xp.reshape(xp.arange(steps), (steps, 1))
    lengths = xp.reshape(sequence_lens, (1, batch))
    places = xp.where(xp.less(at, lengths), lengths - 1 - at, at)
    shape = [1] * x.ndim
    shape[time_axis], shape[batch_axis] = steps, batch
    places = places if time_axis < batch_axis else xp.transpose(places, (1, 0))
    return xp.take_along_axis(x, xp.broadcast_to(xp.reshape(places, shape), x.shape), time_axis)


@op("CenterCropPad", since=18, static=("shape",), moves=True)
def center_crop_pad(xp, x, shape, *, axes=None):
    """Cut or padded with 0 around the middle to the wanted lengths."""
    named = normals(axes, x.ndim) if axes is not None else tuple(range(x.ndim))
    for axis, want in zip(named, ints(shape), strict=True):
        extra = want - x.shape[axis]
        if extra < 0:
            low, high = [0] * x.ndim, list(x.shape)
            low[axis] = -extra // 2
            high[axis] = low[axis] + want
            x = xp.slice(x, low, high)
        elif extra > 0:
            x = xp.pad(x, [(extra // 2, extra - extra // 2) if i == axis else (0, 0) for i in range(x.ndim)])
    return x
