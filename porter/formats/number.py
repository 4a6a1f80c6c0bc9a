"""Every number format that a model, a weight or a matrix unit uses: range, spacing, rounding, codes, packing.

Rounding is done in exact float64 steps (scale by a power of two, round to an integer, scale back), so it rounds once;
ml_dtypes, which holds the codes, takes float64 there by way of float32 (e5m2: of float16), and so rounds twice. The
tests hold the two against each other over every code and every midpoint.

Sources: OCP 8-bit floating point (E4M3 = e4m3fn, E5M2), OCP MX 1.0 (e2m3, e3m2, e2m1, e8m0), the ONNX float8 page
(fnuz flavours), ml_dtypes' README (e4m3, e4m3b11fnuz, e3m4), PTX ISA (tf32: 8 exponent and 10 mantissa bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from porter.errors import PorterError

Rounding = Literal["nearest", "zero", "up", "down", "away"]


@dataclass(frozen=True)
class Format:
    """A binary number format.

    name      ONNX's and numpy's word for it
    bits      bits per stored value
    kind      'float', 'signed' or 'unsigned'
    mantissa  stored fraction bits (float), so that one ulp at 1 is 2**-mantissa
    min_exp   exponent of the smallest normal number
    max       largest finite value
    has_inf, has_nan, has_negative_zero  which special codes exist
    dtype     the numpy or ml_dtypes dtype that stores it; None for tf32, which lives in float32
    """

    name: str
    bits: int
    kind: Literal["float", "signed", "unsigned"]
    max: float
    min: float
    mantissa: int = 0
    min_exp: int = 0
    has_inf: bool = False
    has_nan: bool = False
    has_negative_zero: bool = False
    has_subnormals: bool = True

    @cached_property
    def dtype(self) -> np.dtype | None:
        if self.name == "tfloat32":
            return None
        return np.dtype(getattr(ml_dtypes, self.name, self.name))

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value; 1 for integers."""
        return 2.0**-self.mantissa if self.is_float else 1.0

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest within the normal range: eps / 2; 0 for integers."""
        return self.eps / 2 if self.is_float else 0.0

    @property
    def tiny(self) -> float:
        """Smallest positive normal value."""
        return 2.0**self.min_exp if self.is_float else 1.0

    @property
    def smallest(self) -> float:
        """Smallest positive value: the lowest subnormal where the format has subnormals."""
        return 2.0 ** (self.min_exp - self.mantissa) if self.is_float and self.has_subnormals else self.tiny

    def ulp(self, x: ArrayLike) -> np.ndarray:
        """Spacing of the format's values at |x|, float64; at zero that of the subnormals. Integers: 1."""
        x = np.abs(np.asarray(x, np.float64))
        if not self.is_float:
            return np.ones_like(x)
        exponent = np.frexp(np.where(np.isfinite(x), np.minimum(x, self.max), self.max))[1] - 1
        exponent = np.where(x == 0, self.min_exp, exponent)
        return np.ldexp(1.0, np.maximum(exponent, self.min_exp) - self.mantissa)

    def round(self, x: ArrayLike, *, saturate: bool = False, rounding: Rounding = "nearest"):
        """x at the nearest values of this format (ties to even), in the float dtype that x came in (float64 for a
        Python number, and for integer input).

        Overflow becomes Inf, else NaN, else the largest value, as far as the format can say it; with `saturate` it is
        the largest finite value, and only NaN stays NaN. Formats without NaN (float6, float4, integers) give -0 or 0 for it.
        'zero' cuts bits off (tf32 operands of a wgmma), 'away' sends ties away from zero (cvt.rna), 'up' is how block
        scales in e8m0 round.
        """
        given = np.asarray(x)
        floating = given.dtype.kind == "f" or given.dtype == ml_dtypes.bfloat16
        out_dtype = given.dtype if floating else np.dtype(np.float64)
        with np.errstate(all="ignore"):
            value = self._round64(given.astype(np.float64), saturate, rounding).astype(out_dtype)
        return value if isinstance(x, np.ndarray) else value[()]

    def _round64(self, x: np.ndarray, saturate: bool, rounding: Rounding) -> np.ndarray:
        if self.name == "float8_e8m0fnu":
            return self._round_scale(x, saturate, rounding)
        low = self.min
        quantum = np.ones_like(x) if not self.is_float else self._quantum(x)
        y = _step(x / quantum, rounding) * quantum
        nan = np.isnan(x)
        over, under = y > self.max, y < low
        if self.has_inf and not saturate:
            y = np.where(over, np.inf, np.where(under, -np.inf, y))
        elif self.is_float and self.has_nan and not saturate:
            y = np.where(over | under, np.nan, y)
        else:
            y = np.where(over, self.max, np.where(under, low, y))
        y = np.where(nan, np.nan if self.has_nan else -0.0, y)  # without NaN: -0, as ml_dtypes has it
        return y if self.has_negative_zero else np.where(y == 0, 0.0, y)

    def _quantum(self, x: np.ndarray) -> np.ndarray:
        """Spacing of the format around x as if its exponent had no upper end, so that what rounds past max shows."""
        exponent = np.frexp(np.where(np.isfinite(x), x, 1.0))[1] - 1
        return np.ldexp(1.0, np.maximum(np.where(x == 0, self.min_exp, exponent), self.min_exp) - self.mantissa)

    def _round_scale(self, x: np.ndarray, saturate: bool, rounding: Rounding) -> np.ndarray:
        """e8m0 holds powers of two, no zero and no sign: 'nearest' by value with ties up (ONNX Cast, round_mode), else
        by floor or ceiling of the exponent. Zero and negatives become NaN; too small becomes the smallest."""
        positive = np.isfinite(x) & (x > 0)
        fraction, exponent = np.frexp(np.where(positive, x, 1.0))
        floor = exponent - 1  # x = 2**floor * (2 * fraction), 2 * fraction in [1, 2)
        never = np.zeros_like(fraction, bool)
        more = {
            "nearest": fraction >= 0.75,
            "away": fraction >= 0.75,
            "up": fraction > 0.5,
            "down": never,
            "zero": never,
        }[rounding]
        power = np.maximum(floor + more, -127)
        y = np.ldexp(1.0, np.minimum(power, 127))
        y = np.where((power > 127) & (not saturate), np.nan, y)
        if saturate:
            y = np.where(np.isposinf(x), self.max, y)
            positive = positive | np.isposinf(x)
        return np.where(positive, y, np.nan)

    def encode(self, x: ArrayLike, *, saturate: bool = False, rounding: Rounding = "nearest") -> np.ndarray:
        """round(x) in the dtype that stores the format (tf32: float32)."""
        value = self.round(np.asarray(x, np.float64), saturate=saturate, rounding=rounding)
        return np.asarray(value).astype(self.dtype or np.float32)

    def codes(self) -> np.ndarray:
        """All values of a format of at most 16 bits, in order of their bit patterns, in the storing dtype."""
        if self.bits > 16 or self.dtype is None:
            raise PorterError(f"codes of {self.name}", expected="at most 16 bits", found=f"{self.bits} bits")
        patterns = np.arange(2**self.bits, dtype=np.uint16 if self.bits > 8 else np.uint8)
        if self.bits in (2, 4) and self.kind == "signed":  # ml_dtypes stores a signed nibble sign-extended
            half = 2 ** (self.bits - 1)
            return (((patterns.astype(np.int8) + half) % (2 * half)) - half).astype(np.int8).astype(self.dtype)
        return patterns.view(self.dtype) if self.bits >= 8 or self.is_float else patterns.astype(self.dtype)

    def pack(self, x: ArrayLike) -> np.ndarray:
        """Flat bytes (uint8) of values already in the storing dtype, without padding bits between them.

        The first value takes the lowest bits, as ONNX packs int4, uint4 and float4 and NVIDIA's fp6: two nibbles, four
        2-bit values per byte, four float6 in three bytes. The last byte is filled with zero bits.
        """
        raw = self.patterns(np.asarray(x))
        if self.bits >= 8:
            return raw.view(np.uint8)
        bits = (raw[:, None] >> np.arange(self.bits, dtype=np.uint8)) & 1
        return np.packbits(bits.reshape(-1), bitorder="little")

    def unpack(self, packed: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        """The values of `pack`, in the storing dtype and the given shape."""
        packed = np.ascontiguousarray(packed, np.uint8).reshape(-1)
        count = int(np.prod(shape, dtype=np.int64))
        need = -(-count * self.bits // 8)
        if packed.size != need:
            where = f"packed {self.name} of shape {list(shape)}"
            raise PorterError(where, expected=f"{need} bytes", found=f"{packed.size} bytes")
        dtype = self.dtype or np.dtype(np.float32)
        if self.bits >= 8:
            return packed.view(dtype).reshape(shape)
        bits = np.unpackbits(packed, count=count * self.bits, bitorder="little").reshape(count, self.bits)
        raw = (bits << np.arange(self.bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
        if self.kind == "signed":
            half = 2 ** (self.bits - 1)
            return (((raw.astype(np.int8) + half) % (2 * half)) - half).astype(np.int8).astype(dtype).reshape(shape)
        return (raw.view(dtype) if self.is_float else raw.astype(dtype)).reshape(shape)

    def patterns(self, x: np.ndarray) -> np.ndarray:
        """The bit patterns of x: uint8 for up to 8 bits, else the flat array itself."""
        dtype = self.dtype or np.dtype(np.float32)
        if x.dtype != dtype:
            where = f"packing {self.name}"
            raise PorterError(where, expected=f"an array of {dtype}", found=str(x.dtype), hint="encode() first")
        flat = np.ascontiguousarray(x).reshape(-1)
        if self.bits > 8:
            return flat
        return flat.view(np.uint8) & np.uint8(2**self.bits - 1)


def _step(x: np.ndarray, rounding: Rounding) -> np.ndarray:
    match rounding:
        case "nearest":
            return np.rint(x)
        case "zero":
            return np.trunc(x)
        case "up":
            return np.ceil(x)
        case "down":
            return np.floor(x)
        case "away":
            size = np.abs(x)
            low = np.floor(size)  # size + 0.5 would round: the number below 0.5 plus 0.5 is 1
            return np.copysign(np.where(size - low >= 0.5, low + 1, low), x)
    raise PorterError(f"rounding {rounding!r}", expected="nearest, zero, up, down or away")


def _float(name: str, bits: int, mantissa: int, min_exp: int, max: float, **special: bool) -> Format:
    return Format(name, bits, "float", max, -max, mantissa, min_exp, **special)


def _integer(name: str, bits: int) -> Format:
    if name.startswith("u"):
        return Format(name, bits, "unsigned", float(2**bits - 1), 0.0)
    return Format(name, bits, "signed", float(2 ** (bits - 1) - 1), -float(2 ** (bits - 1)))


_IEEE = {"has_inf": True, "has_nan": True, "has_negative_zero": True}

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        _float("float64", 64, 52, -1022, float(np.finfo(np.float64).max), **_IEEE),
        _float("float32", 32, 23, -126, float(np.finfo(np.float32).max), **_IEEE),
        _float("tfloat32", 32, 10, -126, (2 - 2.0**-10) * 2.0**127, **_IEEE),
        _float("bfloat16", 16, 7, -126, (2 - 2.0**-7) * 2.0**127, **_IEEE),
        _float("float16", 16, 10, -14, 65504.0, **_IEEE),
        _float("float8_e5m2", 8, 2, -14, 57344.0, **_IEEE),
        _float("float8_e4m3", 8, 3, -6, 240.0, **_IEEE),
        _float("float8_e3m4", 8, 4, -2, 15.5, **_IEEE),
        _float("float8_e4m3fn", 8, 3, -6, 448.0, has_nan=True, has_negative_zero=True),
        _float("float8_e4m3fnuz", 8, 3, -7, 240.0, has_nan=True),
        _float("float8_e4m3b11fnuz", 8, 3, -10, 30.0, has_nan=True),
        _float("float8_e5m2fnuz", 8, 2, -15, 57344.0, has_nan=True),
        _float("float6_e2m3fn", 6, 3, 0, 7.5, has_negative_zero=True),
        _float("float6_e3m2fn", 6, 2, -2, 28.0, has_negative_zero=True),
        _float("float4_e2m1fn", 4, 1, 0, 6.0, has_negative_zero=True),
        Format("float8_e8m0fnu", 8, "float", 2.0**127, 2.0**-127, 0, -127, has_nan=True, has_subnormals=False),
        *(_integer(sign + f"int{bits}", bits) for bits in (2, 4, 8, 16, 32) for sign in ("", "u")),
    )
}

_SHORT = {
    "f64": "float64",
    "fp64": "float64",
    "f32": "float32",
    "fp32": "float32",
    "tf32": "tfloat32",
    "bf16": "bfloat16",
    "f16": "float16",
    "fp16": "float16",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3",
    "e3m4": "float8_e3m4",
    "e4m3fn": "float8_e4m3fn",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e2m1": "float4_e2m1fn",
    "e8m0": "float8_e8m0fnu",
}


def of(name: str | DTypeLike) -> Format:
    """The format of that name, short name ('bf16', 'e4m3fn') or numpy dtype. Unknown: PorterError with what exists."""
    key = name if isinstance(name, str) else np.dtype(name).name
    key = _SHORT.get(key, key)
    if key not in FORMATS:
        raise PorterError(f"number format {key!r}", expected=", ".join(FORMATS), hint="or " + ", ".join(_SHORT))
    return FORMATS[key]
