"""Modelled time of a kernel on one chip: the engines work side by side, the busiest of them or the memory wins."""

from __future__ import annotations

from collections.abc import Mapping

from porter.device import Device
from porter.targets.trainium.depth import doubles
from porter.targets.trainium.instructions import DOUBLED, TABLE
from porter.targets.trainium.limits import chip
from porter.tile.cost import count, operands
from porter.tile.program import Dot, Program, Tile

DIVISION = 8  # clocks an element of a reciprocal on the Vector engine [A3: nki.api.shared.rst, engine selection]
PEAKS = {
    "fp32": "peak.fp32",
    "bfloat16": "peak.bf16",
    "float16": "peak.fp16",
    "int8": "peak.bf16",
    "uint8": "peak.bf16",
    "float8_e4m3fn": "peak.fp8",  # in double_row mode, which sums over no more than the partitions do not run in
    "float8_e4m3": "peak.fp8",
    "float8_e5m2": "peak.fp8",
    "mxfp8": "peak.mxfp8",
    "mxfp4": "peak.mxfp4",
    "mxfp4a8": "peak.mxfp8",
}


def seconds(program: Program, device: Device) -> Mapping[str, float]:
    """'compute' (of the busiest engine), 'memory' and 'overhead' of one run of the whole grid, spread over all cores.

    Tensor engine: the chip's peak for the operands' format, small integers as bfloat16, float8 twice that in double_row mode
    alone. Scalar engine: table functions,
    Vector engine: the rest, as many elements a clock as the device file says. Memory: what is read and written, once, as
    for every family: a bound. Overhead: the start of the first and of the last DMA, which nothing hides.
    """
    core = chip(device)

    def product(s: Dot, kinds: Mapping[str, Tile]) -> str:
        plain = not s.scales and kinds[s.a].dtype in DOUBLED and not doubles(program, s, core)
        return "bfloat16" if plain else operands(s, kinds)

    done = count(program, product)
    cores = device["cores.count"]
    tensor = sum(2 * n / device[PEAKS.get(kind, "peak.fp32")] for kind, n in done.products.items())
    table = sum(n for op, n in done.elementwise.items() if op in TABLE)
    plain = sum(n * (DIVISION if op == "div" else 1) for op, n in done.elementwise.items() if op not in TABLE)
    scalar = table / (device["engines.scalar.elements_per_cycle"] * device["clock.scalar"] * cores)
    vector = plain / (device["engines.vector.elements_per_cycle"] * device["clock.vector"] * cores)
    memory = done.touched / device["memory.hbm.bytes_per_s"]
    return {"compute": max(tensor, scalar, vector), "memory": memory, "overhead": 2 * device["overhead.launch_s"]}
