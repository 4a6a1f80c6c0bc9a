"""What a program holds in a device's memory: weights, the key and value cache, intermediates, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from porter.bundle import arena
from porter.bundle.manifest import Buffer
from porter.compare.decoder import Cache
from porter.porting.kernels import Program
from porter.tile.cost import size


@dataclass(frozen=True)
class Memory:
    """Bytes in device memory for one run. `timeline` has the intermediates alive at each launch.

    weights: initializers that launches read, each once. kv: the cache after the run; the cache before it is overwritten
    in place. arena: intermediates, sharing bytes where they are never alive at once. io: other inputs and outputs.
    """

    weights: int = 0
    kv: int = 0
    arena: int = 0
    io: int = 0
    timeline: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.arena + self.io


def held(program: Program, caches: Iterable[Cache]) -> Memory:
    """The memory of a program. A value whose shape depends on data lives on the host and counts nothing."""

    def held_by(name: str) -> int:
        shape, dtype = program.types[name]
        return 0 if shape is None else size(math.prod(shape), np.dtype(dtype).name)

    inputs, outputs = ({str(v.name) for v in vs} for vs in (program.inputs, program.outputs))
    read = {n for launch in program.launches for n in launch.inputs}
    past, present = {c.past for c in caches if c.past}, {c.present for c in caches}
    inner = [n for n in program.types if n not in inputs | outputs and n not in program.weights]
    lives = arena.lives(
        program.launches, [Buffer(n, program.types[n][1].name, program.types[n][0], "arena") for n in inner]
    )
    alive = [sum(x.bytes for x in lives if x.first <= step <= x.last) for step in range(len(program.launches))]
    return Memory(
        weights=sum(held_by(n) for n in program.weights if n in read),
        kv=sum(held_by(n) for n in present),
        arena=arena.plan(lives).bytes,
        io=sum(held_by(n) for n in (inputs - past) | (outputs - present)),
        timeline=tuple(alive),
    )
