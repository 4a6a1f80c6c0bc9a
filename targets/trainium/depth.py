"""Sums deeper than the partitions: the lanes of a sum that lie side by side within one.

    float8   [partitions, 2, free]   nc_matmul in double_row mode: two rows of a sum in one of the array, twice the rate
    MX       [partitions, free, 4]   nc_matmul_mx: four codes are one element, 8 partitions of them share a scale

The axis that is summed becomes two, of which the inner one stays within a partition. Order within a sum, or within a block,
is nothing to the unit as long as both operands have the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from porter.targets.trainium.instructions import DOUBLED
from porter.targets.trainium.simulator.memory import Chip
from porter.tile.affine import Affine
from porter.tile.block_scales import place_of
from porter.tile.program import Axis, Dot, Program, Reduce, Tile, rebuilt, types, walk
from porter.tile.target import CannotEmit

ROWS = 2  # of a sum in one row of the array, in double_row mode
QUAD = 4  # codes of an element of nc_matmul_mx, two of 4 bits in a byte
FIRST_DOUBLE = 3  # the generation of the core that has double_row


@dataclass(frozen=True)
class Deep:
    """The program with split axes; by dot, the inner axis of its sum."""

    program: Program
    within: dict[str, str]


def deepened(program: Program, chip: Chip) -> Deep:
    """The program for products that take more of a sum than there are partitions. Raises CannotEmit for a block that does
    not divide into elements of four codes."""
    within: dict[str, str] = {}
    for name in [s.name for s in walk(program.body) if isinstance(s, Dot)]:
        dot = next(s for s in walk(program.body) if isinstance(s, Dot) and s.name == name)  # with the axes of by now
        shared = [x for x in dot.axes if x in within.values()] if dot.scales or _is_float8(program, dot) else []
        axis, inner = (shared[0], 0) if shared else _chosen(program, dot, chip)
        if not axis:
            continue
        if not shared and program.axis(axis).extent != inner:
            program = _split(program, axis, inner)
            axis = _inner(axis)
        within[name] = axis
    return Deep(program, within)


def doubles(program: Program, dot: Dot, chip: Chip) -> bool:
    """Whether a product runs in double_row mode: float8, an even sum over more lanes than there are partitions."""
    return not dot.scales and bool(_chosen(program, dot, chip)[0])


def _chosen(program: Program, dot: Dot, chip: Chip) -> tuple[str, int]:
    """The axis to split and its inner lanes; no axis where the product is none of these."""
    kinds = types(program)
    summed = [program.axis(x) for x in dot.axes]
    if dot.scales:
        place = place_of(kinds, dot)
        inner = QUAD // (2 if "uint8" in (kinds[dot.a].dtype, kinds[dot.b].dtype) else 1)
        block = [x for x in summed if x.name not in kinds[dot.scales[0]].axes and x.name != place]
        fits = [x.name for x in block if x.extent % inner == 0 and x.tile == x.extent]
        if not fits:
            raise CannotEmit(f"blocks over {' x '.join(str(x.extent) for x in block)}: no {inner} of them lie in a row")
        return fits[-1], inner
    lanes = math.prod(min(x.tile, x.extent) for x in summed)
    if chip.generation < FIRST_DOUBLE or not _is_float8(program, dot) or lanes <= chip.partitions:
        return "", 0
    even = [x for x in summed if x.extent % ROWS == x.tile % ROWS == 0]
    return (max(even, key=lambda x: x.tile).name, ROWS) if even else ("", 0)


def _is_float8(program: Program, dot: Dot) -> bool:
    kinds = types(program)
    return {kinds[dot.a].dtype, kinds[dot.b].dtype} <= DOUBLED


def _inner(axis: str) -> str:
    return f"{axis}q"


def _split(program: Program, axis: str, lanes: int) -> Program:
    """The program with an axis as two, of which the inner one has so many lanes."""
    inner = _inner(axis)
    where = {axis: Affine.of(axis, lanes) + Affine.of(inner)}

    def changed(part: Any) -> Any:
        match part:
            case Affine():
                return part.substitute(where)
            case Axis(name=name) if name == axis:
                return replace(part, extent=part.extent // lanes, tile=max(part.tile // lanes, 1))
            case Tile() | Dot() | Reduce():
                return replace(part, axes=_both(part.axes))
            case _:
                return part

    def _both(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(y for x in axes for y in ((x, inner) if x == axis else (x,)))

    made = rebuilt(program, changed)
    axes = [y for x in made.axes for y in ((x, Axis(inner, lanes, lanes, "resident")) if x.name == axis else (x,))]
    return replace(made, axes=tuple(axes))
