"""What a tile program costs on a TensorCore: a roofline over the counts of porter.tile.cost, and Pallas' own estimate
of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.formats.matmul import PRECISIONS
from porter.targets.tpu import instructions
from porter.targets.tpu.chip import Geometry
from porter.tile.cost import count
from porter.tile.program import Program

if TYPE_CHECKING:
    from porter.device import Device

# Vector operations that one transcendental stands for: no public figure, an assumption of the model.
TRANSCENDENTAL_OPS = 10


@dataclass(frozen=True)
class Estimate:
    """What pl.CostEstimate takes beside bytes: operations of a whole kernel, a multiply-add as 2, transcendentals
    apart."""

    flops: int
    transcendentals: int


def estimate(program: Program) -> Estimate:
    counts = count(program)
    high = sum(n for op, n in counts.elementwise.items() if op in instructions.TRANSCENDENTAL)
    return Estimate(counts.flops - high, high)


def seconds(program: Program, device: Device) -> dict[str, float]:
    """A roofline: products at the matrix unit's rate in as many passes as their scheme takes, the rest at the vector
    unit's, every parameter once over HBM. 'compute', 'memory', 'overhead'."""
    counts = count(program)
    matrix = sum(_passes(kind) * 2 * n / _rate(kind, device) for kind, n in counts.products.items())
    work = sum(
        n * (TRANSCENDENTAL_OPS if op in instructions.TRANSCENDENTAL else 1) for op, n in counts.elementwise.items()
    )
    return {
        "compute": max(matrix, work / device["vector.fp32"]),
        "memory": counts.touched / device["memory.hbm.bytes_per_s"],
        "overhead": device["overhead.launch_s"],
    }


def _passes(kind: str) -> int:
    """How often the matrix unit runs for one product: once per term of a float32 scheme, six times where none is
    named."""
    return len(PRECISIONS["bf16x6" if kind == "fp32" else kind].terms) if kind in PRECISIONS else 1


def _rate(kind: str, device: Device) -> float:
    """Peak of operands of that format: 8-bit floats where their product is faster (elsewhere they are widened to bfloat16)."""
    if kind in Geometry.of(device).fp8:
        return float(device["peak.fp8"])
    word = {"int8": "int8", "uint8": "int8", "int4": "int4"}.get(kind, "bf16")
    return float(device.get(f"peak.{word}") or device["peak.bf16"])
