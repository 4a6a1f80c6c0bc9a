"""Normalizations: over layers, batches, instances, groups, neighbourhoods, and by norms."""

from __future__ import annotations

import math

from porter.ops.convolution import with_bias
from porter.ops.reduction import mean
from porter.ops.registry import op
from porter.ops.types import dtype_of


def _tail(x, axis):
    return tuple(range(axis % x.ndim, x.ndim))


def _stash(xp, x, stash_type):
    """x in the type in which the statistics are computed; narrow types are in float32 already."""
    kind = xp.float_type(dtype_of(stash_type))
    return x if x.dtype.itemsize >= kind.itemsize else xp.cast(x, kind)


@op("LayerNormalization", since=17)
def layer_normalization(xp, x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1, outputs=1):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, statistics over the axes from `axis` on."""
    axes = _tail(x, axis)
    centre = mean(xp, _stash(xp, x, stash_type), axes)
    d = x - centre
    inverse = 1.0 / xp.sqrt(mean(xp, d * d, axes) + epsilon)
    y = xp.cast(d * inverse, x.dtype) * scale
    return (y if bias is None else y + bias, centre, inverse)[:outputs]


@op("RMSNormalization", since=23)
def rms_normalization(xp, x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    """x / sqrt(mean of squares + epsilon) * scale, over the axes from `axis` on."""
    v = _stash(xp, x, stash_type)
    return xp.cast(v / xp.sqrt(mean(xp, v * v, _tail(x, axis)) + epsilon), x.dtype) * scale


@op("InstanceNormalization")
def instance_normalization(xp, x, scale, b, *, epsilon=1e-5):
    """(x - mean) / sqrt(variance + epsilon) * scale + b, statistics per picture and channel."""
    axes = tuple(range(2, x.ndim))
    d = x - mean(xp, x, axes)
    y = d / xp.sqrt(mean(xp, d * d, axes) + epsilon)
    return with_bias(xp, y * xp.reshape(scale, (1, -1) + (1,) * len(axes)), b)


@op("GroupNormalization", since=21)
def group_normalization(xp, x, scale, bias, *, num_groups, epsilon=1e-5, stash_type=1):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, statistics per picture and group of channels."""
    n, c = x.shape[:2]
    v = xp.reshape(_stash(xp, x, stash_type), (n, num_groups, -1))
    d = v - mean(xp, v, (2,))
    y = xp.cast(xp.reshape(d / xp.sqrt(mean(xp, d * d, (2,)) + epsilon), x.shape), x.dtype)
    return with_bias(xp, y * xp.reshape(scale, (1, c) + (1,) * (x.ndim - 2)), bias)


@op("GroupNormalization", since=18)
def group_normalization_by_group(xp, x, scale, bias, *, num_groups, epsilon=1e-5):
    """As from opset 21 on, but with one scale and bias per group."""
    v = xp.reshape(x, (x.shape[0], num_groups, -1))
    d = v - mean(xp, v, (2,))
    y = d / xp.sqrt(mean(xp, d * d, (2,)) + epsilon)
    y = y * xp.reshape(scale, (1, num_groups, 1)) + xp.reshape(bias, (1, num_groups, 1))
    return xp.reshape(y, x.shape)


@op("BatchNormalization", since=9)
def batch_normalization(
    xp, x, scale, b, input_mean, input_var, *, epsilon=1e-5, momentum=0.9, training_mode=0, outputs=1
):
    """(x - mean) / sqrt(variance + epsilon) * scale + b per channel; training takes the batch's own statistics."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    centre, spread = xp.reshape(input_mean, shape), xp.reshape(input_var, shape)
    if training_mode:
        axes = (0, *range(2, x.ndim))
        centre = mean(xp, x, axes)
        spread = mean(xp, (x - centre) * (x - centre), axes)
    y = (x - centre) / xp.sqrt(spread + epsilon) * xp.reshape(scale, shape)
    y = y + xp.reshape(b, shape)
    if not training_mode:
        return y
    running = (
        input_mean * momentum + xp.reshape(centre, input_mean.shape) * (1.0 - momentum),
        input_var * momentum + xp.reshape(spread, input_var.shape) * (1.0 - momentum),
    )
    return (y, *running)[:outputs]


@op("LpNormalization")
def lp_normalization(xp, x, *, axis=-1, p=2):
    """x / its p-norm along the axis; 0 where the norm is."""
    norm = xp.sum(xp.abs(x), axis=axis, keepdims=True) if p == 1 else xp.sqrt(xp.sum(x * x, axis=axis, keepdims=True))
    zero = xp.equal(norm, 0)
    return xp.where(zero, xp.full((), 0, x.dtype), x / xp.where(zero, xp.full((), 1, x.dtype), norm))


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(xp, x, *, axes=(0, 2, 3)):
    """(x - mean) / (standard deviation + 1e-9), over the axes."""
    # from moments, as the standard's function body has it
    axes = tuple(a % x.ndim for a in axes)
    centre = mean(xp, x, axes)
    return (x - centre) / (xp.sqrt(mean(xp, x * x, axes) - centre * centre) + 1e-9)


@op("LRN")
def lrn(xp, x, *, alpha=0.0001, beta=0.75, bias=1.0, size):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    before = (size - 1) // 2
    squares = xp.reshape(x * x, (x.shape[0], x.shape[1], math.prod(x.shape[2:])))
    near = xp.window_reduce(
        "sum", squares, window=(size, 1), strides=(1, 1), pads=[(before, size - 1 - before), (0, 0)], dilations=(1, 1)
    )
    return x / xp.power(bias + alpha / size * xp.reshape(near, x.shape), beta)
