"""Scales: a tensor as codes of a narrow format times one scale per tensor, channel or block, by each vendor's rule.

    w ~ decode(codes) * scale       scale = amax / largest code     per tensor or channel, in float32

Block formats hold their scales in a narrow format too, and who rounds that scale how differs:

    ocp     2**(floor(log2 amax) - Emax)       OCP MX 1.0, section 6.3: the largest element may saturate
    nvidia  2**ceil(log2(amax / max))          PTX ISA: E8M0 conversions round upward, nothing saturates
    aws     2**(floor(log2 amax) - Emax + 1)   NKI quantize_mx: half the range, an all-zero block has scale 2**-127

Emax is the exponent of the format's largest normal number (8 for e4m3fn, 2 for e2m1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from porter.errors import PorterError
from porter.formats.number import Format, of

Rule = Literal["ocp", "nvidia", "aws"]
CLIPS = np.linspace(1.0, 0.5, 26)  # shares of the largest magnitude that 'mse' tries
POWERS = np.array([1.0, 0.5])  # the same where scales are powers of two: the rule's own, or half of it
PIECE = 1 << 16  # elements that are scaled and rounded at a time
SMALLEST = 2.0**-100  # a scale below it would make float32 products subnormal; channels of zeros get scale 1


@dataclass(frozen=True)
class Scaled:
    """Codes in their storing dtype and the scales that DequantizeLinear takes.

    axis, block   as DequantizeLinear's axis and block_size; block 0 is one scale per index of the axis, or one in all
    where scale has no dimensions.
    tensor        the second, float32 scale of NVFP4; 1 elsewhere
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int = 0
    block: int = 0
    tensor: float = 1.0

    def decode(self) -> np.ndarray:
        """What the codes stand for, float32: each product rounded once, as DequantizeLinear does."""
        scale = self.scale.astype(np.float32) * np.float32(self.tensor)
        return self.codes.astype(np.float32) * spread(scale, self.codes.shape, self.axis, self.block)

    @property
    def bits(self) -> float:
        """Bits per value with scales, at true size."""
        codes, scales = of(self.codes.dtype).bits, of(self.scale.dtype).bits
        return codes + scales * self.scale.size / max(self.codes.size, 1)


def spread(scale: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A scale so that it broadcasts against the tensor: per tensor, per index of an axis, or per block along it."""
    if scale.ndim == 0:
        return scale
    if not block:
        return scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.repeat(scale, block, axis)[tuple(slice(0, n) for n in shape)]


def power_of_two(x: np.ndarray) -> np.ndarray:
    """Each positive number, upward to a power of two, float64."""
    fraction, power = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(1.0, power - (fraction == 0.5))


def refuse_nan(where: str, x: np.ndarray, format: Format) -> None:
    """Raises PorterError where x has NaN or Inf: a narrow format without them would hold some number instead."""
    if np.all(np.isfinite(x)):
        return
    at = [int(i) for i in np.argwhere(~np.isfinite(x))[0]]
    raise PorterError(f"{where} as {format.name}", expected="finite numbers", found=f"{x[tuple(at)]} at {at}")


def per_tensor(
    x: np.ndarray, format: str, *, amax: float | None = None, limit: float | None = None, where: str = "tensor"
) -> Scaled:
    """One scale for all of x; `amax` is what maps to `limit`, if not x's own largest magnitude."""
    f = of(format)
    refuse_nan(where, x, f)
    top = float(np.max(np.abs(x), initial=0.0)) if amax is None else amax
    x, scale = _within(x, top), np.float32(_safe(np.asarray(top / (limit or f.max))))
    return Scaled(f.encode(x / scale, saturate=True), np.asarray(scale, np.float32))


def per_channel(
    x: np.ndarray, format: str, axis: int, *, clip: str = "none", limit: float | None = None, where: str = "tensor"
) -> Scaled:
    """One scale per index of `axis`; the largest magnitude maps to `limit`, or to the largest code (127 of int8)."""
    f = of(format)
    refuse_nan(where, x, f)
    axis %= x.ndim
    rest = tuple(i for i in range(x.ndim) if i != axis)
    top = np.max(np.abs(x), axis=rest, initial=0.0).astype(np.float64)
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]

    def encode(share: np.ndarray) -> Scaled:
        high = top * share
        scale = _safe(high / (limit or f.max)).astype(np.float32)
        wide, divisor = high.reshape(shape), scale.reshape(shape).astype(np.float64)
        codes = np.empty(x.shape, f.dtype or np.float32)
        for part in _parts(x):  # a few rows at a time: what is wide stays in the cache
            rows = part if axis == 0 else slice(None)
            codes[part] = f.encode(_within(x[part], wide[rows]) / divisor[rows], saturate=True)
        return Scaled(codes, scale, axis)

    return _clipped(x, encode, top.shape, rest, clip)


def blocked(
    x: np.ndarray, format: str, axis: int, block: int, *, scale: str = "float32", rule: Rule = "nvidia",
    clip: str = "none", where: str = "tensor", limit: float | None = None, scale_limit: float | None = None,
) -> Scaled:  # fmt: skip
    """One scale per `block` elements along `axis` (the last block may be short), held in the format `scale`.

    No code passes `limit`, no narrow scale `scale_limit`: the formats' own largest, or a smaller one of a device.

    float8_e8m0fnu by one of three rules; float8_e4m3fn with a float32 scale for the whole tensor, as NVFP4 has it
    (tensor = amax / (6 * 448), so that the largest block scale is the largest e4m3fn); or float32.
    """
    f = of(format)
    refuse_nan(where, x, f)
    axis %= x.ndim
    n = -(-x.shape[axis] // block)
    padding = [(0, n * block - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
    cut = (*x.shape[:axis], n, block, *x.shape[axis + 1 :])
    wide = np.pad(np.asarray(x, np.float64), padding).reshape(cut)
    top = np.max(np.abs(wide), axis=axis + 1)
    high, tensor = limit or f.max, 1.0
    if of(scale).name == "float8_e4m3fn":
        most = high * (scale_limit or of(scale).max)
        tensor = float(np.float32(_safe(np.asarray(np.max(top, initial=0.0) / most))))

    def encode(share: np.ndarray) -> Scaled:
        scales = _scales(top * share, high, scale, rule, tensor, scale_limit)
        divisor = spread(scales.astype(np.float64) * tensor, x.shape, axis, block)
        quotient = np.divide(x, divisor, out=np.zeros(x.shape), where=divisor != 0)
        if limit:
            quotient = np.clip(quotient, -limit, limit)
        return Scaled(f.encode(quotient, saturate=True), scales, axis, block, tensor)

    def errors(made: Scaled) -> np.ndarray:
        e = np.pad(np.square(made.decode() - x.astype(np.float64)), padding).reshape(cut)
        return e.sum(axis=axis + 1)

    if clip == "none":
        return encode(np.ones_like(top))
    return encode(_best(encode, errors, top.shape, POWERS if of(scale).name == "float8_e8m0fnu" else CLIPS))


def _scales(top: np.ndarray, high: float, scale: str, rule: Rule, tensor: float, limit: float | None) -> np.ndarray:
    """The scales that bring `top` to `high`, in their format."""
    kind = of(scale)
    if kind.name == "float32":
        return _safe(top / high).astype(np.float32)
    if kind.name != "float8_e8m0fnu":
        return np.asarray(kind.encode(np.minimum(top / high / tensor, limit or kind.max), saturate=True))
    emax = int(np.floor(np.log2(high)))
    positive = np.where(top > 0, top, 1.0)
    exponent = np.frexp(positive)[1] - 1  # floor(log2 amax), exactly
    match rule:
        case "ocp":
            power = exponent - emax
        case "aws":
            power = exponent - emax + 1
        case "nvidia":
            fraction, power = np.frexp(positive / high)
            power = np.where(fraction == 0.5, power - 1, power)
        case _:
            raise PorterError(f"rule {rule!r} of block scales", expected="ocp, nvidia or aws")
    power = np.where(top > 0, np.clip(power, -127, 127), -127)
    return np.asarray(kind.encode(np.ldexp(1.0, power), saturate=True))


def _clipped(x: np.ndarray, encode, shape: tuple[int, ...], rest: tuple[int, ...], clip: str) -> Scaled:
    if clip == "none":
        return encode(np.ones(shape))
    if clip != "mse":
        raise PorterError(f"clipping {clip!r}", expected="none or mse")
    return encode(_best(encode, lambda made: np.square(made.decode() - x.astype(np.float64)).sum(axis=rest), shape))


def _best(encode, errors, shape: tuple[int, ...], shares: np.ndarray = CLIPS) -> np.ndarray:
    """For each scale the share of the largest magnitude with the least squared error."""
    best, least = np.ones(shape), np.full(shape, np.inf)
    for share in shares:
        found = errors(encode(np.full(shape, share)))
        best, least = np.where(found < least, share, best), np.minimum(found, least)
    return best


def _parts(x: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis, some tens of thousands of elements each."""
    rows = max(1, PIECE // max(1, x[:1].size))
    yield from (slice(low, low + rows) for low in range(0, len(x), rows))


def _within(x: np.ndarray, top: ArrayLike) -> np.ndarray:
    """x cut to +-top: symmetric, so that int8 never uses -128, and no code lies beyond a limit below the format's."""
    return np.clip(np.asarray(x, np.float64), -np.asarray(top), top)


def _safe(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, np.maximum(scale, SMALLEST), 1.0)


def to_b11fnuz(codes: np.ndarray) -> tuple[np.ndarray, float]:
    """E4M3FN codes as E4M3B11FNUZ codes and the factor of their scale, without loss: equal bits mean a 16th.

    The exponent bias is 11 instead of 7. -0 becomes +0 (0x80 is NaN there); NaN codes (0x7F, 0xFF) would read as +-30
    and raise PorterError. All 256 codes are in the tests.
    """
    target, bits = of("float8_e4m3b11fnuz"), np.ascontiguousarray(codes).view(np.uint8)
    assert target.dtype is not None
    if np.any((bits & 0x7F) == 0x7F):
        raise PorterError(
            "e4m3fn codes as e4m3b11fnuz", expected="no NaN", found=f"{np.sum((bits & 0x7F) == 0x7F)} NaN codes"
        )
    return np.where(bits == 0x80, np.uint8(0), bits).view(target.dtype), 16.0
