"""The time that a kernel must take on a device's peak rates: products by format, vector operations, bytes, launch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from porter.device import Device
from porter.formats.matmul import PRECISIONS
from porter.tile.block_scales import codes_in_byte
from porter.tile.cost import count
from porter.tile.program import Dot, For, Program, Statement, types
from porter.triton.dots import on_unit, operand_dtype
from porter.triton.scope import Scope

# The peak figure that counts for a product: 'peak.bf16' for bfloat16 and each pass of bf16x6.
_PEAK = {"bfloat16": "bf16", "float16": "fp16", "tfloat32": "tf32", "float64": "fp64", "int8": "int8",
         "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "float32": "fp32",
         "mxfp8": "fp8", "mxfp4a8": "fp8", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}  # fmt: skip
# Elementwise functions that the special function unit serves, where a device states its rate (MUFU on NVIDIA).
SPECIAL = frozenset({"exp", "exp2", "log", "rsqrt", "sqrt", "sin", "cos", "tanh", "logistic", "erf", "div", "pow"})


def rate(device: Device, precision: str) -> float | None:
    """Multiply-adds times two per second of a product; None where the device has no figure for it."""
    scheme = PRECISIONS.get(precision)
    peak = device.get(f"peak.{_PEAK[scheme.format if scheme else precision]}")
    return None if peak is None else peak / (len(scheme.terms) if scheme else 1)


def vector_rate(device: Device) -> float:
    """Operations of float32 per second outside the matrix unit."""
    return float(device.get("vector.fp32") or device["peak.fp32"])


def seconds(program: Program, device: Device) -> dict[str, float]:
    """'compute', 'memory' and 'overhead'. Every peak is reached and every tensor moves once: a lower bound."""
    counts = count(program)
    products: Counter[str] = Counter()
    _products(Scope(program), program.body, counts.instances, products, types(program))
    compute = 0.0
    for precision, multiplications in products.items():
        peak = rate(device, precision) if precision != "vector" else None
        compute += 2 * multiplications / (peak or vector_rate(device))
    special = device.get("vector.special_functions")
    slow = sum(n for op, n in counts.elementwise.items() if op in SPECIAL)
    compute += (sum(counts.elementwise.values()) - slow) / vector_rate(device)
    compute += slow / (special or vector_rate(device))
    return {
        "compute": compute,
        "memory": counts.touched / float(device["memory.hbm.bytes_per_s"]),
        "overhead": float(device["overhead.launch_s"]),
    }


def _products(scope: Scope, body: Sequence[Statement], times: int, found: Counter[str], kinds: Mapping) -> None:
    """Multiply-adds by product; 'vector' for what the matrix unit does not do."""
    program = scope.program
    for s in body:
        if isinstance(s, For):
            _products(scope, s.body, times * program.axis(s.axis).steps, found, kinds)
        elif isinstance(s, Dot):
            lanes = math.prod(program.axis(a).tile for a in {*kinds[s.a].axes, *kinds[s.b].axes})
            lanes *= codes_in_byte(kinds, s)
            found[operand_dtype(s, kinds)[1] if on_unit(scope, s, kinds) else "vector"] += times * lanes
