"""Which axes of each value lie across the partitions: the pass between a tile program and NKI.

A tile on chip has partitions (at most 128) and free elements in each. Every axis of a value lies on one side or the
other; several axes may share the partitions, the outermost varying slowest. One set of axes, the home, holds for the
whole kernel: elementwise values, carries and reductions lie there, repeated along axes that they lack. A product wants
the summed axes of both operands across partitions and leaves its result with the stationary side's axes there.

A demand for a layout travels backward: what is made of loads alone is made again where it is wanted; what depends on a
product, a reduction or a loop is made once and turned. Axes of one lane vanish: they only move offsets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from porter.tile.affine import Affine
from porter.tile.block_scales import place_of
from porter.tile.program import (
    Access,
    Dot,
    For,
    Load,
    Program,
    Tile,
    operands,
    types,
    walk,
)

Part = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """part: axes across the partitions, slowest first; a value is repeated along those it lacks. free: the others."""

    part: Part
    free: tuple[str, ...]


@dataclass(frozen=True)
class AffineMask:
    """select(form op 0, tile, value) with a form in coordinates: one affine_select, no predicate in memory."""

    form: Affine
    op: str
    tile: str
    value: float


@dataclass
class Plan:
    """What the emitter needs to know of every value.

    layouts     per value, its layouts by part, the one it is made in first
    turned      which of them come from another layout of the same value
    stationary  per dot 'a', 'b', or 'vector' where no matrix unit is used
    chains      the carries, by the name of the value inside the loop, that live in one psum tile, and that tile's name
    masks       selects whose predicate compares coordinates
    tables      values that are one table function of another
    staged      reductions of operands too large for a partition, and the axis along which they go piece by piece
    chunked     layouts that exist only within such a piece
    within      per dot whose sum is deeper than the partitions, the summed axis that lies within one (depth.py)
    """

    program: Program
    home: Part
    lanes: dict[str, int]
    types: dict[str, Tile]
    uses: Counter[str]
    layouts: dict[str, dict[Part, Layout]] = field(default_factory=dict)
    turned: set[tuple[str, Part]] = field(default_factory=set)
    stationary: dict[str, str] = field(default_factory=dict)
    chains: dict[str, str] = field(default_factory=dict)
    masks: dict[str, AffineMask] = field(default_factory=dict)
    tables: dict[str, tuple[str, str]] = field(default_factory=dict)
    staged: dict[str, str] = field(default_factory=dict)
    chunked: set[tuple[str, Part]] = field(default_factory=set)
    within: dict[str, str] = field(default_factory=dict)

    def wide(self, axes: Iterable[str]) -> tuple[str, ...]:
        """The axes of more than one lane, in the program's order."""
        return tuple(a for a in axes if self.lanes[a] > 1)

    def count(self, axes: Iterable[str]) -> int:
        return math.prod(self.lanes[a] for a in axes)

    def natural(self, name: str) -> Layout:
        """The layout that the value is made in."""
        return next(iter(self.layouts[name].values()))


def blank(program: Program) -> Plan:
    """A plan without decisions: what the program itself says."""
    uses: Counter[str] = Counter()
    for s in walk(program.body):
        uses.update(operands(s))
        if isinstance(s, For):
            uses.update(c.next for c in s.carries)
    lanes = {a.name: min(a.tile, a.extent) for a in program.axes}
    return Plan(program, (), lanes, types(program), uses)


def sides(p: Plan, dot: Dot) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Wide axes of a dot: summed, batch, only in a, only in b."""
    a, b = set(p.types[dot.a].axes), set(p.types[dot.b].axes)
    order = p.program.ordered
    return (
        p.wide(order(set(dot.axes))),
        p.wide(order((a & b) - set(dot.axes))),
        p.wide(order(a - b - set(dot.axes))),
        p.wide(order(b - a - set(dot.axes))),
    )


def summed_order(p: Plan, dot: Dot) -> tuple[str, ...]:
    """The order of summed axes across partitions: those that share an index with another axis (windows) outermost, for
    a padded window is loaded one coordinate at a time into neighbouring partitions. What lies within a partition is none of
    them; blocks that share a scale come outermost."""
    if dot.scales:
        blocks = blocks_of(p, dot)
        within = (p.within[dot.name], place_of(p.types, dot))
        return (*blocks, *(x for x in sides(p, dot)[0] if x not in blocks and x not in within))
    windows: set[str] = set()
    for s in walk(p.program.body):
        if isinstance(s, Load):
            for i in s.access.index:
                if len(p.wide(i.affine.axes)) > 1 and can_leave(p.program, s.access, s.access.index.index(i)):
                    windows.update(i.affine.axes)
    summed = [x for x in sides(p, dot)[0] if x != p.within.get(dot.name)]
    return tuple(sorted(summed, key=lambda x: x not in windows))


def blocks_of(p: Plan, dot: Dot) -> tuple[str, ...]:
    """The wide axes of a sum that count blocks: those that the scales have."""
    return tuple(x for x in sides(p, dot)[0] if x in p.types[dot.scales[0]].axes)


def lying(p: Plan, dot: Dot, operand: str, batch: tuple[str, ...], side: tuple[str, ...]) -> tuple[str, ...]:
    """The free axes of an operand as its product takes them: four codes of MX innermost, two rows of float8 before a side.
    Codes of 8 bits that meet bytes of two codes lie in the order of those."""
    inner = p.within.get(dot.name)
    if inner is None:
        return (*batch, *side)
    place = place_of(p.types, dot)
    each = (place,) if place is not None and place in p.types[operand].axes else ()
    return (*batch, *side, inner, *each) if dot.scales else (*batch, inner, *side)


def can_leave(program: Program, access: Access, dimension: int) -> bool:
    """Whether an index, its axes inside their extents, can leave the view."""
    low, high = access.index[dimension].affine.bounds(lambda a: program.axis(a).extent)
    return low < 0 or high >= access.view[dimension]


def strides(access: Access) -> tuple[int, ...]:
    return tuple(math.prod(access.view[i + 1 :]) for i in range(len(access.view)))


def steps(access: Access) -> dict[str, int]:
    """How far one step along each axis moves the flat address."""
    total: Counter[str] = Counter()
    for i, stride in zip(access.index, strides(access), strict=True):
        for axis, k in i.affine.terms:
            total[axis] += k * stride
    return dict(total)


def contiguous(p: Plan, access: Access) -> str | None:
    """The wide axis along which neighbouring lanes are neighbours in memory."""
    found = [a for a, k in steps(access).items() if k == 1 and p.lanes[a] > 1]
    return found[0] if found else None
