"""Sizes of dims as polynomials with integer coefficients over the names of free dims: `past + 1`, `2*batch*heads`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Monomial = tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """A sum of products of names, in one normal form, so that equal sizes are equal values."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def of(value: int | str) -> Size:
        """A number, or the size that has a name."""
        if isinstance(value, str):
            return Size((((value,), 1),))
        return Size((((), value),)) if value else Size(())

    @staticmethod
    def _collected(terms: Iterable[tuple[Monomial, int]]) -> Size:
        total: dict[Monomial, int] = {}
        for monomial, coefficient in terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return Size(tuple(sorted((m, c) for m, c in total.items() if c)))

    def __add__(self, other: Size) -> Size:
        return Size._collected([*self.terms, *other.terms])

    def __neg__(self) -> Size:
        return Size(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Size) -> Size:
        return self + -other

    def __mul__(self, other: Size) -> Size:
        return Size._collected((tuple(sorted(m + n)), c * d) for m, c in self.terms for n, d in other.terms)

    def over(self, other: Size) -> Size | None:
        """The exact quotient by a single product; None where it is not exact, or `other` is a sum."""
        if len(other.terms) != 1:
            return None
        (divisor, number), quotient = other.terms[0], []
        for monomial, coefficient in self.terms:
            rest = list(monomial)
            for name in divisor:
                if name not in rest:
                    return None
                rest.remove(name)
            if coefficient % number:
                return None
            quotient.append((tuple(rest), coefficient // number))
        return Size._collected(quotient)

    @property
    def number(self) -> int | None:
        """The value of a size without names; None where there are any."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == () else None

    @property
    def names(self) -> frozenset[str]:
        """The names that the size depends on."""
        return frozenset(name for monomial, _ in self.terms for name in monomial)

    def at(self, values: Mapping[str, Size]) -> Size:
        """The size with some names replaced."""
        total = Size(())
        for monomial, coefficient in self.terms:
            product = Size.of(coefficient)
            for name in monomial:
                product = product * values.get(name, Size.of(name))
            total = total + product
        return total

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in sorted(self.terms, key=lambda term: (term[1] < 0, term[0] == (), term[0])):
            sign = ("- " if coefficient < 0 else "+ ") if text else ("-" if coefficient < 0 else "")
            number = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
            text += (" " if text else "") + sign + "*".join([*number, *monomial])
        return text or "0"


def product(sizes: Iterable[Size]) -> Size:
    """The number of elements of a shape."""
    result = Size.of(1)
    for size in sizes:
        result = result * size
    return result


_FACTOR = r"(?:\d+|[A-Za-z_][\w.]*)"
_SUM = re.compile(rf"{_FACTOR}(?:\s*\*\s*{_FACTOR})*(?:(?:\s*\+\s*|\s+-\s+){_FACTOR}(?:\s*\*\s*{_FACTOR})*)*")


def parse(text: str) -> Size:
    """A dim's text as a size: sums and products of names and numbers; anything else is one name.

    A minus needs space around it, since 'batch-size' is a name.
    """
    if not _SUM.fullmatch(text.strip()):
        return Size.of(text)
    total = Size(())
    for sign, part in re.findall(rf"(^|\+|\s-\s)\s*({_FACTOR}(?:\s*\*\s*{_FACTOR})*)", text.strip()):
        factors = [factor.strip() for factor in part.split("*")]
        term = product(Size.of(int(f) if f.isdecimal() else f) for f in factors)
        total = total - term if "-" in sign else total + term
    return total
