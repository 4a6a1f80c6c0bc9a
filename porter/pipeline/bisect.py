"""The first step of a pipeline that breaks its contract, and the first rewrite of that step.

    found = bisect_passes(model, "cleanup, fusion, layout")
    found.step, found.rewrite

Steps are tried in order, each against the original by the weakest claim made so far; nothing is assumed of those after
the first bad one. The step is then replayed with a growing limit (1, 2, 4, ...) until it fails, and the gap to the last
limit that passed is halved: the rewrite that is named is one before which the model keeps the contract and after which
it does not. A rewrite that shows its region is also checked alone, by the stricter contract of its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porter import check, graph, ops
from porter.check import Contract, Verdict
from porter.check.execution import Subject
from porter.errors import PorterError
from porter.graph import Model
from porter.pipeline.failure import Evidence, StepFailed
from porter.pipeline.instruments import Check, Instrument, claimed, weaker
from porter.pipeline.running import run
from porter.pipeline.text import Stage, parse
from porter.rewrite import Rewrite

Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Bisected:
    """What was found. `step` is None where every step keeps its contract; `good` are the steps that do.

    verdict     of the whole model after the bad step, None where the step left no valid model
    rewrite     the first bad rewrite, None where the step is one change, or where a replay does not show the fault
    evidence    the models around the bad rewrite (or step) and the inputs
    message     lines for people
    """

    good: tuple[str, ...]
    step: str | None = None
    contract: str = ""
    rewrites: int = 0
    rewrite: Rewrite | None = None
    verdict: Verdict | None = None
    evidence: Evidence | None = None
    message: str = ""

    def json(self) -> dict[str, Any]:
        """The document of `porter bisect --json`."""
        r, first = self.rewrite, None
        if self.verdict is not None and self.verdict.worst is not None:
            first = (self.verdict.first_divergence or self.verdict.worst).json()
        named = None if r is None else {"number": r.number, "rule": r.rule, "node": r.place, "nodes": list(r.sources)}
        bad = {"step": self.step, "contract": self.contract, "rewrites": self.rewrites, "rewrite": named}
        bad |= {"first_divergence": first, "message": self.message}
        return {"verdict": "bad" if self.step else "good", "good": list(self.good), "bad": bad if self.step else None}


def bisect_passes(
    model: Model,
    pipeline: str | Sequence[Stage],
    device: Any = None,
    *,
    inputs: Sample | None = None,
    seed: int = 0,
    roots: Iterable[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Bisected:
    """Runs the pipeline; after each step holds the model to the original. PorterError for a word that is no pass."""
    stages = parse(pipeline, roots) if isinstance(pipeline, str) else tuple(pipeline)
    watch = _Watch(model, inputs if inputs is not None else check.draw(model, seed), seed)
    try:
        run(model, stages, device, checks=False, instruments=[Check(seed=seed, whole=False), watch], progress=progress)
    except _Broken as broken:
        return _replayed(watch, broken, device)
    except StepFailed as failed:
        return _alone(watch, failed, seed)
    except PorterError as error:
        # a pass that raises, or that leaves no valid model, is the first bad step as much as one that computes wrongly
        if len(watch.done) == len(stages):
            raise
        return _replayed(watch, _Broken(stages[len(watch.done)], watch.last, None, [], None, str(error)), device)
    return Bisected(tuple(_name(s) for s in watch.done))


def bisect_folder(
    folder: Path,
    original: Model | None = None,
    contract: Contract | None = None,
    *,
    inputs: Sample | None = None,
    seed: int = 0,
    roots: Iterable[str] = (),
    device: Any = None,
) -> Bisected:
    """Saved steps (01-cleanup.constants.onnx, ...) in the order of their names, against `original` or the first.

    A step named after a pass is held to what the pass claims, and replayed from the step before it; one that is not is
    held to `contract`, or to `rounding`. PorterError where there are fewer than two models to compare.
    """
    files = sorted(folder.glob("*.onnx"))
    if len(files) + (original is not None) < 2:
        found = f"{len(files)} model{'' if len(files) == 1 else 's'}"
        raise PorterError(
            f"steps in {folder}", expected="two .onnx files or more", found=found, hint="--save-steps DIR"
        )
    if original is None:
        original, files = graph.load(files[0]), files[1:]
    watch = _Watch(original, inputs if inputs is not None else check.draw(original, seed), seed)
    for file in files:
        name = file.stem.partition("-")[2] if file.stem.partition("-")[0].isdigit() else file.stem
        stage = _stage(name, tuple(roots))
        claim = contract or (stage.work.contract if stage is not None else check.rounding)
        try:
            after = graph.load(file)
            watch.hold(stage or name, after, [], weaker(claim, check.rounding) if contract is None else claim)
        except _Broken as broken:
            return _replayed(watch, broken, device)
        except PorterError as error:
            return _replayed(watch, _Broken(stage or name, watch.last, None, [], None, str(error)), device)
    return Bisected(tuple(_name(s) for s in watch.done))


@dataclass
class _Watch(Instrument):
    """Holds the model after each step to the original."""

    original: Model
    sample: Sample
    seed: int
    claim: Contract = check.exact
    done: list[Stage | str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subject = Subject(self.original)
        self.last = graph.clone(self.original)
        ops.infer(self.last)

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> None:
        claim = self.claim
        for rewrite in rewrites:
            claim = weaker(claim, claimed(stage, rewrite))
            if rewrite.exact:  # algebraic about constants that the original holds rounded
                claim = weaker(claim, check.rounding)
        if rewrites:
            self.hold(stage, after, rewrites, claim)
        else:
            self.done.append(stage)

    def hold(self, stage: Stage | str, after: Model, rewrites: list[Rewrite], claim: Contract) -> None:
        claim = weaker(self.claim, claim)
        verdict = self.compare(after, claim, _name(stage))
        if not verdict.ok:
            raise _Broken(stage, self.last, after, rewrites, verdict, verdict.message, claim)
        self.claim, self.last = claim, graph.clone(after)
        self.done.append(stage)

    def compare(self, after: Model, claim: Contract, subject: str = "", locate: bool = True) -> Verdict:
        return check.compare(self.subject, after, claim, self.sample, self.seed, subject=subject, locate=locate)


class _Broken(Exception):
    """A step after which the model is not what it was."""

    def __init__(self, stage: Stage | str, before: Model, after: Model | None, rewrites: list[Rewrite],
                 verdict: Verdict | None, message: str, claim: Contract = check.rounding) -> None:  # fmt: skip
        super().__init__(message)
        self.stage, self.before, self.after, self.rewrites = stage, before, after, rewrites
        self.verdict, self.message, self.claim = verdict, message, claim


def _alone(watch: _Watch, failed: StepFailed, seed: int) -> Bisected:
    """A rewrite that fails on its own region, named by the check of that region."""
    r = failed.rewrite
    assert r is not None and r.before is not None and r.after is not None
    evidence = Evidence(r.before, r.after, check.draw(r.before, seed))
    good = tuple(_name(s) for s in watch.done)
    return Bisected(good, failed.step, failed.contract, r.number, r, failed.verdict, evidence, str(failed))


def _replayed(watch: _Watch, broken: _Broken, device: Any) -> Bisected:
    """The bad rewrite of a bad step, where the step is made of rewrites."""
    stage, name = broken.stage, _name(broken.stage)
    found = Bisected(tuple(_name(s) for s in watch.done), name, str(broken.claim), len(broken.rewrites), None,
                     broken.verdict, _evidence(broken.before, broken.after, watch), broken.message)  # fmt: skip
    if not isinstance(stage, Stage):
        return found
    tries = _Replay(stage, broken.before, device, watch, broken.claim)
    good, bad, limit = 0, 0, 1
    while not bad:
        kept, count = tries.keeps(limit)
        if not kept:
            bad = min(limit, count) if count else 1
        elif count < limit:  # every rewrite replayed and nothing wrong: the fault is not in what this pass does now
            return found
        else:
            good, limit = limit, 2 * limit
    while bad - good > 1:
        middle = (good + bad) // 2
        if tries.keeps(middle)[0]:
            good = middle
        else:
            bad = middle
    before, _, _ = tries.at(good)
    after, made, error = tries.at(bad)
    rewrite = made[-1] if len(made) >= bad else None
    verdict = watch.compare(after, broken.claim, name) if after is not None else broken.verdict
    lines = [verdict.message if after is not None and verdict is not None else error or broken.message]
    if rewrite is not None:
        lines.append(f"  first bad rewrite is number {rewrite.number}, {rewrite.rule} at node {rewrite.place}")
    return Bisected(found.good, name, found.contract, max(found.rewrites, len(made)), rewrite, verdict,
                    _evidence(before or broken.before, after, watch), "\n".join(lines))  # fmt: skip


@dataclass
class _Replay:
    """One step again, from the model before it, cut short."""

    stage: Stage
    before: Model
    device: Any
    watch: _Watch
    claim: Contract

    def at(self, limit: int) -> tuple[Model | None, list[Rewrite], str]:
        """The model after so many rewrites, what they were, and why there is no valid model."""
        if limit == 0:
            return self.before, [], ""
        seen = _Seen()
        try:
            run(self.before, [self.stage], self.device, checks=False, limit=limit, instruments=[seen])
        except PorterError as error:
            return None, seen.rewrites, str(error)
        return seen.after or self.before, seen.rewrites, ""

    def keeps(self, limit: int) -> tuple[bool, int]:
        """Whether the contract holds after so many rewrites, and how many there were."""
        after, made, _ = self.at(limit)
        if after is None:
            return False, len(made)
        return self.watch.compare(after, self.claim, locate=False).ok, len(made)


@dataclass
class _Seen(Instrument):
    """What a step did."""

    after: Model | None = None
    rewrites: list[Rewrite] = field(default_factory=list)

    def rewritten(self, stage: Stage, rewrite: Rewrite) -> None:
        self.rewrites.append(rewrite)

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> None:
        self.after, self.rewrites = after, list(rewrites)


def _evidence(before: Model, after: Model | None, watch: _Watch) -> Evidence | None:
    return Evidence(before, after, watch.sample) if after is not None else None


def _stage(name: str, roots: tuple[str, ...]) -> Stage | None:
    try:
        stages = parse(name, roots)
    except PorterError:
        return None
    return stages[0] if len(stages) == 1 else None


def _name(stage: Stage | str) -> str:
    return stage.name if isinstance(stage, Stage) else stage
