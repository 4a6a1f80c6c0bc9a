"""The distinct kernels of a partitioned model, and its program: the list of launches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter import graph, ops
from porter.bundle.manifest import Launch
from porter.errors import PorterError
from porter.graph import Function, Model, Node, Value
from porter.tile.form import Cut, Form
from porter.tile.pull import pull

DOMAIN = "porter.kernel"


@dataclass(frozen=True)
class Distinct:
    """A kernel that differs from all others in its axis form or types.

    `alone` is its function as a model of its own; `host` says why it cannot be a kernel of any device (then `form` is None).
    """

    name: str
    alone: Model
    meaning: Any = None
    form: Form | None = None
    host: str = ""
    op: str = ""


@dataclass
class Program:
    """Launches in order; values are named as in the model. `weights` are the initializers that launches read."""

    kernels: dict[str, Distinct] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    weights: dict[str, Value] = field(default_factory=dict)
    types: dict[str, tuple[tuple[int, ...] | None, np.dtype]] = field(
        default_factory=dict
    )  # no shape: it depends on data

    @property
    def host_ops(self) -> dict[str, str]:
        return {k.op: k.host for k in self.kernels.values() if k.host}


def program_of(model: Model) -> Program:
    """The launch list of a partitioned model. Kernels are equal by axis form and types, whatever their weights."""
    found = Program()
    by_content: dict[tuple[str, str], str] = {}
    by_form: dict[Any, str] = {}
    found.inputs = tuple(v for v in model.graph.inputs if not v.is_initializer())
    found.outputs = tuple(model.graph.outputs)
    for node in model.graph:
        if node.op_type == "Constant" and node.domain == "":
            for v in node.outputs:
                found.weights[str(v.name)] = v
            continue
        key = (node.domain, node.op_type) if node.domain == DOMAIN else ("", str(node.name))
        if key not in by_content:
            distinct = _distinct(model, node, len(found.kernels))
            shared = by_form.setdefault(_key(distinct), distinct.name)
            if shared == distinct.name:
                found.kernels[distinct.name] = distinct
            by_content[key] = shared
        sources = tuple(graph.source_name(node).split("+"))
        reads = [v for v in dict.fromkeys((*node.inputs, *graph.captured(node))) if v is not None]
        read = tuple(str(v.name) for v in reads)
        found.launches.append(Launch(by_content[key], read, tuple(str(v.name) for v in node.outputs), sources))
        for used in [*reads, *node.outputs]:
            _type(found, used)
            if used.producer() is None and used not in found.inputs:
                found.weights[str(used.name)] = used
    for v in (*found.inputs, *found.outputs):
        _type(found, v)
    return found


def _type(found: Program, value: Value) -> None:
    shape, dtype = graph.shape(value), graph.dtype(value)
    if dtype is None and value.producer() is not None and not value.is_graph_output():
        shape, dtype = None, _element(value)
    if dtype is None or (shape is None and value.producer() is None):
        raise PorterError(f"value '{value.name}'", expected="a known shape and dtype", found=f"{shape}, {dtype}")
    found.types[str(value.name)] = (shape, dtype)


def _element(value: Value) -> np.dtype | None:
    """The element type of the tensors in a sequence or an optional, which only the host passes on."""
    kind: Any = value.type
    while isinstance(kind, graph.SequenceType | graph.OptionalType):
        kind = kind.elem_type
    return np.dtype(kind.dtype.numpy()) if isinstance(kind, graph.TensorType) else None


def _key(kernel: Distinct) -> Any:
    return kernel.form.key() if kernel.form is not None else kernel.name


def _distinct(model: Model, node: Node, number: int) -> Distinct:
    if node.domain != DOMAIN:
        alone = graph_of_node(model, node)
        return Distinct(f"h{number:02d}_{node.op_type.lower()}", alone, host=_why(model, node), op=node.op_type)
    function = model.functions[(node.domain, node.op_type, "")]
    op = re.sub(r"_[0-9a-f]{8}$", "", node.op_type)
    name = f"k{number:02d}_{re.sub(r'[^a-z0-9_]', '_', op)}"
    alone = alone_of(model, function, node)
    meaning = ops.trace(
        alone.graph, alone, [ops.ShapeDtype(graph.shape(v), graph.dtype(v)) for v in alone.graph.inputs]
    )
    outs = [f"out{i}" for i in range(len(alone.graph.outputs))]
    return Distinct(
        name, alone, meaning, pull(meaning, [f"in{i}" for i in range(len(alone.graph.inputs))], outs), op=op
    )


def _why(model: Model, node: Node) -> str:
    """Why a node is no kernel: the sentence of the first room that refused it."""
    from porter.rewrite.regions import boundary, has_subgraphs, region

    if has_subgraphs([node]):
        return _control(node)
    if any(isinstance(v.type, graph.SequenceType) for v in (*node.inputs, *node.outputs) if v is not None):
        return "a sequence whose length or places are computed"
    if any(graph.shape(v) is None for v in (*node.inputs, *node.outputs) if v is not None):
        return "data-dependent shape"
    alone = region(
        [node], boundary([node], list(node.outputs)), list(node.outputs), model.functions, opset=model.opset_imports[""]
    )
    try:
        types = [ops.ShapeDtype(graph.shape(v), graph.dtype(v)) for v in alone.graph.inputs]
        pull(ops.trace(alone.graph, alone, types))
    except (Cut, PorterError) as e:
        return str(e).splitlines()[0]
    return "no kernel of its own"


def _control(node: Node) -> str:
    """Why control flow is left as it is: what is computed that a list of launches would have to know."""
    data = [str(v.name) for v in node.outputs if v is not None and v.name and graph.shape(v) is None]
    shapes = f", and with it the shape of {', '.join(data)}" if data else ""
    match node.op_type:
        case "Loop" if _turns(node) is None:
            return f"control flow: how many turns it takes is computed{shapes}"
        case "Loop" | "Scan":
            return "control flow: its turns are more than are unrolled"
        case "If" if data:
            return f"control flow: the branch is computed{shapes}"
    return "control flow"


def _turns(node: Node) -> int | None:
    """The turns of a Loop, where its count is known and its condition is never computed."""
    count, start, *_ = (*node.inputs, None, None)
    known = None if count is None else graph.constant(count)
    begins = start is None or graph.constant(start) is not None
    body: Any = graph.attributes(node)["body"]
    going = body.outputs[0]
    while (maker := going.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        going = maker.inputs[0]
    goes_on = going is body.inputs[1] or graph.constant(going) is not None
    return int(known.reshape(-1)[0]) if known is not None and begins and goes_on else None


def graph_of_node(model: Model, node: Node) -> Model:
    """One node as a model over its inputs, those that its subgraphs read from outside among them."""
    from porter.rewrite.regions import has_subgraphs, region

    if has_subgraphs([node]):
        made = graph.alone(node, model.opset_imports)
        return Model(made, ir_version=model.ir_version or 11, functions=list(model.functions.values()))
    inputs = list(dict.fromkeys(v for v in node.inputs if v is not None))
    return region([node], inputs, list(node.outputs), model.functions, opset=model.opset_imports[""])


def alone_of(model: Model, function: Function, call: Node) -> Model:
    """A kernel function as a model whose inputs have the types of this call."""
    body = function.graph.clone()
    for inner, outer in zip(body.inputs, call.inputs, strict=True):
        assert outer is not None
        inner.type, inner.shape = outer.type, outer.shape
    body.opset_imports.update(model.opset_imports)
    used = {n.op_identifier() for n in body.all_nodes()}
    alone = Model(body, ir_version=model.ir_version, functions=[f for k, f in model.functions.items() if k in used])
    ops.infer(alone)
    return alone


Execute = Callable[[Distinct, Sequence[np.ndarray]], Sequence[np.ndarray]]


def run(program: Program, inputs: Mapping[str, np.ndarray], execute: Execute) -> dict[str, np.ndarray]:
    """The outputs by name: each launch through `execute`, values dropped after their last use."""
    values: dict[str, np.ndarray] = dict(inputs)
    outputs = {str(v.name) for v in program.outputs}
    last = {name: i for i, launch in enumerate(program.launches) for name in launch.inputs}
    for i, launch in enumerate(program.launches):
        arrays = [values[n] if n in values else weight(program, n) for n in launch.inputs]
        results = execute(program.kernels[launch.kernel], arrays)
        for name, result in zip(launch.outputs, results, strict=True):
            shape, dtype = program.types[name]
            values[name] = (
                result
                if isinstance(result, tuple) or result is None  # a sequence, an empty optional
                else np.asarray(result).reshape(np.shape(result) if shape is None else shape).astype(dtype, copy=False)
            )
        for name in {n for n in launch.inputs if last[n] == i} - outputs:
            values.pop(name, None)
    names = [str(v.name) for v in program.outputs]
    return {n: values[n] if n in values else weight(program, n) for n in names}


def weight(program: Program, name: str) -> np.ndarray:
    """A weight as an array (mapped where the model's file is)."""
    array = graph.constant(program.weights[name])
    if array is None:
        raise PorterError(
            f"value '{name}'", expected="a weight, an input, or the result of an earlier launch", found="none of these"
        )
    return array
