"""Quantization: Quantize and Dequantize in every granularity, and the operators that compute on quantized integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from porter.errors import PorterError
from porter.ops.casting import to_code
from porter.ops.convolution import conv_integer
from porter.ops.namespace import FLOAT_CODES, INT_CODES, is_float
from porter.ops.registry import op
from porter.ops.types import dtype_of


def _spread(xp, scale, shape, axis, block_size):
    """A scale (or zero point) per tensor, per axis or per block, so that it broadcasts against the tensor."""
    if scale.ndim == 0 or (scale.ndim == 1 and scale.shape[0] == 1 and not block_size):
        return xp.reshape(scale, ())
    axis = axis % len(shape)
    if scale.ndim == 1 and not block_size:
        return xp.reshape(scale, [-1 if i == axis else 1 for i in range(len(shape))])
    if scale.ndim != len(shape):
        raise PorterError(
            "a blocked scale", expected=f"the rank of the tensor, {len(shape)}", found=f"rank {scale.ndim}"
        )
    n = scale.shape[axis]
    size = block_size or -(-shape[axis] // n)
    wide = xp.reshape(scale, (*scale.shape[: axis + 1], 1, *scale.shape[axis + 1 :]))
    wide = xp.broadcast_to(wide, (*scale.shape[: axis + 1], size, *scale.shape[axis + 1 :]))
    wide = xp.reshape(wide, (*scale.shape[:axis], n * size, *scale.shape[axis + 1 :]))
    return xp.slice(wide, (0,) * len(shape), [shape[i] if i == axis else m for i, m in enumerate(wide.shape)])


def limits(dtype):
    """The smallest and largest integer of a type, low-bit ones included."""
    info = ml_dtypes.iinfo(dtype) if dtype in INT_CODES else np.iinfo(dtype)
    return int(info.min), int(info.max)


def saturated(xp, x, dtype):
    """Rounded floats, clipped to the range of an integer type and cast to it."""
    low, high = limits(dtype)
    return xp.cast(xp.cast(xp.minimum(xp.maximum(x, low), high), np.int32), dtype)


@op("QuantizeLinear", since=10)
def quantize_linear(
    xp,
    x,
    y_scale,
    y_zero_point=None,
    *,
    axis=1,
    block_size=0,
    output_dtype=0,
    precision=0,
    saturate=1,
    types=(),
):
    """saturate(round(x / scale) + zero_point), ties to even; float codes round to their own grid."""
    dtype = types[2] if y_zero_point is not None else dtype_of(output_dtype) if output_dtype else np.dtype(np.uint8)
    scale = _spread(xp, y_scale, x.shape, axis, block_size)
    if precision:
        kind = xp.float_type(dtype_of(precision))
        x, scale = xp.cast(x, kind), xp.cast(scale, kind)
    elif not is_float(x.dtype):
        x = xp.cast(x, scale.dtype)
    ratio = x / scale
    if dtype in FLOAT_CODES:
        if y_zero_point is not None and dtype.name == "float4_e2m1fn":
            # the zero point is added: -0 becomes 0, in ONNX's case of this type alone
            ratio = xp.where(xp.equal(ratio, 0), xp.full((), 0, ratio.dtype), ratio)
        return to_code(xp, ratio, dtype, saturate)
    rounded = xp.round(ratio)
    if y_zero_point is not None:
        zero = xp.cast(xp.cast(y_zero_point, np.int32), rounded.dtype)
        rounded = rounded + _spread(xp, zero, x.shape, axis, block_size)
    return saturated(xp, rounded, dtype)


@op("DequantizeLinear", since=10)
def dequantize_linear(xp, x, x_scale, x_zero_point=None, *, axis=1, block_size=0, output_dtype=0, types=()):
    """(x - zero_point) * scale."""
    kind = dtype_of(output_dtype) if output_dtype else types[1]
    wide = xp.float_type(kind)
    scale = _spread(xp, xp.cast(x_scale, wide), x.shape, axis, block_size)
    none = x_zero_point is None or (isinstance(x_zero_point, np.ndarray) and not x_zero_point.astype(bool).any())
    if none or x.dtype in FLOAT_CODES:
        return xp.cast(xp.cast(x, wide) * scale, kind)
    # int32 holds every difference of codes; int32 itself comes without a zero point
    zero = _spread(xp, xp.cast(x_zero_point, np.int32), x.shape, axis, block_size)
    return xp.cast(xp.cast(xp.cast(x, np.int32) - zero, wide) * scale, kind)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(xp, x):
    """x in uint8, with the scale and zero point that its own range (with 0 in it) asks for."""
    low = xp.minimum(xp.min(x), 0)
    high = xp.maximum(xp.max(x), 0)
    scale = (high - low) / 255.0
    safe = xp.where(xp.equal(scale, 0), xp.full((), 1, scale.dtype), scale)
    zero = saturated(xp, xp.round(xp.minimum(xp.maximum(-low / safe, 0), 255)), np.dtype(np.uint8))
    y = saturated(xp, xp.round(x / safe) + xp.cast(zero, x.dtype), np.dtype(np.uint8))
    return y, scale, zero


@op("MatMulInteger", since=10)
def matmul_integer(xp, a, b, a_zero_point=None, b_zero_point=None):
    """(a - a_zero_point) @ (b - b_zero_point) in int32; zero points per tensor, row of a, or column of b."""
    a, b = xp.cast(a, np.int32), xp.cast(b, np.int32)
    if a_zero_point is not None:
        zero = xp.cast(a_zero_point, np.int32)
        a = a - (xp.reshape(zero, (-1, 1)) if zero.ndim == 1 and a.ndim > 1 else zero)
    b = b if b_zero_point is None else b - xp.cast(b_zero_point, np.int32)
    return xp.matmul(a, b)


def _rescaled(xp, exact, factor, y_scale, y_zero_point, dtype):
    y = xp.round(xp.cast(exact, factor.dtype) * (factor / y_scale))
    return saturated(xp, y + xp.cast(xp.cast(y_zero_point, np.int32), y.dtype), dtype)


@op("QLinearMatMul", since=10)
def qlinear_matmul(xp, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, *, types=()):
    """Quantized product of quantized matrices: the integers multiply exactly, one rounding at the end."""
    if a.dtype in FLOAT_CODES:
        product = xp.matmul(xp.cast(a, np.float32), xp.cast(b, np.float32))
        return to_code(xp, product * (a_scale * b_scale / y_scale), types[7])
    exact = matmul_integer(xp, a, b, a_zero_point, b_zero_point)
    rows = xp.reshape(a_scale, (-1, 1)) if a_scale.ndim == 1 and a_scale.shape[0] > 1 else a_scale
    return _rescaled(xp, exact, rows * b_scale, y_scale, y_zero_point, types[7])


@op("QLinearConv", since=10)
def qlinear_conv(
    xp,
    x,
    x_scale,
    x_zero_point,
    w,
    w_scale,
    w_zero_point,
    y_scale,
    y_zero_point,
    b=None,
    *,
    auto_pad="NOTSET",
    dilations=None,
    group=1,
    kernel_shape=None,
    pads=None,
    strides=None,
    types=(),
):
    """Quantized convolution of quantized tensors; the bias is in int32 with scale x_scale * w_scale."""
    options = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "pads": pads, "strides": strides}
    exact = conv_integer(xp, x, w, x_zero_point, w_zero_point, kernel_shape=kernel_shape, **options)
    channels = (1, -1) + (1,) * (exact.ndim - 2)
    exact = exact if b is None else exact + xp.reshape(b, channels)
    factor = x_scale * xp.reshape(w_scale, channels)
    return _rescaled(xp, exact, factor, y_scale, y_zero_point, types[7])
