"""The numeric method: two models on the same inputs, each against float64, judged by contract.

    verdict = compare(before, after, check.rounding)
    if not verdict.ok: print(verdict.message)

The truth is `before` in float64. `exact` compares both models bit by bit in their own dtypes, `algebraic` both in
float64; `rounding` and `precision` compare the errors of both against the truth (see `gate`). Only outputs decide; if
one fails, both models run once more and the first diverging tensor that both name is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from porter import graph, ops
from porter.check import gate, measure
from porter.check.contract import Contract, Kind
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, Subject, checked_inputs
from porter.check.inputs import Inputs, draw
from porter.check.matching import matches
from porter.check.verdict import Finding, Verdict, message
from porter.errors import PorterError
from porter.graph import Model, Value

DRAWS = 1  # by default; a failure that may be chance is asked again on MORE further draws
MORE = 3
SAMPLES = 2  # stochastic evaluations that say what error the formats must have
NEAREST = 1 / np.sqrt(2)  # from stochastic rounding to rounding to nearest

Sample = Mapping[str, np.ndarray]


def compare(
    before: Model | Subject,
    after: Model | Subject,
    contract: Contract,
    inputs: Sample | Sequence[Sample] | None = None,
    seed: int = 0,
    *,
    draws: int = DRAWS,
    subject: str = "",
    locate: bool = True,
) -> Verdict:
    """Hold `after` to its contract against `before`, on the given inputs or on valid draws from `seed` on.

    subject     who changed the model, for the message ("fusion.layernorm changed output 'logits'")
    locate      whether a failure looks for the first diverging tensor (two more evaluations of each model)

    Inputs that a model does not take, and models whose interfaces differ, raise PorterError.
    """
    old = before if isinstance(before, Subject) else Subject(before)
    new = after if isinstance(after, Subject) else Subject(after)
    pairs = matched_outputs(old.model, new.model)
    samples = _samples(old.model, inputs, seed, draws)
    errors = {b.name or "": gate.Errors() for b, _ in pairs}
    findings: list[Finding] = []
    failed: Sample | None = None
    extra = 0
    drawn = all(isinstance(sample, Inputs) for sample in samples)  # more of the user's own cannot be had
    while samples and failed is None:
        sample = samples.pop(0)
        here = _judge(old, new, sample, pairs, contract, errors, seed)
        bad = [f for f in here if not f.ok]
        if bad and drawn and extra < MORE and all(errors[f.tensor].after and errors[f.tensor].marginal for f in bad):
            # perhaps chance: the errors of further draws are judged together with these
            samples.append(draw(old.model, seed + 100 + extra))
            extra += 1
            continue
        findings = _worse(findings, here)
        failed = sample if bad else None
    first = locate_first(old, new, contract, failed, seed) if failed is not None and locate else None
    ok = failed is None
    return Verdict(ok, str(contract), tuple(findings), first, message(tuple(findings), first, subject))


def matched_outputs(before: Model, after: Model) -> list[tuple[Value, Value]]:
    """Outputs of both models, by name, else by position; PorterError where number, type or shape differ."""
    old, new = list(before.graph.outputs), list(after.graph.outputs)
    names = {v.name: v for v in new}
    if len(old) != len(new):
        raise PorterError("outputs of the two models", expected=_names(old), found=_names(new))
    pairs = (
        [(v, names[v.name]) for v in old] if names.keys() == {v.name for v in old} else list(zip(old, new, strict=True))
    )
    for a, b in pairs:
        x, y = (graph.dtype(a), graph.shape(a)), (graph.dtype(b), graph.shape(b))
        if x[0] != y[0] and None not in (x[0], y[0]):
            raise PorterError(f"output '{a.name}'", expected=f"dtype {x[0]}", found=f"dtype {y[0]}")
        if x[1] != y[1] and None not in (x[1], y[1]):
            raise PorterError(
                f"output '{a.name}'", expected=f"shape {list(x[1] or ())}", found=f"shape {list(y[1] or ())}"
            )
    return pairs


def _samples(model: Model, inputs: Sample | Sequence[Sample] | None, seed: int, draws: int) -> list[Sample]:
    if inputs is None:
        return [draw(model, seed + i) for i in range(draws)]
    given = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    checked: list[Sample] = []
    for sample in given:
        arrays = checked_inputs(model, sample)
        checked.append(sample if all(sample[k] is arrays[k] for k in arrays) else arrays)  # the label is kept
    return checked


def _judge(
    old: Subject,
    new: Subject,
    sample: Sample,
    pairs: list[tuple[Value, Value]],
    contract: Contract,
    errors: dict[str, gate.Errors],
    seed: int,
) -> list[Finding]:
    """Every output on one sample. The stochastic evaluations run only where the plain errors do not settle it."""
    theirs = renamed(old.model, new.model, sample)
    contract = replace(contract, budgets=gate.bound(contract.budgets, sample))
    wide = contract.kind is not Kind.EXACT
    truth = old.outputs(ops.float64, sample) if wide else {}
    before = old.outputs(SOURCE, sample) if contract.kind is not Kind.ALGEBRAIC else {}
    after = new.outputs(ops.float64 if contract.kind is Kind.ALGEBRAIC else SOURCE, theirs)
    truth = {name: reference(wide, before.get(name)) for name, wide in truth.items()}
    judged = {}
    for a, b in pairs:
        name = a.name or ""
        judged[name] = judge(contract, name, truth.get(name), before.get(name), after[b.name or ""], errors[name])
    if contract.kind in (Kind.ROUNDING, Kind.PRECISION) and not all(j.ok for j in judged.values()):
        given = list(sample.values()) if new.weights - old.weights else None
        for i in range(gate.samples(truth[n].size for n, j in judged.items() if not j.ok)):
            must = old.outputs(Dithered(seed + 1000 + i, contract.arithmetic, given), sample)
            for name in judged:
                if truth[name].dtype.kind == "f" and truth[name].shape == must[name].shape:
                    errors[name].add("must", truth[name], must[name], scale(contract))
        for a, b in pairs:
            name = a.name or ""
            if not judged[name].ok and truth[name].shape == after[b.name or ""].shape:
                judged[name] = settle(contract, name, truth[name], after[b.name or ""], errors[name])
    label = str(getattr(sample, "label", "the given inputs"))
    return [finding(a, judged[a.name or ""], label) for a, _ in pairs]


def reference(truth: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """What errors are measured against: the first model in float64, but where a shape hangs on a rounded number (how often
    a loop runs, how many boxes are kept), and float64 came to another, its own arithmetic."""
    if before is None or before.shape == truth.shape or truth.dtype.kind in "OUS":
        return truth
    return before.astype(truth.dtype)


def judge(
    contract: Contract,
    name: str,
    truth: np.ndarray | None,
    before: np.ndarray | None,
    after: np.ndarray,
    errors: gate.Errors,
) -> gate.Judged:
    """One tensor under its contract; errors are gathered for the three-way gate."""
    held = truth if truth is not None else before
    assert held is not None
    if held.shape != after.shape:
        shape = gate.Judged(False, measure.distance(np.zeros(0), np.zeros(0)))
        return gate.Judged(False, shape.distance, f"shape {list(held.shape)} became {list(after.shape)}")
    if held.dtype.kind in "OUS" or contract.kind is Kind.EXACT:
        return gate.exact(before if before is not None else held, after)
    assert truth is not None
    if contract.kind is Kind.ALGEBRAIC:
        return gate.algebraic(truth, after)
    assert before is not None
    errors.floor = max(errors.floor, gate.floor(truth, after.dtype))
    errors.add("after", truth, after)
    errors.add("before", truth, before)
    return settle(contract, name, truth, after, errors)


def settle(contract: Contract, name: str, truth: np.ndarray, after: np.ndarray, errors: gate.Errors) -> gate.Judged:
    """Budgets for `precision`, the three-way gate for `rounding`."""
    if contract.kind is not Kind.PRECISION:
        return errors.judge(truth, after)
    judged = gate.within(contract.budgets, name, truth, after)
    if contract.arithmetic is None or not judged.ok or truth.dtype.kind != "f":
        return judged
    three = errors.judge(truth, after)
    return replace(three, values=judged.values | three.values)


def scale(contract: Contract) -> float:
    """What an error under `Dithered` is taken times: operands are rounded to nearest there, all else stochastically."""
    return NEAREST if contract.arithmetic is None else 1.0


def finding(value: Value, judged: gate.Judged, inputs: str = "") -> Finding:
    """A judged tensor with the node and source layer that made it."""
    node = value.producer()
    name, operator = (graph.source_name(node), node.op_type) if node is not None else (f"input '{value.name}'", "input")
    return Finding(
        value.name or "", judged.ok, judged.distance, judged.limit, name, operator, inputs, values=judged.values
    )


def locate_first(old: Subject, new: Subject, contract: Contract, sample: Sample, seed: int = 0) -> Finding | None:
    """The first tensor in after's order that has a partner in before (see `matching`) and breaks the contract; None
    where only outputs do.
    """
    theirs = renamed(old.model, new.model, sample)
    pairs = {b: pair for b, pair in matches(old.model, new.model, sample, theirs).items() if not b.is_graph_output()}
    olds, news = {a.name or "" for a, _ in pairs.values()}, {b.name or "" for b in pairs}
    wide, algebra = contract.kind is not Kind.EXACT, contract.kind is Kind.ALGEBRAIC
    truths = old.values(ops.float64, sample, olds) if wide else {}
    plain = old.values(SOURCE, sample, olds) if not algebra else {}
    actual = new.values(ops.float64 if algebra else SOURCE, theirs, news)
    must: list[dict[str, np.ndarray]] = []
    local = _for_intermediates(contract)
    for value, (partner, how) in pairs.items():
        name, after = partner.name or "", actual.get(value.name or "")
        truth, before = truths.get(name), plain.get(name)
        if after is None or (truth is None and before is None):
            continue
        truth = None if truth is None else reference(truth, before)
        errors = gate.Errors()
        judged = judge(local, name, truth, before, after, errors)
        if not judged.ok and errors.after and truth is not None and truth.shape == after.shape:
            must = must or [
                old.values(Dithered(seed + 2000 + i, contract.arithmetic), sample, olds) for i in range(SAMPLES)
            ]
            for drawn in must:
                if truth.dtype.kind == "f" and name in drawn and truth.shape == drawn[name].shape:
                    errors.add("must", truth, drawn[name], scale(contract))
            judged = settle(local, name, truth, after, errors)
        if not judged.ok:
            return replace(finding(value, judged, str(getattr(sample, "label", "the given inputs"))), matched=how)
    return None


def _for_intermediates(contract: Contract) -> Contract:
    """What is asked of a tensor in the middle: of a named arithmetic its own error, else the budgets that mean
    something there (not those of logits)."""
    if contract.kind is not Kind.PRECISION:
        return contract
    if contract.arithmetic is not None:
        return Contract(Kind.ROUNDING, arithmetic=contract.arithmetic)
    general = (b for b in contract.budgets if b.metric in ("sqnr_db", "cosine", "max_rel") and b.measure is None)
    return Contract(Kind.PRECISION, tuple(replace(b, output=None) for b in general))


def renamed(before: Model, after: Model, sample: Sample) -> Sample:
    """The sample under after's input names, which are matched by position where they differ."""
    old = [v.name or "" for v in before.graph.inputs if not v.is_initializer()]
    new = [v.name or "" for v in after.graph.inputs if not v.is_initializer()]
    if set(old) == set(new):
        return sample
    if len(old) != len(new):
        raise PorterError("inputs of the two models", expected=", ".join(old), found=", ".join(new))
    return {b: sample[a] for a, b in zip(old, new, strict=True)}


def _worse(held: list[Finding], new: list[Finding]) -> list[Finding]:
    """Per output the finding that fails, else the one further away."""
    if not held:
        return new

    def badness(f: Finding) -> tuple[bool, float]:
        return not f.ok, -(f.distance.sqnr_db if f.distance is not None else 0.0)

    return [max(a, b, key=badness) for a, b in zip(held, new, strict=True)]


def _names(values: list[Value]) -> str:
    return ", ".join(v.name or "?" for v in values)
