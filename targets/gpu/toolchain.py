"""Triton's verdict on emitted kernels: cubins, what they need, what they multiply with, held against the device."""

from __future__ import annotations

from collections.abc import Sequence

from porter.device import Device
from porter.tile.target import Compiled, Emitted
from porter.triton.compile import Job, Result
from porter.triton.compile import compile as compile_jobs
from porter.triton.dots import Product
from porter.triton.emit import emit
from porter.triton.ptx import mismatch


def compile(emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
    """One verdict per kernel, in order. What compiles but cannot run, or multiplies otherwise than asked, fails."""
    arch = int(device["toolchain.capability"])
    results = compile_jobs([Job(e.kernel.name, e.text, arch) for e in emitted])
    return [_verdict(e, r, device) for e, r in zip(emitted, results, strict=True)]


def _verdict(e: Emitted, r: Result, device: Device) -> Compiled:
    name = e.kernel.name
    if not r.ok:
        return Compiled(name, False, r.message)
    products: tuple[Product, ...] = emit(e.program).products if e.program is not None else ()
    message = exceeds(name, r, device) or mismatch(products, r.ttir, r.ttgir)
    resources = {"shared": r.shared, "registers": r.registers, "spills": r.spills, "warps": r.warps}
    if r.tensor_memory:
        resources["tensor_memory_columns"] = r.tensor_memory
    files = {"ptx": r.ptx.encode(), "cubin": r.cubin}
    said = f"kernel {name}: {message}" if message else ""
    return Compiled(name, message is None, said, len(r.cubin), resources, r.units, files)


def exceeds(name: str, r: Result, device: Device) -> str | None:
    """A sentence about the first resource of which the compiled kernel asks more than there is; None when it fits."""
    threads = 32 * r.warps
    registers = int(device["memory.registers.bytes"]) // 4
    asked = (
        ("shared memory", "bytes for one block", int(device["memory.shared.bytes_per_block"]), r.shared),
        ("the register file", "registers for one thread", int(device["memory.registers.per_thread"]), r.registers),
        ("the register file", "registers", registers, r.registers * threads),
        ("a block", "threads", int(device["threads.per_block"]), threads),
        ("tensor memory", "columns", int(device.get("memory.tensor.columns", 0)), r.tensor_memory),
    )
    for where, unit, has, wants in asked:
        if wants > has:
            return f"{where} of {device.title} has {has} {unit}; it asks {wants}"
    return None
