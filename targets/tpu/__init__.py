"""Google TPUs: tile programs as Pallas kernels, and StableHLO where XLA says it better, compiled ahead of time by
libtpu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from porter.tile.limits import Limits
from porter.tile.target import CannotEmit, Compiled, Emitted, Kernel, Step, Target, Toolchain, Whole

if TYPE_CHECKING:
    import numpy as np

    from porter.device import Device
    from porter.tile.program import Program

# A kernel whose operands must be laid out anew, by more than this part of its parameters' bytes, goes to XLA, which
# then chooses the layout instead of copying into one.
RELAYOUT = 0.25


class Tpu(Target):
    """One instance for all devices of the family."""

    family = "tpu"
    language = "pallas"
    integers = 32

    def limits(self, device: Device) -> Limits:
        """Blocks of whole (sublanes, lanes) tiles; products as deep as VMEM allows, float32 in six bf16 passes.

        A quarter of VMEM for the tiles alive at once leaves room for the second buffer of each block. Tiles of one
        value stay under 256 vector registers' worth (1 MiB), beyond which Mosaic's unrolled code grows without gain.
        """
        from porter.targets.tpu.chip import Geometry

        chip = Geometry.of(device)
        return Limits(
            dot_m=(chip.sublanes, 4 * chip.lanes), dot_n=(chip.lanes, 4 * chip.lanes), dot_k=(chip.lanes, 8 *
            chip.lanes), elements=1 << 18, bytes=chip.vmem // 4, resident=65536, whole=8 * chip.lanes, elementwise=1
            << 17, multiples=(chip.lanes, chip.sublanes), ragged_loops=False, float32_product="bf16x6",
            integer=tuple(i for i in ("int8", "int4")
                if device.get(f"peak.{i}", 0.0) > device["peak.bf16"] and i in device["formats.matmul"]),
            subbyte=True,
        )  # fmt: skip

    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        """A Pallas kernel, or StableHLO where BlockSpec, Mosaic or layout copies speak against it; `why` has the
        reason."""
        from porter.targets.tpu.chip import Geometry
        from porter.targets.tpu.emit import pallas

        program = kernel.program
        try:
            written = pallas(program, Geometry.of(device))
            total = sum(_bytes(p.shape, p.dtype) for p in program.params)
            if written.relayouts <= RELAYOUT * total:
                return Emitted(kernel, "pallas", written.text, _grid(written.grid), program, {"vmem": written.vmem},
                               written.products, "each access is one block of its parameter")  # fmt: skip
            why = f"{written.relayouts} of {total} bytes would be copied into the layout of Pallas blocks"
        except CannotEmit as reason:
            why = str(reason)
        from porter.targets.tpu import xla

        text, products = xla.stablehlo(program, kernel.meaning, Geometry.of(device).fp8)
        if xla.doubles(text):
            why = f"{why}; XLA computes float64 in pairs of float32, of 48 bits and float32's range"
        return Emitted(kernel, "stablehlo", text, 1, None, {}, products, why)

    def execute(
        self, emitted: Emitted, inputs: Sequence[np.ndarray], device: Device, points: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Pallas text in interpret mode, StableHLO on XLA's CPU, both multiplying in bf16 passes. StableHLO has no grid
        points: it runs whole. Raises CheckFailed for float32 products other than the program asks for."""
        from porter.targets.tpu import simulate, xla

        kernel = emitted.kernel
        if emitted.language == "stablehlo":
            _require(emitted)
            arrays = [simulate.narrowed(f"kernel {kernel.name}, input {i}", x) for i, x in enumerate(inputs)]
            found = xla.run(emitted.text, arrays)
        else:
            found = simulate.run(emitted.text, kernel.name, inputs, points=points)
        return [xla.wide(x, p.dtype) for x, p in zip(found, kernel.program.outputs, strict=True)]

    def toolchain(self, device: Device) -> Toolchain | None:
        """libtpu, where it is installed and knows the chip."""
        from porter.targets.tpu.toolchain import libtpu_version

        version = libtpu_version()
        return None if version is None or "toolchain.topology" not in device else Toolchain("libtpu", version)

    def unchecked(self, device: Device) -> str:
        if "toolchain.topology" not in device:
            return f"{device.name} is not compiled: {device.fact('toolchain.topology').unknown}"
        return f"{device.name} is not compiled: libtpu is not installed; pip install 'onnx-porter[tpu]'"

    def compile(self, emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
        """Each kernel compiled alone, held against the device's VMEM and against the products it asks for."""
        from porter.targets.tpu.toolchain import compile

        return compile(emitted, device)

    def whole(self, model: Any, steps: Sequence[Step], device: Device) -> Whole:
        """The model as StableHLO for TPU, its run on XLA's CPU, and libtpu's verdict on all launches as one
        executable."""
        from porter.targets.tpu.toolchain import Piece, compile_program, kernels_of, verdict_of
        from porter.xla import whole

        program = whole(model)
        text = program.stablehlo("tpu")
        files = {"program.mlir": text.encode()}

        def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return program.run(inputs, text)

        if self.toolchain(device) is None:
            return Whole(files, run)
        made = {name for s in steps for name in s.outputs}
        arguments = {
            n: (n, p.shape, p.dtype)
            for s in steps
            for n, p in zip(s.inputs, s.emitted.kernel.program.inputs, strict=True)
            if n not in made
        }
        pieces = [Piece(s.emitted, s.inputs, s.outputs) for s in steps]
        found = compile_program("program", pieces, list(arguments.values()), program.outputs, device)
        seconds = found.cost.get("optimal_seconds") if found.trusted else None
        return Whole(files, run, verdict_of(found, device), seconds, kernels_of(pieces, found, device))

    def vendor_seconds(self, emitted: Sequence[Emitted], device: Device) -> Mapping[str, float]:
        """Of kernels in StableHLO, XLA's own figure for what it compiled: bytes in its layouts, padding included."""
        from porter.targets.tpu.toolchain import expected

        return expected(emitted, device) if self.toolchain(device) is not None else {}

    def seconds(self, program: Program, device: Device) -> Mapping[str, float]:
        from porter.targets.tpu.cost import seconds

        return seconds(program, device)


def _require(emitted: Emitted) -> None:
    """The text's float32 products are the ones that its tile program asks for."""
    from porter.targets.tpu import xla
    from porter.xla.products import SCHEME, require_products

    found = [p for p in xla.realized(emitted.text) if p in SCHEME.values()]
    require_products(f"kernel {emitted.kernel.name}", found, xla.asked(emitted.kernel.program))


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    from math import prod

    import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
    import numpy as np

    return prod(shape) * np.dtype(dtype).itemsize


def _grid(steps: tuple[int, ...]) -> int:
    from math import prod

    return prod(steps)


target = Tpu()
