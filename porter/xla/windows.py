"""Convolutions of a few channels with many places in a window, as XLA for TPU compiles them soon: places are channels.

    stride s        the s phases of the axis are channels, and the stride is 1
    window of k     k / n shifted copies are channels, and the window is n

libtpu 0.0.51 takes over a minute for 36 windows of 256 places over one channel of 427, and 1.6 s for 16 windows over
its 16 copies; 26 s for 32 windows of 7 x 7 over one image of 172 x 264, and 2 s with the places of a row as channels.
It is the same sum in another order, with zeros where n does not divide a window.
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

LONG = 64  # places of a window's axis from which it is taken apart as a line
FEW = 8  # channels up to which it is
SHORT = 16  # places that are left of it
MANY = 16  # places of a window of any form from which its longest axis is taken apart
LANES = 128  # channels that it may come to: so many lie side by side in a register, used or not


def long(x: Any, w: Any, params: dict[str, Any]) -> int | None:
    """The spatial axis of x, channels second, along which a window is taken apart; None where the convolution stays."""
    numbers = params["dimension_numbers"]
    spatial = tuple(range(2, x.ndim))
    if (
        numbers.lhs_spec != (0, 1, *spatial)
        or numbers.rhs_spec != (0, 1, *spatial)
        or numbers.out_spec != (0, 1, *spatial)
    ):
        return None
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    if any(d != 1 for d in (*params["lhs_dilation"], *params["rhs_dilation"])):
        return None
    axis = max(spatial, key=lambda i: w.shape[i])
    channels = x.shape[1] * params["window_strides"][axis - 2]
    few = x.shape[1] <= FEW and w.shape[axis] >= LONG
    image = 2 * channels <= LANES and w.shape[axis] > 1 and prod(w.shape[2:]) >= MANY
    return axis if few or image else None


def convolution(x: Any, w: Any, axis: int, params: dict[str, Any]) -> Any:
    """The convolution of x (n, c, ...) by w (o, c, ...), long along `axis`; params: those of conv_general_dilated."""
    strides, padding = list(params["window_strides"]), list(params["padding"])
    stride, (before, after) = strides[axis - 2], padding[axis - 2]
    out = (x.shape[axis] + before + after - w.shape[axis]) // stride + 1
    line = x.shape[1] <= FEW and w.shape[axis] >= LONG
    w = _padded(w, axis, 0, -w.shape[axis] % stride)
    x = _padded(x, axis, before, after)
    length = (out - 1) * stride + w.shape[axis]
    x = lax.slice_in_dim(_padded(x, axis, 0, max(length - x.shape[axis], 0)), 0, length, axis=axis)
    x, w = _phases(x, axis, stride), _phases(w, axis, stride)
    left = SHORT if line else -(-w.shape[axis] // max(LANES // x.shape[1], 1))
    many = -(-w.shape[axis] // left)
    if many > 1:
        x = _padded(x, axis, 0, many * left - w.shape[axis])
        w = _padded(w, axis, 0, many * left - w.shape[axis])
        kept = x.shape[axis] - (many - 1) * left
        x = jnp.concatenate([lax.slice_in_dim(x, i * left, i * left + kept, axis=axis) for i in range(many)], axis=1)
        w = jnp.concatenate([lax.slice_in_dim(w, i * left, (i + 1) * left, axis=axis) for i in range(many)], axis=1)
    strides[axis - 2], padding[axis - 2] = 1, (0, 0)
    numbers = {**params, "window_strides": tuple(strides), "padding": tuple(padding)}
    return lax.conv_general_dilated_p.bind(x, w, **numbers)


def _padded(x: Any, axis: int, before: int, after: int) -> Any:
    """x with zeros before and after; a negative number takes away."""
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)])


def _phases(x: Any, axis: int, stride: int) -> Any:
    """Every stride-th element, from each of the first on, as a channel of its own."""
    if stride == 1:
        return x
    cut = x.reshape(*x.shape[:axis], x.shape[axis] // stride, stride, *x.shape[axis + 1 :])
    cut = jnp.moveaxis(cut, axis + 1, 2)
    return cut.reshape(x.shape[0], x.shape[1] * stride, *x.shape[2:axis], x.shape[axis] // stride, *x.shape[axis + 1 :])
