"""Where intermediates lie: one arena, where two buffers share bytes only when they are never alive at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from porter.bundle.manifest import Buffer, Launch
from porter.tile.buffer import Life, Plan
from porter.tile.buffer import plan as place

ALIGNMENT = 256  # bytes; what CUDA's allocator gives, and a multiple of every DMA granule in the device files


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


def plan(buffers: Iterable[Life]) -> Plan:
    """Offsets for the arena, by porter.tile.buffer's planner."""
    return place(buffers, ALIGNMENT)
