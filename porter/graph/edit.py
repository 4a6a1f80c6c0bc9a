"""Edits that keep a graph valid: new values, replaced uses, removed and inserted nodes, new weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.values import SOURCE, every_graph, graphs, source_name


def names(graph: ir.Graph) -> set[str]:
    """Every value name in use in the graph and its subgraphs."""
    used: set[str] = set()
    pending = [graph]
    while pending:
        inner = pending.pop()
        used.update(inner.initializers)
        used.update(value.name for value in inner.inputs if value.name)
        for node in inner:
            used.update([value.name for value in node.outputs if value.name])
            pending.extend(graphs(node))
    return used


def fresh(wanted: str, used: set[str]) -> str:
    """`wanted`, or with the smallest suffix that makes it new; it is added to `used`."""
    name, number = wanted, 1
    while name in used:
        name, number = f"{wanted}_{number}", number + 1
    used.add(name)
    return name


def new_value(
    name: str | None = None, dtype: np.dtype | None = None, shape: Sequence[int | str | None] | None = None
) -> ir.Value:
    """A value that nothing produces yet, of the given type and shape."""
    return ir.Value(
        name=name,
        type=None if dtype is None else ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))),
        shape=None if shape is None else ir.Shape(list(shape)),
    )


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, object] | None = None,
    *,
    domain: str = "",
    outputs: int | Sequence[ir.Value] = 1,
    name: str | None = None,
) -> ir.Node:
    """A node that stands in no graph yet; attributes are given as plain Python values or numpy arrays."""
    given = [
        ir.AttrTensor(key, ir.tensor(value)) if isinstance(value, np.ndarray) else _attribute(key, value)
        for key, value in (attributes or {}).items()
    ]
    made = {"num_outputs": outputs} if isinstance(outputs, int) else {"outputs": outputs}
    return ir.Node(domain, op_type, inputs, given, name=name, **made)


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Every reader of `old` reads `new`; where `old` is an output of a graph, `new` is, under the old name.

    `new` takes the type and the shape of `old` where it has none.

    An output keeps its name, since it is the model's interface. Where `new` cannot take the name (it is an input, a
    weight or another output), an Identity carries it.
    """
    if old is new:
        return
    if new.type is None:
        new.type = old.type
    if new.shape is None:
        new.shape = old.shape
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    graph = old.graph
    assert graph is not None
    name, producer = old.name, new.producer()
    if new.is_graph_output() or producer is None or producer.graph is not graph:
        identity = ir.Node("", "Identity", [new])
        origin = old.producer()
        if origin is not None and SOURCE in origin.metadata_props:
            identity.metadata_props[SOURCE] = origin.metadata_props[SOURCE]
        identity.outputs[0].type, identity.outputs[0].shape = old.type, old.shape
        last = producer if producer is not None and producer.graph is graph else None
        if last is not None:
            graph.insert_after(last, identity)
        elif len(graph):
            graph.insert_before(graph[0], identity)
        else:
            graph.append(identity)
        readers = [(user, index) for user, index in old.uses() if user is not identity]
        for user, index in readers:
            user.replace_input_with(index, new)
        new = identity.outputs[0]
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if name:
        old.name = fresh(f"{name}_replaced", names(graph))
        new.name = name


def remove(nodes: Iterable[ir.Node]) -> None:
    """Takes the nodes out of their graphs; nothing else may still read what they produce.

    Raises PorterError naming the node whose result is still read.
    """
    by_graph: dict[ir.Graph, list[ir.Node]] = {}
    for node in nodes:
        if node.graph is not None:
            by_graph.setdefault(node.graph, []).append(node)
    gone = {node for group in by_graph.values() for node in group}
    for node in gone:
        for value in node.outputs:
            reader = next((user for user, _ in value.uses() if user not in gone), None)
            if reader is not None or value.is_graph_output():
                who = f"node '{source_name(reader)}'" if reader is not None else "the outputs of the graph"
                raise PorterError(
                    f"node '{source_name(node)}' ({node.op_type}) cannot be removed",
                    expected="results that nothing reads",
                    found=f"'{value.name}' read by {who}",
                )
    for graph, group in by_graph.items():
        graph.remove(group, safe=True)


def insert_before(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Puts the nodes before `node` in its graph, in their order."""
    assert node.graph is not None
    node.graph.insert_before(node, list(nodes))


def insert_after(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Puts the nodes after `node` in its graph, in their order."""
    assert node.graph is not None
    node.graph.insert_after(node, list(nodes))


def add_initializer(
    model: ir.Model | ir.Graph, name: str, array: np.ndarray | ir.TensorProtocol, used: set[str] | None = None
) -> ir.Value:
    """A new weight under `name`, or the nearest name that is free; an array is kept, not copied.

    `used` are the names in use, for who adds many: else the graph is searched for them each time.
    """
    graph = model.graph if isinstance(model, ir.Model) else model
    tensor = ir.tensor(array, name=name) if isinstance(array, np.ndarray) else array
    value = ir.Value(
        name=fresh(name, names(graph) if used is None else used),
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def inherit(new_nodes: Iterable[ir.Node], from_nodes: Iterable[ir.Node]) -> None:
    """Gives new nodes the source names of those they replace (several are joined by '+'), unless they have one."""
    sources = list(dict.fromkeys(part for node in from_nodes for part in source_name(node).split("+")))
    for node in new_nodes:
        if SOURCE not in node.metadata_props:
            node.metadata_props[SOURCE] = "+".join(sources)


def remember_sources(model: ir.Model) -> None:
    """Gives every node without one a source name: its own, which must be unique by now."""
    for graph in every_graph(model):
        for node in graph:
            node.metadata_props.setdefault(SOURCE, node.name or node.op_type)


def _attribute(name: str, value: Any) -> ir.Attr:
    if isinstance(value, ir.Attr):
        return value
    return ir.convenience.convert_attribute(name, value)
