"""A failing port cut down: to the kernel that fails, then to the nodes of it that make it fail, at small shapes.

    small = reduce_port("model.onnx", device)
    small.save("out/reduced")

A step of the graph that fails is no matter of this file: its pair of models is, and `porter.check.reduce` shrinks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porter import check, graph, pipeline
from porter.check import Budget
from porter.check.reduce import part
from porter.check.shrink import shrink
from porter.device import Device
from porter.errors import CheckFailed, PorterError
from porter.graph import Model
from porter.pipeline.cache import Cache
from porter.porting import endtoend, lowering
from porter.porting.kernels import Distinct, Program, program_of
from porter.precision import plans
from porter.tile.target import target_of

Progress = Callable[[str, int, int], None]
TRIES = 40  # cuts of a kernel that are tried


@dataclass(frozen=True)
class Small:
    """A model of a few nodes whose port fails, inputs, and how. `sources` are the layers it was cut from."""

    model: Model
    inputs: Mapping[str, np.ndarray]
    target: str
    precision: str
    message: str
    sources: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What shows the fault, run in the folder."""
        words = f"porter port model.onnx --target {self.target} --inputs inputs.npz -o out"
        return words if self.precision == "fp32" else f"{words} --precision {self.precision}"

    def save(self, folder: str | Path) -> Path:
        """Write model.onnx, inputs.npz and the command that shows the fault; the folder is made."""
        at = Path(folder)
        at.mkdir(parents=True, exist_ok=True)
        graph.save(self.model, at / "model.onnx")
        np.savez(at / "inputs.npz", allow_pickle=False, **dict(self.inputs))
        (at / "README.txt").write_text(f"{self.message}\n\n{self.command}\n")
        return at


@dataclass(frozen=True)
class _Try:
    """One way to port: what all candidates are held to."""

    device: Device
    precision: str
    budgets: Sequence[Budget]

    def failure(self, model: Model, inputs: Mapping[str, np.ndarray], *, whole: bool = False) -> tuple[str, str]:
        """Why the port of a model fails, and the kernel that does; '' where it does not. Graph passes are not checked."""
        target = target_of(self.device.family)
        plan = plans.plan(self.precision, self.budgets, model, self.device, inputs)
        result = pipeline.run(model, plan.stages, self.device, checks=False)
        program = program_of(result.model)
        try:
            lowered = lowering.emit(program, target, self.device)
            lowering.check(program, lowered, target, self.device, Cache(None), lambda *_: None)
            lowering.compile_all(lowered, target, self.device)
            if (refused := lowering.refused(lowered)) is not None:
                where = f"{self.device.name}: the toolchain refuses kernel {refused.name}"
                raise CheckFailed(where, found=refused.message)
            if whole:
                judge = endtoend.Judge(
                    model, lowered, self.device, inputs, self.precision, self.budgets or plan.budgets, plan.floor
                )
                judge.program(program, target, emulate=False)
        except CheckFailed as e:
            return str(e), next((k for k in program.kernels if f"kernel {k}" in str(e)), "")
        return "", ""

    def kernel(self, model: Model, inputs: Mapping[str, np.ndarray], name: str) -> tuple[Distinct, tuple[str, ...]]:
        """A kernel of the port by its name, and the layers it comes from."""
        plan = plans.plan(self.precision, self.budgets, model, self.device, inputs)
        program: Program = program_of(pipeline.run(model, plan.stages, self.device, checks=False).model)
        sources = {s for launch in program.launches if launch.kernel == name for s in launch.source}
        return program.kernels[name], tuple(sorted(sources))


def reduce_port(
    model: Path | str, device: Device, dims: Mapping[str, int] | None = None, precision: str = "fp32",
    budgets: Sequence[Budget] = (), inputs: Mapping[str, np.ndarray] | None = None, progress: Progress | None = None,
    keep: Path | None = None,
) -> Small:  # fmt: skip
    """The least that was found whose port fails. Raises PorterError where the port does not fail, and StepFailed where a
    pass is what fails; `keep` is where the models around it are kept then."""
    say = progress or (lambda *_: None)
    plans.known(precision)
    loaded = graph.load(Path(model), dims or {})
    sample: Mapping[str, np.ndarray] = inputs if inputs is not None else check.draw(loaded)
    attempt = _Try(device, precision, budgets)
    say("porting", 0, 0)
    plan = plans.plan(precision, budgets, loaded, device, sample)
    pipeline.run(loaded, plan.stages, device, inputs=sample, keep=keep)  # StepFailed where a pass is at fault
    message, name = attempt.failure(loaded, sample, whole=True)
    if not message:
        raise PorterError(
            f"a port of {model} to {device.name} to reduce", expected="one that fails", found="every check passes"
        )
    best = Small(loaded, dict(sample), device.name, precision, message)
    if not name:
        return best
    kernel, sources = attempt.kernel(loaded, sample, name)
    alone = check.draw(kernel.alone)
    if not (found := attempt.failure(kernel.alone, alone)[0]):
        return best  # alone it does not fail
    best = Small(kernel.alone, dict(alone), device.name, precision, found, sources)
    best = _nodes(best, attempt, say)
    return _shapes(best, attempt, say)


def _nodes(small: Small, attempt: _Try, say: Progress) -> Small:
    """Cut from the end, then from the start, a node at a time, for as long as it fails."""
    tries = 0
    for node in list(small.model.graph)[:-1]:  # the earliest value whose computation fails
        name = node.outputs[0].name
        if node.op_type != "Constant" and name and tries < TRIES:
            tries += 1
            say("fewer nodes", tries, TRIES)
            if (made := _failing(small, attempt, name, {})) is not None:
                small = made
                break
    target = small.model.graph.outputs[0].name or ""
    for node in reversed(list(small.model.graph)[:-1]):  # the latest values that may be given instead
        name = node.outputs[0].name
        present = {v.name for n in small.model.graph for v in n.outputs}
        if node.op_type != "Constant" and name in present and name and tries < TRIES:
            tries += 1
            say("fewer nodes", tries, TRIES)
            dtype, shape = graph.dtype(node.outputs[0]), graph.shape(node.outputs[0])
            if dtype is None or shape is None:
                continue
            small = _failing(small, attempt, target, {name: np.zeros(shape, dtype)}) or small
    return small


def _failing(small: Small, attempt: _Try, output: str, given: Mapping[str, np.ndarray]) -> Small | None:
    """The part that computes one value, some values given, where its port fails too."""
    try:
        made = part(small.model, output, given)
        inputs = check.draw(made)
        message = attempt.failure(made, inputs)[0]
    except (PorterError, ValueError):
        return None
    return Small(made, dict(inputs), small.target, small.precision, message, small.sources) if message else None


def _shapes(small: Small, attempt: _Try, say: Progress) -> Small:
    said: dict[int, str] = {}

    def fails(models: Sequence[Model], inputs: Any) -> bool:
        say("smaller shapes", 0, 0)
        message = attempt.failure(models[0], inputs)[0]
        said[id(models[0])] = message
        return bool(message)

    (model,), inputs = shrink((small.model,), small.inputs, fails)
    if model is small.model:
        return small
    return Small(model, inputs, small.target, small.precision, said[id(model)], small.sources)
