"""One emulation of matrix units: what a product of float32 tensors becomes in each operand precision.

Triton's interpreter multiplies fp32 exactly whatever `input_precision` says, and so does Pallas' interpret mode. Every
harness puts `dot` in place of their product, and so all targets agree on what 'tf32x3' computes.

    fp32     one product of float32
    tf32     operands cut to 10 mantissa bits (a wgmma reads float32 and ignores the low 13 bits)
    tf32x3   big = tf32(x, ties away), small = x - big; small*big + big*small + big*big, as Triton splits
    bf16     operands rounded to bfloat16
    bf16x3   2 parts, 3 products; bf16x6: 3 parts, the 6 products down to 2**-16, as Triton and XLA keep them
    fp16     operands rounded to float16 (beyond 65504 is Inf)

Each product of two parts is exact in float32 (11 + 11 or 8 + 8 significant bits of 24), so only the sums round, in
float32, small products first. NaN in the small products becomes 0: Inf - Inf in the split is no NaN of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.errors import PorterError
from porter.formats.number import FORMATS, of

Term = tuple[int, int]
HOPPER_FP8 = "hopper_fp8"
HOPPER_STEP, HOPPER_BITS = (
    32,
    14,
)  # terms of one wgmma of 8-bit floats (PTX ISA: k32); significant bits that its sum keeps


@dataclass(frozen=True)
class Precision:
    """How a matrix unit multiplies float32: the parts of an operand, and which products of parts it adds, in order."""

    name: str
    format: str
    parts: int
    terms: tuple[Term, ...]
    roundoff: float  # relative error of one product: what the parts drop of both operands, and the products left out


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", "float32", 1, ((0, 0),), 0.0),
        Precision("tf32", "tfloat32", 1, ((0, 0),), 2 * 2.0**-10),
        Precision("tf32x3", "tfloat32", 2, ((1, 0), (0, 1), (0, 0)), 3 * 2.0**-22),
        Precision("bf16", "bfloat16", 1, ((0, 0),), 2 * 2.0**-8),
        Precision("bf16x3", "bfloat16", 2, ((1, 0), (0, 1), (0, 0)), 2 * 2.0**-16),
        Precision("bf16x6", "bfloat16", 3, ((1, 1), (2, 0), (0, 2), (1, 0), (0, 1), (0, 0)), 2.0**-24 + 2.0**-33),
        Precision("fp16", "float16", 1, ((0, 0),), 2 * 2.0**-11),
    )
}


def split(x: np.ndarray, precision: str) -> tuple[np.ndarray, ...]:
    """The float32 parts of x that the unit multiplies, largest first; each is a value of the operand format.

    tf32x3: ties of the big part go away from zero (cvt.rna.tf32), the small part is cut by the unit.
    """
    p = _precision(precision)
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise PorterError("operand of an emulated matrix product", expected="float32", found=str(x.dtype))
    if p.name == "fp32":
        return (x,)
    if p.format == "tfloat32":
        if p.parts == 1:
            return (_tf32_cut(x),)
        big = _tf32_away(x)
        with np.errstate(invalid="ignore"):
            return big, _tf32_cut(x - big)
    parts, rest = [], x
    dtype = of(p.format).dtype
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(p.parts):
            parts.append(rest.astype(dtype).astype(np.float32))
            rest = rest - parts[-1]
    return tuple(parts)


def dot(a: np.ndarray, b: np.ndarray, *, precision: str, accumulator: str = "float32") -> np.ndarray:
    """a [..., M, K] times b [..., K, N], float32 in and out (float64 out for accumulator 'float64'), as numpy.matmul
    broadcasts them.

    `accumulator` 'float32' sums in float32; 'float64' leaves only the error of the operand format, to tell the two
    apart; a narrower float ('float16', 'bfloat16') rounds the float32 sum once, in float32. Any order of summation is
    as right as any other: units document none; 'hopper_fp8' is the 14 bits of `hopper_fp8`. Wrong dtypes, formats or
    shapes raise PorterError.
    """
    p = _precision(precision)
    if accumulator == HOPPER_FP8:
        _checked(np.asarray(a), np.asarray(b))
        return hopper_fp8(np.asarray(a), np.asarray(b))
    if accumulator not in FORMATS or not FORMATS[accumulator].is_float:
        raise PorterError(f"accumulator {accumulator!r}", expected="float32, float64, float16 or bfloat16")
    a, b = np.asarray(a), np.asarray(b)
    _checked(a, b)
    left, right = split(a, p.name), split(b, p.name)
    if accumulator == "float64":
        left, right = tuple(x.astype(np.float64) for x in left), tuple(x.astype(np.float64) for x in right)
    with np.errstate(over="ignore", invalid="ignore"):
        total = None
        for i, j in p.terms:
            if total is not None and (i, j) == (0, 0):
                total = np.where(np.isnan(total), total.dtype.type(0), total)
            product = np.matmul(left[i], right[j])
            total = product if total is None else total + product
    assert total is not None
    if accumulator in ("float32", "float64"):
        return total
    return np.asarray(of(accumulator).round(total))


def hopper_fp8(a: np.ndarray, b: np.ndarray, *, promote: int = 128) -> np.ndarray:
    """a [..., M, K] times b [..., K, N] of 8-bit floats (as float32) as a Hopper tensor core adds: about 14 bits.

    Each step of 32 terms aligns its products and the running sum to the largest of them and drops what lies below 14 bits
    of that. Every `promote` terms the sum goes to float32 and starts anew (0: never). A model: the unit's own order and
    width are not documented (DeepSeek-V3 report, section 3.3.2, measured about 14 bits and promotes every 128).
    """
    k = a.shape[-1]
    rows, columns = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (a.shape[-2], b.shape[-1])
    total, held = np.zeros(shape, np.float32), np.zeros(shape)
    for start in range(0, k, HOPPER_STEP):
        left = rows[..., :, start : start + HOPPER_STEP, None]
        right = columns[..., None, start : start + HOPPER_STEP, :]
        terms = np.concatenate([left * right, held[..., :, None, :]], axis=-2)
        top = np.max(np.abs(terms), axis=-2, keepdims=True)
        quantum = np.ldexp(1.0, np.frexp(top)[1] - HOPPER_BITS)
        held = np.sum(np.trunc(terms / quantum) * quantum, axis=-2)
        if promote and (start + HOPPER_STEP) % promote == 0:
            total, held = total + held.astype(np.float32), np.zeros(shape)
    return total + held.astype(np.float32)


def _checked(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        where = "emulated matrix product"
        raise PorterError(
            where, expected="[..., M, K] times [..., K, N]", found=f"{list(a.shape)} times {list(b.shape)}"
        )


@dataclass(frozen=True)
class Bound:
    """Relative roundoffs of one contraction: of the operand format, and of the sum."""

    operand: float
    accumulation: float

    @property
    def worst(self) -> float:
        """|error| of an output element over sum |a| |b|, at most."""
        return self.operand + self.accumulation

    def rms(self, k: int) -> float:
        """Expected |error| over sqrt(sum (a b)^2) when roundings are independent: each of the k products carries the
        operand's, uniform within its bound (1/sqrt(3) of it), and the running sum takes k roundings of a value that
        grows as sqrt(i), which sum to accumulation / sqrt(6 k) each, k of them."""
        unit = self.accumulation / max(k, 1)
        return float(np.hypot(self.operand / np.sqrt(3), unit * np.sqrt(k / 6)))


def error_bound(precision: str, k: int, accumulator: str = "float32") -> Bound:
    """What a contraction of length k may err by, relative to sum |a| |b|.

    Operand: a scheme keeps x within r |x| of it and leaves out some products of parts; together, within the normal
    range of the format,

        tf32     2 * 2**-10             both cut to 10 fraction bits, up to a whole ulp
        bf16     2 * 2**-8              both rounded to 7 fraction bits, up to half an ulp
        fp16     2 * 2**-11             the same with 10
        bf16x3   2 * 2**-17 + 2**-16    low <= 2**-8 is itself rounded within 2**-17; low * low is left out
        tf32x3   2 * 2**-22 + 2**-22    small <= 2**-11 is cut within 2**-22; small * small is left out
        bf16x6   2 * 2**-25 + 2**-33    three parts hold all 24 bits; mid * low (twice) and low * low are left out

    Accumulation: t terms of k products, k t - 1 additions, each within u = 2**-24 of a partial sum that is at most
    sum |a| |b| (Higham, Accuracy and Stability, section 3.1: gamma_n = n u / (1 - n u)); a product in fp32 adds its own
    rounding. A narrower accumulator rounds the result once more.
    """
    p = _precision(precision)
    u = 2.0**-53 if accumulator == "float64" else 2.0**-24
    n = max(k + len(p.terms) - 1, 1)  # the small terms are a 2**-8th of the sum or less: their sums do not count
    accumulation = n * u / (1 - n * u)
    if accumulator not in ("float32", "float64"):
        accumulation += of(accumulator).unit_roundoff
    return Bound(p.roundoff, accumulation)


def _precision(name: str) -> Precision:
    if name not in PRECISIONS:
        raise PorterError(f"matrix precision {name!r}", expected=", ".join(PRECISIONS))
    return PRECISIONS[name]


def _tf32_cut(x: np.ndarray) -> np.ndarray:
    """The low 13 bits off; NaN keeps a set bit so that it stays NaN."""
    bits = np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(x), x, bits.view(np.float32).reshape(x.shape))


def _tf32_away(x: np.ndarray) -> np.ndarray:
    """cvt.rna.tf32.f32: nearest with 10 fraction bits, ties away from zero; Inf and NaN stay."""
    bits = (np.ascontiguousarray(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), bits.view(np.float32).reshape(x.shape), x)
