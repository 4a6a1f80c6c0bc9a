"""Arithmetic modulo two primes, on numpy arrays: exact products by BLAS, powers by tables, keyed hashes, rationals.

p = 2q + 1 is a safe prime, both below 2**31, so that a product of two residues fits in int64. Of these it is the
largest for which 2, 3, 5, 7, 11 and 13 are squares modulo p and modulo q, so that sqrt(64) is 8, the root of 1/32
times itself is 1/32, and sqrt(4 x) is 2 sqrt(x): with the largest safe prime of all, 2147483579, 2 is no square and
they come out negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np

from porter import formats

P = 2147024879
Q = (P - 1) // 2
G = 4  # a square, and not 1: its order is q
LIMB = 16  # residues are cut into 16 + 15 bits, whose products float64 sums exactly
_MASK = (1 << LIMB) - 1


def add(a: np.ndarray, b: np.ndarray, m: int) -> np.ndarray:
    # below m the difference is negative, which as an unsigned number is the larger of the two: no branch, no division
    total = np.asarray(a + b)
    return np.minimum(total.view(np.uint64), (total - m).view(np.uint64)).view(np.int64)


def negate(a: np.ndarray, m: int) -> np.ndarray:
    return np.where(a == 0, a, m - a)


def multiply(a: np.ndarray, b: np.ndarray, m: int) -> np.ndarray:
    return (a * b) % m


def power(a: np.ndarray, exponent: int, m: int) -> np.ndarray:
    """a ** exponent modulo m, by squaring; a negative exponent inverts."""
    exponent = exponent % (m - 1) if exponent < 0 else exponent
    result, square = np.ones_like(a), a
    while exponent:
        if exponent & 1:
            result = multiply(result, square, m)
        exponent >>= 1
        if exponent:
            square = multiply(square, square, m)
    return result


def inverse(a: np.ndarray, m: int) -> np.ndarray:
    """1 / a modulo m; 0 for 0, which the caller must tell apart."""
    return power(a, m - 2, m)


def exponential(x: np.ndarray) -> np.ndarray:
    """G ** x modulo p for exponents modulo q, by three tables of 2**10."""
    low, middle, high = _tables()
    part = multiply(low[x & 1023], middle[(x >> 10) & 1023], P)
    return multiply(part, high[x >> 20], P)


@cache
def _tables() -> tuple[np.ndarray, ...]:
    tables = []
    for shift in (0, 10, 20):
        base, row, value = pow(G, 1 << shift, P), [], 1
        for _ in range(1024):
            row.append(value)
            value = value * base % P
        tables.append(np.array(row, np.int64))
    return tuple(tables)


def square_root(x: np.ndarray, m: int) -> np.ndarray:
    """The square root that is a square itself, of x or, where x is no square, of -x. Both primes are 3 modulo 4."""
    return power(x, (m + 1) // 4, m)


def square_sign(x: np.ndarray, m: int) -> np.ndarray:
    """The Legendre symbol as a residue: 1 for squares, -1 for the rest, 0 for 0."""
    return power(x, (m - 1) // 2, m)


def bilinear(product: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray, length: int, m: int) -> np.ndarray:
    """product(a, b) modulo m, where `product` sums products of `length` pairs in float64: exact, since every limb
    product is below 2**32, two of them are added, and a sum of 2**20 such pairs stays below 2**53."""
    if length > 1 << 20:
        raise OverflowError(f"a contraction of length {length} is not exact in float64 limbs")
    a_low, a_high = (a & _MASK).astype(np.float64), (a >> LIMB).astype(np.float64)
    b_low, b_high = (b & _MASK).astype(np.float64), (b >> LIMB).astype(np.float64)
    high = np.asarray(product(a_high, b_high)).astype(np.int64) % m
    middle = np.asarray(product(a_low, b_high) + product(a_high, b_low)).astype(np.int64)
    upper = ((high << LIMB) + middle) % m
    return ((upper << LIMB) + np.asarray(product(a_low, b_low)).astype(np.int64)) % m


def hashed(key: int, *parts: np.ndarray) -> np.ndarray:
    """A keyed function of residues, 64 bits (splitmix64's finalizer, which mixes every input bit into every other)."""
    with np.errstate(over="ignore"):
        state = np.asarray(key % (1 << 64), np.uint64)
        for part in parts:
            state = _mix(state ^ part.astype(np.uint64))
    return state


def _mix(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_of(seed: int, name: str) -> int:
    """A 64-bit key for a function's name, the same on every machine."""
    state = np.asarray(seed, np.uint64)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            state = _mix(np.asarray(state ^ np.uint64(byte + 1)))
    return int(state)


# floats as residues


def from_floats(x: np.ndarray, m: int) -> np.ndarray:
    """Finite floats as the dyadic rationals they are: mantissa times a power of two modulo m. 0 where not finite."""
    fraction, exponent = np.frexp(np.where(np.isfinite(x), x, 0).astype(np.float64))
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    table, lowest = _powers_of_two(m)
    return multiply(mantissa % m, table[exponent.astype(np.int64) - 53 - lowest], m)


@cache
def _powers_of_two(m: int) -> tuple[np.ndarray, int]:
    lowest, highest = -1140, 1025
    value, row = pow(2, lowest, m), []
    for _ in range(lowest, highest):
        row.append(value)
        value = value * 2 % m
    return np.array(row, np.int64), lowest


def from_fraction(value: Fraction, m: int) -> int:
    """A rational modulo m."""
    return value.numerator % m * pow(value.denominator, -1, m) % m


SIMPLE = 64  # terms of fractions that are taken for what a constant means
COUNT = 1 << 16  # whole numbers n for which 1/n, sqrt(n) and 1/sqrt(n) are
# and numbers that are neither, in float64: what a float32 constant near one of them is the rounding of
NAMED = tuple(
    scale * x
    for x in (math.pi, math.e, math.log(2), math.log(10), math.sqrt(math.pi), math.sqrt(2 / math.pi))
    for scale in (1.0, 2.0, 0.5)
) + tuple(1 / x for x in (math.pi, math.log(2), math.log(10), math.sqrt(math.pi), 2 * math.pi))


@cache
def meaning(value: float, dtype: str) -> tuple[Fraction, Fraction, int]:
    """(a, r, k) such that the constant stands for a * r ** (1 / k), r a positive rational and k 1, 2 or 4.

    A stored constant is a rounded one: 0.044715, 1/3, sqrt(1/2), 1/sqrt(96), 32 ** -1/4 (attention's scale, half of it
    on each side). The simplest number within an ulp of the stored value is what it means: a fraction of small terms,
    1/n, a decimal of at most 6 digits, the second or fourth root of a fraction of small terms, of n or of 1/n, or a
    named number (pi, ln 2, sqrt(2/pi)) as float64 has it; else it means itself. An ulp and not half of one, for
    constants that were computed from rounded ones.
    """
    exactly, one = Fraction(value), Fraction(1)
    ulp = Fraction(float(formats.of(dtype).ulp(value)))
    turned = Fraction(round(1 / exactly))
    candidates = [exactly.limit_denominator(SIMPLE), Fraction(f"{value:.6g}")]
    if 0 < abs(turned) <= COUNT:
        candidates.insert(1, 1 / turned)
    for candidate in candidates:
        if candidate and abs(candidate - exactly) <= ulp:
            return candidate, one, 1
    sign, size = Fraction(1 if value > 0 else -1), abs(exactly)
    for k in (2, 4):
        power = size**k
        for root in (power.limit_denominator(SIMPLE), Fraction(round(power)), Fraction(1, max(1, round(1 / power)))):
            if not 0 < root <= COUNT or root.denominator > COUNT:
                continue
            # a float64 root is itself up to an ulp of float64 off
            if abs(Fraction(float(root) ** (1 / k)) - size) <= ulp + Fraction(math.ulp(value)):
                return sign, root, k
    for named in NAMED:
        if abs(Fraction(named) - size) <= ulp + Fraction(math.ulp(value)):
            return sign * Fraction(named), one, 1
    return exactly, one, 1
