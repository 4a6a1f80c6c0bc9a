"""What the tiler may ask of one Maia-like tile: its tensor unit's shape, and its SRAM. All of it assumed."""

from __future__ import annotations

from porter.device import Device
from porter.tile.buffer import bufferize
from porter.tile.limits import Limits
from porter.tile.program import Full, Load, Program, walk
from porter.triton.elementwise import CODES, SATURATING

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
        lacking=CODES,
        saturating=SATURATING,
        float32_product="bf16x6",  # the tensor unit has no float32: its rates are of bf16 and narrower
    )


def _power(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def sram_bytes(program: Program, device: Device) -> int:
    """Live tiles at their peak, and the largest load's buffer once more for the next transfer; constants take none."""
    alignment = int(device["dma.alignment_bytes"])
    buffers = bufferize(program, lambda name, s: "immediate" if isinstance(s, Full) else "tsram", alignment)
    loads = [buffers.of[s.name].bytes for s in walk(program.body) if isinstance(s, Load)]
    return buffers.peak.get("tsram", 0) + max(loads, default=0)
