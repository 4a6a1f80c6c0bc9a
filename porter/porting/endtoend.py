"""The whole program against the original model: through the tile programs, or through the emitted text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from porter import ops
from porter.check import Budget, precision
from porter.check.execution import run as evaluate
from porter.check.execution import single_thread
from porter.check.gate import Errors, floor, within
from porter.check.measure import distance
from porter.device import Device
from porter.errors import CheckFailed
from porter.graph import Model
from porter.porting import kernels, witness
from porter.porting.kernels import Distinct, Program
from porter.porting.lowering import Lowered
from porter.tile import interpret
from porter.tile.target import Target

LEAST = {"bf16": 30.0}  # dB of signal to error below which a precision is no port of the model, without a user's budget


def compare(
    model: Model, program: Program, lowered: Lowered, target: Target, device: Device, inputs: Mapping[str, np.ndarray],
    asked: str, budgets: Sequence[Budget], *, emulate: bool,
) -> dict[str, Any]:  # fmt: skip
    """Error against float64 and against the witness, of the worst output. Raises CheckFailed when it is too large."""

    def execute(kernel: Distinct, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if kernel.name in lowered.host:
            names = [str(v.name) for v in kernel.alone.graph.inputs]
            return list(evaluate(kernel.alone, dict(zip(names, arrays, strict=True)), ops.source).values())
        emitted = lowered.kernels[kernel.name]
        shaped = [a.reshape(p.shape) for a, p in zip(arrays, emitted.kernel.program.inputs, strict=True)]
        return target.execute(emitted, shaped, device) if emulate else interpret.run(emitted.kernel.program, shaped)

    with single_thread():
        got = kernels.run(program, inputs, execute)
    truth = evaluate(model, dict(inputs), ops.float64)
    source = evaluate(model, dict(inputs), ops.source)
    outside = witness.onnxruntime(model, inputs)
    worst: dict[str, float] = {"max_abs": 0.0, "max_rel": 0.0, "sqnr_db": 300.0, "cosine": 1.0}
    for name, value in got.items():
        exact = np.asarray(truth[name])
        against = distance(np.asarray((outside or source)[name]).astype(np.float64), value)
        seen = distance(exact, value)
        worst["max_abs"] = max(worst["max_abs"], against.max_abs)
        worst["max_rel"] = max(worst["max_rel"], against.max_rel)
        worst["sqnr_db"] = min(worst["sqnr_db"], seen.sqnr_db)
        worst["cosine"] = min(worst["cosine"], seen.cosine)
        if budgets or asked in LEAST:
            limits = tuple(budgets) or precision("sqnr", db=LEAST[asked]).budgets
            judged = within(limits, name, exact, value)
        else:
            errors = Errors(floor(exact, value.dtype))
            errors.add("before", exact, np.asarray(source[name]))
            errors.add("after", exact, value)
            # a kernel whose dots must err more than numpy's (sums in another order) makes the whole err more, as often
            growth = max((c.tile.get("growth", 1.0) for c in lowered.checks.values()), default=1.0)
            errors.must.append((errors.before[0][0] * growth, errors.before[0][1] * growth))
            judged = errors.judge(exact, value)
        if not judged.ok:
            raise CheckFailed(f"{device.name}: output '{name}' of the whole program", expected="an error within the gate",
                              found=f"{judged.distance.max_abs:.3g} at worst, {judged.distance.sqnr_db:.1f} dB; {judged.limit}")  # fmt: skip
    return {"executor": "emitted" if emulate else "tile", "witness": "onnxruntime" if outside is not None else "reference", **worst}
