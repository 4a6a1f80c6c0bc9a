"""Modelled time of a kernel on one chip: the engines in parallel, the slowest of them or the memory wins."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from porter.device import Device
from porter.targets.trainium.instructions import TABLE
from porter.tile.program import Cast, Dot, Elementwise, For, Load, Mask, Program, Reduce, Statement, Store, Tile, types

DIVIDED = frozenset({"div"})  # a reciprocal on the Vector engine takes eight clocks an element


def seconds(program: Program, device: Device) -> Mapping[str, float]:
    """'compute' (of the busiest engine), 'memory' and 'overhead' of one run of the whole grid, spread over all cores.

    Tensor engine: the chip's peak for the operand format, float32 at its own. Vector: N clocks an instruction of N
    elements a partition, as many elements a clock as the device file says; Scalar (table functions) likewise.
    Memory: bytes of loads and stores over HBM bandwidth. Overhead: the start of the DMAs of one tile, which nothing
    hides. Sources: the device file's figures, each with its own.
    """
    counter = _Counter(program)
    counter.block(program.body, math.prod(a.steps for a in program.grid))
    cores = device["cores.count"]
    vector = device["engines.vector.elements_per_cycle"] * device["clock.vector"] * cores
    scalar = device["engines.scalar.elements_per_cycle"] * device["clock.scalar"] * cores
    tensor = sum(n / device[f"peak.{kind}"] for kind, n in counter.flops.items())
    compute = max(tensor, counter.vector / vector, counter.scalar / scalar)
    loads = sum(isinstance(s, Load | Store) for s in program.body)
    return {
        "compute": compute,
        "memory": counter.bytes / device["memory.hbm.bytes_per_s"],
        "overhead": device["overhead.launch_s"] * max(loads, 1),
    }


class _Counter:
    def __init__(self, program: Program) -> None:
        self.program, self.types = program, types(program)
        self.flops: dict[str, float] = {}
        self.vector = self.scalar = self.bytes = 0.0

    def _lanes(self, t: Tile) -> int:
        return math.prod(min(self.program.axis(a).tile, self.program.axis(a).extent) for a in t.axes)

    def block(self, body: tuple[Statement, ...], times: int) -> None:
        for s in body:
            match s:
                case For(axis=axis, body=inner):
                    self.block(inner, times * self.program.axis(axis).steps)
                case Dot(a=a, b=b, axes=axes):
                    work = math.prod(self._lanes(Tile("", (x,))) for x in {*s.type.axes, *axes})
                    narrow = self.types[a].dtype
                    kind = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(narrow, "bf16")
                    del b
                    self.flops[kind] = self.flops.get(kind, 0.0) + 2.0 * work * times
                case Elementwise(op=op) if op in TABLE:
                    self.scalar += self._lanes(s.type) * times
                case Elementwise(op=op):
                    two = 2 if sum(bool(self.types[a].axes) for a in s.args) > 1 else 1
                    self.vector += self._lanes(s.type) * times * (8 if op in DIVIDED else two)
                case Reduce(arg=arg):
                    self.vector += self._lanes(self.types[arg]) * times
                case Cast():
                    self.vector += self._lanes(s.type) * times
                case Load(type=t):
                    self.bytes += self._lanes(t) * np.dtype(t.dtype).itemsize * times
                case Store(value=value):
                    t = self.types[value]
                    self.bytes += self._lanes(t) * np.dtype(t.dtype).itemsize * times
                case Mask() | _:
                    pass
