"""Values inside an emitted kernel: arrays of rank 2 or more whose dimensions are the tile's axes, and how they are
turned.

A layout names the axis along each dimension; None is a dimension of length 1, kept so that reductions and vectors stay
two-dimensional and operands broadcast where they lie. Axes of one lane have no dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from porter.targets.tpu.views import Layout
from porter.tile.affine import Affine
from porter.tile.program import Program


@dataclass(frozen=True)
class Value:
    """A value as Python text. layout None: the same in every lane (`number` where it is known); `iota`: lanes'
    coordinates, not yet laid out.

    vectors: the loads of one axis that it is made of lane by lane; they can still be asked to stand or to lie.
    """

    text: str
    dtype: str
    layout: Layout | None
    iota: Affine | None = None
    vectors: frozenset[str] = frozenset()
    number: float | int | bool | None = None


class Stand(Exception):
    """These vector loads should be columns: emission starts again with that."""

    def __init__(self, vectors: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(vectors)))
        self.vectors = vectors


def axes(layout: Layout) -> tuple[str, ...]:
    return tuple(a for a in layout if a is not None)


def shape(layout: Layout, program: Program) -> tuple[int, ...]:
    return tuple(1 if a is None else program.axis(a).tile for a in layout)


def of(names: Sequence[str]) -> Layout:
    """These axes in this order, at rank 2 or more."""
    return (None,) * (2 - len(names)) + tuple(names)


def fits(layout: Layout, target: Layout) -> bool:
    """Whether an array so laid out broadcasts against the target as it is."""
    if len(axes(layout)) == 0 and len(layout) <= len(target):
        return True
    return len(layout) <= len(target) and all(
        a is None or a == t for a, t in zip(layout[::-1], target[::-1], strict=False)
    )


def merge(layouts: Sequence[Layout], wanted: frozenset[str], order: Sequence[str]) -> Layout:
    """The layout in which arrays so laid out meet: one of theirs if it has every wanted axis, else their broadcast,
    else `order`."""
    for candidate in sorted(layouts, key=lambda x: -len(axes(x))):
        if set(axes(candidate)) == wanted:
            return candidate
        break
    rank = max((len(x) for x in layouts), default=2)
    met: list[str | None] = []
    for position in range(rank):
        here = {x[len(x) - rank + position] for x in layouts if len(x) - rank + position >= 0} - {None}
        if len(here) > 1:
            return of([a for a in order if a in wanted])
        met.append(here.pop() if here else None)
    if sorted(axes(tuple(met))) != sorted(wanted):
        return of([a for a in order if a in wanted])
    return tuple(met)


def turned(value: Value, target: Layout, program: Program) -> str:
    """The value's text, transposed and given dimensions of length 1 until it broadcasts against the target."""
    assert value.layout is not None
    if fits(value.layout, target):
        return value.text
    if value.dtype == "bool":  # Mosaic aborts on a reshape of predicates
        number = replace(value, text=f"{value.text}.astype(jnp.int32)", dtype="int32")
        return f"({turned(number, target, program)} != 0)"
    held = axes(value.layout)
    wanted = tuple(a for a in target if a in held)
    text = value.text
    if held != wanted:
        order = [value.layout.index(a) for a in wanted]
        if len(value.layout) == len(held) == 2:
            text = f"{text}.T"
        else:
            ones = [i for i, a in enumerate(value.layout) if a is None]
            text = f"jnp.transpose({text}, {tuple(ones + order)})"
        if fits((*[None for a in value.layout if a is None], *wanted), target):
            return text
    return (
        f"{text}.reshape({', '.join(str(n) for n in shape(tuple(a if a in held else None for a in target), program))})"
    )
