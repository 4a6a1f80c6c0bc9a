"""Nodes that belong together, as a call of one model-local function: the exact half of fusion."""

from __future__ import annotations

from collections.abc import Sequence

from porter.graph import (
    HOME_OPSET,
    Attr,
    AttributeType,
    Function,
    Graph,
    Model,
    Node,
    RefAttr,
    Value,
    attributes,
    constant_tensor,
    inherit,
    insert_before,
    new_node,
    new_value,
    remove,
    replace_uses,
    source_name,
)
from porter.rewrite.build import DOMAIN
from porter.rewrite.driver import Rewrite
from porter.rewrite.regions import boundary, canonical, content, region
from porter.rewrite.terms import COMMUTATIVE

#: operators that only move elements: how is part of the function, not a parameter of it
STRUCTURAL = frozenset("Transpose Concat Gather Squeeze Unsqueeze Flatten Split".split())


def fuse(model: Model, nodes: Sequence[Node], name: str, number: int) -> Rewrite:
    """Puts a call of `porter.NAME` in the place of nodes, as `join` does, and returns the record of the change."""
    opset = model.opset_imports.get("", HOME_OPSET)
    inputs = _inputs(nodes)
    before = region(nodes, inputs, list(nodes[-1].outputs), model.functions, opset=opset)
    sources = tuple(dict.fromkeys(source_name(node) for node in nodes))
    kinds = tuple(node.op_type for node in nodes)
    call = join(model, nodes, name)
    after = region([call], inputs, list(call.outputs), model.functions, opset=opset)
    return Rewrite(number, name, kinds, sources, before, after, {}, content(before, after))


def join(model: Model, nodes: Sequence[Node], name: str) -> Node:
    """Puts a call of `porter.NAME` in the place of nodes of which only the last one's results are read outside.

    The nodes are in order of evaluation. Their attributes are attributes of the function (a name that two nodes share
    is preceded by the operator's), but for those that say how elements move; so equal chains share one function
    whatever their strides.
    """
    last = nodes[-1]
    inputs = _inputs(nodes)
    made, given = _function(model, nodes, inputs, name)
    for found in model.functions.values():
        if found.domain == DOMAIN and found.name.startswith(name) and _same(found, made):
            made = found
            break
    else:
        count = 1
        while made.identifier() in model.functions:
            made.name, count = f"{name}_{count}", count + 1
        model.functions[made.identifier()] = made
        model.opset_imports.setdefault(DOMAIN, 1)
    call = new_node(made.name, inputs, given, domain=DOMAIN, outputs=len(last.outputs), name=last.name)
    inherit([call], nodes)
    insert_before(last, [call])
    for old, new in zip(last.outputs, call.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        wanted = old.name
        replace_uses(old, new)
        if not new.is_graph_output():
            old.name, new.name = f"{wanted}/{last.op_type}", wanted
    remove(nodes)
    return call


def _inputs(nodes: Sequence[Node]) -> list[Value]:
    """What the nodes read from outside, weights among it, in order of first use."""
    weights = [
        value for node in nodes for value in node.inputs if value is not None and constant_tensor(value) is not None
    ]
    return boundary(nodes, nodes[-1].outputs, keep=weights)


def _function(
    model: Model, nodes: Sequence[Node], inputs: Sequence[Value], name: str
) -> tuple[Function, dict[str, object]]:
    """The function, and the attributes that this call of it carries."""
    copies: dict[Value, Value] = {value: new_value(f"x{number}") for number, value in enumerate(inputs)}
    given: dict[str, object] = {}
    body: list[Node] = []
    for node in nodes:
        references = []
        for key, value in attributes(node).items():
            if node.op_type in STRUCTURAL:
                references.append(node.attributes[key])
                continue
            outer, count = key, 0
            while outer in given:
                outer, count = f"{node.op_type.lower()}{count or ''}_{key}", count + 1
            given[outer] = value
            references.append(RefAttr(key, outer, node.attributes[key].type))
        copies.update((value, new_value(f"{node.op_type.lower()}{len(body)}")) for value in node.outputs)
        operands = [None if value is None else copies[value] for value in node.inputs]
        if node.op_type in COMMUTATIVE and body and operands[-1] in body[-1].outputs:
            operands.reverse()  # what comes from the chain first: one spelling, one function
        results = [copies[value] for value in node.outputs]
        body.append(Node(node.domain, node.op_type, operands, references, outputs=results))
    opsets = {"": model.opset_imports.get("", HOME_OPSET)}
    taken, given_back = [copies[v] for v in inputs], [copies[v] for v in nodes[-1].outputs]
    graph = Graph(taken, given_back, nodes=body, opset_imports=opsets, name=name)
    parameters = [Attr(key, AttributeType.UNDEFINED, None) for key in given]
    return Function(DOMAIN, name, "", graph=graph, attributes=parameters), given


def _same(a: Function, b: Function) -> bool:
    return set(a.attributes) == set(b.attributes) and len(a.inputs) == len(b.inputs) and canonical(a) == canonical(b)
