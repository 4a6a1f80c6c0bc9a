"""Types and shapes of every value by the standard's own rules, and the check of types that those rules leave out.

The rules run in the `onnx` library on a message without the weights, so that no weight is read or copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph import negative
from porter.graph.contrib import shapes
from porter.graph.operators import schema
from porter.graph.unread import ShapeOnly
from porter.graph.values import constant_tensor, every_graph, graphs, nodes_of, source_name

_SMALL = 4096
"""Constants up to this many bytes go into the message: shapes and axes are computed from them."""


def innermost(error: BaseException) -> str:
    """What the first of a chain of errors says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


@contextmanager
def without_weights(model: ir.Model) -> Iterator[onnx.ModelProto]:
    """The model's message with large constants as stubs that have a type and a shape but no data; small ones that lie in
    a file are in the message, since the rules read shapes and axes."""
    swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
    replaced: list[tuple[ir.Node, ir.Attr]] = []
    try:
        for graph in every_graph(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and (light := _light(tensor, value.name or "")) is not None:
                    swapped.append((value, tensor))
                    value.const_value = light
            for node in graph:
                attribute = node.attributes.get("value")
                if (
                    attribute is not None
                    and attribute.type == ir.AttributeType.TENSOR
                    and not attribute.is_ref()
                    and (light := _light(attribute.as_tensor(), "value")) is not None
                ):
                    replaced.append((node, attribute))
                    node.attributes["value"] = ir.AttrTensor("value", light)
        try:
            message = ir.to_proto(model)
        except Exception as error:  # a text somewhere that is no UTF-8, say; the library names the place
            raise PorterError("the model", expected="a model that can be written", found=innermost(error)) from error
        yield message
    finally:
        for value, before in swapped:
            value.const_value = before
        for node, attribute in replaced:
            node.attributes["value"] = attribute


def infer_types(model: ir.Model) -> list[str]:
    """Sets type and shape of every value of the graph and its subgraphs, and returns what the outputs declared wrongly.

    Shapes that the model carries for computed values are not believed, but derived again from the inputs. Raises
    PorterError, naming the node, where the rules find a contradiction; one in a branch of an If only matters when that
    branch runs, and is found then (an 8 kHz branch does not take the frames of 16 kHz).
    """
    declared = {value: value.shape for value in model.graph.outputs}
    _forget(model)
    for value in declared:  # a rank or a fixed dim may be all that is known of a data-dependent result
        if value.producer() is not None:
            value.shape = None
    foreign = {node.op_type for graph in every_graph(model) for node in graph if node.domain == shapes.DOMAIN}
    with without_weights(model) as proto, shapes.known_to_onnx(foreign), negative.refused(proto):
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            if _in_branches(model, str(error)):
                inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=False, data_prop=True)
            else:
                for value, shape in declared.items():
                    value.shape = shape
                raise _contradiction(model, str(error)) from error
    _adopt(model.graph, inferred.graph)
    notes = []
    for value, shape in declared.items():
        wrong = _merge(value, shape)
        if wrong:
            notes.append(f"output '{value.name}' was declared as {wrong[0]}, but the graph gives {wrong[1]}")
    return notes


def check_types(model: ir.Model) -> None:
    """Raises PorterError for a node whose inputs, outputs or attributes the operator's definition does not allow."""
    for graph, imports in _scopes(model):
        for node in graph:
            if node.op_identifier() in model.functions or node.domain != "":
                continue
            definition = schema(node.op_type, imports.get("", 0))
            if definition is not None:
                _check_arity(node, definition)
                _check_attributes(node, definition)
                _check_constraints(node, definition)


def _scopes(model: ir.Model) -> Iterator[tuple[ir.Graph, dict[str, int]]]:
    """Every graph with the opset imports that hold in it."""
    for root in [model.graph, *(function.graph for function in model.functions.values())]:
        pending = [root]
        while pending:
            graph = pending.pop()
            yield graph, root.opset_imports
            pending.extend(inner for node in graph for inner in graphs(node))


def _light(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol | None:
    """What stands for the tensor in the message; None where it may stand there itself."""
    shape = ir.Shape(tensor.shape.numpy())
    if tensor.nbytes <= _SMALL and not isinstance(tensor, ShapeOnly):
        held = isinstance(tensor, ir.ExternalTensor)
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=shape, name=name) if held else None
    return ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


def _forget(model: ir.Model) -> None:
    """Drops shapes, and types of what nodes compute; inputs and outputs of subgraphs keep fixed dims."""
    outputs = set(model.graph.outputs)
    for graph in every_graph(model):
        for node in graph:
            for value in node.outputs:
                value.shape = None
                if value not in outputs:
                    value.type = None
        if graph is not model.graph:
            for value in graph.inputs:
                if value.shape is not None:
                    value.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in value.shape.dims])


def _adopt(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    found = {info.name: info.type for info in [*proto.value_info, *proto.output]}
    nodes = {node.output[0]: node for node in proto.node if node.output}
    for node in graph:
        for value in node.outputs:
            described = found.get(value.name or "")
            if described is None:
                continue
            kind = ir.serde.deserialize_type_proto_for_type(described)
            if kind is not None and not (isinstance(kind, ir.TensorType) and kind.dtype == ir.DataType.UNDEFINED):
                value.type = kind
            value.shape = _plain_shape(ir.serde.deserialize_type_proto_for_shape(described))
        inner = list(graphs(node))
        if inner and node.outputs and node.outputs[0].name in nodes:
            message = nodes[node.outputs[0].name]
            protos = [g for a in message.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
            for subgraph, subproto in zip(inner, protos, strict=True):
                _adopt(subgraph, subproto)


def _plain_shape(shape: ir.Shape | None) -> ir.Shape | None:
    """The shape with dims that inference made up (unk__0, ...) as unknown ones."""
    if shape is None:
        return None
    return ir.Shape([dim if isinstance(dim, int) else None for dim in shape.dims])


def _merge(value: ir.Value, declared: ir.Shape | None) -> tuple[str, str] | None:
    """Fills unknown dims of an output from its declaration; returns both shapes where they contradict each other."""
    if declared is None:
        return None
    if value.shape is None:
        value.shape = declared
        return None
    found = value.shape.dims
    if len(found) != len(declared.dims):
        return str(declared), str(value.shape)
    pairs = list(zip(found, declared.dims, strict=True))
    wrong = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    before = str(value.shape)
    value.shape = ir.Shape([a if isinstance(a, int) or (isinstance(b, int) and wrong) else b for a, b in pairs])
    return (str(declared), before) if wrong else None


def _in_branches(model: ir.Model, text: str) -> bool:
    """Whether every node that the message names stands in a branch of an If, holds one, or merely lacks a type for it."""
    branches = [g for graph in every_graph(model) for node in graph if node.op_type == "If" for g in graphs(node)]
    inside = {inner.name for graph in branches for inner in nodes_of(graph) if inner.name}
    named = re.findall(r"\(op_type:\s*(\w+)(?:,\s*node name:\s*(.*?))?\):([^(]*)", text)
    own = [name in inside for op, name, what in named if op != "If" and "instead is null" not in what]
    return bool(own) and all(own)


_NODE = re.compile(r"\(op_type:\s*(?P<op>\w+)(?:,\s*node name:\s*(?P<name>.*?))?\):\s*(?P<what>.*)", re.DOTALL)


def _contradiction(model: ir.Model, text: str) -> PorterError:
    """The library's message in our words: the first node it names, and what it says of it."""
    found = _NODE.search(text)
    if found is None:
        return PorterError("the graph", expected="types and shapes that fit each other", found=_said(text))
    name = found["name"] or ""
    node = next((n for graph in every_graph(model) for n in graph if n.name == name), None)
    title = source_name(node) if node is not None else name
    what = re.split(r"\n|(?=\(op_type:)", found["what"])[0]
    inputs = "" if node is None else "; its inputs are " + ", ".join(_described(v) for v in node.inputs if v)
    return PorterError(
        f"node '{title}' ({found['op']})", expected="inputs that fit each other", found=_said(what) + inputs
    )


def _said(text: str) -> str:
    return re.sub(r"\[\w*Error\]\s*", "", text).strip().rstrip(".")


def _described(value: ir.Value) -> str:
    kind = value.dtype.name.lower() if value.dtype is not None else "of unknown type"
    tensor = constant_tensor(value)
    shape = value.shape if value.shape is not None else (tensor.shape if tensor is not None else "")
    return f"'{value.name}' {kind}{shape}"


def _check_arity(node: ir.Node, definition: onnx.defs.OpSchema) -> None:
    given = len(node.inputs)
    while given and node.inputs[given - 1] is None:
        given -= 1
    title = f"node '{source_name(node)}' ({node.op_type})"
    if not definition.min_input <= given <= definition.max_input:
        least, most = definition.min_input, definition.max_input
        want = str(least) if least == most else f"{least} to {most}" if most < 2**30 else f"{least} or more"
        raise PorterError(title, expected=f"{want} inputs", found=str(given))
    for formal, actual in zip(definition.inputs, node.inputs, strict=False):
        if formal.option == onnx.defs.OpSchema.FormalParameterOption.Single and actual is None:
            raise PorterError(title, expected=f"an input '{formal.name}'", found="none")
    if len(node.outputs) > definition.max_output:
        raise PorterError(title, expected=f"at most {definition.max_output} outputs", found=str(len(node.outputs)))
    parts = node.attributes.get("num_outputs")
    if (
        node.op_type == "Split"
        and isinstance(parts, ir.Attr)
        and not parts.is_ref()
        and parts.value < len(node.outputs)
    ):
        # onnx's inference indexes its num_outputs sizes by the outputs there are, which ends the process
        raise PorterError(title, expected=f"num_outputs = {len(node.outputs)}, one per output", found=str(parts.value))


_COUNTS = frozenset({"strides", "dilations", "kernel_shape"})  # onnx's inference divides by some of them


def _check_attributes(node: ir.Node, definition: onnx.defs.OpSchema) -> None:
    title = f"node '{source_name(node)}' ({node.op_type})"
    for name, attribute in node.attributes.items():
        if name not in definition.attributes:
            known = ", ".join(sorted(definition.attributes)) or "none"
            raise PorterError(title, expected=f"attributes among {known}", found=f"'{name}'")
        want = str(definition.attributes[name].type).rpartition(".")[2]
        if attribute.type.name != want:
            raise PorterError(
                title, expected=f"attribute '{name}' of type {want.lower()}", found=attribute.type.name.lower()
            )
        if name in _COUNTS and not attribute.is_ref() and min(attribute.value, default=1) < 1:
            raise PorterError(
                title, expected=f"attribute '{name}' of numbers from 1 on", found=str(list(attribute.value))
            )
    for name, formal in definition.attributes.items():
        if formal.required and name not in node.attributes:
            raise PorterError(title, expected=f"an attribute '{name}'", found="none")


def _check_constraints(node: ir.Node, definition: onnx.defs.OpSchema) -> None:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in definition.type_constraints}
    bound: dict[str, tuple[str, str]] = {}
    for formals, actuals in ((definition.inputs, node.inputs), (definition.outputs, node.outputs)):
        for index, value in enumerate(actuals):
            if value is None or value.type is None or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            kind = type_text(value.type)
            if kind is None:
                continue
            title = f"node '{source_name(node)}' ({node.op_type})"
            if kind not in allowed.get(formal.type_str, {formal.type_str}):
                types = sorted(allowed.get(formal.type_str, {formal.type_str}))
                raise PorterError(
                    title,
                    expected=f"'{formal.name}' to be one of {', '.join(types)}",
                    found=f"'{value.name}' of type {kind}",
                )
            if formal.type_str not in allowed or not formal.is_homogeneous:
                continue
            first = bound.setdefault(formal.type_str, (value.name or "", kind))
            if first[1] != kind:
                raise PorterError(
                    title,
                    expected="inputs and outputs of one type" if node.inputs else "outputs of one type",
                    found=f"'{first[0]}' of type {first[1]} and '{value.name}' of type {kind}",
                    hint="a Cast between them",
                )


def type_text(kind: ir.TypeProtocol) -> str | None:
    """The standard's spelling of a type, as operator definitions use it: 'tensor(float)', 'seq(tensor(int64))'."""
    match kind:
        case ir.SequenceType():
            inner = type_text(kind.elem_type)
            return None if inner is None else f"seq({inner})"
        case ir.OptionalType():
            inner = type_text(kind.elem_type)
            return None if inner is None else f"optional({inner})"
        case ir.SparseTensorType():
            return f"sparse_tensor({kind.dtype.name.lower()})"
        case _ if kind.dtype != ir.DataType.UNDEFINED:
            return f"tensor({kind.dtype.name.lower()})"
    return None
