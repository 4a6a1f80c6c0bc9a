"""Sequences and optionals whose length and places are known: the tensors in them take the place of what reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from porter import ops
from porter.graph import (
    Graph,
    Model,
    Node,
    SequenceType,
    TensorType,
    Value,
    add_initializer,
    attributes,
    constant,
    inherit,
    insert_before,
    integer,
    new_node,
    remove,
    replace_uses,
)
from porter.passes.cleanup._splice import carried, detach, splice
from porter.rewrite import Rewrite, all_graphs, note

Cuts = dict[Node, list[Value]]
"""The parts of every SplitToSequence that something reads."""

READERS = frozenset({"SequenceAt", "SequenceLength", "ConcatFromSequence", "OptionalHasElement", "OptionalGetElement"})
_CUT = 256
"""A tensor is cut into at most so many parts."""


def resolve(model: Model) -> Iterator[Rewrite]:
    """Every read of a known sequence or optional becomes a read of the tensor itself; what is built for nobody is dropped."""
    number, cuts = 0, Cuts()
    for graph in all_graphs(model):
        for node in list(graph):
            if node.domain in ("", "ai.onnx") and (node.op_type in READERS or node.op_type == "SequenceMap"):
                results = _mapped(node, cuts) if node.op_type == "SequenceMap" else _read(node, cuts)
                if results is None:
                    continue
                number += 1
                record = note(number, "sequences", [node])
                for old, new in zip(node.outputs, results, strict=True):
                    replace_uses(old, carried(node, new, old) if old.is_graph_output() else new)
                remove([node])
                detach(node)
                yield record
        for node in reversed(list(graph)):
            if _builds(node) and not any(v.uses() or v.is_graph_output() for v in node.outputs):
                number += 1
                record = note(number, "sequences", [node])
                remove([node])
                yield record
    if number:
        ops.infer(model)


def _builds(node: Node) -> bool:
    return not node.domain and node.op_type in {
        "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence", "Optional",
    }  # fmt: skip


def _contents(value: Value | None, cuts: Cuts) -> list[Value] | None:
    """The tensors of a sequence, where its maker and every position in between are known."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    inputs: list[Any] = [*node.inputs, None, None, None]
    match node.op_type:
        case "SequenceConstruct":
            return [v for v in node.inputs if v is not None]
        case "SequenceEmpty":
            return []
        case "Identity":
            return _contents(inputs[0], cuts)
        case "OptionalGetElement" | "Optional" if inputs[0] is not None:
            return _contents(inputs[0], cuts)
        case "SplitToSequence":
            return _cut(node, cuts)
        case "SequenceInsert" | "SequenceErase" as kind:
            adds = kind == "SequenceInsert"
            position = inputs[2 if adds else 1]
            if position is not None and constant(position) is None:
                return None
            held = _contents(inputs[0], cuts)
            if held is None:
                return None
            place = _place(position, len(held), len(held) if adds else len(held) - 1)
            if place is None:
                return None
            return [*held[:place], *([inputs[1]] if adds else []), *held[place + (0 if adds else 1) :]]
    return None


def _place(position: Value | None, size: int, last: int) -> int | None:
    if position is None:
        return last if last >= 0 else None
    known = constant(position)
    if known is None:
        return None
    place = int(known.reshape(-1)[0])
    return place % size if -size <= place < 0 else place if 0 <= place <= last else None


def _cut(node: Node, cuts: Cuts) -> list[Value] | None:
    """The parts of a SplitToSequence, each as a Slice where the node stands; made once."""
    if node in cuts:
        return list(cuts[node])
    whole, split = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    dims, given = None if whole is None else whole.shape, attributes(node)
    known = None if split is None else constant(split)
    if whole is None or dims is None or (split is not None and known is None):
        return None
    axis = integer(node, "axis") % max(len(dims), 1)
    size = dims[axis]
    if known is not None and known.ndim:
        sizes = [int(n) for n in known]
        if isinstance(size, int) and sum(sizes) != size:
            return None
    else:
        step = 1 if known is None else int(known)
        if not isinstance(size, int) or step < 1:
            return None
        sizes = [min(step, size - at) for at in range(0, size, step)]
    if len(sizes) > _CUT:
        return None
    ends, parts = np.cumsum([0, *sizes]), []
    where = _number(node, "axis", [axis])
    for first, last in pairwise(ends.tolist()):
        part = _put(node, "Slice", [whole, _number(node, "from", [first]), _number(node, "to", [last]), where])
        dropped = split is None and not given.get("keepdims", 1)
        parts.append(_put(node, "Squeeze", [part, where]) if dropped else part)
    cuts[node] = parts
    return list(parts)


def _read(node: Node, cuts: Cuts) -> list[Value] | None:
    """What the reader gives, as plain tensors; None where something is not known."""
    source = node.inputs[0] if node.inputs else None
    match node.op_type:
        case "OptionalHasElement" | "OptionalGetElement" as kind:
            held = _held(source)
            if kind == "OptionalHasElement":
                return None if held is None else [_constant(node, np.asarray(bool(held)))]
            return held or None
        case "SequenceLength":
            contents = _contents(source, cuts)
            return None if contents is None else [_number(node, "length", len(contents))]
        case "SequenceAt":
            contents = None if constant(node.inputs[1]) is None else _contents(source, cuts)
            place = None if contents is None else _place(node.inputs[1], len(contents), len(contents) - 1)
            return None if contents is None or place is None else [contents[place]]
    contents = _contents(source, cuts)
    if not contents:
        return None
    given = attributes(node)
    axis = integer(node, "axis")
    if given.get("new_axis", 0):
        where = _number(node, "axis", [axis])
        contents = [_put(node, "Unsqueeze", [part, where]) for part in contents]
    return [_put(node, "Concat", contents, {"axis": axis})]


def _held(value: Value | None) -> list[Value] | None:
    """What an optional holds: one value or none; None where that is not known."""
    if value is None:
        return []
    maker = value.producer()
    if maker is not None and not maker.domain and maker.op_type == "Optional":
        inside = maker.inputs[0] if maker.inputs else None
        return [] if inside is None else [inside]
    if maker is not None and not maker.domain and maker.op_type == "Identity":
        return _held(maker.inputs[0])
    return [value] if isinstance(value.type, TensorType | SequenceType) or constant(value) is not None else None


def _mapped(node: Node, cuts: Cuts) -> list[Value] | None:
    """A SequenceMap over a known sequence: its body, once for every place."""
    contents = [_contents(v, cuts) if isinstance(v.type, SequenceType) else v for v in node.inputs if v is not None]
    first = contents[0]
    if not isinstance(first, list) or not first or len(first) > _CUT or any(c is None for c in contents):
        return None
    if any(isinstance(c, list) and len(c) < len(first) for c in contents):
        return None
    body: Graph = attributes(node)["body"]  # type: ignore[assignment]
    rows = []
    for place in range(len(first)):
        actual = [c[place] if isinstance(c, list) else c for c in contents]
        rows.append(splice(node, body, [v for v in actual if v is not None], str(place)))
    return [_put(node, "SequenceConstruct", list(column)) for column in zip(*rows, strict=True)]


def _constant(node: Node, array: np.ndarray) -> Value:
    assert isinstance(node.graph, Graph)
    return add_initializer(node.graph, f"{node.name or node.op_type}/known", array)


def _number(node: Node, label: str, number: Any) -> Value:
    assert isinstance(node.graph, Graph)
    return add_initializer(node.graph, f"{node.name or node.op_type}/{label}", np.asarray(number, np.int64))


def _put(node: Node, op_type: str, inputs: list[Value], given: dict[str, object] | None = None) -> Value:
    made = new_node(op_type, inputs, given or {})
    inherit([made], [node])
    insert_before(node, [made])
    return made.outputs[0]
