"""NVIDIA data-centre GPUs: tile programs as Triton kernels, compiled to cubin without a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from porter.tile.limits import Limits
from porter.tile.target import Compiled, Emitted
from porter.triton.target import TritonTarget

if TYPE_CHECKING:
    from porter.device import Device
    from porter.tile.program import Program


class Gpu(TritonTarget):
    """One instance for all devices of the family."""

    family = "gpu"

    def limits(self, device: Device) -> Limits:
        """Powers of two; a product of 128 x 64 x 32, two of which share an SM."""
        from porter.targets.gpu.limits import limits

        return limits(device)

    def options(self, program: Program, device: Device) -> Mapping[str, int]:
        from porter.triton.launch import options

        return options(program, int(device["memory.shared.bytes_per_block"]))

    def compile(self, emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
        """Each kernel as cubin, held against the device's shared memory and registers, and against its own request:
        the products compiled must be the ones that the tile program asks for."""
        from porter.targets.gpu.toolchain import compile

        return compile(emitted, device)


target = Gpu()
