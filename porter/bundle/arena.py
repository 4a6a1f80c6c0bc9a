"""Where intermediates lie: one arena, where two buffers share bytes only when they are never alive at once."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from porter.bundle.manifest import Buffer, Launch

ALIGNMENT = 256  # bytes; what CUDA's allocator gives, and a multiple of every DMA granule in the device files


@dataclass(frozen=True)
class Life:
    """A buffer's size and the steps, inclusive, from the one that writes it first to the one that reads it last."""

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Offsets by name, and the size of the arena that holds them."""

    offsets: Mapping[str, int]
    bytes: int


def lives(launches: Sequence[Launch], buffers: Iterable[Buffer], keep: Iterable[str] = ()) -> list[Life]:
    """The life of each arena buffer over the launch list; `keep` names those that must last to the end."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, launch in enumerate(launches):
        for name in (*launch.inputs, *launch.outputs):
            first.setdefault(name, step)
            last[name] = step
    for name in keep:
        last[name] = len(launches)
    return [
        Life(b.name, b.bytes, first[b.name], last[b.name]) for b in buffers if b.space == "arena" and b.name in first
    ]


def plan(buffers: Iterable[Life], alignment: int = ALIGNMENT) -> Plan:
    """Largest first, each into the tightest gap that its contemporaries leave (greedy by size, best fit).

    The name breaks ties, so equal programs get equal plans.
    """
    placed: list[tuple[int, int, str, Life]] = []  # offset, end, name, life; sorted
    offsets: dict[str, int] = {}
    for life in sorted(buffers, key=lambda b: (-b.bytes, b.first, b.name)):
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
        offset = best[1] if best else free
        offsets[life.name] = offset
        insort(placed, (offset, offset + size, life.name, life))
    return Plan(offsets, max((end for _, end, *_ in placed), default=0))
