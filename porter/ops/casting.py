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
    """The exponent alone: rounded up, down, or to the nearest; E8M0 has no zero, no sign and no infinity."""
    wide = x.dtype == np.float64
    digits, lift = (52, 1023 - 127) if wide else (23, 0)
    unsigned, signed = (np.uint64, np.int64) if wide else (np.uint32, np.int32)
    bits = xp.bitcast(xp.abs(x), np.dtype(unsigned))
    exponent = xp.cast(xp.right_shift(bits, unsigned(digits)), np.dtype(signed)) - lift
    fraction = xp.bitwise_and(bits, unsigned(2**digits - 1))
    half = unsigned(2 ** (digits - 1))
    least = xp.logical_and(xp.equal(exponent, 0), not wide)  # a subnormal of float32, whose half is 2**-127
    if round_mode == "up":
        above = xp.where(least, xp.greater(fraction, half), xp.greater(fraction, unsigned(0)))
    elif round_mode == "nearest":
        above = xp.greater_equal(fraction, xp.where(least, half + half // unsigned(2), half))
    else:
        above = xp.less(bits, unsigned(0))
    exponent = exponent + xp.cast(above, np.dtype(signed))
    code = xp.minimum(xp.maximum(exponent, 0), 254)
    lost = xp.isnan(x)
    if not saturate:
        tiny = xp.less(bits, unsigned(lift << digits) if wide else half)  # below 2**-127
        lost = xp.logical_or(lost, xp.logical_or(tiny, xp.greater(exponent, 254)))
    code = xp.where(lost, xp.full((), 255, np.dtype(signed)), code)
    return xp.bitcast(xp.cast(code, np.dtype(np.uint8)), _E8M0)


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
