"""Affine forms over named axes: how an access or an iota depends on where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Affine:
    """const + sum of coefficient * axis; terms are sorted by axis name and hold no zero coefficient."""

    terms: tuple[tuple[str, int], ...] = ()
    const: int = 0

    @staticmethod
    def of(axis: str, coefficient: int = 1) -> Affine:
        return Affine(((axis, coefficient),)) if coefficient else Affine()

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    def coefficient(self, axis: str) -> int:
        return next((k for name, k in self.terms if name == axis), 0)

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.const + other)
        terms = dict(self.terms)
        for name, k in other.terms:
            terms[name] = terms.get(name, 0) + k
        return Affine(tuple(sorted((n, k) for n, k in terms.items() if k)), self.const + other.const)

    def __mul__(self, factor: int) -> Affine:
        if not factor:
            return Affine()
        return Affine(tuple((n, k * factor) for n, k in self.terms), self.const * factor)

    def __sub__(self, other: Affine | int) -> Affine:
        return self + other * -1

    def substitute(self, new: Mapping[str, Affine]) -> Affine:
        """Each axis named in `new` replaced by its form."""
        if not any(name in new for name, _ in self.terms):
            return self
        total = Affine((), self.const)
        for name, k in self.terms:
            total = total + (new[name] * k if name in new else Affine.of(name, k))
        return total

    def bounds(self, size: Callable[[str], int]) -> tuple[int, int]:
        """Smallest and largest value, each axis running over [0, size(axis))."""
        low = high = self.const
        for name, k in self.terms:
            span = k * (size(name) - 1)
            low, high = low + min(span, 0), high + max(span, 0)
        return low, high

    def __str__(self) -> str:
        parts = [name if k == 1 else f"{k}*{name}" for name, k in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return " + ".join(parts)

    @staticmethod
    def parse(text: str) -> Affine:
        """The inverse of str."""
        total = Affine()
        for part in text.split(" + "):
            factor, _, name = part.rpartition("*")
            if name.lstrip("-").isdigit():
                total = total + int(name)
            else:
                total = total + Affine.of(name, int(factor) if factor else 1)
        return total


def total(parts: Iterable[Affine]) -> Affine:
    """The sum of many forms."""
    result = Affine()
    for part in parts:
        result = result + part
    return result
