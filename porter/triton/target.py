"""What the gpu and maia targets share: a target whose language is Triton."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from porter.errors import Undecided
from porter.tile.program import Program
from porter.tile.target import CannotEmit, Emitted, Kernel, Target, Toolchain

if TYPE_CHECKING:
    import numpy as np

    from porter.device import Device

INSTALL = "pip install 'onnx-porter[gpu]'"


class TritonTarget(Target):
    """Emits Triton, and executes it by Triton's interpreter under porter's harness."""

    language = "triton"

    @abstractmethod
    def options(self, program: Program, device: Device) -> Mapping[str, int]:
        """num_warps and num_stages of the launch."""

    def heading(self, kernel: Kernel, device: Device) -> tuple[str, ...]:
        """The first lines of the emitted module."""
        note = kernel.program.note
        return (f"{kernel.name} for {device.get('arch', device.title)}", *((note,) if note else ()))

    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        """The kernel's module. Raises CannotEmit with the reason."""
        from porter.triton.emit import emit

        program = replace(kernel.program, name=kernel.name)
        grid = math.prod(a.steps for a in program.grid)
        most = self.limits(device).grid
        if grid > most:
            raise CannotEmit(f"a grid of {device.name} has at most {most} instances; kernel {kernel.name} asks {grid}")
        memory = self.memory(program, device)
        source = emit(program, options=self.options(program, device), heading=self.heading(kernel, device))
        return Emitted(kernel, self.language, source.text, source.grid, program, memory,
                       tuple(p.precision for p in source.products))  # fmt: skip

    def memory(self, program: Program, device: Device) -> Mapping[str, int]:
        """Bytes per on-chip memory that are known before compilation. Raises CannotEmit where they do not fit."""
        return {}

    def execute(
        self, emitted: Emitted, inputs: Sequence[np.ndarray], device: Device, points: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """The text's outputs under the unit's arithmetic. Raises CheckFailed when an access leaves its buffer,
        Undecided where Triton is not installed."""
        if self.toolchain(device) is None:
            raise Undecided(f"kernel {emitted.kernel.name} is not run: Triton is not installed", hint=INSTALL)
        from porter.triton import harness

        program = emitted.program or emitted.kernel.program
        return harness.run(emitted.text, emitted.kernel.name, program.params, inputs, emitted.grid, points=points,
                           fp8=self.fp8_accumulator(device))  # fmt: skip

    def fp8_accumulator(self, device: Device) -> str:
        """About 14 bits on Hopper, as its page says; float32 elsewhere."""
        from porter.formats.matmul import HOPPER_BITS, HOPPER_FP8

        return HOPPER_FP8 if device.get("accumulate.fp8_bits") == HOPPER_BITS else "float32"

    def toolchain(self, device: Device) -> Toolchain | None:
        """Triton, where it is installed."""
        from porter.triton.compile import triton_version

        found = triton_version()
        return None if found is None else Toolchain("triton", found)

    def seconds(self, program: Program, device: Device) -> Mapping[str, float]:
        """A lower bound from the device's peak rates, by bound."""
        from porter.triton.roofline import seconds

        return seconds(program, device)
