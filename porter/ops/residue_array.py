"""Arrays of residues: a value modulo p, its exponent modulo q, and a tag for what is infinite or undefined."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from porter.ops import residues as mod
from porter.ops.residues import P, Q

LOW, HIGH, UNDEFINED = -1, 1, 2  # -inf, inf, and what would be NaN; 0 is finite


@dataclass(frozen=True)
class Doubt:
    """What the chance of error of a value is computed from: its degree as a polynomial in the random values and in the
    reciprocals it was made with, and the choices in which a difference may have been lost.

    Each reciprocal 1/y counts as a variable of its own; taking the fractions to one denominator multiplies by every y,
    so `divided` holds one (number, weight) for each division, its weight the degrees of all its y together. `hidden`
    holds one (number, share) for each maximum or minimum on the way: the share of differences in one element that it
    lets through.
    """

    top: int = 1
    divided: frozenset[tuple[int, int]] = frozenset()
    hidden: frozenset[tuple[int, float]] = frozenset()

    @property
    def degree(self) -> int:
        """An upper bound of the degree of the numerator."""
        return self.top * (1 + sum(weight for _, weight in self.divided))

    @property
    def visible(self) -> float:
        """The chance that a difference in one element, anywhere before this value, is one in this value."""
        return math.prod(share for _, share in self.hidden)

    def plus(self, other: Doubt) -> Doubt:
        return Doubt(max(self.top, other.top), self.divided | other.divided, self.hidden | other.hidden)

    def times(self, other: Doubt) -> Doubt:
        return Doubt(self.top + other.top, self.divided | other.divided, self.hidden | other.hidden)

    def hashed(self) -> Doubt:
        """Of a function without laws: a variable of its own, which shows what its argument shows."""
        return Doubt(hidden=self.hidden)


class Residues:
    """Residues with numpy's operators; made by a `field.Field`, which holds the functions.

    p, q    int64 arrays of one shape; q is None where exponents are left out
    tag     int8, LOW, HIGH, UNDEFINED or 0; None where all is finite
    known   the float64 values where these are constants, else None
    dtype   the declared type
    """

    __array_ufunc__ = None  # numpy arrays leave mixed operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, field: Any, p: np.ndarray, q: np.ndarray | None, tag: np.ndarray | None = None, *,
        dtype: np.dtype, known: np.ndarray | None = None, doubt: Doubt | None = None,
    ) -> None:  # fmt: skip
        self.field, self.p, self.q = field, np.asarray(p), None if q is None else np.asarray(q)
        self.tag = None if tag is None or not np.any(tag) else tag
        self.dtype, self.known = np.dtype(dtype), known
        self.doubt = doubt or Doubt(0 if known is not None else 1)

    shape = property(lambda self: self.p.shape)
    ndim = property(lambda self: self.p.ndim)
    size = property(lambda self: self.p.size)

    @property
    def degree(self) -> int:
        return self.doubt.degree

    @property
    def tags(self) -> np.ndarray:
        return np.zeros(self.shape, np.int8) if self.tag is None else self.tag

    def __repr__(self) -> str:
        return f"Residues({self.dtype}{list(self.shape)})"

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, index: Any) -> Residues:
        return self.each(lambda part: part[index])

    def typed(self, dtype: np.dtype) -> Residues:
        """The same residues, declared as another type."""
        if self.dtype == dtype:
            return self
        return Residues(self.field, self.p, self.q, self.tag, dtype=dtype, known=self.known, doubt=self.doubt)

    def tagged(self, tag: np.ndarray) -> Residues:
        return Residues(self.field, self.p, self.q, tag, dtype=self.dtype, doubt=self.doubt)

    # the same thing to every part

    def each(self, move: Callable[[np.ndarray], np.ndarray]) -> Residues:
        """A movement of elements, applied to every part."""
        parts = [None if x is None else np.asarray(move(x)) for x in (self.p, self.q, self.tag, self.known)]
        assert parts[0] is not None
        return Residues(self.field, parts[0], parts[1], parts[2], dtype=self.dtype, known=parts[3],
                        doubt=self.doubt)  # fmt: skip

    def joined(self, combine: Callable[..., np.ndarray], *others: Residues) -> Residues:
        """A movement of elements of several arrays into one, applied part by part."""
        every = (self, *others)
        q = None if any(x.q is None for x in every) else combine(*(x.q for x in every))
        tag = None if all(x.tag is None for x in every) else combine(*(x.tags for x in every))
        known = None if any(x.known is None for x in every) else combine(*(x.known for x in every))
        doubt = reduce(Doubt.plus, (x.doubt for x in every))
        return Residues(self.field, combine(*(x.p for x in every)), q, tag, dtype=self.dtype, known=known,
                        doubt=doubt)  # fmt: skip

    def summed(self, add: Callable[[np.ndarray], np.ndarray]) -> Residues:
        """A sum of elements, each of up to 2**32 residues: int64 holds it exactly."""
        q = None if self.q is None else add(self.q) % Q
        tag = None
        if self.tag is not None:
            low, high, bad = (add((self.tag == t).astype(np.int64)) > 0 for t in (LOW, HIGH, UNDEFINED))
            tag = np.where(bad | (low & high), UNDEFINED, np.where(low, LOW, np.where(high, HIGH, 0))).astype(np.int8)
        return Residues(self.field, add(self.p) % P, q, tag, dtype=self.dtype, doubt=self.doubt)

    def flattened(self, axis: Any) -> Residues:
        """The axes (None: all) moved to the end and merged into one."""
        axes = list(range(self.ndim)) if axis is None else [int(a) % self.ndim for a in np.atleast_1d(axis)]
        kept = [i for i in range(self.ndim) if i not in axes]
        shape = [self.shape[i] for i in kept] + [math.prod(self.shape[i] for i in axes)]
        return self.each(lambda part: np.transpose(part, kept + axes).reshape(shape))

    def folded(self, axis: Any, keepdims: bool) -> Residues:
        """The product over axes, by halves."""
        flat = self.flattened(axis)
        axes = range(self.ndim) if axis is None else {int(a) % self.ndim for a in np.atleast_1d(axis)}
        while flat.shape[-1] > 1:
            n = flat.shape[-1]
            half = flat[..., : n // 2] * flat[..., n // 2 : 2 * (n // 2)]
            flat = half if n % 2 == 0 else self.field.concatenate([half, flat[..., -1:]], axis=-1)
        out = flat[..., 0] if flat.shape[-1] else self.field.lift(np.ones(flat.shape[:-1]))
        shape = [1 if i in axes else n for i, n in enumerate(self.shape) if keepdims or i not in axes]
        return out.each(lambda part: part.reshape(shape))

    # arithmetic

    def _binary(
        self,
        other: Any,
        compute: Callable[..., np.ndarray],
        tags: Callable[..., np.ndarray],
        doubts: Callable[..., Doubt],
    ) -> Residues:
        other = self.field.lift(other)
        q = None if self.q is None or other.q is None else compute(self.q, other.q, Q)
        tag = None
        if self.tag is not None or other.tag is not None:
            tag = tags(*np.broadcast_arrays(self.tags, other.tags), self, other).astype(np.int8)
        doubt = doubts(self.doubt, other.doubt)
        if doubt.hidden:
            doubt = self.field.shown(doubt, self, other)
        return Residues(self.field, compute(self.p, other.p, P), q, tag, dtype=self.dtype, doubt=doubt)

    def __add__(self, other: Any) -> Residues:
        return self._binary(other, mod.add, _sum_tags, Doubt.plus)

    __radd__ = __add__

    def __neg__(self) -> Residues:
        q = None if self.q is None else mod.negate(self.q, Q)
        tag = None if self.tag is None else np.where(self.tag == UNDEFINED, UNDEFINED, -self.tag).astype(np.int8)
        known = None if self.known is None else -self.known
        return Residues(self.field, mod.negate(self.p, P), q, tag, dtype=self.dtype, known=known, doubt=self.doubt)

    def __sub__(self, other: Any) -> Residues:
        return self + -self.field.lift(other)

    def __rsub__(self, other: Any) -> Residues:
        return -self + other

    def __mul__(self, other: Any) -> Residues:
        return self._binary(other, mod.multiply, _product_tags, Doubt.times)

    __rmul__ = __mul__

    def inverse(self) -> Residues:
        """1 / x; undefined for 0, 0 for an infinity."""
        p, q = mod.inverse(self.p, P), None if self.q is None else mod.inverse(self.q, Q)
        infinite = (self.tags == LOW) | (self.tags == HIGH)
        zero = (self.p == 0) & (self.tags == 0)
        tag = np.where(zero | (self.tags == UNDEFINED), UNDEFINED, 0).astype(np.int8)
        if infinite.any():
            p, q = np.where(infinite, 0, p), None if q is None else np.where(infinite, 0, q)
        doubt = self.doubt if self.degree == 0 else self.field.divided(self)
        return Residues(self.field, p, q, tag, dtype=self.dtype, doubt=doubt)

    def __truediv__(self, other: Any) -> Residues:
        return self * self.field.lift(other).inverse()

    def __rtruediv__(self, other: Any) -> Residues:
        return self.field.lift(other) * self.inverse()

    def to_power(self, exponent: int) -> Residues:
        """x ** exponent, a whole number of at least 0."""
        result: Residues | None = None
        for _ in range(exponent):
            result = self if result is None else result * self
        return result if result is not None else self.field.lift(np.ones(self.shape))

    def __pow__(self, other: Any) -> Residues:
        return self.field.power(self, other)

    def scaled_by_sign(self) -> Residues:
        """|x| = x sign(x), the sign being the Legendre symbol."""
        sign = self.field.sign(Residues(self.field, self.p, self.q, dtype=self.dtype, doubt=self.doubt))
        out = self * sign
        return out if self.tag is None else out.tagged(self.tag)

    # comparison

    def __lt__(self, other: Any) -> Any:
        return self.field.less(self, other)

    def __le__(self, other: Any) -> Any:
        return self.field.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return self.field.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return self.field.greater_equal(self, other)

    def __eq__(self, other: Any) -> Any:
        return self.field.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return self.field.not_equal(self, other)


def _sum_tags(a: np.ndarray, b: np.ndarray, *_: Any) -> np.ndarray:
    clash = (a == UNDEFINED) | (b == UNDEFINED) | (a * b == -1)
    return np.where(clash, UNDEFINED, np.where(a != 0, a, b))


def _product_tags(a: np.ndarray, b: np.ndarray, x: Residues, y: Residues) -> np.ndarray:
    """An infinity keeps or turns its sign with a known factor; times a residue it is undefined, having no sign."""
    out = np.where((a == 0) & (b == 0), 0, UNDEFINED)
    for tag, other in ((a, y), (b, x)):
        if other.known is not None and other.tag is None:
            sign = np.sign(np.broadcast_to(other.known, out.shape))
            out = np.where((tag != 0) & (tag != UNDEFINED) & (sign != 0), tag * sign, out)
    return out
