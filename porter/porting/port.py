"""`port`: a model to one bundle per target, every step checked; what it returns is the JSON document of the command."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from porter import check, graph, pipeline
from porter.bundle.folder import staging
from porter.check import Budget
from porter.check.execution import checked_inputs
from porter.device import Device
from porter.errors import CheckFailed, PorterError
from porter.graph import Model
from porter.pipeline.cache import Cache
from porter.porting import assemble, endtoend, lowering
from porter.porting.kernels import Program, program_of
from porter.porting.lowering import Lowered
from porter.precision import contract, plans
from porter.precision.calibrate import Samples, kept, shown
from porter.tile.target import target_of

PIPELINES = {name: plans.pipeline(name) for name in plans.PRECISIONS}
Progress = Callable[[str, int, int], None]


@dataclass
class Found:
    """What one target's port was made of, for who wants to show it: filled in as far as the port came."""

    device: Device
    model: Model
    sample: Mapping[str, np.ndarray]
    final: Model | None = None
    program: Program | None = None
    lowered: Lowered | None = None
    audit: list[Any] = field(default_factory=list)  # rows of porter.precision.audit, where a narrow format was asked


@dataclass
class TargetReport:
    """One target's part of the document (design section 5)."""

    target: str
    status: str = "ok"
    bundle: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, Any] = field(default_factory=dict)
    end_to_end: dict[str, Any] = field(default_factory=dict)
    toolchain: dict[str, Any] | None = None
    estimate: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)  # what the checks ran on, and why
    coverage: list[dict[str, Any]] = field(default_factory=list)  # what the checks of each kernel covered
    ledger: list[dict[str, Any]] = field(default_factory=list)  # the final error, by step and output
    #: of --precision auto: predicted seconds, bf16's, the bound, the metric in the graph
    search: dict[str, Any] | None = None
    message: str = ""
    unchecked: str = ""  # what could not be checked here, and the extra that would
    found: Found | None = None  # with details=True

    def step(
        self, name: str, contract: str, metric: dict[str, Any], began: float, rewrites: int = 0, status: str = "ok"
    ) -> None:
        seconds = round(time.perf_counter() - began, 4)
        self.steps.append(
            {
                "name": name,
                "contract": contract,
                "status": status,
                "rewrites": rewrites,
                "metric": metric,
                "seconds": seconds,
            }
        )

    def json(self) -> dict[str, Any]:
        document = {
            k: getattr(self, k)
            for k in (
                "target",
                "status",
                "bundle",
                "steps",
                "kernels",
                "end_to_end",
                "toolchain",
                "estimate",
                "inputs",
                "coverage",
                "ledger",
            )
        }
        return {
            **document,
            **({"search": self.search} if self.search else {}),
            **({"message": self.message} if self.message else {}),
            **({"unchecked": self.unchecked} if self.unchecked else {}),
        }


@dataclass
class PortResult:
    """What a port did: the document, and the exit code that it means."""

    model: str
    dims: dict[str, int]
    targets: list[TargetReport]
    precision: str = "fp32"

    @property
    def exit_code(self) -> int:
        """0 all done and checked, 1 a check failed, 3 something could not be checked."""
        if any(t.status != "ok" for t in self.targets):
            return 1
        return 3 if any(t.unchecked for t in self.targets) else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dims": self.dims,
            "precision": self.precision,
            "targets": [t.json() for t in self.targets],
        }


@dataclass(frozen=True)
class Options:
    """What the user asked for, the same for every target."""

    precision: str = "fp32"
    budgets: tuple[Budget, ...] = ()
    inputs: Mapping[str, np.ndarray] | None = None
    emulate: bool = False
    save_steps: bool = False
    force: bool = False
    cache: bool = True
    calibrate: Samples = ""
    details: bool = False
    methods: Mapping[str, str] = field(default_factory=dict)


def port(
    model: Path | str, *, targets: Sequence[Device], out: Path | str, dims: Mapping[str, int] | None = None,
    precision: str = "fp32", budgets: Sequence[Budget] = (), inputs: Mapping[str, np.ndarray] | None = None,
    emulate: bool = False, save_steps: bool = False, force: bool = False, cache: bool = True, calibrate: Samples = "",
    progress: Progress | None = None, details: bool = False, methods: Mapping[str, str] | str = "",
) -> PortResult:  # fmt: skip
    """Port a model to each device. Raises PorterError for bad input and for
    outputs that are no tensors; a failed check is in the result, not an exception.

    `details` keeps what each port was made of, in `TargetReport.found`.
    """
    plans.known(precision)
    methods = contract.methods(methods)
    path, out = Path(model), Path(out)
    assemble.check_destination(out, force)
    loaded = graph.load(path, dims or {})
    for value in loaded.graph.outputs:
        if isinstance(value.type, graph.SequenceType | graph.OptionalType):
            raise PorterError(
                f"output '{value.name}'", expected="a tensor", found="a sequence or an optional, which no bundle gives",
                hint="end the model with ConcatFromSequence or SequenceAt",
            )  # fmt: skip
    if inputs is not None:
        inputs = checked_inputs(loaded, inputs)
    identity = hashlib.sha256(path.read_bytes()).hexdigest()
    bound = {d: int(n) for d, n in (dims or {}).items()}
    say = progress or (lambda *_: None)
    with TemporaryDirectory() as folder, shown(say):
        if not isinstance(calibrate, str | list | tuple):
            calibrate = kept(calibrate, Path(folder))
        options = Options(
            precision, tuple(budgets), inputs, emulate, save_steps, force, cache, calibrate, details, methods
        )
        reports = _port_all(loaded, identity, path, bound, targets, out, options, say)
    return PortResult(str(path), bound, reports, precision)


def _port_all(
    model: Model, identity: str, path: Path, dims: dict[str, int], targets: Sequence[Device], out: Path, options: Options,
    progress: Progress,
) -> list[TargetReport]:  # fmt: skip
    """One target to the folder itself, several to a folder each inside it, which appears when all are done."""
    if len(targets) == 1:
        work = partial(_port_one, model, identity, path, dims, targets[0], out, out, options, progress=progress)
        return [_reported(targets[0], work)]
    reports: list[TargetReport] = []
    with contextlib.suppress(_Nothing), staging(out, options.force) as folder:
        for device in targets:
            place = folder / device.slug
            evidence = out.with_name(f"{out.name}-{device.slug}")
            work = partial(_port_one, model, identity, path, dims, device, place, evidence, options, progress=progress)
            report = _reported(device, work)
            report.bundle = str(out / device.slug) if report.bundle else None
            reports.append(report)
        if not any(r.bundle for r in reports):
            raise _Nothing
    return reports


class _Nothing(Exception):
    """No target has a bundle: the folder of bundles is not made."""


def _reported(device: Device, work: Callable[[TargetReport], None]) -> TargetReport:
    """The report of one target; a failed check is in it."""
    report = TargetReport(device.name)
    try:
        work(report)
    except CheckFailed as e:
        report.status, report.message = "failed", str(e)
    return report


def _port_one(
    model: Model, identity: str, path: Path, dims: dict[str, int], device: Device, out: Path, evidence: Path, options: Options,
    report: TargetReport, progress: Progress,
) -> None:  # fmt: skip
    target = target_of(device.family)
    sample = dict(options.inputs) if options.inputs is not None else check.draw(model)
    report.inputs = check.described(sample)
    kept = evidence.with_name(f"{evidence.name}-failed")
    found = Found(device, model, sample)
    report.found = found if options.details else None
    plan = plans.plan(
        options.precision, options.budgets, model, device, sample, options.calibrate, progress, options.methods
    )
    report.search = plan.found.json() if plan.found is not None else None
    result = pipeline.run(
        model, plan.stages, device, keep=kept, save=evidence.with_name(f"{evidence.name}-steps") if options.save_steps else None,
        no_cache=not options.cache, inputs=sample, progress=lambda name, n, of: progress(f"{device.name} {name}", n, of),
    )  # fmt: skip
    report.steps += [s.json() for s in result.steps]

    began = time.perf_counter()
    program = program_of(result.model)
    found.final, found.program = result.model, program
    cache = Cache.open("kernels", no_cache=not options.cache)
    lowered = lowering.emit(program, target, device)
    found.lowered = lowered
    report.kernels = lowered.json(program)
    # the toolchain works in processes of its own: it compiles while the checks run here
    pool = ThreadPoolExecutor(1)
    try:
        built = pool.submit(lowering.build, result.model, program, lowered, target, device)
        lowering.check(
            program, lowered, target, device, cache, lambda name, n, of: progress(f"{device.name} {name}", n, of)
        )
        report.kernels, report.coverage = lowered.json(program), lowered.coverage(program)
        report.step("kernels", "rounding", lowered.metric(), began, rewrites=len(lowered.kernels))
        began = time.perf_counter()
        report.toolchain, report.unchecked = built.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if report.toolchain is not None:
        report.step("toolchain", "exact", {k: report.toolchain[k] for k in ("compiled", "failed")}, began)
    if (refused := lowering.refused(lowered)) is not None:
        raise CheckFailed(f"{device.name}: the toolchain refuses kernel {refused.name}", found=refused.message)

    if plan.formats is not None:
        began = time.perf_counter()
        pair = plans.narrowed(plan, model, device)
        launches = lowering.products(program, lowered)
        report.step("audit", "exact", plans.audited(plan, pair, device, result.model, launches, found.audit), began)
        began = time.perf_counter()
        report.step("format_errors", "precision", plans.explained(plan, pair, device, sample), began)

    began = time.perf_counter()
    judge = endtoend.Judge(
        model, lowered, device, sample, options.precision, options.budgets or plan.budgets, plan.floor
    )
    report.end_to_end = judge.program(program, target, emulate=options.emulate)
    report.step("end_to_end", "precision" if options.precision != "fp32" else "rounding", report.end_to_end, began)
    report.ledger = judge.ledger(result.seen)
    if lowered.whole is not None:
        began = time.perf_counter()
        report.step(
            "whole_program",
            "precision" if options.precision != "fp32" else "rounding",
            judge.whole(lowered.whole),
            began,
        )

    report.estimate = lowering.estimate(program, lowered, target, device)
    assemble.write(
        out,
        model,
        result.model,
        identity,
        path,
        dims,
        device,
        program,
        lowered,
        report,
        "precision.toml" if plan.name not in plans.PRECISIONS else options.precision,
        options.force,
        {"precision.toml": plan.formats.text()} if plan.formats is not None else {},
    )
    report.bundle = str(out)
