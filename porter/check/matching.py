"""Which value of one model stands for which of another: by name, by expression, by provenance, by value, by place.

    for value, (partner, how) in matches(before, after, sample).items(): ...

A tool that keeps names gives all of it at once. Where names are new, equal expressions are equal values; nodes of one
source name and operator, with results of one shape, are the same layer; values that agree on an input to six digits, and
are the only ones of their shape that do, are the same too. Behind a fault nothing agrees any more: there a node whose
inputs have partners stands where the first model has a node of the same operator with those inputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from porter import graph, ops
from porter.check.execution import run
from porter.check.expressions import Expressions
from porter.graph import Model, Node, Value

ALIKE = 1e-6  # of the size of a value: rounding in float64 is far below, another value far above
LOOKS = 3  # random sums that a value is known by

Partner = tuple[Value, str]


def matches(
    before: Model, after: Model, sample: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[Value, Partner]:
    """Computed values of `after`, in order, each with its partner in `before` and how it was found. `theirs` is the
    sample under after's names.
    """
    named = {v.name: v for v in computed(before)}
    found: dict[Value, Partner] = {v: (named[v.name], "name") for v in computed(after) if v.name in named}
    taken = {a for a, _ in found.values()}

    def add(b: Value, a: Value, how: str) -> None:
        if b not in found and a not in taken:
            found[b] = (a, how)
            taken.add(a)

    if any(v not in found for v in computed(after)):
        back = {x: y for x, y in zip(_inputs(after), _inputs(before), strict=True) if set(theirs) != set(sample)}
        one, two = Expressions(before, sample).all(), Expressions(after, theirs, back).all()
        for b in computed(after):
            if two.of.get(b) in one.first:
                add(b, one.first[two.of[b]], "expression")
        for b, a in of_one_source(before, after):
            add(b, a, "provenance")
        for b, a in of_one_value(before, after, sample, theirs, set(found), taken):
            add(b, a, "value")
    for b, a in _in_one_place(before, after, found):
        add(b, a, "place")
    return {v: found[v] for v in computed(after) if v in found}


def computed(model: Model) -> list[Value]:
    """Values that nodes compute, in order."""
    nodes: list[Node] = list(model.graph)
    return [v for node in nodes for v in node.outputs if v.name and node.op_type != "Constant"]


def _inputs(model: Model) -> list[str]:
    return [v.name or "" for v in model.graph.inputs if not v.is_initializer()]


def of_one_source(before: Model, after: Model) -> list[tuple[Value, Value]]:
    """Results of nodes of one source name, operator and shape: of the last such, which is the layer's result."""
    last = [
        {
            (graph.source_name(n), n.op_type, *map(graph.shape, n.outputs)): n
            for n in m.graph
            if n.op_type != "Constant" and graph.source_name(n) != n.op_type and all(map(graph.shape, n.outputs))
        }
        for m in (before, after)
    ]
    pairs = [(node, last[0][key]) for key, node in last[1].items() if key in last[0]]
    return [(b, a) for two, one in pairs for b, a in zip(two.outputs, one.outputs, strict=False)]


def of_one_value(
    before: Model, after: Model, sample: Any, theirs: Any, matched: set[Value], taken: set[Value]
) -> list[tuple[Value, Value]]:
    """Floats of after that are not matched, each with the one float of before, not taken, that is the same on a sample."""
    looks = _looks(before, sample, taken), _looks(after, theirs, matched)
    pairs = []
    for b, (shape, seen) in looks[1].items():
        near = [
            a
            for a, (other, there) in looks[0].items()
            if other == shape and np.allclose(seen, there, rtol=0, atol=ALIKE * max(abs(seen).max(), abs(there).max()))
        ]
        if len(near) == 1:
            pairs.append((b, near[0]))
    claimed: dict[Value, int] = defaultdict(int)
    for _, a in pairs:
        claimed[a] += 1
    return [(b, a) for b, a in pairs if claimed[a] == 1]


def _looks(model: Model, sample: Any, known: set[Value]) -> dict[Value, tuple[tuple[int, ...], np.ndarray]]:
    """Each float value that has no partner yet as a few random sums of it, in float64."""
    values = {v.name: v for v in computed(model) if v not in known}
    found: dict[Value, tuple[tuple[int, ...], np.ndarray]] = {}

    def keep(name: str, array: Any) -> None:
        if name in values and getattr(array, "dtype", None) == np.float64 and array.size and np.isfinite(array).all():
            weights = np.random.default_rng(array.size).standard_normal((LOOKS, array.size))
            found[values[name]] = (array.shape, np.append(weights @ array.reshape(-1), np.abs(array).max()))

    run(model, dict(sample), ops.float64, on_value=keep)
    return found


def _in_one_place(before: Model, after: Model, found: Mapping[Value, Partner]) -> list[tuple[Value, Value]]:
    """Nodes of one operator whose inputs are partners, in order; what is paired here counts for those behind."""
    known: dict[Value, Any] = {b: a for b, (a, _) in found.items()}
    known |= dict(zip(after.graph.inputs, before.graph.inputs, strict=False))
    places: dict[tuple[Any, ...], list[Node]] = defaultdict(list)
    for node in before.graph:
        places[(node.domain, node.op_type, *(_place(v, {}) for v in node.inputs))].append(node)
    pairs = []
    for node in after.graph:
        here = places.get((node.domain, node.op_type, *(_place(v, known) for v in node.inputs)), [])
        if len(here) == 1:
            for b, a in zip(node.outputs, here[0].outputs, strict=False):
                if graph.shape(b) == graph.shape(a):
                    known.setdefault(b, a)
                    pairs.append((b, a))
    return pairs


def _place(value: Value | None, known: Mapping[Value, Value]) -> Any:
    """What an input is to the place: its partner, or that it is a constant, whichever."""
    if value is None or graph.constant_tensor(value) is not None:
        return None if value is None else "constant"
    return known.get(value, value)
