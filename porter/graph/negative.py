"""Dims below zero, stopped where they arise.

A window larger than its input gives the standard's shape inference a negative dim, and a Slice that meets one ends the
process: onnx 1.23 asserts in `std::clamp` that its bounds are in order. So, where there is a Slice, each operator that
can make such a dim is followed by a node of our own whose rule refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

MAKERS = frozenset(
    "AveragePool Col2Im ConstantOfShape Conv ConvInteger ConvTranspose DeformConv LpPool MaxPool Pad QLinearConv Resize Tile "
    "Upsample RandomNormal RandomUniform".split()
)
DOMAIN = "porter.not_negative"


@contextmanager
def refused(proto: onnx.ModelProto) -> Iterator[None]:
    """Inside, inference on this message raises InferenceError at the node that makes a dim negative."""
    found: set[str] = set()
    if any(node.op_type == "Slice" for graph in _graphs(proto.graph) for node in graph.node):
        for graph in _graphs(proto.graph):
            found |= _guard(graph)
    if found:
        proto.opset_import.add(domain=DOMAIN, version=1)
    formal = onnx.defs.OpSchema.FormalParameter
    kinds = onnx.defs.get_schema("Identity").type_constraints[0].allowed_type_strs
    for op_type in found:
        definition = onnx.defs.OpSchema(op_type, DOMAIN, 1, inputs=[formal("x", "T")], outputs=[formal("y", "T")],
                                        type_constraints=[("T", kinds, "")])  # fmt: skip
        definition.set_type_and_shape_inference_function(_infer)
        onnx.defs.register_schema(definition)
    try:
        yield
    finally:
        for op_type in found:
            onnx.defs.deregister_schema(op_type, 1, DOMAIN)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def _guard(graph: onnx.GraphProto) -> set[str]:
    """Follow each maker by a node that hands its first output on; the operators that were found."""
    nodes, found = [], set()
    for node in graph.node:
        nodes.append(node)
        if node.op_type in MAKERS and not node.domain and node.output and node.output[0]:
            name, of = node.output[0], f"(op_type:{node.op_type}, node name: {node.name})"
            node.output[0] = f"{name} before it is looked at"
            nodes.append(onnx.helper.make_node(node.op_type, [node.output[0]], [name], node.name, domain=DOMAIN, of=of))
            found.add(node.op_type)
    if found:
        made = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(made)
    return found


def _infer(context: onnx.shape_inference.InferenceContext) -> None:
    described = context.get_input_type(0)
    if described is None:
        return
    dims = [dim.dim_value for dim in described.tensor_type.shape.dim if dim.HasField("dim_value")]
    if any(dim < 0 for dim in dims):
        of = onnx.helper.get_attribute_value(context.get_attribute("of")).decode()
        raise onnx.shape_inference.InferenceError(f"{of}: a dim of {min(dims)} comes out")
    context.set_output_type(0, described)
