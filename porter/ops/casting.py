"""Changes of element type: Cast, CastLike, BitCast."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from porter.ops.namespace import FLOAT_CODES
from porter.ops.registry import op
from porter.ops.types import dtype_of

_E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
_E2M1 = np.dtype(ml_dtypes.float4_e2m1fn)


def to_code(xp, x, dtype, saturate=1, round_mode="up"):
    """Floats in a float code: nearest, ties to even; beyond the largest finite value it is that value, or NaN / inf."""
    if dtype == _E8M0:
        return _to_power_of_two(xp, x, saturate, round_mode)
    if saturate or dtype == _E2M1:
        top = float(ml_dtypes.finfo(dtype).max)
        x = xp.where(xp.isnan(x), x, xp.minimum(xp.maximum(x, -top), top))
    elif dtype.name.endswith("fnuz") or dtype.name.endswith("e4m3fn"):
        x = xp.where(xp.isinf(x), xp.full((), np.nan, x.dtype), x)
    return xp.cast(x, dtype)


def _to_power_of_two(xp, x, saturate, round_mode):
    """The exponent alone: rounded up, down, or to the nearest; E8M0 has no zero, no sign and no infinity.

    Read from the bits of a float32, of which code 0 is a subnormal, or of a float64, where every code is a normal number.
    """
    wide = x.dtype == np.float64
    fraction_bits, whole, bias = (52, np.uint64, 1023) if wide else (23, np.uint32, 127)
    integer = np.int64 if wide else np.int32
    magnitude = xp.abs(x if wide else xp.cast(x, np.dtype(np.float32)))
    bits = xp.bitcast(magnitude, whole)
    field = xp.cast(xp.right_shift(bits, whole(fraction_bits)), integer)
    fraction = xp.cast(xp.bitwise_and(bits, whole(2**fraction_bits - 1)), integer)
    exponent = field - (bias - 127)
    low = xp.equal(field, 0) if not wide else None  # subnormal: 2**-127 is half of the first normal
    if round_mode in ("up", "nearest"):
        above = (
            xp.greater(fraction, 0)
            if round_mode == "up"
            else xp.greater_equal(fraction, integer(2 ** (fraction_bits - 1)))
        )
        if low is not None:
            edge = 2**22 if round_mode == "up" else 3 * 2**21 - 1
            above = xp.where(low, xp.greater(fraction, edge), above)
        exponent = exponent + xp.cast(above, integer)
    code = xp.minimum(xp.maximum(exponent, 0), 254)
    lost = xp.isnan(x)
    if not saturate:
        least = xp.cast(xp.less(fraction, 2**22), integer) if not wide else None
        under = xp.less(magnitude, 2.0**-127) if low is None else xp.logical_and(low, xp.equal(least, 1))
        lost = xp.logical_or(lost, xp.logical_or(under, xp.greater(exponent, 254)))
    code = xp.where(lost, xp.full((), 255, integer), code)
    return xp.bitcast(xp.cast(code, np.uint8), _E8M0)


def convert(xp, x, dtype, saturate=1, round_mode="up"):
    """x in another element type, by ONNX's rules."""
    if dtype in FLOAT_CODES and x.dtype != dtype:
        x = x if x.dtype in (np.float32, np.float64) else xp.cast(x, np.float32)
        return to_code(xp, x, dtype, saturate, round_mode)
    if (x.dtype in FLOAT_CODES and dtype.kind in "iub") or (dtype.itemsize == 1 and dtype.kind == "V"):
        x = xp.cast(x, np.float32) if x.dtype in FLOAT_CODES else x
    return xp.cast(x, dtype)


@op("Cast", since=6)
def cast(xp, x, *, to, saturate=1, round_mode="up"):
    """x in the type `to`; floats lose their fraction on the way to integers, bool is x != 0."""
    return convert(xp, x, dtype_of(to), saturate, round_mode)


@op("CastLike", since=15)
def cast_like(xp, x, target_type, *, saturate=1, round_mode="up", types=()):
    """x in the type of the other input."""
    return convert(xp, x, types[1], saturate, round_mode)


@op("BitCast", since=26, moves=True)
def bit_cast(xp, x, *, to, types=()):
    """The same bits read as another type of the same width."""
    return xp.bitcast(x if x.dtype == types[0] else x.astype(types[0]), dtype_of(to))
