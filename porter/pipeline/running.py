"""A pipeline run on a model: pass by pass, each watched, timed and recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from porter import graph, ops
from porter.check.ledger import Ledger, Seen, split
from porter.errors import PorterError
from porter.graph import Model, Node, source_name
from porter.pipeline.cache import Cache
from porter.pipeline.discovery import rules
from porter.pipeline.instruments import Check, Instrument, Save, claimed, verify, weaker
from porter.pipeline.passes import Pass
from porter.pipeline.text import Stage, parse
from porter.rewrite import Answer, Rewrite, find
from porter.rewrite import why as ask

#: the package that brings every model to one spelling before patterns are looked for
CLEANUP = "cleanup"


@dataclass(frozen=True)
class Step:
    """One pass that ran: what it claimed, what it changed, how far its regions (and the model, after a group) moved."""

    name: str
    contract: str
    status: str
    rewrites: int
    metric: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "contract": self.contract,
            "status": self.status,
            "rewrites": self.rewrites,
            "metric": self.metric,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True)
class Result:
    """The model after the pipeline, the steps in order, every rewrite by pass name, and what the error ledger is made
    of (see `check.ledger.split`), where the whole model was checked.
    """

    model: Model
    steps: tuple[Step, ...]
    rewrites: Mapping[str, tuple[Rewrite, ...]]
    seen: tuple[Seen, ...] = ()

    @property
    def ledger(self) -> Ledger:
        """The error of the result on the sample of the checks, by step; empty where nothing was checked."""
        return split(self.seen) if self.seen else Ledger()

    @property
    def changed(self) -> int:
        return sum(step.rewrites for step in self.steps)


def run(
    model: Model,
    pipeline: str | Sequence[Stage],
    device: Any = None,
    *,
    checks: bool = True,
    whole: bool = True,
    keep: str | Path | None = None,
    save: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    inputs: Mapping[str, np.ndarray] | None = None,
    no_cache: bool = False,
    instruments: Iterable[Instrument] = (),
    progress: Callable[[str, int, int], None] | None = None,
    roots: Iterable[str] = (),
) -> Result:
    """Runs the passes on a copy of the model.

    checks    hold each pass to its contract: every distinct rewrite alone, then (`whole`) the model against the
    original keep      folder for before.onnx, after.onnx and inputs.npz of a failed check save      folder for the
    model after every step limit     apply the first so many rewrites of each pass only inputs    what the whole model
    is compared on, instead of drawn inputs roots     further packages of passes

    Raises StepFailed when a contract is broken, PorterError for a word of the pipeline that is no pass.
    """
    stages = parse(pipeline, roots) if isinstance(pipeline, str) else tuple(pipeline)
    current = graph.clone(model)
    ops.infer(current)
    watchers: list[Instrument] = []
    if checks:
        cache = Cache.open("verdicts", no_cache=no_cache)
        watchers.append(Check(Path(keep) if keep else None, seed, cache, inputs, whole))
    if save is not None:
        watchers.append(Save(Path(save)))
    watchers += instruments
    for watcher in watchers:
        watcher.started(model)
    steps: list[Step] = []
    records: dict[str, tuple[Rewrite, ...]] = {}
    before = graph.clone(current)
    for number, stage in enumerate(stages):
        if progress is not None:
            progress(stage.name, number, len(stages))
        current, before, step, made = _step(stage, current, before, device, watchers, limit)
        records[stage.name] = records.get(stage.name, ()) + tuple(made)
        if number + 1 == len(stages) or stages[number + 1].group != stage.group:
            step = _grouped(stage.group, step, watchers)
        steps.append(step)
    for watcher in watchers:
        watcher.finished(current)
    return Result(current, tuple(steps), records, tuple(s for w in watchers if isinstance(w, Check) for s in w.steps))


def _step(
    stage: Stage, model: Model, before: Model, device: Any, watchers: Sequence[Instrument], limit: int | None
) -> tuple[Model, Model, Step, list[Rewrite]]:
    """One pass on the model; gives the model, a copy of it for later steps to look back at, and the record."""
    started = perf_counter()
    metric: dict[str, Any] = {}
    made: list[Rewrite] = []
    for rewrite in _changes(stage.work, model, device, limit):
        if isinstance(rewrite, Model):
            model = rewrite
            made.append(Rewrite(len(made) + 1, stage.name, (), ()))
            continue
        made.append(rewrite)
        for watcher in watchers:
            metric = _worst(metric, watcher.rewritten(stage, rewrite))
    after = before
    if made:
        verify(stage, model)
        after = graph.clone(model)
    for watcher in watchers:
        metric = _worst(metric, watcher.passed(stage, before, after, made))
    contract = stage.work.contract
    for rewrite in made:
        contract = weaker(contract, claimed(stage, rewrite))
    return model, after, Step(stage.name, str(contract), "ok", len(made), metric, perf_counter() - started), made


def _grouped(group: str, step: Step, watchers: Sequence[Instrument]) -> Step:
    started = perf_counter()
    metric = dict(step.metric)
    for watcher in watchers:
        found = watcher.grouped(group)
        if found:
            metric["accumulated"] = found
    return replace(step, metric=metric, seconds=step.seconds + perf_counter() - started)


def _changes(work: Pass, model: Model, device: Any, limit: int | None) -> Iterable[Rewrite | Model]:
    """What a pass changes, one by one, no more than the limit."""
    if limit is not None and limit <= 0:
        return
    result = work.run(model, device)
    if result is None:
        return
    if isinstance(result, Model):
        yield result
        return
    for count, rewrite in enumerate(result, 1):
        yield rewrite
        if limit is not None and count >= limit:
            return


#: metrics of which the larger is the better
_BETTER = {"sqnr_db", "cosine", "moved"}


def _worst(held: dict[str, Any], new: dict[str, Any] | None) -> dict[str, Any]:
    merged = dict(held)
    for name, value in (new or {}).items():
        merged[name] = (
            value if name not in merged else min(merged[name], value) if name in _BETTER else max(merged[name], value)
        )
    return merged


def why(
    model: Model, node: Node | str, passes: str | None = None, roots: Iterable[str] = ()
) -> list[tuple[str, Answer]]:
    """For each pass with rules (or those named), what each of its rules says of the node, nearest first.

    Passes outside `cleanup` are asked of the model after it, as in a port, unless the node is gone by then.
    PorterError where the model has no such node.
    """
    found = rules(roots)
    if passes is not None:
        wanted = {stage.name for stage in parse(passes, roots)}
        if not wanted & set(found):
            raise PorterError(f"passes '{passes}'", expected="passes with fusions or rewrites", found="none")
        found = {name: listed for name, listed in found.items() if name in wanted}
    clean, place = run(model, CLEANUP, checks=False).model, node if isinstance(node, str) else source_name(node)
    try:
        find(clean, place)
    except PorterError:
        find(model, place)
        clean = model
    answers = [
        (name, answer)
        for name, listed in found.items()
        for answer in ask(model if name.startswith(CLEANUP) else clean, place, listed)
    ]
    return sorted(answers, key=lambda pair: (not pair[1].fits, -pair[1].matched / pair[1].wanted))
