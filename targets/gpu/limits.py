"""What the tiler may ask of an SM, from the device's page."""

from __future__ import annotations

from porter.device import Device
from porter.formats.matmul import PRECISIONS
from porter.tile.block_scales import MIXED
from porter.tile.limits import Limits
from porter.triton.elementwise import CODES, SATURATING
from porter.triton.roofline import rate

# A product's tile, rows by columns by depth. Measured with Triton 3.9 for sm_90 and sm_100, float32 as bf16x6, 8 warps:
# 128 x 64 x 32 takes 124 registers a thread and 61 KB of shared memory, so that two blocks share an SM; 128 x 128 x 32
# takes 223 registers and 90 KB, one block; 128 x 128 x 64 spills in attention. Depth 32 is the least for 8-bit types.
ROWS, COLUMNS, DEPTH = 128, 64, 32
LEAST_ROWS, LEAST_COLUMNS, LEAST_DEPTH = 16, 8, 16  # one mma.sync.m16n8k16: the compiler pads smaller tiles
PER_THREAD = 32  # float32 lanes of one tile in a thread's registers, of 255
BLOCK_DEPTH = 64  # of a product with block scales: 128 x 64 codes of each side are a tile of 8192
THREADS = 256  # 8 warps
ELEMENTWISE = 1024  # lanes that only elementwise operations touch: 4 warps, 8 lanes a thread


def limits(device: Device) -> Limits:
    """Limits for the tiler. Bytes: all registers that a block of 256 threads can have."""
    registers = min(int(device["memory.registers.bytes"]), THREADS * int(device["memory.registers.per_thread"]) * 4)
    return Limits(
        power_of_two=True,
        dot_m=(LEAST_ROWS, ROWS),
        dot_n=(LEAST_COLUMNS, COLUMNS),
        dot_k=(LEAST_DEPTH, DEPTH),
        elements=THREADS * PER_THREAD,
        bytes=registers + int(device["memory.shared.bytes_per_block"]),
        resident=THREADS * PER_THREAD // 2,
        whole=2 * COLUMNS,
        elementwise=ELEMENTWISE,
        cores=int(device["cores.count"]),
        least=(64, 16),  # one wgmma.m64n16: smaller tiles leave the warpgroup's instruction
        grid=int(device["grid.max"][0]),
        lacking=CODES,
        block_scaled=("mxfp8", "mxfp4", "nvfp4", MIXED) if "m_block_scaled" in device.section("matrix") else (),
        block_depth=(BLOCK_DEPTH, BLOCK_DEPTH),
        block_rows=max(device.get("matrix.m_block_scaled", [0])),
        saturating=SATURATING,
        float32_product=float32_product(device),
        integer=("int8",) if device.get("peak.int8", 0.0) > device["peak.bf16"] else (),
    )


def float32_product(device: Device) -> str:
    """The scheme for float32 on the matrix unit: the fastest with a roundoff below 2**-20, the more exact of equals.

    2**-20 keeps a product's own error under that of a float32 sum of 16 terms, and its signal to noise above 100 dB.
    Rates within a tenth of each other count as equal: peaks of bf16 / 6 and tf32 / 3 are on every GPU.
    """
    exact = [p for p in PRECISIONS.values() if 0 < p.roundoff < 2.0**-20 and p.format != "float32"]
    known = [(r, p) for p in exact if (r := rate(device, p.name)) is not None]
    if not known:
        return "fp32"
    best = max(r for r, _ in known)
    return min((p for r, p in known if r >= 0.9 * best), key=lambda p: p.roundoff).name
