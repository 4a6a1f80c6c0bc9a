"""A port that stays in memory: passes, kernels, checks, time and memory of one model on one device, without a bundle.

    bench = Bench(model, precision="bf16")
    trial = bench.trial(load_device("gpu:h200"))
    trial.latency, trial.error["sqnr_db"], trial.memory.weights

What devices share is computed once: the passes that ask no device, the rest for devices that answer alike, and what the
original model computes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from porter import check, graph, ops, pipeline
from porter.check import Budget
from porter.check.execution import run as evaluate
from porter.check.execution import single_thread
from porter.check.measure import distance
from porter.compare.decoder import Decoder, recognize
from porter.compare.memory import Memory, held
from porter.device import Device, Fact
from porter.errors import CheckFailed, PorterError
from porter.graph import Model
from porter.pipeline.cache import Cache
from porter.porting import kernels, lowering
from porter.porting.checks import check_tile
from porter.porting.endtoend import Judge
from porter.porting.kernels import Distinct, Program
from porter.porting.lowering import Lowered
from porter.precision import plans
from porter.tile import interpret
from porter.tile.cost import count
from porter.tile.form import Cut
from porter.tile.program import Dot, walk
from porter.tile.target import CannotEmit, Kernel, Target, target_of
from porter.tile.text import show
from porter.tile.tiler import tile_form

Progress = Callable[[str, int, int], None]
# A narrow format is held to its budget at the end only: a comparison shows the figures of what misses it too.
AT_THE_END = Budget("max_abs", float("inf"))
FIRST_OF_DEVICE = ("layout", "quantization", "tiling")  # the groups of passes that may ask the device


@dataclass(frozen=True)
class Row:
    """One launch on one device: a layer of the matrix."""

    layer: str  # the source node that gives the result
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    kernel: str
    op: str
    format: str
    bounds: Mapping[str, float]  # seconds: 'compute', 'memory', 'overhead'; empty on the host
    bytes: int  # all parameters once
    flops: int  # what the device executes, padding included
    error_db: float | None = None  # signal to error of the launch's worst output, against float64; None where not run
    host: str = ""  # why it runs on the host
    origin: str = "model"  # of the time: 'model' or 'vendor compiler'

    @property
    def bound(self) -> str:
        """The winning bound; '' on the host."""
        raced = {k: v for k, v in self.bounds.items() if k != "overhead"}
        return max(raced, key=lambda b: raced[b]) if raced else ""

    def seconds(self, chips: int = 1) -> float:
        """The winning bound, split evenly over chips, plus the overhead, which each chip has."""
        return self.bounds.get(self.bound, 0.0) / chips + self.bounds.get("overhead", 0.0)


@dataclass(frozen=True)
class Used:
    """A distinct kernel as the report shows it."""

    name: str
    op: str
    language: str
    calls: int
    text: str
    tile: str
    products: tuple[str, ...]
    checked: bool | None  # None: not run (an estimate only)


@dataclass(frozen=True)
class Trial:
    """What a device made of the model. `runs` is False with the reason in `why`; else one run on one chip."""

    device: Device
    runs: bool
    why: str = ""
    decoder: Decoder | None = None
    rows: tuple[Row, ...] = ()
    kernels: tuple[Used, ...] = ()
    memory: Memory = field(default_factory=Memory)
    realized: str = ""
    error: Mapping[str, float] | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    assumed: tuple[str, ...] = ()
    failed: bool = False  # a check failed, and that is why it does not run
    missed: str = ""  # the gate of the end-to-end check that was not kept

    def latency(self, chips: int = 1) -> float:
        return sum(row.seconds(chips) for row in self.rows)

    def spent(self, chips: int = 1) -> dict[str, float]:
        """The latency by what it goes to: compute, memory, overhead."""
        totals = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
        for row in self.rows:
            if row.bounds:
                totals[row.bound] += row.bounds[row.bound] / chips
                totals["overhead"] += row.bounds.get("overhead", 0.0)
        return totals

    @property
    def timed_by_vendor(self) -> tuple[int, int]:
        """Launches whose time is the vendor compiler's, of those that have one."""
        timed = [row for row in self.rows if row.bounds]
        return sum(row.origin == "vendor compiler" for row in timed), len(timed)

    @property
    def host(self) -> dict[str, str]:
        """What falls to the host: operator and reason."""
        return {row.op: row.host for row in self.rows if row.host}

    @property
    def checks(self) -> tuple[int, int]:
        """Checks that passed, of those made: steps, kernels, the end."""
        made = [s["status"] == "ok" for s in self.steps] + [k.checked for k in self.kernels if k.checked is not None]
        made += [not self.missed] if self.error is not None else []
        return sum(made), len(made)


class _Read(dict[str, Fact]):
    """The facts of a device, that remember which of them were asked for."""

    def __init__(self, facts: Mapping[str, Fact]) -> None:
        super().__init__(facts)
        self.asked: dict[str, None] = {}

    def __getitem__(self, path: str) -> Fact:
        self.asked[path] = None
        return super().__getitem__(path)

    def get(self, path: str, default: Any = None) -> Any:
        if path in self:
            self.asked[path] = None
        return super().get(path, default)


class _Layers(Judge):
    """A judge that also looks between the launches."""

    def seen(self, program: Program, final: Model) -> tuple[dict[str, float], dict[str, float], str]:
        """Error metrics of the worst output, dB by value, and the gate that was not kept ('' if all were)."""
        made = {n for launch in program.launches for n in launch.outputs}
        truth: dict[str, np.ndarray] = {}
        inside: dict[str, float] = {}
        evaluate(
            final,
            dict(self.inputs),
            ops.float64,
            on_value=lambda n, v: truth.update({n: np.asarray(v)}) if n in made else None,
        )

        def launched(kernel: Distinct, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            if kernel.name in self.lowered.host:
                names = [str(v.name) for v in kernel.alone.graph.inputs]
                return list(evaluate(kernel.alone, dict(zip(names, arrays, strict=True)), ops.source).values())
            tile = self.lowered.kernels[kernel.name].kernel.program
            return list(interpret.run(tile, [a.reshape(p.shape) for a, p in zip(arrays, tile.inputs, strict=True)]))

        launches = iter(program.launches)

        def watched(kernel: Distinct, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            results = launched(kernel, arrays)
            for name, got in zip(next(launches).outputs, results, strict=True):
                if name in truth and got.dtype.kind not in "iub":
                    inside[name] = distance(truth[name], np.asarray(got).reshape(truth[name].shape)).sqnr_db
            return results

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with single_thread():
                return kernels.run(program, inputs, launched)

        with single_thread():
            outputs = kernels.run(program, self.inputs, watched)
        missed, what = "", "the program's launches"
        try:
            worst = self._judged(outputs, what, run)
        except CheckFailed as e:
            missed, judge = _said(e, self.device), copy(self)
            judge.budgets = (Budget("sqnr_db", -float("inf")),)  # the figures without the gate
            worst = judge._judged(outputs, what, run)
        return worst, inside, missed


class Bench:
    """One model at fixed dims and one precision, ready to be tried on devices. `quick`: an estimate, nothing is run."""

    def __init__(
        self,
        model: Model,
        *,
        precision: str = "fp32",
        quick: bool = False,
        budgets: Sequence[Budget] = (),
        inputs: Mapping[str, np.ndarray] | None = None,
        cache: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if precision not in plans.PRECISIONS:
            raise PorterError("--precision", expected=f"one of {', '.join(plans.PRECISIONS)}", found=precision)
        self.model, self.precision, self.quick, self.budgets, self.cache = (
            model,
            precision,
            quick,
            tuple(budgets),
            cache,
        )
        self.progress = progress or (lambda *_: None)
        self.inputs = {} if quick else dict(inputs) if inputs is not None else check.draw(model)
        self._kept = Cache.open("tiles", no_cache=not cache)
        self._ported: dict[Any, tuple[pipeline.Result, Program]] = {}
        self._judge: _Layers | None = None
        stages = plans.pipeline(precision, (AT_THE_END,)).split(", ")
        cut = next(i for i, s in enumerate(stages) if s.split(".")[0].split("{")[0] in FIRST_OF_DEVICE)
        self._tail = ", ".join(stages[cut:])
        self.progress("passes", 0, 0)
        self._head = self._passes(model, ", ".join(stages[:cut]), None)
        typed = graph.clone(model)
        ops.infer(typed)
        self.decoder = recognize(typed)

    def _passes(self, model: Model, stages: str, device: Device | None) -> pipeline.Result:
        return pipeline.run(
            model, stages, device, checks=not self.quick, inputs=self.inputs or None, no_cache=not self.cache
        )

    def trial(self, device: Device) -> Trial:
        """The model on a device. A failed check is in the result, not an exception."""
        facts = _Read(device.facts)
        device = replace(device, facts=facts)
        target = target_of(device.family)
        self.progress(device.name, 0, 0)
        try:
            result, program = self._port(target, device)
            lowered, tiled = self._lower(program, target, device)
        except CheckFailed as e:
            return Trial(device, False, _said(e, device), self.decoder, failed=True)
        error, inside, missed = (None, {}, "") if self.quick else self._error(lowered, device, result, program)
        try:
            vendor = {} if self.quick else target.vendor_seconds(list(lowered.kernels.values()), device)
            rows = tuple(
                row_of(program, lowered, target, device, launch, inside, vendor) for launch in program.launches
            )
        except PorterError as e:  # a figure that nobody has published
            return Trial(device, False, f"its time cannot be estimated: {str(e).splitlines()[0]}", self.decoder)
        if rows and not any(row.bounds for row in rows):
            why = f"all of it falls to the host: {', '.join(dict.fromkeys(row.op for row in rows))}"
            return Trial(device, False, why, self.decoder)
        calls = Counter(launch.kernel for launch in program.launches)
        used = tuple(
            Used(
                n, program.kernels[n].op, e.language, calls[n], e.text, show(e.kernel.program), e.products, tiled.get(n)
            )
            for n, e in lowered.kernels.items()
        )
        caches = self.decoder.caches if self.decoder is not None else ()
        steps = tuple(s.json() for s in (*self._head.steps, *result.steps)) if not self.quick else ()
        assumed = tuple(p for p in facts.asked if facts.get(p).assumed)
        return Trial(
            device,
            True,
            "",
            self.decoder,
            rows,
            used,
            held(program, caches),
            _realized(rows) or self.precision,
            error,
            steps,
            assumed,
            missed=missed,
        )

    def _port(self, target: Target, device: Device) -> tuple[pipeline.Result, Program]:
        key = (
            device.family,
            target.limits(device),
            *(repr(sorted(device.section(s).items())) for s in ("layout", "formats")),
        )
        if key not in self._ported:
            result = self._passes(self._head.model, self._tail, device)
            self._ported[key] = (result, kernels.program_of(result.model))
        return self._ported[key]

    def _lower(self, program: Program, target: Target, device: Device) -> tuple[Lowered, dict[str, bool | None]]:
        """As `porting.lowering.lower`, but the check of the emitted text is left to a port."""
        limits, found, tiled = target.limits(device), Lowered(), dict[str, bool | None]()
        for kernel in program.kernels.values():
            if kernel.host or kernel.form is None:
                found.host[kernel.name] = kernel.host
                continue
            try:
                made = Kernel(kernel.name, tile_form(kernel.form, limits, name=kernel.name), kernel.meaning)
                found.kernels[kernel.name] = target.lower(made, device)
            except (Cut, CannotEmit) as e:
                found.host[kernel.name] = f"{device.name} cannot say it: {e}"
                continue
            if not self.quick:
                self.progress(f"{device.name} {kernel.name}", len(found.kernels), len(program.kernels))
                metric = self._checked(kernel, found.kernels[kernel.name].kernel.program)
                found.checks[kernel.name] = lowering.KernelCheck(True, metric)
                tiled[kernel.name] = True
        return found, tiled

    def _checked(self, kernel: Distinct, program: Any) -> dict[str, float]:
        key = hashlib.sha256(repr((lowering._sources(), show(program), str(kernel.meaning))).encode()).hexdigest()
        known = self._kept.get(key)
        if known is None:
            with single_thread():
                known = check_tile(kernel, program)[2]
            self._kept.put(key, known)
        return dict(known)

    def _error(
        self, lowered: Lowered, device: Device, result: pipeline.Result, program: Program
    ) -> tuple[dict[str, float], dict[str, float], str]:
        if self._judge is None:
            self._judge = _Layers(self.model, lowered, device, self.inputs, self.precision, self.budgets)
        judge = copy(self._judge)
        judge.lowered, judge.device = lowered, device
        self.progress(f"{device.name} end to end", 0, 0)
        return judge.seen(program, result.model)


def _said(failure: CheckFailed, device: Device) -> str:
    """Where and what was found, in a line; the device is said beside it."""
    where, *rest = (line.strip() for line in str(failure).splitlines())
    found = [line.removeprefix("found ") for line in rest if line.startswith("found ")] or rest[:1]
    return ": ".join([where.removeprefix(f"{device.name}: "), *found])


def _realized(rows: Sequence[Row]) -> str:
    """The products that the kernels ask for, that of the most operations first; '' where nothing is multiplied."""
    work: Counter[str] = Counter()
    for row in rows:
        for format in row.format.split(", ") if row.format else ():
            work[format] += row.flops
    return ", ".join(f for f, _ in work.most_common())


SHORT = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "float8_e4m3fn": "fp8 e4m3",
    "float8_e5m2": "fp8 e5m2",
}


def row_of(
    program: Program,
    lowered: Lowered,
    target: Target,
    device: Device,
    launch: Any,
    inside: Mapping[str, float],
    vendor: Mapping[str, float] | None = None,
) -> Row:
    """A launch as a line of the table. inside: decibels by value; vendor: the compiler's own seconds by kernel."""
    kernel = program.kernels[launch.kernel]
    seen = [inside[n] for n in launch.outputs if n in inside]
    error = min(seen) if seen else None
    layer = launch.source[-1] if launch.source else kernel.name
    if launch.kernel in lowered.host:
        why = lowered.host[launch.kernel]
        return Row(layer, launch.source, launch.outputs, kernel.name, kernel.op, "", {}, 0, 0, error, why)
    emitted = lowered.kernels[launch.kernel]
    tile = emitted.kernel.program
    counts = count(tile)
    bounds = dict(target.seconds(tile, device))
    expected = (vendor or {}).get(launch.kernel)
    if expected is not None:  # what bounds it is still the model's word: XLA gives a time only
        winner = max((b for b in bounds if b != "overhead"), key=bounds.__getitem__)
        bounds = {winner: expected, "overhead": bounds.get("overhead", 0.0)}
    dots = any(isinstance(s, Dot) for s in walk(tile.body))
    format = ", ".join(sorted({SHORT.get(p, p) for p in emitted.products or counts.products})) if dots else ""
    return Row(
        layer,
        launch.source,
        launch.outputs,
        kernel.name,
        kernel.op,
        format,
        bounds,
        counts.touched,
        counts.flops,
        error,
        origin="model" if expected is None else "vendor compiler",
    )
