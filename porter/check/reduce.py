"""A failing pair of models shrunk to the few nodes that make them fail, as a folder that can be run.

    small = reduce(before, after)
    small.save("out/reduced")

The cut is made where the models say it themselves: the first tensor that both name and on which they disagree becomes
the only output, and tensors on which they still agree become inputs, with the values that they had. A second model with
names of its own is given those of the first (see `matching`). Where the fault
needs what lies before those (an error that only adds up), they are given back one by one, latest first. Then shapes
are made smaller (see `shrink`) for as long as the pair still fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter import graph
from porter.check.contract import Budget, Contract, Kind, rounding
from porter.check.execution import SOURCE, Subject, run
from porter.check.inputs import draw, edges
from porter.check.matching import matches
from porter.check.numeric import compare, matched_outputs, renamed
from porter.check.result import DRAWS, specials
from porter.check.shrink import shrink
from porter.check.verdict import Verdict
from porter.errors import PorterError
from porter.graph import Model

SHOWN = 5  # nodes a side that are shown as text
TRIES = 12  # cuts that are tried before the widest one is kept


@dataclass(frozen=True)
class Reduced:
    """Two models of a few nodes, inputs on which they fail, and how."""

    before: Model
    after: Model
    inputs: Mapping[str, np.ndarray]
    verdict: Verdict
    contract: Contract = rounding

    @property
    def nodes(self) -> tuple[int, int]:
        """How many nodes are left on either side, constants not counted."""
        before, after = (sum(n.op_type != "Constant" for n in m.graph) for m in (self.before, self.after))
        return before, after

    @property
    def rewrite(self) -> str:
        """What became of what, in ONNX text without types; '' where more is left than one can read."""
        sides = []
        for model in (self.before, self.after):
            nodes = [n for n in model.graph if n.op_type != "Constant"]
            if len(nodes) > SHOWN:
                return ""
            sides.append([graph.node_text(n) for n in nodes])
        one, two = ([line for line in a if line not in b] or a for a, b in (sides, sides[::-1]))
        return "; ".join(one) + "  became  " + "; ".join(two)

    def save(self, folder: str | Path) -> Path:
        """Write before.onnx, after.onnx, inputs.npz and the command that shows the fault; the folder is made."""
        at = Path(folder)
        at.mkdir(parents=True, exist_ok=True)
        graph.save(self.before, at / "before.onnx")
        graph.save(self.after, at / "after.onnx")
        np.savez(at / "inputs.npz", allow_pickle=False, **dict(self.inputs))
        (at / "README.txt").write_text(f"{self.verdict.message}\n\n{self.command}\n")
        return at

    @property
    def command(self) -> str:
        """What shows the fault, run in the folder."""
        budgets = "".join(f" --budget {_word(b)}" for b in self.contract.budgets)
        return f"porter check before.onnx after.onnx --method numeric --inputs inputs.npz{budgets}"


def reduce(
    before: Model,
    after: Model,
    contract: Contract = rounding,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Reduced:
    """The smallest pair found that still breaks the contract. PorterError where the models do not break it.

    Inputs that are not given are drawn: the first draw or edge on which the models differ. They are left as they are.
    """
    samples = (*(draw(before, seed + i) for i in range(DRAWS)), *edges(before)) if inputs is None else (inputs,)
    for sample in samples:
        whole = _compare(before, after, contract, sample, seed)
        if not whole.ok:
            break
    else:
        raise PorterError("a pair to reduce", expected="models that differ", found="models that agree on these inputs")
    aligned = _aligned(before, after, sample)
    if aligned is not after:
        after, whole = aligned, _compare(before, aligned, contract, sample, seed)
    failed = next(f for f in whole.outputs if not f.ok)
    target = whole.first_divergence.tensor if whole.first_divergence is not None else failed.tensor
    values = _recorded(before, after, sample)
    if target not in values:  # its shape or type changed: the output says the same, and can be compared
        target = failed.tensor
    shared = [n for n in _order(after) if n in values and n != target]
    upstream = shared[: _position(after, target)]
    cuts = upstream
    for _ in range(TRIES):
        small = _cut(before, after, target, cuts, sample, values, contract, seed)
        if not small.verdict.ok:
            return _smaller(small, seed)
        used = [n for n in upstream if n in small.inputs and n not in sample]
        if not used:
            break
        cuts = [n for n in cuts if n not in used]
    only = _cut(before, after, target, [], sample, values, contract, seed)
    return _smaller(only if not only.verdict.ok else Reduced(before, after, dict(sample), whole, contract), seed)


def _aligned(before: Model, after: Model, sample: Mapping[str, np.ndarray]) -> Model:
    """A copy of the second model that calls its values as the first calls those they stand for; itself where it does."""
    found = matches(before, after, sample, renamed(before, after, sample))
    pairs = {b.name or "": a.name or "" for b, (a, _) in found.items()}
    pairs |= {b.name or "": a.name or "" for a, b in matched_outputs(before, after)}
    old, new = ([v.name or "" for v in m.graph.inputs if not v.is_initializer()] for m in (before, after))
    if set(old) != set(new):
        pairs |= dict(zip(new, old, strict=True))
    taken = set(after.graph.initializers)
    pairs = {b: a for b, a in pairs.items() if b != a and b and a and a not in taken and b not in taken}
    if not pairs:
        return after
    copy = graph.clone(after)
    used = graph.names(copy.graph)
    named = {v.name or "": v for v in (*copy.graph.inputs, *(v for n in copy.graph for v in n.outputs))}
    for name in {*pairs, *(a for a in pairs.values() if a in named)}:  # out of the way first
        named[name].name = graph.fresh(f"{name}_its", used)
    for b, a in pairs.items():
        named[b].name = a
    return copy


def _smaller(pair: Reduced, seed: int) -> Reduced:
    """The pair with smaller shapes."""

    def fails(models: Sequence[Model], inputs: Mapping[str, np.ndarray]) -> bool:
        return not _compare(models[0], models[1], pair.contract, inputs, seed).ok

    (before, after), inputs = shrink((pair.before, pair.after), pair.inputs, fails)
    if before is pair.before:
        return pair
    return Reduced(before, after, inputs, _compare(before, after, pair.contract, inputs, seed), pair.contract)


def _word(budget: Budget) -> str:
    return f"{budget.output + ':' if budget.output else ''}{budget.metric}={budget.limit:g}"


def _cut(
    before: Model,
    after: Model,
    target: str,
    inputs: Sequence[str],
    sample: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    contract: Contract,
    seed: int,
) -> Reduced:
    one, two = (part(m, target, {n: values[n] for n in inputs}) for m in (before, after))
    names = {v.name or "" for m in (one, two) for v in m.graph.inputs if not v.is_initializer()}
    for m in (one, two):  # both take the same inputs, whether they read them or not
        held = {v.name for v in m.graph.inputs}
        for name in sorted(names - held):
            array = sample[name] if name in sample else values[name]
            m.graph.inputs.append(graph.new_value(name, array.dtype, array.shape))
    given = {name: sample[name] if name in sample else values[name] for name in sorted(names)}
    return Reduced(one, two, given, _compare(one, two, contract, given, seed), contract)


def _compare(before: Model, after: Model, contract: Contract, sample: Mapping[str, np.ndarray], seed: int) -> Verdict:
    """As `porter check` does it on one sample."""
    pair = Subject(before), Subject(after)
    verdict = compare(*pair, contract, sample, seed)
    return specials(*pair, sample, verdict) if verdict.ok and contract.kind is Kind.ROUNDING else verdict


def part(model: Model, target: str, inputs: Mapping[str, np.ndarray]) -> Model:
    """A copy that computes one value, with the named values as inputs, and nothing that is not needed for it."""
    copy = graph.clone(model)
    g = copy.graph
    named = {v.name: v for node in g for v in node.outputs}
    used = graph.names(g)
    for name, array in inputs.items():
        old = named[name]
        new = graph.new_value(None, array.dtype, array.shape)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = graph.fresh(f"{name}_cut", used), name
        g.inputs.append(new)
    output = named[target]
    g.outputs[:] = [output]
    for node in reversed(list(g)):
        if not any(v.uses() or v is output for v in node.outputs):
            g.remove(node, safe=True)
    for value in [v for v in g.inputs if not v.uses() and v is not output]:
        g.inputs.remove(value)
    for name in [name for name, v in g.initializers.items() if not v.uses()]:
        del g.initializers[name]
    return copy


def _recorded(before: Model, after: Model, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of before's own arithmetic that both models name, with one shape and type."""
    names = set(_order(before)) & set(_order(after))
    old, new = (run(model, dict(sample), SOURCE, want=names) for model in (before, after))
    return {n: x for n, x in old.items() if new[n].dtype == x.dtype and new[n].shape == x.shape}


def _order(model: Model) -> list[str]:
    """Computed values in order, constants left out."""
    return [v.name for node in model.graph if node.op_type != "Constant" for v in node.outputs if v.name]


def _position(model: Model, target: str) -> int:
    """How many of the values come before the target in the order of the model."""
    order = _order(model)
    return order.index(target) if target in order else len(order)
