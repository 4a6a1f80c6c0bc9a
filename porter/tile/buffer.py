"""Values become buffers: each gets a memory, an offset and a life; what is never alive at once shares bytes.

A loop's carry has one buffer, which its initial value is moved into and each step's result after the step.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from porter.errors import CheckFailed
from porter.tile.program import For, Program, Statement, Store, Tile, operands


@dataclass(frozen=True)
class Life:
    """Something that needs `bytes` of memory from step `first` to step `last`, both inclusive."""

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Offsets by name, and the size of the memory that holds them all."""

    offsets: Mapping[str, int]
    bytes: int


def plan(lives: Iterable[Life], alignment: int) -> Plan:
    """Largest first, each into the tightest gap that its contemporaries leave (greedy by size, best fit).

    The name breaks ties, so equal inputs get equal plans.
    """
    placed: list[tuple[int, int, str, Life]] = []  # offset, end, name, life; kept sorted
    offsets: dict[str, int] = {}
    for life in sorted(lives, key=lambda x: (-x.bytes, x.first, x.name)):
        size = -(-max(life.bytes, 1) // alignment) * alignment
        best: tuple[int, int] | None = None  # slack, offset
        free = 0
        for offset, end, _, other in placed:
            if not life.meets(other):
                continue
            gap = offset - free
            if gap >= size and (best is None or gap - size < best[0]):
                best = (gap - size, free)
            free = max(free, end)
        place = free if best is None else best[1]
        insort(placed, (place, place + size, life.name, life))
        offsets[life.name] = place
    return Plan(offsets, max((end for _, end, *_ in placed), default=0))


@dataclass(frozen=True)
class Buffer:
    """Where a value lies."""

    space: str
    offset: int
    bytes: int
    type: Tile


@dataclass(frozen=True)
class Buffers:
    """The buffer of every value (a carry's names share one), and what each memory must hold at most."""

    of: Mapping[str, Buffer]
    peak: Mapping[str, int]

    def require(self, program: Program, capacity: Mapping[str, int], device: str) -> None:
        """Raises CheckFailed where a memory of the device is too small."""
        for space, size in capacity.items():
            if self.peak.get(space, 0) > size:
                largest = max((b for b in self.of.values() if b.space == space), key=lambda b: b.bytes)
                tile = f"{largest.type.dtype}[{', '.join(largest.type.axes)}]"
                found = f"kernel {program.name} needs {self.peak[space]}, its largest tile {tile} {largest.bytes}"
                raise CheckFailed(f"{space} of {device} holds {size} bytes", found=found)


def lanes(program: Program, t: Tile) -> int:
    """Elements of a tile."""
    return math.prod(program.axis(a).tile for a in t.axes)


def bufferize(program: Program, space: Callable[[str, Statement], str], alignment: int = 64) -> Buffers:
    """A buffer for every value. space: the memory for a value's name and the statement that makes it (a loop for carries)."""
    walker = _Walker(program)
    walker.block(program.body)
    kinds = {name: (space(name, s), t) for name, (s, t) in walker.made.items()}
    buffers: dict[str, Buffer] = {}
    peak: dict[str, int] = {}
    for memory in sorted({m for m, _ in kinds.values()}):
        chosen = [n for n, (m, _) in kinds.items() if m == memory]
        sizes = {n: lanes(program, kinds[n][1]) * np.dtype(kinds[n][1].dtype).itemsize for n in chosen}
        planned = plan([Life(n, sizes[n], walker.first[n], walker.last[n]) for n in chosen], alignment)
        peak[memory] = planned.bytes
        for n in chosen:
            buffers[n] = Buffer(memory, planned.offsets[n], sizes[n], kinds[n][1])
    for name, shared in walker.shares.items():
        buffers[name] = buffers[shared]
    return Buffers(buffers, peak)


class _Walker:
    """Numbers the statements, and finds for each value the first and last step at which it is alive."""

    def __init__(self, program: Program) -> None:
        self.program, self.step = program, 0
        self.made: dict[str, tuple[Statement, Tile]] = {}
        self.shares: dict[str, str] = {}
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.open: list[tuple[int, set[str]]] = []  # per open loop: nothing yet; values defined inside it

    def _define(self, name: str, s: Statement, t: Tile) -> None:
        self.made[name] = (s, t)
        self.first[name] = self.last[name] = self.step
        if self.open:
            self.open[-1][1].add(name)

    def _use(self, name: str) -> None:
        name = self.shares.get(name, name)
        self.last[name] = max(self.last[name], self.step)

    def block(self, body: tuple[Statement, ...]) -> None:
        for s in body:
            self.step += 1
            for name in operands(s):
                self._use(name)
            if isinstance(s, For):
                self._loop(s)
            elif not isinstance(s, Store):
                self._define(s.name, s, s.type)

    def _loop(self, s: For) -> None:
        for c in s.carries:
            self._define(c.inner, s, c.type)
            self.shares[c.name] = c.inner
        self.open.append((self.step, set()))
        before = dict(self.last)
        self.block(s.body)
        self.step += 1
        for c in s.carries:  # every step ends with the moves into the carries' buffers
            self._use(c.next)
            self._use(c.inner)
        _, inside = self.open.pop()
        for name, step in before.items():  # what comes from outside is needed again in the next step
            if name not in inside and self.last[name] != step:
                self.last[name] = self.step
        if self.open:
            self.open[-1][1].update(inside)
