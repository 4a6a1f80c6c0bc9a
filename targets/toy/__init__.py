"""Toy, the smallest complete target: one core, a scratchpad, a matrix unit. Copy this folder to begin one of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from porter.tile.limits import Limits
from porter.tile.target import Emitted, Kernel, Target

if TYPE_CHECKING:
    import numpy as np

    from porter.device import Device
    from porter.tile.program import Program

SHARE = 8  # tiles that are alive at once, about: one may take this part of vmem


class Toy(Target):
    """Teaching device and test double."""

    family = "toy"
    language = "toy"

    def limits(self, device: Device) -> Limits:
        """Tiles of an eighth of vmem, products as deep and wide as the matrix unit."""
        elements = device.value("memory.vmem.bytes") // 4 // SHARE
        side = int(device.value("matrix.m_step")) * 4
        return Limits(
            dot_m=(1, side),
            dot_n=(1, side),
            dot_k=(1, side),
            elements=elements,
            resident=512,
            elementwise=elements // 4,
        )

    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        from porter.targets.toy.emit import emit

        text, buffers = emit(kernel.program)
        buffers.require(kernel.program, _capacity(device), device.name)
        return Emitted(kernel, "toy", text, memory=dict(buffers.peak), products=("fp32",))

    def execute(
        self, emitted: Emitted, inputs: Sequence[np.ndarray], device: Device, points: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        import numpy as np

        from porter.targets.toy.machine import Machine

        program = emitted.kernel.program
        outputs = [
            np.full(p.shape, float("nan") if np.dtype(p.dtype).kind not in "iub" else 0).astype(p.dtype)
            for p in program.outputs
        ]
        names: dict[str, object] = {}
        exec(compile(emitted.text, f"{program.name}.toy", "exec"), names)  # the text is ours, or of a verified bundle
        arrays = [*(np.ascontiguousarray(x) for x in inputs), *outputs]
        names[program.name](Machine(program.name, _capacity(device), points), *arrays)  # type: ignore[operator]
        return outputs

    def seconds(self, program: Program, device: Device) -> Mapping[str, float]:
        from porter.tile.cost import count

        found = count(program)
        return {
            "compute": 2 * sum(found.products.values()) / device.value("peak.fp32")
            + sum(found.elementwise.values()) / device.value("vector.fp32"),
            "memory": (found.loaded + found.stored) / device.value("memory.hbm.bytes_per_s"),
            "overhead": device.value("overhead.launch_s"),
        }


def _capacity(device: Device) -> dict[str, int]:
    return {"vmem": int(device.value("memory.vmem.bytes")), "acc": int(device.value("memory.acc.bytes"))}


target = Toy()
