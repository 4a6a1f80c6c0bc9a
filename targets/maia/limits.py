"""What the tiler may ask of one Maia-like tile: its tensor unit's shape, and its SRAM. All of it assumed."""

from __future__ import annotations

import math

import numpy as np

from porter.device import Device
from porter.tile.limits import Limits
from porter.tile.program import Load, Program, types, walk
from porter.triton.liveness import peak_bytes

STEPS = 8  # of the tensor unit's rows, columns and depth in one product: long enough to hide its start, an assumption
ELEMENTWISE_BYTES = 1 << 14  # of a tile that only elementwise operations touch: 64-byte DMA bursts, hundreds of them


def limits(device: Device) -> Limits:
    """Limits for the tiler: powers of two, as Triton wants them."""
    rows, columns = int(device["matrix.m_step"]), int(device["matrix.n_step"])
    depth = int(device["matrix.k.bf16"])
    sram = int(device["memory.tsram.bytes"])
    elements = _power(sram // 16 // 4)  # sixteen tiles of float32 at once
    return Limits(
        power_of_two=True,
        dot_m=(rows, STEPS * rows),
        dot_n=(columns, STEPS * columns),
        dot_k=(depth, 4 * depth),
        elements=elements,
        bytes=sram,
        resident=elements // 2,
        whole=STEPS * columns,
        elementwise=ELEMENTWISE_BYTES // 4,
        float32_product="bf16x6",  # the tensor unit has no float32: its rates are of bf16 and narrower
    )


def _power(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def sram_bytes(program: Program) -> int:
    """Live tiles at their peak, and each load's buffer once more for the next transfer."""
    kinds = types(program)
    loads = [kinds[s.name] for s in walk(program.body) if isinstance(s, Load)]
    sizes = [math.prod(program.axis(a).tile for a in t.axes) * np.dtype(t.dtype).itemsize for t in loads]
    return peak_bytes(program) + max(sizes, default=0)
