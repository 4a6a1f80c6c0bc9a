"""Convolutions: direct, transposed, integer, deformable; and the geometry of windows that pooling shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import ints
from porter.ops.registry import op


def spatial(value: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """A strides or dilations attribute, all ones where it is not given."""
    return (1,) * rank if value is None else tuple(value)


def paired(
    pads: Sequence[int] | None,
    auto_pad: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """(before, after) for each spatial axis, from explicit pads or from auto_pad."""
    rank = len(sizes)
    if auto_pad in ("NOTSET", ""):
        flat = (0,) * (2 * rank) if pads is None else tuple(pads)
        return [(flat[i], flat[i + rank]) for i in range(rank)]
    if auto_pad == "VALID":
        return [(0, 0)] * rank
    out = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        # SAME: as many outputs as strides fit; the odd element goes behind (UPPER) or before (LOWER)
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        less, more = total // 2, total - total // 2
        out.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return out


def with_bias(xp, y, bias):
    """y plus one number per channel."""
    return y if bias is None else y + xp.reshape(bias, (1, -1) + (1,) * (y.ndim - 2))


@op("Conv", fed=("x", "w"))
def conv(xp, x, w, b=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None):
    """y[n, m, o] = sum over c, k of x[n, c, o * stride + k * dilation - pad] * w[m, c, k], + b[m]."""
    rank, kernel = x.ndim - 2, w.shape[2:]
    if kernel_shape is not None and tuple(kernel_shape) != tuple(kernel):
        raise PorterError("Conv", expected=f"weights of kernel {list(kernel_shape)}", found=str(list(kernel)))
    if x.shape[1] != w.shape[1] * group:
        raise PorterError("Conv", expected=f"{w.shape[1] * group} input channels", found=str(x.shape[1]))
    strides, dilations = spatial(strides, rank), spatial(dilations, rank)
    pads = paired(pads, auto_pad, x.shape[2:], kernel, strides, dilations)
    return with_bias(xp, xp.conv(x, w, strides=strides, pads=pads, dilations=dilations, group=group), b)


@op("ConvInteger", since=10)
def conv_integer(
    xp,
    x,
    w,
    x_zero_point=None,
    w_zero_point=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    pads=None,
    strides=None,
):
    """Conv of (x - x_zero_point) and (w - w_zero_point) in int32."""
    x, w = xp.cast(x, np.int32), xp.cast(w, np.int32)
    x = x if x_zero_point is None else x - xp.cast(x_zero_point, np.int32)
    if w_zero_point is not None:  # one for all, or one per output channel
        w = w - xp.reshape(xp.cast(w_zero_point, np.int32), (-1,) + (1,) * (w.ndim - 1))
    options = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "pads": pads, "strides": strides}
    return xp.cast(conv(xp, x, w, kernel_shape=kernel_shape, **options), np.int32)


@op("ConvTranspose", fed=("x", "w"))
def conv_transpose(
    xp,
    x,
    w,
    b=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    output_padding=None,
    output_shape=None,
    pads=None,
    strides=None,
):
    """The gradient of Conv: x stretched by the strides, correlated with the flipped kernel."""
    rank, kernel = x.ndim - 2, w.shape[2:]
    strides, dilations = spatial(strides, rank), spatial(dilations, rank)
    extra = tuple(output_padding) if output_padding is not None else (0,) * rank
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + r + 1 + e for n, s, r, e in zip(x.shape[2:], strides, reach, extra, strict=True)]
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        want = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        cuts = [f - n for f, n in zip(full, want[-rank:], strict=True)]
        # what has to go is halved; the odd element is cut at the start, with SAME_UPPER at the end
        halves = [(c // 2, c - c // 2) if auto_pad == "SAME_UPPER" else (c - c // 2, c // 2) for c in cuts]
    else:
        halves = paired(pads, auto_pad, x.shape[2:], kernel, strides, dilations)
    outer = [(r - a, r - c + e) for r, (a, c), e in zip(reach, halves, extra, strict=True)]
    # (C, M/g, *k) to (M, C/g, *k), kernel flipped
    c, m = w.shape[0], w.shape[1]
    w = xp.reshape(w, (group, c // group, m, *kernel))
    w = xp.reshape(xp.transpose(w, (0, 2, 1, *range(3, 3 + rank))), (group * m, c // group, *kernel))
    w = xp.flip(w, tuple(range(2, 2 + rank))) if math.prod(kernel) > 1 else w
    y = xp.conv(x, w, strides=(1,) * rank, pads=outer, dilations=dilations, group=group, stretch=strides)
    return with_bias(xp, y, b)


@op("DeformConv", since=19)
def deform_conv(
    xp,
    x,
    w,
    offset,
    b=None,
    mask=None,
    *,
    dilations=None,
    group=1,
    kernel_shape=None,
    offset_group=1,
    pads=None,
    strides=None,
):
    """Conv that reads each kernel element at its own learned offset, bilinearly, 0 outside; 2-D."""
    n, c, height, width = x.shape
    m, _, kh, kw = w.shape
    _, _, oh, ow = offset.shape
    sh, sw = spatial(strides, 2)
    dh, dw = spatial(dilations, 2)
    (top, _), (left, _) = paired(pads, "NOTSET", (height, width), (kh, kw), (sh, sw), (dh, dw))
    offset = xp.reshape(offset, (n, offset_group, kh, kw, 2, oh, ow))
    rows = np.arange(oh)[None, :] * sh - top + np.arange(kh)[:, None] * dh  # (kh, oh)
    columns = np.arange(ow)[None, :] * sw - left + np.arange(kw)[:, None] * dw

    def part(axis):
        low, high = [0] * 7, list(offset.shape)
        low[4], high[4] = axis, axis + 1
        return xp.reshape(xp.slice(offset, low, high), (n, offset_group, kh, kw, oh, ow))

    kind = x.dtype
    y = part(0) + rows.reshape(1, 1, kh, 1, oh, 1).astype(kind)
    z = part(1) + columns.reshape(1, 1, 1, kw, 1, ow).astype(kind)
    groups = xp.reshape(x, (n, offset_group, c // offset_group, height * width))
    read = bilinear(xp, groups, height, width, y, z)  # (n, og, c/og, kh, kw, oh, ow)
    if mask is not None:
        read = read * xp.reshape(mask, (n, offset_group, 1, kh, kw, oh, ow))
    read = xp.reshape(read, (n, group, c // group, kh, kw, oh, ow))
    weights = xp.reshape(w, (group, m // group, c // group, kh, kw))
    out = xp.einsum("ngcklhw,gmckl->ngmhw", read, weights)
    return with_bias(xp, xp.reshape(out, (n, m, oh, ow)), b)


def bilinear(xp, flat, height, width, y, z):
    """Values of pictures flat (n, g, c, height * width) at fractional places y, z (n, g, *places); 0 outside."""
    n, g, c = flat.shape[:3]
    places = tuple(y.shape[2:])
    top, left = xp.floor(y), xp.floor(z)
    total = None
    for down in (0, 1):
        for right in (0, 1):
            row, column = top + float(down), left + float(right)
            weight = (1.0 - xp.abs(y - row)) * (1.0 - xp.abs(z - column))
            inside = xp.logical_and(
                xp.logical_and(xp.greater_equal(row, 0), xp.less(row, height)),
                xp.logical_and(xp.greater_equal(column, 0), xp.less(column, width)),
            )
            weight = xp.where(inside, weight, xp.full((), 0, weight.dtype))
            r = xp.cast(xp.minimum(xp.maximum(row, 0), height - 1), np.int64)
            k = xp.cast(xp.minimum(xp.maximum(column, 0), width - 1), np.int64)
            at = xp.broadcast_to(xp.reshape(r * width + k, (n, g, 1, math.prod(places))), (n, g, c, math.prod(places)))
            read = xp.reshape(xp.take_along_axis(flat, at, 3), (n, g, c, *places))
            term = read * xp.reshape(weight, (n, g, 1, *places))
            total = term if total is None else total + term
    return total


@op("Col2Im", since=18, static=("image_shape", "block_shape"))
def col2im(xp, x, image_shape, block_shape, *, dilations=None, pads=None, strides=None):
    """Columns of blocks summed back into the picture they were cut from."""
    image, block = ints(image_shape), ints(block_shape)
    rank = len(image)
    strides, dilations = spatial(strides, rank), spatial(dilations, rank)
    edges = paired(pads, "NOTSET", image, block, strides, dilations)
    n, columns = x.shape[0], x.shape[1]
    c = columns // math.prod(block)
    count = [
        (i + a + z - (k - 1) * d - 1) // s + 1
        for i, (a, z), k, d, s in zip(image, edges, block, dilations, strides, strict=True)
    ]
    # which padded pixel each block element stands on, one axis after the other
    wide = [i + a + z for i, (a, z) in zip(image, edges, strict=True)]
    at = np.zeros((1,) * (2 * rank), np.int64)
    for axis in range(rank):
        place = np.arange(block[axis])[:, None] * dilations[axis] + np.arange(count[axis])[None] * strides[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = place.shape
        at = at * wide[axis] + place.reshape(shape)
    flat = xp.reshape(xp.transpose(xp.reshape(x, (n * c, -1)), (1, 0)), (at.size, n * c))
    zero = xp.full((math.prod(wide), n * c), 0, x.dtype)
    out = xp.scatter_nd(zero, at.reshape(-1, 1), flat, "add")
    out = xp.reshape(xp.transpose(out, (1, 0)), (n, c, *wide))
    low = [0, 0, *(a for a, _ in edges)]
    return xp.slice(out, low, [n, c, *(a + i for (a, _), i in zip(edges, image, strict=True))])


@op("CausalConvWithState", since=27)
def causal_conv_with_state(xp, x, w, bias=None, past=None, *, activation="none"):
    """Depthwise 1-D convolution over the past state and x; the last kernel - 1 inputs are the new state."""
    n, c, steps = x.shape
    k = w.shape[-1]
    past = xp.full((n, c, k - 1), 0, x.dtype) if past is None else past
    line = xp.concatenate([past, x], axis=2) if k > 1 else x
    y = xp.conv(line, xp.reshape(w, (c, 1, k)), strides=(1,), pads=[(0, 0)], dilations=(1,), group=c)
    y = with_bias(xp, y, bias)
    if activation in ("silu", "swish"):
        y = y * (1.0 / (1.0 + xp.exp(-y)))
    elif activation != "none":
        raise PorterError("CausalConvWithState", expected="activation none, silu or swish", found=activation)
    return y, xp.slice(line, (0, 0, steps), (n, c, steps + k - 1))
