"""A model as text and back: the same model always prints the same, and what prints parses to what prints the same.

    <opset_import: ["" : 24], ir_version: 12>
    main (float[1,3] x) => (float[1,4] y)
    <float[3,4] w = {...}>
    {
      [layer1] y = MatMul (x, w)
    }

The syntax is that of ONNX's own text where that suffices. Names that are not words are quoted; tensors of more than a
few elements stand as the hash of their content, `{#sha256}`, and `parse` takes them from a mapping, which `tensors`
makes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.graph.values import SOURCE, every_graph

INLINE = 32
"""Tensors of up to this many elements are printed in full."""

_WORD = re.compile(r"[A-Za-z_/][\w./:-]*")


def text(model: ir.Model, *, bare: bool = False) -> str:
    """The canonical text of a model.

    `bare` leaves out what two equal graphs may differ in: the header, node names and sources, types of intermediate
    values. It parses all the same.
    """
    lines: list[str] = []
    if not bare:
        lines.append(_header(model))
    lines += _graph(model.graph, bare, "")
    for identifier in sorted(model.functions):
        lines += _function(model.functions[identifier], bare)
    return "\n".join(lines) + "\n"


def node_text(node: ir.Node) -> str:
    """One node as the bare text has it."""
    return _node(node, True, "")


def tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The tensors that the text names by hash."""
    found = {}
    for tensor in _every_tensor(model):
        if tensor.size > INLINE:
            found[content_hash(tensor)] = tensor
    return found


def content_hash(tensor: ir.TensorProtocol) -> str:
    """sha256 over type, shape and bytes of a tensor, in hexadecimal; kept with the tensor once computed."""
    known = tensor.meta.get("porter.hash")
    if known is not None:
        return known
    digest = hashlib.sha256(f"{tensor.dtype.name}{list(tensor.shape)}".encode())
    if tensor.dtype == ir.DataType.STRING:
        for string in np.ravel(tensor.numpy()):
            digest.update(len(string).to_bytes(8, "little") + bytes(string))
    elif tensor.dtype.bitwidth >= 8:
        array = np.ascontiguousarray(tensor.numpy())
        if array.size:
            little = array if array.dtype.byteorder != ">" else array.astype(array.dtype.newbyteorder("<"))
            digest.update(little.reshape(-1).view(np.uint8).data)
    else:
        digest.update(tensor.tobytes())
    tensor.meta["porter.hash"] = digest.hexdigest()
    return digest.hexdigest()


def word(name: str) -> str:
    """A name as the text has it: quoted unless it is a word."""
    return name if _WORD.fullmatch(name) else json.dumps(name)


def type_name(kind: ir.TypeProtocol | None, shape: ir.Shape | None) -> str:
    """A type with its shape: float[1,N], float (a scalar), float[] (unknown rank), seq(int64[2])."""
    match kind:
        case None:
            return "undefined"
        case ir.SequenceType():
            return f"seq({type_name(kind.elem_type, shape)})"
        case ir.OptionalType():
            return f"optional({type_name(kind.elem_type, shape)})"
        case ir.SparseTensorType():
            return f"sparse_tensor({type_name(ir.TensorType(kind.dtype), shape)})"
    name = kind.dtype.name.lower()
    if shape is None:
        return f"{name}[]"
    if not shape.dims:
        return name
    return f"{name}[{','.join(_dim(dim) for dim in shape.dims)}]"


def _dim(dim: int | ir.SymbolicDim) -> str:
    if isinstance(dim, int):
        return str(dim)
    return "?" if dim.value is None else word(dim.value)


def _header(model: ir.Model) -> str:
    fields = [f"ir_version: {model.ir_version}", f"opset_import: {_imports(model.opset_imports)}"]
    for key in ("producer_name", "producer_version", "domain", "doc_string"):
        value = getattr(model, key)
        if value:
            fields.append(f"{key}: {json.dumps(value)}")
    if model.model_version:
        fields.append(f"model_version: {model.model_version}")
    if model.metadata_props:
        fields.append(f"metadata_props: {_metadata(model.metadata_props)}")
    return f"<{', '.join(fields)}>"


def _imports(imports: Mapping[str, int]) -> str:
    return "[" + ", ".join(f"{json.dumps(domain)} : {imports[domain]}" for domain in sorted(imports)) + "]"


def _metadata(properties: Mapping[str, str]) -> str:
    return "[" + ", ".join(f"{json.dumps(k)} : {json.dumps(properties[k])}" for k in sorted(properties)) + "]"


def _graph(graph: ir.Graph, bare: bool, indent: str) -> list[str]:
    inputs = ", ".join(f"{type_name(value.type, value.shape)} {word(value.name or '')}" for value in graph.inputs)
    outputs = ", ".join(f"{type_name(value.type, value.shape)} {word(value.name or '')}" for value in graph.outputs)
    lines = [f"{indent}{word(graph.name or 'main')} ({inputs}) => ({outputs})"]
    described = [
        f"{type_name(value.type, value.shape)} {word(value.name or '')} = {_tensor_data(value.const_value)}"
        for _, value in sorted(graph.initializers.items())
        if value.const_value is not None
    ]
    if not bare:
        described += _value_types(graph, set(graph.outputs))
    if described:
        lines.append(f"{indent}<{(',' + chr(10) + indent + ' ').join(described)}>")
    return [*lines, *_body(graph, bare, indent)]


def _value_types(graph: ir.Graph, known: set[ir.Value]) -> list[str]:
    return [
        f"{type_name(value.type, value.shape)} {word(value.name)}"
        for node in graph
        for value in node.outputs
        if value.name and value.type is not None and value not in known
    ]


def _function(function: ir.Function, bare: bool) -> list[str]:
    header = [f"domain: {json.dumps(function.domain)}", f"opset_import: {_imports(function.opset_imports)}"]
    if function.overload:
        header.append(f"overload: {json.dumps(function.overload)}")
    given = [
        word(name) if attribute.type == ir.AttributeType.UNDEFINED else _attribute(attribute, bare, "")
        for name, attribute in sorted(function.attributes.items())
    ]
    attributes = f" <{', '.join(given)}>" if given else ""
    inputs = ", ".join(word(value.name or "") for value in function.inputs)
    outputs = ", ".join(word(value.name or "") for value in function.outputs)
    lines = [f"<{', '.join(header)}>", f"{word(function.name)}{attributes} ({inputs}) => ({outputs})"]
    described = [] if bare else _value_types(function.graph, set())
    if described:
        lines.append(f"<{', '.join(described)}>")
    return [*lines, *_body(function.graph, bare, "")]


def _body(graph: ir.Graph, bare: bool, indent: str) -> list[str]:
    return [f"{indent}{{", *(_node(node, bare, indent + "  ") for node in graph), f"{indent}}}"]


def _node(node: ir.Node, bare: bool, indent: str) -> str:
    operator = word(node.op_type)
    if node.domain:
        operator = f"{word(node.domain)}.{operator}"
    if node.overload:
        operator += f":{word(node.overload)}"
    attributes = ", ".join(_attribute(node.attributes[name], bare, indent) for name in sorted(node.attributes))
    inputs = ", ".join("" if value is None else word(value.name or "") for value in node.inputs)
    outputs = ", ".join(word(value.name) if value.name else "_" for value in _named(node))
    label = "" if bare else _label(node)
    return f"{indent}{label}{outputs} = {operator}{f' <{attributes}>' if attributes else ''} ({inputs})"


def _named(node: ir.Node) -> list[ir.Value]:
    values = list(node.outputs)
    while len(values) > 1 and not values[-1].name:
        values.pop()
    return values


def _label(node: ir.Node) -> str:
    source = node.metadata_props.get(SOURCE)
    more = {key: value for key, value in node.metadata_props.items() if key != SOURCE}
    if not node.name and source is None and not more:
        return ""
    parts = [word(node.name or "_")]
    if source is not None and source != node.name:
        parts.append(f"from {json.dumps(source)}")
    if more:
        parts.append(f"with {_metadata(more)}")
    return f"[{' '.join(parts)}] "


def _attribute(attribute: ir.Attr, bare: bool, indent: str) -> str:
    kinds, name = ir.AttributeType, word(attribute.name)
    if attribute.is_ref():
        return f"{name}: {attribute.type.name.lower()} = @{word(attribute.ref_attr_name or '')}"
    value: Any = attribute.value
    match attribute.type:
        case kinds.FLOAT:
            return f"{name} = {number(np.float32(value))}"
        case kinds.INT:
            return f"{name} = {int(value)}"
        case kinds.STRING:
            return f"{name} = {json.dumps(value)}"
        case kinds.TENSOR:
            return f"{name} = {_tensor(value)}"
        case kinds.GRAPH:
            return f"{name} = {_inner(value, bare, indent)}"
        case kinds.INTS:
            items: Iterable[str] = (str(int(v)) for v in value)
        case kinds.FLOATS:
            items = (number(np.float32(v)) for v in value)
        case kinds.STRINGS:
            items = (json.dumps(v) for v in value)
        case kinds.TENSORS:
            items = (_tensor(v) for v in value)
        case kinds.GRAPHS:
            items = (_inner(v, bare, indent) for v in value)
        case kinds.TYPE_PROTO:
            return f"{name}: type_proto = {type_name(value.type, value.shape)}"
        case _:
            raise ValueError(f"attribute '{attribute.name}' of type {attribute.type.name} has no text")
    listed = f"[{', '.join(items)}]"
    return f"{name} = {listed}" if len(value) else f"{name}: {attribute.type.name.lower()} = []"


def _inner(graph: ir.Graph, bare: bool, indent: str) -> str:
    return "\n".join(_graph(graph, bare, indent + "  ")).lstrip()


def _tensor(tensor: ir.TensorProtocol) -> str:
    kind = type_name(ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy()))
    return f"{kind} {_tensor_data(tensor)}"


def _tensor_data(tensor: ir.TensorProtocol) -> str:
    if tensor.size > INLINE:
        return f"{{#{content_hash(tensor)}}}"
    if tensor.dtype == ir.DataType.STRING:
        return "{" + ", ".join(json.dumps(bytes(v).decode("latin-1")) for v in np.ravel(tensor.numpy())) + "}"
    return "{" + ", ".join(number(v) for v in np.ravel(tensor.numpy())) + "}"


def number(value: Any) -> str:
    """The shortest text that reads back as the same value of its type."""
    if isinstance(value, np.bool_ | bool):
        return str(int(value))
    if isinstance(value, np.complexfloating):
        return f"{number(value.real)}:{number(value.imag)}"
    if isinstance(value, np.floating):
        if math.isnan(value):
            return "nan"
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return str(value)
    if isinstance(value, np.integer | int) or np.asarray(value).dtype.name.lstrip("u").startswith("int"):
        return str(int(value))
    narrow = float(value)  # ml_dtypes: every value is a float32 as well
    return number(np.float32(narrow))


def _every_tensor(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()
