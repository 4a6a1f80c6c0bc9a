"""The Trainium family as porter asks for it: limits, lowering to NKI, simulated execution, modelled time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from porter.errors import CheckFailed
from porter.formats import matmul
from porter.targets.trainium import cost
from porter.targets.trainium.emit import emit
from porter.targets.trainium.flavour import LEGACY, OCP, flavoured
from porter.targets.trainium.instructions import CODES
from porter.targets.trainium.limits import chip, limits
from porter.targets.trainium.signatures import check
from porter.targets.trainium.simulator import Machine
from porter.tile.block_scales import name_of
from porter.tile.limits import Limits
from porter.tile.program import Dot, Program, types, walk
from porter.tile.target import Emitted, Kernel, Step, Target, Toolchain, Whole

if TYPE_CHECKING:
    from porter.device import Device


class Trainium(Target):
    """Inferentia2 and Trainium 1 to 3."""

    family = "trainium"
    language = "nki"
    integers = 32
    why_no_toolchain = (
        "neuronx-cc comes from AWS's own package index and runs on its instances: NKI text is simulated here"
    )

    def limits(self, device: Device) -> Limits:
        return limits(device)

    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        """NKI text. Raises CannotEmit with the reason, CheckFailed where a memory of the core is exceeded."""
        emitter = emit(flavoured(kernel.program, chip(device)), chip(device))
        check(emitter.text, f"kernel {kernel.name}")
        kernel = replace(kernel, program=emitter.source)
        grid = math.prod(a.steps for a in emitter.source.grid)
        return Emitted(
            kernel, self.language, emitter.text, grid, emitter.program, emitter.memory, tuple(sorted(emitter.products))
        )

    def execute(
        self, emitted: Emitted, inputs: Sequence[np.ndarray], device: Device, points: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Runs the text's tile function at these points of the grid under the rules of the core.

        Fresh memory is NaN, every access pattern is held against its tensor, what lived at once against SBUF and PSUM.
        Raises CheckFailed with a sentence where the text breaks a rule.
        """
        program = emitted.kernel.program
        machine = Machine(chip(device), matmul.dot)
        names = machine.load(emitted.text, program.name)
        given = [
            machine.tensor(x if x.size else np.zeros(1, x.dtype), p.name)  # without elements it is never read
            for p, x in zip(program.inputs, inputs, strict=True)
        ]
        results = [machine.blank(p.shape if 0 not in p.shape else (1,), p.dtype, p.name) for p in program.outputs]
        for r in results:
            if r.dtype.kind in "iu":
                r.array[...] = 0
        counts = [a.steps for a in program.grid]
        chosen = range(math.prod(counts)) if points is None else points
        for point in chosen:
            at = np.unravel_index(point, counts) if counts else ()
            starts = [int(i) * a.tile for i, a in zip(at, program.grid, strict=True)]
            try:
                names[f"{program.name}_tile"](*given, *results, *starts)
            except CheckFailed as e:
                raise CheckFailed(
                    f"kernel {program.name}, tile {point} of the grid: {e.where}",
                    expected=e.expected,
                    found=e.found,
                    hint=e.hint,
                ) from e
            machine.memories.check_capacity(f"kernel {program.name}")
            machine.memories.lives.clear()
        _audit(emitted, machine.isa.products)
        return [
            _read(r.array.reshape(-1)[: math.prod(p.shape)].reshape(p.shape), OCP if p.dtype == LEGACY else p.dtype)
            for p, r in zip(program.outputs, results, strict=True)
        ]

    def toolchain(self, device: Device) -> Toolchain | None:
        """None: see `why_no_toolchain`."""
        return None

    def whole(self, model: Any, steps: Sequence[Step], device: Device) -> Whole:
        """The model as an HloModuleProto, what neuronx-cc reads, and its run on XLA's CPU."""
        from porter.xla import whole

        program = whole(model)
        data = program.hlo_proto()
        return Whole({"program.hlo.pb": data}, lambda inputs: program.run_proto(inputs, data))

    def seconds(self, program: Program, device: Device) -> Mapping[str, float]:
        return cost.seconds(program, device)


def _read(array: np.ndarray, dtype: str) -> np.ndarray:
    """An output in the dtype that the graph gives it; bytes that hold codes are read as these."""
    return array.view(np.dtype(dtype)) if dtype in CODES else array.astype(np.dtype(dtype))


def _audit(emitted: Emitted, ran: set[str]) -> None:
    """The products that ran are those that the tile program asks for. Raises CheckFailed naming both."""
    program = emitted.kernel.program
    kinds = types(program)
    asked: set[str] = set()
    for s in walk(program.body):
        if isinstance(s, Dot):
            asked |= {name_of(kinds, s)} if s.scales else _operands(kinds[s.a].dtype, kinds[s.b].dtype)
    if not ran <= asked:
        raise CheckFailed(
            f"kernel {program.name}: products of its text",
            expected=f"operands in {', '.join(sorted(asked)) or 'no format'}",
            found=f"operands in {', '.join(sorted(ran))}",
        )


def _operands(*dtypes: str) -> set[str]:
    """The formats in which a product's operands meet: float32 on both sides or on neither, small integers as bfloat16."""
    integers = {d for d in dtypes if np.dtype(d).kind in "iu"}
    return {"fp32"} if "float32" in dtypes else ({*dtypes} - integers) | ({"bfloat16"} if integers else set())
