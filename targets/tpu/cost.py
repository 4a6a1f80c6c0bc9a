"""What a tile program costs on a TensorCore: operations counted once per tile that computes them, and a roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np

from porter.targets.tpu import instructions
from porter.tile.program import Cast, Dot, Elementwise, For, Program, Reduce, Statement, types

if TYPE_CHECKING:
    from porter.device import Device


@dataclass(frozen=True)
class Counts:
    """Operations of a whole kernel, over all grid points and loop steps; a multiply-add of a dot counts as 2."""

    flops: int
    transcendentals: int
    products: Mapping[str, int]  # of dots, by operand format: 'float32', 'bfloat16', 'int8'
    elementwise: int
    bytes: int  # every parameter once


def count(program: Program) -> Counts:
    kinds = types(program)
    sizes = {a.name: a.tile for a in program.axes}
    grid = math.prod(a.steps for a in program.grid)
    products: dict[str, int] = {}
    plain = transcendental = 0

    def lanes(axes: set[str]) -> int:
        return math.prod(sizes[a] for a in axes)

    def visit(body: tuple[Statement, ...], times: int) -> None:
        nonlocal plain, transcendental
        for s in body:
            match s:
                case For(axis=axis, body=inner):
                    visit(inner, times * program.axis(axis).steps)
                case Dot(a=a, b=b):
                    every = {*kinds[a].axes, *kinds[b].axes, *s.axes}
                    kind = max((kinds[x].dtype for x in (a, b)), key=lambda d: np.dtype(d).itemsize)
                    products[kind] = products.get(kind, 0) + 2 * times * lanes(every)
                case Reduce(arg=arg):
                    plain += times * lanes({*kinds[arg].axes, *s.axes})
                case Elementwise(op=op, type=t):
                    if op in instructions.TRANSCENDENTAL:
                        transcendental += times * lanes(set(t.axes))
                    else:
                        plain += times * lanes(set(t.axes))
                case Cast(type=t):
                    plain += times * lanes(set(t.axes))
                case _:
                    pass

    visit(program.body, grid)
    moved = sum(math.prod(p.shape) * np.dtype(instructions.NARROW.get(p.dtype, p.dtype)).itemsize for p in program.params)
    return Counts(plain + sum(products.values()), transcendental, products, plain, moved)


# Vector operations that one transcendental stands for: no public figure, an assumption of the model.
TRANSCENDENTAL_OPS = 10


def seconds(program: Program, device: Device) -> dict[str, float]:
    """A roofline: products at the matrix unit's rate of their format (float32 is six bf16 passes), the rest at the
    vector unit's, every parameter once over HBM. 'compute', 'memory', 'overhead'."""
    counts = count(program)
    matrix = 0.0
    for kind, n in counts.products.items():
        rate = device.get("peak." + {"float32": "fp32", "int8": "int8", "uint8": "int8"}.get(kind, "bf16"))
        matrix += n / (rate or device["peak.bf16"])
    vector = (counts.elementwise + TRANSCENDENTAL_OPS * counts.transcendentals) / device["vector.fp32"]
    return {"compute": max(matrix, vector), "memory": counts.bytes / device["memory.hbm.bytes_per_s"],
            "overhead": device["overhead.launch_s"]}  # fmt: skip
