"""Types and shapes of every value, by running the definitions on shapes alone: nothing says twice what one returns."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax

from porter.errors import PorterError
from porter.graph import (
    DataType,
    Graph,
    Model,
    Node,
    OptionalType,
    SequenceType,
    Shape,
    TensorType,
    Value,
    attributes,
    captured,
    constant,
    dtype,
    graphs,
    is_unread,
    shape,
    source_name,
)
from porter.ops.lax import jax_namespace
from porter.ops.namespace import NotKnown
from porter.ops.registry import find
from porter.ops.running import Scope, results_of
from porter.ops.sequences import plumbing
from porter.ops.types import check, result_types, signature

# Larger constants than this fix no shape; of those only the type matters.
_KNOWN = 1024


def infer(model: Model) -> dict[Graph, PorterError]:
    """Set the element type and shape of every value of the model's graph and of its subgraphs.

    Constants are followed (Shape to Concat to Reshape), so with all input dims bound every shape is static, save behind
    operators whose output shape depends on data; there only the type is set. Every node is held against ONNX's type
    rules. Raises PorterError naming the source model's node, its input, and what was expected and found.

    Returns the branches of Ifs that cannot run with these shapes, and why: valid inputs take the other one.
    """
    graph = model.graph
    given = {v: _declared(v) for v in graph.inputs if constant(v) is None}
    weights = {}
    for value in graph.initializers.values():
        stored = value.const_value
        if stored is not None and (stored.size > _KNOWN or is_unread(value)):
            weights[value] = (tuple(stored.shape.numpy()), np.dtype(stored.dtype.numpy()))
    abstract = {v: d for v, d in (given | weights).items() if d is not None}
    values = list(abstract)
    unknown = {v for v, d in given.items() if d is None}
    unfit: dict[Graph, PorterError] = {}

    def abstractly(*arrays: Any) -> int:
        scope = Scope(jax_namespace, model.functions, model.opset_imports, watch=_record, checks=True)
        for value, array in zip(values, arrays, strict=True):
            scope.put(value, array, array.dtype)
        known: Known = {}
        with np.errstate(all="ignore"):
            for node in graph:
                _visit(node, scope, unknown, unfit, known)
        return 0

    jax.eval_shape(abstractly, *(jax.ShapeDtypeStruct(*abstract[v]) for v in values))
    return unfit


def _declared(value: Value) -> tuple[tuple[int, ...], np.dtype] | None:
    dims, kind = shape(value), dtype(value)
    return None if dims is None or kind is None else (dims, kind)


def _record(value: Value, array: Any, declared: np.dtype | None) -> None:
    if plumbing(array):
        return _carrier(value, array)
    kind = declared if declared is not None else array.dtype
    value.type = TensorType(DataType.from_numpy(np.dtype(kind)))
    value.shape = Shape([int(n) for n in array.shape])


def _carrier(value: Value, array: Any) -> None:
    """The type of a sequence, unless onnx has found it; a sequence has no shape."""
    if (value.type is None or isinstance(value.type, TensorType)) and array.dtype is not None:
        value.type = SequenceType(TensorType(DataType.from_numpy(np.dtype(array.dtype))))
    value.shape = None


def _element(value: Value) -> np.dtype | None:
    """The element type of a value, of the tensors in it where it is a sequence or an optional."""
    kind = value.type
    while isinstance(kind, SequenceType | OptionalType):
        kind = kind.elem_type  # type: ignore[assignment]
    return np.dtype(kind.dtype.numpy()) if isinstance(kind, TensorType) and kind.dtype else None


def _carries(value: Value) -> bool:
    return isinstance(value.type, SequenceType | OptionalType)


Known = dict[Any, list[tuple[int, Any, np.dtype | None]]]
"""What nodes that say the same to inputs of the same types give: place, array (of which only the type counts) and declared type."""


def _visit(
    node: Node, scope: Scope, unknown: set[Value], unfit: dict[Graph, PorterError], known: Known | None = None
) -> None:
    """One node on shapes; where those are not known, its types alone. Equal nodes (of eighty layers) are computed once."""
    reads = [v for v in (*node.inputs, *captured(node)) if v is not None]
    definition = find(node.domain, node.op_type, scope.opsets.get(node.domain, 1))
    if any(v in unknown for v in reads) or (definition is not None and definition.host):
        return _types_only(node, scope, unknown)
    key = None if known is None else _said(node, scope)
    if known is not None and key in known:
        for place, array, declared in known[key]:
            _record(node.outputs[place], array, declared)
            scope.put(node.outputs[place], array, declared)
        return None
    try:
        results = results_of(node, scope)
    except NotKnown:
        _types_only(node, scope, unknown)
        return _bodies(node, scope, unknown, unfit)
    if known is not None and key is not None and all(isinstance(array, jax.Array) for _, array, _ in results):
        places = {value: place for place, value in enumerate(node.outputs)}
        known[key] = [(places[value], array, declared) for value, array, declared in results]
    for value, array, declared in results:
        _record(value, array, declared)
        if isinstance(array, np.ndarray) and array.size > _KNOWN:
            array = lax.full(array.shape, 0, array.dtype)  # its values fix nothing
        scope.put(value, array, declared)
    return None


def _said(node: Node, scope: Scope) -> Any:
    """What decides the types of a node's results: operator, attributes and inputs; None where it holds subgraphs or texts."""
    given = attributes(node)
    arrays = [None if v is None else scope.get(v) for v in node.inputs]
    odd = any(a is not None and (plumbing(a) or a.dtype == object) for a in arrays)
    if odd or any(isinstance(v, Graph) for v in given.values()):
        return None
    inputs = tuple(
        None
        if a is None or v is None
        else (a.shape, a.dtype, scope.types[v], None if isinstance(a, jax.Array) else a.tobytes())
        for v, a in zip(node.inputs, arrays, strict=True)
    )
    words = tuple(
        (k, (v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else repr(v)) for k, v in given.items()
    )
    return (node.op_identifier(), words, inputs, tuple(bool(v.name) for v in node.outputs))


def _bodies(node: Node, scope: Scope, unknown: set[Value], unfit: dict[Graph, PorterError]) -> None:
    """Control flow that only running can decide: each body on shapes alone, for the types that come out of it.

    The state of a Loop keeps its shape if one turn does not change it; what changes, or is collected, stays unknown.
    An If has the shapes of the branch that can run, where only one can.
    """
    for body in graphs(node):
        turns = node.op_type == "Loop"
        loose: set[Value] = {v for v in captured(node) if v in unknown}
        while True:
            inner = Scope(scope.xp, scope.functions, scope.opsets, scope.bound, watch=scope.watch, checks=scope.checks)
            inner.values.update(scope.values)
            inner.types.update(scope.types)
            lost = set(loose)
            for value, array in zip(body.inputs, _carried(node, scope, unknown), strict=False):
                if array is None or value in loose:
                    lost.add(value)
                else:
                    inner.put(value, array, array.dtype)
                    _record(value, array, None)
            for inside in body:
                _forget(inside)
                try:
                    _visit(inside, inner, lost, unfit)
                except PorterError as error:  # a branch that is not taken with these shapes need not fit them
                    _types_only(inside, inner, lost)
                    if node.op_type == "If" and not isinstance(error, NotKnown):
                        unfit.setdefault(body, error)
            pairs = list(zip(body.inputs[2:], body.outputs[1:], strict=False)) if turns else []
            changed = {i for i, o in pairs if i not in lost and (o in lost or shape(o) != shape(i))}
            if not changed:
                break
            loose |= changed
        for i, (value, out) in enumerate(zip(node.outputs, body.outputs[1 if turns else 0 :], strict=False)):
            kind = dtype(out)
            if kind is None:
                continue
            value.type = TensorType(DataType.from_numpy(kind))
            if i < len(pairs) and out not in lost:
                _settle(value, out, kind, scope, unknown)
    ways = [body for body in graphs(node) if body not in unfit] if node.op_type == "If" else []
    if len(ways) == 1:
        for value, out in zip(node.outputs, ways[0].outputs, strict=True):
            kind = dtype(out)
            if kind is not None:
                _settle(value, out, kind, scope, unknown)


def _settle(value: Value, out: Value, kind: np.dtype, scope: Scope, unknown: set[Value]) -> None:
    """The value has the shape of a body's result, where that is known."""
    dims = shape(out)
    if dims is not None:
        kept = lax.full(dims, 0, kind)
        _record(value, kept, kind)
        scope.put(value, kept, kind)
        unknown.discard(value)


def _forget(node: Node) -> None:
    """Drop the shapes that an earlier try found."""
    for value in node.outputs:
        value.shape = None


def _carried(node: Node, scope: Scope, unknown: set[Value]) -> list[Any]:
    """What the body of a Loop receives in its first turn, None where that is not known; nothing for other bodies."""
    if node.op_type != "Loop":
        return []
    start = [None if v is None or v in unknown else scope.get(v) for v in node.inputs[2:]]
    return [lax.full((), 0, np.int64), lax.full((), True, np.bool_), *start]


def _types_only(node: Node, scope: Scope, unknown: set[Value]) -> None:
    opset = scope.opsets.get(node.domain, 1)
    found = signature(node.domain, node.op_type, opset)
    types = []
    for value in node.inputs:
        if value is not None and value not in unknown and value not in scope.types:
            scope.get(value)
        types.append(None if value is None else _element(value) if value in unknown else scope.types[value])
    if found is not None:
        check(found, source_name(node), types)
    plain = {k: a.value for k, a in node.attributes.items() if not a.is_ref() and not isinstance(a.value, Graph)}
    declared = result_types(found, types, plain, len(node.outputs))
    for value, kind in zip(node.outputs, declared, strict=True):
        unknown.add(value)
        if kind is not None and not _carries(value):
            value.type = TensorType(DataType.from_numpy(np.dtype(kind)))
