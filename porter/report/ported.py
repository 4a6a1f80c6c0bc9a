"""A port as the page shows it: its kernels and launches like those of a comparison, and where its error comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter import ops
from porter.check.execution import run as evaluate
from porter.check.execution import single_thread
from porter.check.measure import distance
from porter.compare import trial as trials
from porter.compare.memory import held
from porter.compare.trial import Trial, Used
from porter.errors import PorterError
from porter.porting import kernels
from porter.porting.kernels import Distinct
from porter.porting.port import Found, TargetReport
from porter.tile import interpret
from porter.tile.program import Dot, walk
from porter.tile.target import target_of
from porter.tile.text import show


def trial(report: TargetReport) -> Trial | None:
    """The port of one target as a Trial; None where it did not come as far as its kernels."""
    found = report.found
    if found is None or found.program is None or found.lowered is None:
        return None
    program, lowered, device = found.program, found.lowered, found.device
    target = target_of(device.family)
    errors = _errors(found) if report.status == "ok" else {}
    try:
        rows = tuple(trials.row_of(program, lowered, target, device, launch, errors) for launch in program.launches)
    except PorterError:  # a figure that nobody has published
        rows = ()
    calls = Counter(launch.kernel for launch in program.launches)
    used = tuple(
        Used(n, program.kernels[n].op, e.language, calls[n], e.text, show(e.kernel.program), e.products,
             lowered.checks[n].ok if n in lowered.checks else None)
        for n, e in lowered.kernels.items()
    )  # fmt: skip
    end = report.end_to_end or None
    return Trial(device, report.status == "ok", report.message, rows=rows, kernels=used, memory=held(program, ()),
                 error=end, steps=tuple(report.steps))  # fmt: skip


def _errors(found: Found) -> dict[str, float]:
    """Signal to error against float64 of what each launch computes, through the tile programs."""
    program, lowered = found.program, found.lowered
    assert program is not None and lowered is not None and found.final is not None
    made = {n for launch in program.launches for n in launch.outputs}
    truth: dict[str, np.ndarray] = {}

    def keep(name: str, value: Any) -> None:
        if name in made:
            truth[name] = np.asarray(value)

    evaluate(found.final, dict(found.sample), ops.float64, on_value=keep)
    launches = iter(program.launches)
    seen: dict[str, float] = {}

    def execute(kernel: Distinct, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if kernel.name in lowered.host:
            names = [str(v.name) for v in kernel.alone.graph.inputs]
            results = list(evaluate(kernel.alone, dict(zip(names, arrays, strict=True)), ops.source).values())
        else:
            tile = lowered.kernels[kernel.name].kernel.program
            shaped = [a.reshape(p.shape) for a, p in zip(arrays, tile.inputs, strict=True)]
            results = list(interpret.run(tile, shaped))
        for name, got in zip(next(launches).outputs, results, strict=True):
            if name in truth and np.asarray(got).dtype.kind not in "iub":
                seen[name] = distance(truth[name], np.asarray(got).reshape(truth[name].shape)).sqnr_db
        return results

    with single_thread():
        kernels.run(program, found.sample, execute)
    return seen


def audit(report: TargetReport) -> list[dict[str, Any]]:
    """Per layer with products: what was asked, how weights are stored, what the text multiplies in, what the toolchain made."""
    found = report.found
    if found is None or found.program is None or found.lowered is None:
        return []
    rows = [
        {"layer": r.layer, "asked": r.asked, "stored": r.stored, "product": ", ".join(r.product), "compiled": "",
         "rule": r.rule or r.wrong, "ok": not r.wrong}
        for r in found.audit
    ]  # fmt: skip
    if rows:
        return rows
    for launch in found.program.launches:
        emitted = found.lowered.kernels.get(launch.kernel)
        if emitted is None or not any(isinstance(s, Dot) for s in walk(emitted.kernel.program.body)):
            continue
        verdict = found.lowered.compiled.get(launch.kernel)
        read = found.program.weights.keys() & set(launch.inputs)
        stored = sorted({found.program.types[n][1].name for n in read})
        rows.append({"layer": launch.source[-1] if launch.source else launch.kernel, "asked": "", "stored": ", ".join(stored),
                     "product": ", ".join(emitted.products), "compiled": ", ".join(verdict.products) if verdict else "",
                     "rule": "", "ok": True})  # fmt: skip
    return rows
