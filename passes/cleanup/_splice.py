"""A body of control flow put where its node stands."""

from __future__ import annotations

from collections.abc import Sequence

from porter.graph import Graph, Node, Value, add_initializer, fresh, graphs, inherit, insert_before, names, new_node


def splice(place: Node, body: Graph, actual: Sequence[Value], label: str) -> list[Value]:
    """A copy of the body's nodes before `place`, reading `actual` in place of its inputs; gives what it returns."""
    outer = place.graph
    assert outer is not None
    copy = body.clone(allow_outer_scope_values=True)
    prefix = f"{place.name or place.op_type}/{label}"
    for name, weight in list(copy.initializers.items()):
        assert weight.const_value is not None
        _replace(copy, weight, add_initializer(outer, f"{prefix}/{name}", weight.const_value))
        copy.initializers.pop(name)
    for inner, given in zip(copy.inputs, actual, strict=True):
        _replace(copy, inner, given)
    results, nodes = list(copy.outputs), list(copy)
    copy.outputs.clear()
    copy.remove(nodes)
    used = names(outer)
    pending = [nodes]
    while pending:
        for node in pending.pop():
            node.name = f"{prefix}/{node.name or node.op_type}"
            for value in node.outputs:
                if value.name:
                    value.name = fresh(f"{prefix}/{value.name}", used)
            for inside in graphs(node):
                for value in [*inside.inputs, *inside.initializers.values()]:
                    value.name = fresh(f"{prefix}/{value.name}", used)
                pending.append(list(inside))
    inherit(nodes, [place])
    insert_before(place, nodes)
    return results


def carried(place: Node, value: Value, like: Value) -> Value:
    """The value as the result of a node of its own, with the type of `like`: it can take the place of any other."""
    node = new_node("Identity", [value], name=f"{place.name or place.op_type}/{like.name}")
    node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    inherit([node], [place])
    insert_before(place, [node])
    return node.outputs[0]


def _replace(body: Graph, old: Value, new: Value) -> None:
    old.replace_all_uses_with(new)
    for index, value in enumerate(body.outputs):
        if value is old:
            body.outputs[index] = new


def detach(node: Node) -> None:
    """A node that was removed no longer reads anything in its bodies."""
    for body in graphs(node):
        body.outputs.clear()
        for inner in body:
            detach(inner)
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
