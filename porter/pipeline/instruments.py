"""What watches a pipeline: passes work, these look. Each sees every rewrite and every step, and may stop the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porter import check, formats, graph, ops
from porter.check import Contract, Kind, Verdict, labels
from porter.check.execution import Subject
from porter.check.field import agree
from porter.check.ledger import OWN, Seen, seen
from porter.check.local import Local
from porter.check.verdict import Finding
from porter.errors import CheckFailed, PorterError
from porter.graph import Model, make_tensor
from porter.pipeline.cache import Cache, key
from porter.pipeline.failure import Evidence, StepFailed
from porter.pipeline.text import Stage
from porter.rewrite import Rewrite

_STRICTNESS = [Kind.EXACT, Kind.ALGEBRAIC, Kind.ROUNDING, Kind.PRECISION]


class Instrument:
    """Sees a pipeline at work. Every method may be left as it is; one that raises PorterError stops the run."""

    def started(self, model: Model) -> None:
        """Before the first pass; `model` is the original."""

    def rewritten(self, stage: Stage, rewrite: Rewrite) -> dict[str, Any] | None:
        """After one change; what it returns is added to the step's metric."""

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> dict[str, Any] | None:
        """After a pass, with copies of the model before and after; what it returns is added to the step's metric."""

    def grouped(self, group: str) -> dict[str, Any] | None:
        """After the last pass of one word of the pipeline; what it returns is added to the step's metric as
        `accumulated`.
        """

    def finished(self, model: Model) -> None:
        """After the last pass."""


@dataclass
class Save(Instrument):
    """Every step that changed something as a file: 01-cleanup.constants.onnx, ..."""

    folder: Path
    number: int = 0

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> None:
        self.number += 1
        if rewrites:
            self.folder.mkdir(parents=True, exist_ok=True)
            graph.save(after, self.folder / f"{self.number:02d}-{stage.name}.onnx")


@dataclass
class Check(Instrument):
    """Every distinct rewrite alone, by its pass' contract; then the whole model against the original, by the weakest
    so far.

    The whole model is run after each group of passes (one word of the pipeline); a group that fails is gone through
    again pass by pass, to name the one.
    """

    keep: Path | None = None
    seed: int = 0
    cache: Cache = field(default_factory=lambda: Cache(None))
    inputs: Mapping[str, np.ndarray] | None = None
    whole: bool = True
    steps: list[Seen] = field(
        default_factory=list
    )  # what the error ledger is made of: each group that changed something
    regions: int = 0
    distinct: int = 0
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _original: Subject | None = None
    _sample: Mapping[str, np.ndarray] = field(default_factory=dict)
    _claim: Contract = check.exact
    _pending: list[tuple[Stage, Model, Model, list[Rewrite], Contract]] = field(default_factory=list)

    def started(self, model: Model) -> None:
        self._original = Subject(model)
        if self.whole:
            self._sample = self.inputs if self.inputs is not None else check.draw(model, self.seed)

    def rewritten(self, stage: Stage, rewrite: Rewrite) -> dict[str, Any] | None:
        if rewrite.before is None or rewrite.after is None:
            return None
        if any(graph.shape(value) is None for value in rewrite.before.graph.inputs):
            return None  # its shapes depend on data: what the whole model computes says whether it is right
        self.regions += 1
        contract = claimed(stage, rewrite)
        kept = key(rewrite.key, contract, self.seed)
        if kept not in self._known:
            self.distinct += 1
            found = self.cache.get(kept)
            self._known[kept] = found if found is not None else self._region(stage, rewrite, contract)
            self.cache.put(kept, self._known[kept])
        return self._known[kept]

    def _region(self, stage: Stage, rewrite: Rewrite, contract: Contract) -> dict[str, Any]:
        assert rewrite.before is not None and rewrite.after is not None
        before = unrounded(rewrite.before, rewrite.exact) if contract.kind is Kind.ALGEBRAIC else rewrite.before
        sample = check.draw(rewrite.before, self.seed)
        verdict = check.compare(before, rewrite.after, contract, sample, subject=stage.name)
        if not verdict.ok:
            self._stop(stage, verdict, rewrite, Evidence(rewrite.before, rewrite.after, sample), contract)
        metric = verdict.metric
        if contract.kind is Kind.EXACT:
            metric["moved"] = self._moves(stage, rewrite.before, rewrite.after, rewrite, contract)
        for stored, exact in rewrite.folded:
            beyond = np.abs(stored.astype(np.float64) - exact) > formats.of(stored.dtype.name).ulp(exact) / 2
            if beyond.any():
                found = f"{int(beyond.sum())} of {beyond.size} stored elements are further off"
                where = f"{stage.name}: a constant folded at node {rewrite.place}"
                raise CheckFailed(where, expected="what its expression comes to, within half an ulp", found=found)
        if contract.kind is Kind.ALGEBRAIC or rewrite.meant is not None:
            agreement = agree(unrounded(rewrite.before, rewrite.exact), rewrite.meant or rewrite.after, seed=self.seed)
            metric["field_chance"] = agreement.chance  # of agreeing there although they differ; 1 where undecided
        return metric

    def _moves(self, stage: Stage, before: Model, after: Model, rewrite: Rewrite | None, contract: Contract) -> float:
        """1 where labels prove that every output comes from the same elements, 0 where they cannot say."""
        moved = labels.compare(before, after)
        if moved.same is False:
            at = Finding(moved.output, False, None, str(moved))
            verdict = Verdict(False, str(contract), (at,), decided_by="labels", message=str(moved))
            self._stop(stage, verdict, rewrite, Evidence(before, after, check.draw(before, self.seed)), contract)
        return float(bool(moved.same))

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> dict[str, Any] | None:
        if not rewrites:
            return None
        metric: dict[str, Any] = {}
        if self.whole and stage.work.contract.kind is Kind.EXACT and any(r.before is None for r in rewrites):
            # changes without a region (what nobody reads, equal nodes): the models are the same expressions
            same = Local(before, after, [self._sample]).identical()
            metric["moved"] = 1.0 if same else self._moves(stage, before, after, None, stage.work.contract)
        for rewrite in rewrites:
            self._claim = weaker(self._claim, claimed(stage, rewrite))
            if rewrite.exact:  # algebraic about constants that the original holds rounded
                self._claim = weaker(self._claim, check.rounding)
        if self.whole:
            self._pending.append((stage, before, after, rewrites, self._claim))
        return metric

    def finished(self, model: Model) -> None:
        self.cache.trim()
        if self.whole and not self.steps:
            self._first()

    def grouped(self, group: str) -> dict[str, Any] | None:
        """The model after the group against the original; where it fails, the first pass after which it does is
        named.
        """
        if not self._pending:
            return None
        assert self._original is not None
        stage, _, last, _, claim = self._pending[-1]
        after = Subject(last)
        verdict = check.compare(self._original, after, claim, self._sample, locate=False)
        if not verdict.ok:
            for stage, before, model, rewrites, claim in self._pending:
                verdict = check.compare(self._original, model, claim, self._sample, subject=stage.name)
                if not verdict.ok:
                    one = rewrites[0] if len(rewrites) == 1 else None
                    self._stop(stage, verdict, one, Evidence(before, model, self._sample), claim)
        self._seen(group, after, any(s.work.contract.kind is Kind.PRECISION for s, *_ in self._pending))
        self._pending.clear()
        return verdict.metric

    def _first(self) -> None:
        assert self._original is not None
        self.steps.append(seen(OWN, self._original, self._original, self._sample, seed=self.seed))

    def _seen(self, group: str, after: Subject, narrower: bool) -> None:
        assert self._original is not None
        if not self.steps:
            self._first()
        made = seen(group, self._original, after, self._sample, precision=narrower, seed=self.seed, last=self.steps[-1])
        self.steps.append(made)

    def _stop(
        self, stage: Stage, verdict: Verdict, rewrite: Rewrite | None, evidence: Evidence, contract: Contract
    ) -> None:
        kept = evidence.keep(self.keep) if self.keep is not None else None
        raise StepFailed(stage.name, verdict, rewrite=rewrite, kept=kept, stage=str(stage), contract=str(contract))


def verify(stage: Stage, model: Model) -> None:
    """Holds that a pass left a valid model, and finds the type and shape of every value. PorterError names the pass."""
    try:
        graph.validate(model)
        ops.infer(model)
    except PorterError as error:
        where = f"pass {stage.name} left a model that is not valid: {error.where}"
        raise PorterError(where, expected=error.expected, found=error.found, hint=error.hint) from error


def claimed(stage: Stage, rewrite: Rewrite) -> Contract:
    """What one change claims: its pass' contract, or `rounding` where it rounded a number to store it."""
    return weaker(stage.work.contract, check.rounding) if rewrite.rounds else stage.work.contract


def weaker(a: Contract, b: Contract) -> Contract:
    """The contract that two steps keep together; budgets of both hold."""
    if Kind.PRECISION in (a.kind, b.kind):
        return Contract(Kind.PRECISION, tuple(dict.fromkeys((*a.budgets, *b.budgets))))
    return max(a, b, key=lambda contract: _STRICTNESS.index(contract.kind))


def unrounded(model: Model, exact: Mapping[str, np.ndarray]) -> Model:
    """The region with its constants as the rule means them, in float64: what `algebraic` is about."""
    if not exact:
        return model
    made = graph.clone(model)
    for name, wanted in exact.items():
        value = made.graph.initializers[name]
        if value.dtype is not None and value.dtype.is_floating_point():
            value.const_value = make_tensor(np.asarray(wanted, np.float64), name=name)
    return made
