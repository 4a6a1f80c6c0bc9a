"""Regions of two models that are numbered by expressions: what computes a value of each from what both have.

one = region_of(side, value, others)
Pair(one, two, inputs).key()        equal for equal pairs, wherever they stand
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import formats, graph
from porter.check import measure
from porter.check.execution import SOURCE, run
from porter.check.expressions import Expressions
from porter.check.measure import is_float
from porter.graph import Model, Node, Value

Sample = Mapping[str, np.ndarray]
LARGEST = 400  # nodes of a region that is worth deciding by itself
ULPS = 4  # of its rms by which two that compute one constant may be apart


@dataclass(frozen=True)
class Region:
    """What computes one value from values that both models have, as nodes of one side.

    `reads` are the values that it starts from, constants among them, in order of first use.
    """

    side: Expressions
    target: Value
    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]

    @property
    def varying(self) -> frozenset[str]:
        """The digests of what it reads and an input moves."""
        return frozenset(self.side.of[v] for v in self.reads if v in self.side.dependent)

    def digest(self, labels: Mapping[str, str]) -> str:
        """What is computed, from inputs that go by labels: equal for equal regions wherever they stand."""
        of = {v: labels.get(self.side.of[v], self.side.of[v]) for v in self.reads}
        for node in self.nodes:
            of.update(zip(node.outputs, self.side.expression(node, of), strict=True))
        return of[self.target]


@dataclass(frozen=True)
class Pair:
    """A value of the first model and its partner, each with its region, and the inputs that the two share.

    inputs    digest -> (label, shape, dtype) of what varies; weights of both among them where `lifted`
    """

    before: Region
    after: Region
    inputs: Mapping[str, tuple[str, tuple[int, ...], np.dtype]]

    def key(self) -> str:
        labels = {d: label for d, (label, _, _) in self.inputs.items()}
        return repr([self.before.digest(labels), self.after.digest(labels), list(self.inputs.values())])

    def arrays(self, region: Region, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by digest under the names that a side has for them."""
        return {v.name or "": values[region.side.of[v]] for v in region.reads if region.side.of[v] in values}


def region_of(
    side: Expressions, target: Value, shared: Mapping[str, Value], through: Collection[str] = ()
) -> Region | None:
    """From the target back to what both models have, past what is in `through`; None where it is large, or the
    target itself is shared."""
    nodes, reads, seen = set[Node](), dict[Value, None](), {target}
    pending = [target]
    while pending:
        node = pending.pop().producer()
        if node is None or len(nodes) > LARGEST:
            return None
        nodes.add(node)
        for value in (*node.inputs, *graph.captured(node)):
            if value is None or value in seen:
                continue
            seen.add(value)
            digest = side.of[value]
            stops = digest in shared and digest not in through
            if value not in side.dependent or value.producer() is None or stops:
                reads[value] = None
            else:
                pending.append(value)
    ordered = sorted(nodes, key=side.position.__getitem__)
    used = dict.fromkeys(v for n in ordered for v in (*n.inputs, *graph.captured(n)) if v in reads)
    return Region(side, target, tuple(ordered), tuple(used))


def rounded_otherwise(before: tuple[Region, Sample], after: tuple[Region, Sample]) -> str:
    """The name of a float constant of the second that stands where the first has one that is nearly the same; empty
    where they differ in more."""
    own = [{r.side.of[v]: v for v in r.reads if v not in r.side.dependent} for r, _ in (before, after)]
    arrays = []
    for (region, sample), constants, other in ((before, own[0], own[1]), (after, own[1], own[0])):
        names = [v.name or "" for digest, v in constants.items() if digest not in other]
        values = run(region.side.ready, dict(sample), SOURCE, want=names) if names else {}
        arrays.append([(n, np.asarray(values[n])) for n in names if is_float(np.asarray(values[n]).dtype)])
    if not arrays[1] or len(arrays[0]) != len(arrays[1]):
        return ""
    for (_, x), (_, y) in zip(*arrays, strict=True):
        if x.dtype != y.dtype or x.shape != y.shape:
            return ""
        slack = ULPS * formats.of(x.dtype.name).ulp(measure.rms(x.astype(np.float64)))
        if not (measure.difference(x, y) <= slack).all():
            return ""
    return arrays[1][0][0]


def types_in_a_run(model: Model, sample: Sample) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and types of named values as they come out."""
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def keep(name: str, array: Any) -> None:
        if isinstance(array, np.ndarray | np.generic):
            found[name] = (tuple(array.shape), array.dtype)

    run(model, dict(sample), SOURCE, on_value=keep)
    return found


def computed_constants(
    region: Region, sample: Sample, given: Collection[str] = (), xp: Any = SOURCE
) -> dict[str, np.ndarray]:
    """Constants that the region reads and that nodes compute, but those that are given, by digest."""
    side, shapes = region.side, region.side.shapes
    constants = (v for v in region.reads if v not in side.dependent and side.of[v] not in given)
    names = {v.name or "" for v in constants if graph.constant_tensor(v) is None}
    made = run(side.ready, dict(sample), xp, want=names - shapes.keys()) if names - shapes.keys() else {}
    return made | {n: shapes[n] for n in names & shapes.keys()}
