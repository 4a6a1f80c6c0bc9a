"""Every distinct kernel on one device: tiled, lowered to text, checked twice, compiled, and its time estimated."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from porter.device import Device
from porter.errors import CheckFailed
from porter.graph import Model
from porter.pipeline.cache import Cache, sources
from porter.porting.checks import KernelCheck, check_kernel
from porter.porting.coverage import coverage
from porter.porting.kernels import Distinct, Program, weight
from porter.tile import program as tile
from porter.tile import wide
from porter.tile.form import Cut
from porter.tile.target import CannotEmit, Compiled, Emitted, Kernel, Step, Target, Whole
from porter.tile.text import show
from porter.tile.tiler import tile_form


@dataclass
class Lowered:
    """The device's kernels: emitted text, checks, verdicts of the toolchain; and what went to the host, with the reason."""

    kernels: dict[str, Emitted] = field(default_factory=dict)
    checks: dict[str, KernelCheck] = field(default_factory=dict)
    compiled: dict[str, Compiled] = field(default_factory=dict)
    whole: Whole | None = None  # the program in one file, where the family has such a form
    host: dict[str, str] = field(default_factory=dict)

    def json(self, program: Program) -> dict[str, Any]:
        calls = Counter(launch.kernel for launch in program.launches)
        host_ops = {program.kernels[name].op: why for name, why in self.host.items()}
        return {
            "calls": sum(calls.values()), "unique": len(self.kernels), "checked": sum(c.ok for c in self.checks.values()),
            "languages": dict(Counter(e.language for e in self.kernels.values())),
            "host": sum(calls[name] for name in self.host), "host_ops": host_ops,
        }  # fmt: skip

    def coverage(self, program: Program) -> list[dict[str, Any]]:
        """Of each kernel: sizes, tiles and edges that its checks covered."""
        calls = Counter(launch.kernel for launch in program.launches)
        return [
            {"name": n, "language": e.language, "calls": calls[n], "ok": n in self.checks and self.checks[n].ok,
             **coverage(e.kernel.program, self.checks.get(n))}
            for n, e in self.kernels.items()
        ]  # fmt: skip

    def metric(self) -> dict[str, Any]:
        """The worst kernel of each check."""
        tile = [c.tile for c in self.checks.values()]
        text = [c.text for c in self.checks.values()]
        return {
            "sqnr_db": min((t["sqnr_db"] for t in tile if "sqnr_db" in t), default=300.0),
            "error_ratio": max((t["error_ratio"] for t in tile if "error_ratio" in t), default=1.0),
            "text_max_abs": max((t["max_abs"] for t in text), default=0.0),
        }


def emit(program: Program, target: Target, device: Device) -> Lowered:
    """Every distinct kernel tiled and lowered to text; what the device cannot say goes to the host, with the reason."""
    limits = target.limits(device)
    found = Lowered()
    for kernel in program.kernels.values():
        if kernel.host or kernel.form is None:
            found.host[kernel.name] = kernel.host
            continue
        try:
            tiled = tile_form(kernel.form, limits, name=kernel.name)
            if (number := _beyond(tiled, kernel, program, target.integers)) is not None:
                raise CannotEmit(f"it holds integers in {target.integers} bits, and the constant {number} has more")
            found.kernels[kernel.name] = target.lower(Kernel(kernel.name, tiled, kernel.meaning), device)
        except (Cut, CannotEmit) as e:
            found.host[kernel.name] = f"{device.name} cannot say it: {e}"
        except CheckFailed as e:
            raise _named(e, kernel, program, device) from None
    return found


def _beyond(tiled: tile.Program, kernel: Distinct, program: Program, bits: int) -> int | None:
    """An integer that the kernel states, or a weight that one of its launches reads, beyond what `bits` bits hold."""
    if bits >= 64:
        return None
    read = {n for launch in program.launches if launch.kernel == kernel.name for n in launch.inputs}
    for name in sorted(read & program.weights.keys()):
        if program.types[name][1].name in ("int64", "uint64") and (array := weight(program, name)).size:
            for end in (int(array.min()), int(array.max())):
                if not wide.fits(end, array.dtype.name, bits):
                    return end
    return wide.beyond(tiled, bits)


def check(
    program: Program,
    lowered: Lowered,
    target: Target,
    device: Device,
    kept: Cache,
    progress: Callable[[str, int, int], None],
) -> None:
    """Both checks of every kernel. Raises CheckFailed naming the kernel and the source layer."""
    for number, (name, emitted) in enumerate(lowered.kernels.items()):
        progress(name, number, len(lowered.kernels))
        kernel = program.kernels[name]
        try:
            lowered.checks[name] = _checked(kernel, emitted, target, device, kept)
        except CheckFailed as e:
            raise _named(e, kernel, program, device) from None


def _named(e: CheckFailed, kernel: Distinct, program: Program, device: Device) -> CheckFailed:
    layers = next(launch.source for launch in program.launches if launch.kernel == kernel.name)
    return CheckFailed(f"{device.name}: {e}", hint=f"source layer: {', '.join(layers)}")


def _checked(kernel: Distinct, emitted: Emitted, target: Target, device: Device, kept: Cache) -> KernelCheck:
    key = hashlib.sha256(
        repr((_sources(), device.name, emitted.text, show(emitted.kernel.program), str(kernel.meaning))).encode()
    ).hexdigest()
    known = kept.get(key)
    if known is not None:
        return KernelCheck(**known)
    made = check_kernel(kernel, emitted.kernel.program, emitted, target, device)
    kept.put(key, made.json())
    return made


@cache
def _sources() -> str:
    """A hash of all of porter, its targets, and the libraries it computes with: verdicts are theirs."""
    digest = hashlib.sha256(sources().encode())
    root = Path(__file__).parent.parent
    for name in ("tile", "triton", "xla", "porting", "targets"):
        for path in sorted((root / name).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build(
    model: Model, program: Program, lowered: Lowered, target: Target, device: Device
) -> tuple[dict[str, Any] | None, str]:
    """The program in one file, where there is such a form and no launch is the host's, then each kernel: as it was
    compiled in there, else alone. The report's part, and what could not be checked."""
    if not lowered.host:
        lowered.whole = target.whole(model, steps(program, lowered), device)
    return compile_all(lowered, target, device)


def compile_all(lowered: Lowered, target: Target, device: Device) -> tuple[dict[str, Any] | None, str]:
    """Each kernel through the toolchain: its part of the report, and what could not be checked without it."""
    toolchain = target.toolchain(device)
    if toolchain is None:
        return None, target.unchecked(device)
    known = lowered.whole.kernels if lowered.whole is not None else {}
    alone = {v.name: v for v in target.compile([e for n, e in lowered.kernels.items() if n not in known], device)}
    verdicts = [known[n] if n in known else alone[n] for n in lowered.kernels]
    lowered.compiled = {v.name: v for v in verdicts}
    failed = [v for v in verdicts if not v.ok]
    report = {
        "name": toolchain.name,
        "version": toolchain.version,
        "compiled": sum(v.ok for v in verdicts),
        "failed": len(failed),
    }
    return report, ""


def products(program: Program, lowered: Lowered) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Per launch: source layers, products asked of its text, products found in what the toolchain made of it."""
    found = []
    for launch in program.launches:
        emitted, verdict = lowered.kernels.get(launch.kernel), lowered.compiled.get(launch.kernel)
        found.append((launch.source, emitted.products if emitted else ("host",), verdict.products if verdict else ()))
    return found


def refused(lowered: Lowered) -> Compiled | None:
    """The first kernel (or the program as a whole) that the toolchain refuses."""
    whole = [lowered.whole.compiled] if lowered.whole is not None and lowered.whole.compiled is not None else []
    return next((v for v in (*lowered.compiled.values(), *whole) if not v.ok), None)


def steps(program: Program, lowered: Lowered) -> list[Step]:
    """The launches with their texts; empty where one of them runs on the host."""
    if lowered.host:
        return []
    return [Step(lowered.kernels[launch.kernel], launch.inputs, launch.outputs) for launch in program.launches]


def estimate(program: Program, lowered: Lowered, target: Target, device: Device) -> dict[str, Any]:
    """Latency of one run: the winning bound of each launch plus its overhead, summed."""
    totals: dict[str, float] = defaultdict(float)
    latency = 0.0
    for launch in program.launches:
        if launch.kernel not in lowered.kernels:
            continue
        bounds = dict(target.seconds(lowered.kernels[launch.kernel].kernel.program, device))
        overhead = bounds.pop("overhead", 0.0)
        winner = max(bounds, key=lambda b: bounds[b])
        totals[winner] += bounds[winner]
        totals["overhead"] += overhead
        latency += bounds[winner] + overhead
    bound = max(totals, key=lambda b: totals[b]) if totals else "overhead"
    if lowered.whole is not None and lowered.whole.seconds is not None:
        return {"latency_s": lowered.whole.seconds, "bound": bound, "origin": "vendor compiler"}
    return {"latency_s": latency, "bound": bound, "origin": "model"}
