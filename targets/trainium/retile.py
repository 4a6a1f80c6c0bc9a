"""Smaller tiles of the same kernel, for a chip whose memories the first choice exceeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from porter.tile.program import Axis, Dot, For, Program, Reduce, Store, walk


def smaller(program: Program, partitions: int) -> Iterator[Program]:
    """The program with ever smaller tiles along axes that every store has and nothing sums over.

    Such an axis may be cut anywhere: a tile of the grid writes its own part and reads what it needs. First to what fits
    across the partitions, the longest axis first; then by halves.
    """
    while True:
        free = [a for a in cuttable(program) if a.tile > 1]
        if not free:
            return
        longest = max(free, key=lambda a: a.tile)
        tile = partitions if longest.tile > partitions else -(-longest.tile // 2)
        cut = Axis(longest.name, longest.extent, tile, "grid")
        program = replace(program, axes=tuple(cut if a.name == cut.name else a for a in program.axes))
        yield program


def cuttable(program: Program) -> list[Axis]:
    """Axes whose tile size is free: in the index of every store, summed by nothing, walked by no loop."""
    bound: set[str] = set()
    stored = {a.name for a in program.axes}
    for s in walk(program.body):
        match s:
            case Reduce(axes=axes) | Dot(axes=axes):
                bound.update(axes)
            case For(axis=axis):
                bound.add(axis)
            case Store(access=access):
                stored &= {x for i in access.index for x in i.affine.axes}
            case _:
                pass
    return [a for a in program.axes if a.name in stored - bound and a.role != "loop"]
