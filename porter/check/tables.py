"""Inputs that look up the rows in which the tables of two models differ: of many thousand rows, draws meet a few.

sample = pointed(before, after, sample)     None where no table that an input indexes differs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from porter import graph
from porter.check.inputs import Inputs
from porter.check.roles import KEEP
from porter.graph import Model, Value

LARGEST = 1 << 28  # bytes of a table that is compared row by row


def pointed(
    before: Model, after: Model, sample: Mapping[str, np.ndarray], renamed: Mapping[str, str] | None = None
) -> Inputs | None:
    """The sample with indices of rows that differ in their place. `renamed` are inputs of before -> of after."""
    named = {new: old for old, new in (renamed or {}).items()}
    old, made = list(_tables(before)), Inputs("rows that differ")
    for name, axis, table in _tables(after):
        own = [(a, t) for n, a, t in old if n == named.get(name, name)]
        if any(a == axis and graph.content_hash(t) == graph.content_hash(table) for a, t in own):
            continue
        alike = [t for a, t in own if (a, t.shape.numpy(), t.dtype) == (axis, table.shape.numpy(), table.dtype)]
        apart = [_apart(t, table, axis) for t in alike if t.nbytes <= LARGEST]
        rows = min(apart, key=len, default=np.zeros(0, int))  # of several tables the most alike
        x = sample[named.get(name, name)]
        if 0 < rows.size < table.shape.numpy()[axis] and x.size:
            made[named.get(name, name)] = np.resize(rows, x.shape).astype(x.dtype)
    if not made:
        return None
    why = dict(getattr(sample, "why", {}))
    why.update((n, f"rows in which a table differs, {int(x.min())} to {int(x.max())}") for n, x in made.items())
    made.update((n, x) for n, x in sample.items() if n not in made)
    ordered = Inputs(made.label)
    ordered.update((n, made[n]) for n in sample)
    ordered.why = why
    return ordered


def _apart(a: Any, b: Any, axis: int) -> np.ndarray:
    """The places along the axis where two tables differ."""
    other = np.moveaxis(np.asarray(a.numpy() != b.numpy()), axis, 0)
    return np.flatnonzero(other.reshape(other.shape[0], -1).any(axis=1))


def _tables(model: Model) -> Iterator[tuple[str, int, Any]]:
    """Inputs that index a stored table, with the axis and the table."""
    for node in model.graph:
        if node.op_type != "Gather" or node.domain or None in node.inputs:
            continue
        table, indices = node.inputs
        tensor = None if table is None else graph.constant_tensor(table)
        source = _source(indices)
        if tensor is None or source is None or not tensor.dtype.is_floating_point():
            continue
        yield source.name or "", graph.integer(node, "axis") % len(tensor.shape.numpy()), tensor


def _source(value: Value | None) -> Value | None:
    """The input that a value is, moved at most."""
    while value is not None and (node := value.producer()) is not None:
        value = node.inputs[0] if node.op_type in KEEP and not node.domain and node.inputs else None
    return value if value is not None and value.is_graph_input() and not value.is_initializer() else None
