"""The whole program against the original model: through the tile programs, or through the emitted text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from porter import ops
from porter.check import Budget, draw, precision
from porter.check.execution import run as evaluate
from porter.check.execution import single_thread
from porter.check.gate import Errors, Judged, bound, floor, within
from porter.check.ledger import Seen, split
from porter.check.measure import distance
from porter.device import Device
from porter.errors import CheckFailed
from porter.graph import Model
from porter.porting import kernels, witness
from porter.porting.kernels import Distinct, Program
from porter.porting.lowering import Lowered
from porter.precision.schemes import least
from porter.tile import interpret
from porter.tile.target import Target, Whole
from porter.xla.hlo import on_cpu

DRAWS = 8
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class Judge:
    """Holds outputs of the ported program against float64 and against an outside witness. Raises CheckFailed."""

    def __init__(self, model: Model, lowered: Lowered, device: Device, inputs: Mapping[str, np.ndarray], asked: str,
                 budgets: Sequence[Budget], floor_db: float | None = None) -> None:  # fmt: skip
        self.model, self.lowered, self.device, self.inputs = model, lowered, device, inputs
        self.truth = evaluate(model, dict(inputs), ops.float64)
        self.source = evaluate(model, dict(inputs), ops.source)
        self.outside = witness.onnxruntime(model, inputs)
        self.outputs: Mapping[str, np.ndarray] = {}  # of the program, once it ran
        needed = precision("sqnr", db=least(asked) if floor_db is None else floor_db).budgets if asked != "fp32" else ()
        self.budgets = bound(budgets or needed, inputs)

    def program(self, program: Program, target: Target, *, emulate: bool) -> dict[str, Any]:
        """The launch list, through the tile programs or the emitted text."""

        unit = target.fp8_accumulator(self.device)

        def execute(kernel: Distinct, arrays: Sequence[np.ndarray], fp8: str = "") -> Sequence[np.ndarray]:
            if kernel.name in self.lowered.host:
                names = [str(v.name) for v in kernel.alone.graph.inputs]
                return list(evaluate(kernel.alone, dict(zip(names, arrays, strict=True)), ops.source).values())
            emitted = self.lowered.kernels[kernel.name]
            shaped = [a.reshape(p.shape) for a, p in zip(arrays, emitted.kernel.program.inputs, strict=True)]
            if emulate and not fp8:
                return target.execute(emitted, shaped, self.device)
            return interpret.run(emitted.kernel.program, shaped, fp8=fp8 or "float32")

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with single_thread():
                return kernels.run(program, inputs, execute)

        def in_unit(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            """The tile programs with sums as the unit's accumulator makes them: the text ran so, and must err so."""
            with single_thread():
                return kernels.run(program, inputs, lambda kernel, arrays: execute(kernel, arrays, unit))

        self.outputs = run(self.inputs)
        narrow = any(p.startswith("float8") for e in self.lowered.kernels.values() for p in e.products)
        alike = in_unit if emulate and narrow and unit != "float32" else None
        seen = self._judged(self.outputs, "the program's launches", run, alike)
        return {
            "executor": "emitted" if emulate else "tile",
            "witness": "reference" if self.outside is None else "onnxruntime",
            **seen,
        }

    def whole(self, whole: Whole) -> dict[str, Any]:
        """The program in one file, on XLA's CPU."""
        run = lambda inputs: dict(whole.run(inputs))
        return self._judged(run(self.inputs), "the program in one file", run, self._in_xla)

    def _in_xla(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The original model, compiled by XLA as it stands: its tanh, exp and sums have errors of their own."""
        names = list(inputs)
        traced = lambda *arrays: evaluate(self.model, dict(zip(names, arrays, strict=True)), ops.jax_namespace)
        return {n: np.asarray(x) for n, x in on_cpu(traced)(*inputs.values()).items()}

    def ledger(self, steps: Sequence[Seen]) -> list[dict[str, Any]]:
        """The error of the program's outputs, split over the steps of the graph and the kernels. A kernel that adds up
        in another order than numpy must err more, which counts as predicted."""
        last, growth = steps[-1], self._growth()
        floats = [n for n, x in last.wide.items() if x.dtype.kind == "f"]
        must = [{n: last.wide[n] + (m[n] - last.wide[n]) * growth for n in floats} for m in last.must]
        return split([*steps, replace(last.after("kernels", self.outputs), must=must)]).json()

    def _growth(self) -> float:
        return max((c.tile.get("growth", 1.0) for c in self.lowered.checks.values()), default=1.0)

    def _judged(self, got: Mapping[str, np.ndarray], what: str, run: Run, alike: Run | None = None) -> dict[str, Any]:
        """Distances of the worst output: max_abs and max_rel to the witness, the rest to float64; and of each budget what
        was reached."""
        reached: dict[str, float] = {}
        worst = {"max_abs": 0.0, "max_rel": 0.0, "sqnr_db": 300.0, "cosine": 1.0}
        for name, value in got.items():
            exact = np.asarray(self.truth[name])
            against = distance(np.asarray((self.outside or self.source)[name]).astype(np.float64), value)
            seen = distance(exact, value)
            worst = {"max_abs": max(worst["max_abs"], against.max_abs), "max_rel": max(worst["max_rel"], against.max_rel),
                     "sqnr_db": min(worst["sqnr_db"], seen.sqnr_db), "cosine": min(worst["cosine"], seen.cosine)}  # fmt: skip
            judged = (
                within(self.budgets, name, exact, value) if self.budgets else self._rounding(name, value, run, alike)
            )
            for b in (b for b in self.budgets if b.metric in judged.values and b.judges(name)):
                found_here = judged.values[b.metric]
                reached[b.metric] = b.worse(found_here, reached.get(b.metric, found_here))
            if not judged.ok:
                found = f"{judged.distance.max_abs:.3g} at worst, {judged.distance.sqnr_db:.1f} dB; {judged.limit}"
                where = f"{self.device.name}: output '{name}' of {what}"
                raise CheckFailed(where, expected="an error within the gate", found=found)
        return {**worst, "budgets": reached} if reached else worst

    def _rounding(self, name: str, value: np.ndarray, run: Run, alike: Run | None) -> Judged:
        """The three-way gate. An output of few numbers shows little of either error, and what fails by less than four times
        the limit may be chance: then more draws decide, and `alike` says what else runs as `run` does."""
        truth, source, drawn = np.asarray(self.truth[name]), np.asarray(self.source[name]), self.inputs
        errors = Errors(floor(truth, value.dtype))
        for attempt in range(DRAWS):
            if attempt:
                drawn = draw(self.model, attempt)
                truth, source = (np.asarray(evaluate(self.model, drawn, xp)[name]) for xp in (ops.float64, ops.source))
                value = np.asarray(run(drawn)[name])
            errors.add("before", truth, source)
            errors.add("after", truth, value)
            # a kernel whose dots must err more than numpy's (sums in another order) makes the whole err more, as often
            growth = self._growth()
            rms, worst = (error * growth for error in errors.before[-1])
            errors.must.append((rms, worst))
            judged = errors.judge(truth, value)
            if not judged.ok and alike is not None:
                errors.add("must", truth, np.asarray(alike(drawn)[name]))
                made = errors.must.pop()
                errors.must[-1] = (max(rms, made[0]), max(worst, made[1]))
                judged = errors.judge(truth, value)
            if judged.ok or not errors.marginal:
                break
        return judged
