"""Reading Einstein sums: which letters of two operands are batch, summed, or kept, so that one dot does the work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from porter.errors import PorterError


@dataclass(frozen=True)
class Pair:
    """A sum over two operands that is one dot: axes of a and b by role, and the order its result must be turned to."""

    batch: tuple[tuple[int, ...], tuple[int, ...]]
    summed: tuple[tuple[int, ...], tuple[int, ...]]
    kept: tuple[tuple[int, ...], tuple[int, ...]]
    turn: tuple[int, ...]


@cache
def expand(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[str, ...], str]:
    """Operand and result subscripts with the ellipsis spelled out in upper-case letters, the result made explicit."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise PorterError("Einsum", expected=f"{len(terms)} operands for '{equation}'", found=str(len(ranks)))
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    most = max((rank - len(t) + 3 for t, rank in zip(terms, ranks, strict=True) if "..." in t), default=0)
    dots = "".join(spare[:most])
    if not arrow:
        letters = "".join(terms).replace(".", "")
        right = ("..." if most else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spelled = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term) + 3 if "..." in term else 0
        spelled.append(term.replace("...", dots[most - own :] if own else ""))
        if len(spelled[-1]) != rank:
            raise PorterError("Einsum", expected=f"an operand of rank {len(spelled[-1])}", found=f"rank {rank}")
    return tuple(spelled), right.replace("...", dots)


@cache
def pair(a: str, b: str, out: str) -> Pair | None:
    """The roles of the axes, or None where this is not one dot (a diagonal, or a letter summed in one operand)."""
    if len(set(a)) < len(a) or len(set(b)) < len(b):
        return None
    both = [c for c in a if c in b]
    if any(c not in out for c in (set(a) ^ set(b))):
        return None
    batch = [c for c in both if c in out]
    summed = [c for c in both if c not in out]
    kept_a = [c for c in a if c not in both]
    kept_b = [c for c in b if c not in both]
    made = batch + kept_a + kept_b
    return Pair(
        (tuple(a.index(c) for c in batch), tuple(b.index(c) for c in batch)),
        (tuple(a.index(c) for c in summed), tuple(b.index(c) for c in summed)),
        (tuple(a.index(c) for c in kept_a), tuple(b.index(c) for c in kept_b)),
        tuple(made.index(c) for c in out),
    )
