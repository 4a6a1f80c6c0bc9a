"""How many bytes of tiles a program holds at once: what must fit a memory that tiles live in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from porter.tile.program import For, Full, Program, Statement, Store, Tile, operands, types, walk


def peak_bytes(program: Program) -> int:
    """The most bytes of tiles live at the same time in one instance; constants take none until a loop carries them."""
    kinds = types(program)
    size = {name: _bytes(program, t) for name, t in kinds.items()}
    for s in walk(program.body):
        if isinstance(s, Full):
            size[s.name] = 0
    return _block(program.body, size, 0, frozenset())


def _bytes(program: Program, t: Tile) -> int:
    return math.prod(program.axis(a).tile for a in t.axes) * np.dtype(t.dtype).itemsize


def reads(s: Statement) -> set[str]:
    """What a statement reads, a loop with all of its body."""
    found = set(operands(s))
    if isinstance(s, For):
        for inner in s.body:
            found |= reads(inner)
        found |= {c.next for c in s.carries}
    return found


def _defines(s: Statement) -> tuple[str, ...]:
    if isinstance(s, For):
        return tuple(c.name for c in s.carries)
    return () if isinstance(s, Store) else (s.name,)


def _block(body: Sequence[Statement], size: Mapping[str, int], held: int, after: frozenset[str]) -> int:
    """held: bytes that others keep meanwhile. after: names of this block that are read when it is over."""
    needed: list[set[str]] = [set(after)]
    for s in reversed(body):
        needed.append(needed[-1] | reads(s))
    needed.reverse()  # needed[i + 1]: what is read after statement i
    mine: set[str] = set()
    most = held
    for i, s in enumerate(body):
        if isinstance(s, For):
            around = held + sum(size[n] for n in mine)
            carried = sum(size[c.inner] for c in s.carries)
            most = max(most, _block(s.body, size, around + carried, frozenset(c.next for c in s.carries)))
        mine |= set(_defines(s))
        most = max(most, held + sum(size[n] for n in mine))
        mine &= needed[i + 1]
    return most
