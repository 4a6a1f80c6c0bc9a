"""Triton IR of emitted kernels: as far as a public toolchain goes for Maia."""

from __future__ import annotations

from collections.abc import Sequence

from porter.device import Device
from porter.targets.maia import LABEL
from porter.tile.target import Compiled, Emitted
from porter.triton.compile import Job
from porter.triton.compile import compile as compile_jobs
from porter.triton.emit import emit
from porter.triton.ptx import requested_otherwise

REACH = f"compiled as far as Triton IR, no further toolchain is public; {LABEL}"
FRONT_END = 90  # Triton's front end wants some GPU's rules for tl.dot; its IR names no GPU


def compile(emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
    """One verdict per kernel, in order."""
    verdicts = []
    results = compile_jobs([Job(e.kernel.name, e.text, FRONT_END, "ttir") for e in emitted])
    for e, r in zip(emitted, results, strict=True):
        wrong = requested_otherwise(emit(e.program).products, r.ttir) if r.ok and e.program is not None else None
        if not r.ok or wrong:
            verdicts.append(Compiled(e.kernel.name, False, f"kernel {e.kernel.name}: {wrong or r.message}; {LABEL}"))
        else:
            verdicts.append(Compiled(e.kernel.name, True, REACH, len(r.ttir), products=tuple(dict.fromkeys(e.products)),
                                     files={"ttir": r.ttir.encode()}))  # fmt: skip
    return verdicts
