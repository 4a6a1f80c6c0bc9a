"""What a model computes and holds, before any device: operations and bytes per node, counted in what its operators mean.

    for work in arithmetic(model): print(work.node, work.flops, work.bytes)
    peak(model)

Each node is traced to primitives, once for all nodes that are alike: products count two operations, other arithmetic one
for each element, movement none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import graph, ops
from porter.errors import PorterError
from porter.graph import Model, Node, Value
from porter.porting.kernels import graph_of_node

MOVES = frozenset(
    """broadcast_in_dim concatenate convert_element_type copy dynamic_slice dynamic_update_slice gather iota pad reshape rev
    slice squeeze stop_gradient transpose bitcast_convert_type select_n expand_dims""".split()
)
# operators that only move or count, whatever the shape says that they read
SHAPED = frozenset("ConstantOfShape Expand Pad Range Reshape Slice Tile".split())


@dataclass(frozen=True)
class Work:
    """One node: operations, and bytes read and written. `flops` is None where it cannot be told without running it."""

    node: str
    operator: str
    flops: int | None
    products: int
    bytes: int


def arithmetic(model: Model) -> Iterator[Work]:
    """Of each node in order. The model's dims are bound and its types inferred."""
    known: dict[Any, tuple[int, int] | None] = {}
    for node in model.graph:
        if node.op_type == "Constant" and not node.domain:
            continue
        key = _alike(node)
        if key not in known:
            known[key] = _counted(model, node)
        found = known[key] or ((0, 0) if node.op_type in SHAPED and not node.domain else None)
        values = [v for v in (*dict.fromkeys(node.inputs), *node.outputs) if v is not None]
        size = sum(_bytes(v) for v in values)
        flops, products = found if found is not None else (None, 0)
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        yield Work(graph.source_name(node), operator, flops, products, size)


def peak(model: Model) -> tuple[int, str]:
    """The most bytes of computed values alive at once in the model's own order, and the node at which they are."""
    last: dict[Value, int] = {}
    nodes = [n for n in model.graph if n.op_type != "Constant"]
    for i, node in enumerate(nodes):
        for v in (*node.inputs, *node.outputs, *graph.captured(node)):
            if v is not None and v.producer() is not None and graph.constant_tensor(v) is None:
                last[v] = i
    for v in model.graph.outputs:
        last[v] = len(nodes)
    alive, most, where = 0, 0, ""
    leaving: dict[int, int] = {}
    for i, node in enumerate(nodes):
        born = sum(_bytes(v) for v in node.outputs if v in last)
        for v in node.outputs:
            if v in last:
                leaving[last[v]] = leaving.get(last[v], 0) + _bytes(v)
        alive += born
        if alive > most:
            most, where = alive, graph.source_name(node)
        alive -= leaving.pop(i, 0)
    return most, where


def _bytes(value: Value) -> int:
    shape, kind = graph.shape(value), graph.dtype(value)
    return 0 if shape is None or kind is None or kind.kind in "OUS" else math.prod(shape) * kind.itemsize


def _alike(node: Node) -> Any:
    """Equal for nodes that do the same work."""
    text = graph.node_text(node).partition("=")[2].partition("(")[0]
    return (node.domain, text, *((graph.shape(v), graph.dtype(v), _small(v)) if v is not None else None for v in node.inputs),
            *(graph.shape(v) for v in node.outputs))  # fmt: skip


def _small(value: Value) -> Any:
    """The numbers of a constant that may be a shape or an axis."""
    array = graph.constant(value) if (graph.dtype(value) or np.dtype(float)).kind in "iub" else None
    return array.tobytes() if array is not None and array.size <= 64 else None


def _counted(model: Model, node: Node) -> tuple[int, int] | None:
    try:
        alone = graph_of_node(model, node)
        given = [v for v in dict.fromkeys(node.inputs) if v is not None]
        types: list[Any] = []
        for v in given:
            array = graph.constant(v) if graph.constant_tensor(v) is not None else None
            if array is not None and (array.dtype.kind in "iub" or array.size == 1):
                types.append(array)
            else:
                types.append(ops.ShapeDtype(graph.shape(v) or (), graph.dtype(v) or np.dtype(np.float32)))
        return _count(ops.trace(alone.graph, alone, types).jaxpr)
    except PorterError:
        return None  # control flow, strings, shapes that depend on data


def _count(jaxpr: Any) -> tuple[int, int]:
    flops = products = 0
    for e in jaxpr.eqns:
        out = math.prod(e.outvars[0].aval.shape)
        name = e.primitive.name
        if name == "dot_general":
            (left, _), _ = e.params["dimension_numbers"]
            made = 2 * out * math.prod(e.invars[0].aval.shape[i] for i in left)
        elif name == "conv_general_dilated":
            kernel = e.invars[1].aval.shape
            made = 2 * out * math.prod(kernel) // kernel[e.params["dimension_numbers"].rhs_spec[0]]
        else:
            inner = [p for p in e.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
            if inner:
                counted = [_count(getattr(p, "jaxpr", p)) for p in inner]
                times = int(e.params.get("length", 1))
                flops, products = (
                    flops + times * sum(c[0] for c in counted),
                    products + times * sum(c[1] for c in counted),
                )
            elif name.startswith(("reduce", "arg", "cum")):
                flops += math.prod(e.invars[0].aval.shape)
            elif name not in MOVES:
                flops += out
            continue
        flops, products = flops + made, products + made
    return flops, products
