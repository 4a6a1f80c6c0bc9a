"""A few nodes as a model of their own: what a rewrite touched, so that it can be checked alone and once per distinct
content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from porter.graph import (
    HOME_OPSET,
    Function,
    Graph,
    Model,
    Node,
    Value,
    attributes,
    constant_tensor,
    content_hash,
    dtype,
    graphs,
    inherit,
)

#: integer constants of at most this many elements are shapes, axes and indices, not weights
SMALL = 64


def region(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    functions: Mapping[tuple[str, str, str], Function] | None = None,
    *,
    opset: int = HOME_OPSET,
) -> Model:
    """The nodes as a model. `inputs` become its inputs (constants among them too), other constants its initializers.

    The nodes are copied in the given order, which must be one of evaluation; they must hold no subgraphs. Inputs are
    named i0, i1..., in their order, and values v0, v1..., so that equal regions of different layers are equal models.
    """
    copies: dict[Value, Value] = {}
    weights: list[Value] = []
    for number, value in enumerate(inputs):
        copies[value] = _copy(value, f"i{number}")

    def take(value: Value | None) -> Value | None:
        if value is None:
            return None
        if value not in copies:
            tensor = constant_tensor(value)
            assert tensor is not None, f"'{value.name}' is not in the region"
            copies[value] = _copy(value, f"c{len(weights)}")
            copies[value].const_value = tensor
            weights.append(copies[value])
        return copies[value]

    made: list[Node] = []
    for node in nodes:
        taken = [take(value) for value in node.inputs]
        results = []
        for value in node.outputs:
            copies[value] = _copy(value, f"v{len(copies)}")
            results.append(copies[value])
        made.append(
            Node(
                node.domain, node.op_type, taken, list(node.attributes.values()), outputs=results, name=f"n{len(made)}"
            )
        )
        inherit([made[-1]], [node])
    used = {node.op_identifier() for node in made}
    called = {key: function for key, function in (functions or {}).items() if key in used}
    domains = {node.domain: 1 for node in made if node.domain} | {"": opset}
    graph = Graph(
        [copies[value] for value in inputs],
        [copy for value in outputs if (copy := take(value)) is not None],
        nodes=made,
        initializers=weights,
        opset_imports=domains,
        name="region",
    )
    return Model(graph, ir_version=11, functions=list(called.values()))


def boundary(nodes: Iterable[Node], outputs: Sequence[Value], *, keep: Iterable[Value] = ()) -> list[Value]:
    """What the nodes read from outside, in order of first use: computed values, and the constants in `keep`."""
    nodes = list(nodes)
    inside = {value for node in nodes for value in node.outputs}
    kept = set(keep)
    found: dict[Value, None] = {}
    for value in [*(v for node in nodes for v in node.inputs), *outputs]:
        if value is None or value in inside or value in found:
            continue
        if value in kept or constant_tensor(value) is None:
            found[value] = None
    return list(found)


def upstream(nodes: Sequence[Node], sources: Iterable[Value]) -> list[Node]:
    """The nodes, and those between the given sources and them, in the order of their graph.

    A replacement may read values from further up than the pattern's inputs (the angle of a cosine, say); both sides
    can only be compared from the same inputs.
    """
    wanted = set(sources)
    reaches: dict[Node, bool] = {}

    def depends(value: Value) -> bool:
        if value in wanted:
            return True
        node = value.producer()
        if node is None:
            return False
        if node not in reaches:
            reaches[node] = False
            reaches[node] = any(depends(v) for v in node.inputs if v is not None)
        return reaches[node]

    chosen = set(nodes)
    pending = [value for node in nodes for value in node.inputs if value is not None]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in wanted or node is None or node in chosen or not depends(value):
            continue
        chosen.add(node)
        pending.extend(v for v in node.inputs if v is not None)
    # a subgraph's nodes may come behind one of an enclosing graph, so the order is not one graph's
    ordered: dict[Node, None] = {}

    def place(node: Node) -> None:
        if node not in ordered:
            for value in node.inputs:
                maker = None if value is None or value in wanted else value.producer()
                if maker in chosen and maker is not None:
                    place(maker)
            ordered[node] = None

    for node in nodes:
        place(node)
    for node in chosen:
        place(node)
    return list(ordered)


def content(*models: Model) -> str:
    """A hash of what the models compute: operators, attributes, types and constants, not names of layers."""
    digest = hashlib.sha256()
    for model in models:
        numbers: dict[Value, str] = {value: f"i{n}" for n, value in enumerate(model.graph.inputs)}
        for value in model.graph.inputs:
            digest.update(f"{dtype(value)}{value.shape}".encode())
        for function in sorted(model.functions.values(), key=lambda f: f.identifier()):
            digest.update(repr([function.identifier(), *canonical(function)]).encode())
        for line in canonical(model.graph, numbers):
            digest.update(line.encode())
    return digest.hexdigest()


def canonical(owner: Graph | Function, numbers: dict[Value, str] | None = None) -> list[str]:
    """The nodes as lines that do not depend on names: equal lines compute the same from the same inputs."""
    numbers = {} if numbers is None else numbers
    for position, value in enumerate(owner.inputs):
        numbers.setdefault(value, f"i{position}")
    lines = []

    def number(value: Value | None) -> str:
        if value is None:
            return "-"
        if value not in numbers:
            tensor = constant_tensor(value)
            if tensor is None:
                return f"?{value.name}"
            numbers[value] = content_hash(tensor)
        return numbers[value]

    for position, node in enumerate(owner):
        inputs = [number(value) for value in node.inputs]
        numbers.update((value, f"{position}.{index}") for index, value in enumerate(node.outputs))
        types = [f"{dtype(value)}{value.shape}" for value in node.outputs]
        lines.append(f"{node.domain}.{node.op_type}{inputs}{_plain(node)}{types}")
    lines.append(repr([number(value) for value in owner.outputs]))
    return lines


def _plain(node: Node) -> str:
    given = {}
    for name, value in sorted(attributes(node).items()):
        given[name] = (
            (value.dtype.name, value.shape, value.tobytes().hex()) if isinstance(value, np.ndarray) else repr(value)
        )
    return repr(given)


def has_subgraphs(nodes: Iterable[Node]) -> bool:
    """Whether any of the nodes holds a graph: such a rewrite is checked on the whole model only."""
    return any(next(graphs(node), None) is not None for node in nodes)


def _copy(value: Value, name: str) -> Value:
    return Value(name=name, type=value.type, shape=value.shape)
