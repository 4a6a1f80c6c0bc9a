"""Operators that porter does not define itself because ONNX already says what they mean: their function bodies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from porter.graph import Function, Node, attributes, read
from porter.ops.types import schema


def body_of(node: Node, opset: int, types: Sequence[np.dtype | None]) -> tuple[Function | None, dict[str, Any]]:
    """ONNX's own function body of the node's operator and its attributes' defaults; None where the standard gives none.

    Some bodies depend on the call (which inputs are there, their types, attributes), so those are built for it.
    """
    found: Any = schema(node.domain, node.op_type, opset)
    if found is None:
        return None, {}
    defaults = {
        name: helper.get_attribute_value(a.default_value)
        for name, a in found.attributes.items()
        if a.default_value.name
    }
    if found.has_function:
        return _fixed(node.domain, node.op_type, opset), defaults
    if not found.has_context_dependent_function:
        return None, {}
    call = helper.make_node(
        node.op_type,
        [f"i{k}" if v is not None else "" for k, v in enumerate(node.inputs)],
        [f"o{k}" for k in range(len(node.outputs))],
        domain=node.domain,
    )
    call.attribute.extend(helper.make_attribute(name, value) for name, value in attributes(node, {}).items())
    number = [0 if t is None else helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in types]
    protos = [helper.make_tensor_type_proto(n, None) for n in number]
    text = found.get_context_dependent_function_with_opset_version(
        opset, call.SerializeToString(), [p.SerializeToString() for p in protos]
    )
    return (_read(text, opset) if text else None), defaults


@cache
def _fixed(domain: str, op_type: str, opset: int) -> Function | None:
    found: Any = schema(domain, op_type, opset)
    best = max((v for v in found.function_opset_versions if v <= opset), default=None)
    if best is None:
        return None
    return _read(found.get_function_with_opset_version(best), opset)


def _read(text: bytes, opset: int) -> Function:
    proto = onnx.FunctionProto()
    proto.ParseFromString(text)
    if not proto.opset_import:
        proto.opset_import.append(helper.make_opsetid("", opset))
    # a function travels in a model; this one's graph only calls it
    graph = helper.make_graph([], proto.name, [], [])
    holder = helper.make_model(graph, functions=[proto], opset_imports=list(proto.opset_import))
    return next(iter(read(holder).functions.values()))
