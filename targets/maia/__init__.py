"""A Maia-like accelerator: the same Triton kernels, under assumed parameters of a chip without a public toolchain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from porter.tile.limits import Limits
from porter.tile.target import CannotEmit, Compiled, Emitted, Kernel
from porter.triton.target import TritonTarget

if TYPE_CHECKING:
    from porter.device import Device
    from porter.tile.program import Program

LABEL = "Maia-like model, assumed parameters"


class Maia(TritonTarget):
    """One instance for all devices of the family. Whatever it reports says LABEL."""

    family = "maia"

    def limits(self, device: Device) -> Limits:
        """Tiles in multiples of the tensor unit's rows and columns, all of them together within a tile's SRAM."""
        from porter.targets.maia.limits import limits

        return limits(device)

    def options(self, program: Program, device: Device) -> Mapping[str, int]:
        """Warps and stages mean nothing there; the text stays one that any Triton compiler takes."""
        return {"num_warps": 4, "num_stages": 2}

    def heading(self, kernel: Kernel, device: Device) -> tuple[str, ...]:
        return (*super().heading(kernel, device), LABEL)

    def memory(self, program: Program, device: Device) -> Mapping[str, int]:
        """Bytes of a tile's SRAM that live tiles take, loads twice: one is filled while the other is read."""
        from porter.targets.maia.limits import sram_bytes

        needed, has = sram_bytes(program, device), int(device["memory.tsram.bytes"])
        if needed > has:
            has_not = f"tile SRAM of {device.title} holds {has} bytes; kernel {program.name} asks {needed}"
            raise CannotEmit(f"{has_not} ({LABEL})")
        return {"tsram": needed}

    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        return replace(super().lower(kernel, device), why=LABEL)

    def compile(self, emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
        """Each kernel as far as Triton's own IR, where the public way ends; its products are read back there."""
        from porter.targets.maia.toolchain import compile

        return compile(emitted, device)


target = Maia()
