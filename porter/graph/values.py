"""What a value or an attribute holds, in numpy and plain Python: constants, types, shapes, source names."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.operators import holders
from porter.graph.unread import ShapeOnly

SOURCE = "porter.source"
"""The metadata key under which a node keeps the name of the source model's node that it comes from."""


@dataclass(frozen=True)
class Reference:
    """The value of an attribute that stands for an attribute of the enclosing function."""

    name: str


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or of a Constant node's output; None for anything computed.

    External data stays mapped: reading the array touches only the pages that are used. Narrow formats come as
    `ml_dtypes` types, strings as an object array of bytes. A weight of which only the shape is known (`unread`) has none.
    """
    if value is None:
        return None
    tensor = constant_tensor(value)
    return None if tensor is None or isinstance(tensor, ShapeOnly) else tensor.numpy()


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor behind a constant, its data untouched; None for anything computed."""
    node = value.producer()
    if node is None:
        return value.const_value if value.is_initializer() else None
    if node.op_type != "Constant" or node.domain != "":
        return None
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        match name:
            case "value" if attribute.type == ir.AttributeType.TENSOR:
                return attribute.value  # as_tensor() asks whether it has all of a tensor's methods, each time
            case "value":
                return attribute.as_tensor()  # raises
            case "value_float" | "value_floats":
                return ir.tensor(np.asarray(attribute.value, np.float32))
            case "value_int" | "value_ints":
                return ir.tensor(np.asarray(attribute.value, np.int64))
            case "value_string":
                return ir.StringTensor([attribute.value.encode()], shape=ir.Shape([]))
            case "value_strings":
                strings = [text.encode() for text in attribute.value]
                return ir.StringTensor(strings, shape=ir.Shape([len(strings)]))
    return None


def is_unread(value: ir.Value | None) -> bool:
    """Whether a value is a weight of which only the shape is known."""
    return value is not None and isinstance(constant_tensor(value), ShapeOnly)


def release(owner: ir.Model | ir.Value) -> None:
    """Gives back the memory of mapped weights that were read: their pages come from the file again when they are needed.

    A model larger than memory is walked tensor by tensor; without this, what was read would stay until memory is short.
    """
    values = [owner] if isinstance(owner, ir.Value) else list(owner.graph.initializers.values())
    for value in values:
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and isinstance(mapped := tensor.raw, mmap.mmap):
            with contextlib.suppress(AttributeError, OSError):  # a system without it keeps the pages
                mapped.madvise(mmap.MADV_DONTNEED)


def attributes(node: ir.Node, bound: Mapping[str, object] | None = None) -> dict[str, object]:
    """The attributes that the node carries, as int, float, str, tuple, np.ndarray or Graph.

    Inside a function an attribute may refer to one of the function's: it takes its value from `bound` (see
    `parameters`), is left out where `bound` has none, and is a `Reference` where `bound` is not given.
    """
    result: dict[str, object] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            target = attribute.ref_attr_name or ""
            if bound is None:
                result[name] = Reference(target)
            elif target in bound:
                result[name] = bound[target]
        else:
            result[name] = plain(attribute)
    return result


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """An integer attribute that stands in the node itself; the default where there is none, or where a function's call has it."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.as_int()


def plain(attribute: ir.Attr) -> object:
    """The value of one attribute as int, float, str, tuple, np.ndarray or Graph; types stay `TypeAndShape`."""
    kinds = ir.AttributeType
    match attribute.type:
        case kinds.TENSOR:
            return attribute.as_tensor().numpy()
        case kinds.TENSORS:
            return tuple(tensor.numpy() for tensor in attribute.as_tensors())
        case kinds.INTS | kinds.FLOATS | kinds.STRINGS | kinds.GRAPHS | kinds.TYPE_PROTOS:
            return tuple(attribute.value)
        case _:
            return attribute.value


def parameters(function: ir.Function, call: ir.Node, bound: Mapping[str, object] | None = None) -> dict[str, object]:
    """The function's attributes in one call: what the call carries, else the function's defaults."""
    values = {
        name: plain(attribute)
        for name, attribute in function.attributes.items()
        if attribute.type != ir.AttributeType.UNDEFINED and attribute.value is not None
    }
    return values | attributes(call, bound if bound is not None else {})


def dtype(value: ir.Value) -> np.dtype | None:
    """The element type, `ml_dtypes` for narrow formats and `object` for strings; None where it is not known."""
    if not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.UNDEFINED):
        return None
    return np.dtype(value.dtype.numpy())


def shape(value: ir.Value) -> tuple[int, ...] | None:
    """The static shape; None where the rank or a dim is not known."""
    if value.shape is None or not all(isinstance(dim, int) for dim in value.shape.dims):
        return None
    return value.shape.numpy()


def source_name(node: ir.Node) -> str:
    """The name of the source model's node, for messages; its own name or operator where it has no source."""
    return node.metadata_props.get(SOURCE) or node.name or node.op_type


def graphs(owner: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs that a node holds, in the order of its attributes."""
    if not owner.domain and owner.op_type not in holders():  # asked of every node at every edit
        return
    for attribute in owner.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: ir.Node) -> list[ir.Value]:
    """The values from outside that the node's subgraphs use, each once, in order of first use."""
    found: dict[ir.Value, None] = {}
    for graph in graphs(node):
        inside: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
        for inner in graph:
            for value in [*inner.inputs, *captured(inner)]:
                if value is not None and value not in inside:
                    found[value] = None
            inside.update(inner.outputs)
        found.update((value, None) for value in graph.outputs if value not in inside)
    return list(found)


def every_graph(model: ir.Model) -> Iterator[ir.Graph]:
    """The model's graph, the bodies of its functions, and every subgraph in them, outermost first."""
    pending = [model.graph, *(function.graph for function in model.functions.values())]
    while pending:
        graph = pending.pop(0)
        yield graph
        for node in graph:
            pending.extend(graphs(node))


def nodes_of(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph and of the subgraphs in them, each subgraph after the node that holds it."""
    for node in graph:
        yield node
        for inner in graphs(node):
            yield from nodes_of(inner)


def called(model: ir.Model, node: ir.Node) -> ir.Function | None:
    """The model-local function that the node calls; None for an operator."""
    return model.functions.get(node.op_identifier())


def require_function(model: ir.Model, node: ir.Node) -> ir.Function:
    """The model-local function that the node calls; raises PorterError for an operator."""
    function = called(model, node)
    if function is None:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise PorterError(
            f"node '{source_name(node)}' ({name})", expected="a call of a model-local function", found="an operator"
        )
    return function
