"""The layers that low precision is about: contractions of an activation with a weight, and tables that are gathered from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from porter.graph import (
    Function,
    Model,
    Node,
    Reference,
    Value,
    attributes,
    called,
    constant_tensor,
    dtype,
    integer,
    shape,
    source_name,
)
from porter.tile.block_scales import SHORTEST

PLAIN = ("", "ai.onnx")
# what a function calls by its own name: the place among the inputs, the graph's value
Outer = dict[Value, tuple[int, Value]]
Traced = tuple[Value, tuple[int, ...]]  # a value and the permutation that its axes went through; () for none
CARRY = ("Cast", "Transpose", "Identity", "Reshape", "DequantizeLinear")
LEAST = 1024  # elements below which a weight is left alone: scales would weigh as much as what they save


@dataclass(frozen=True, eq=False)
class Layer:
    """A node of the graph (an operator, or a call of a fused one) and what it multiplies.

    activation, position   the other operand and its place among the node's inputs; None where it is made inside, or for a
                           table
    channels               the weight's axis with one scale per index; None where none survives
    sums                   the weight's axis that the contraction sums over
    axis                   the activation's axis that the contraction sums over
    batched                whether the weight is a stack of matrices
    groups                 of a convolution: parts of the channels that never meet
    """

    node: Node
    weight: Value
    activation: Value | None
    position: int | None
    channels: int | None
    sums: int | None
    batched: bool = False
    macs: int = 0
    axis: int = -1
    groups: int = 1

    @property
    def name(self) -> str:
        """The source model's layer."""
        return source_name(self.node)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Rows, columns and terms of each of its products as a matrix unit would have them."""
        dims = shape(self.weight) or (1,)
        whole, columns = int(np.prod(dims)), dims[self.channels] if self.channels is not None else 1
        stack = dims[0] if self.batched else 1
        return self.macs // max(whole, 1), columns // self.groups, whole // max(columns * stack, 1)

    @property
    def is_convolution(self) -> bool:
        return len(shape(self.weight) or ()) > 2 and not self.batched

    @property
    def is_table(self) -> bool:
        return self.activation is None and self.node.op_type == "Gather"


def in_blocks(layer: Layer, block: int, bits: int) -> bool:
    """Whether the other operand is several rows of whole blocks along the sum, its last axis, and no shorter than a unit's
    least."""
    dims = (shape(layer.activation) if layer.activation is not None else None) or (0,)
    rows, width = int(np.prod(dims[:-1])), dims[-1]
    return layer.axis in (-1, len(dims) - 1) and rows > 1 and width % block == 0 and width * bits >= 8 * SHORTEST


def layers(model: Model) -> list[Layer]:
    """Every layer with a float32 weight of at least 1024 elements, in the order of the graph."""
    found = []
    for node in model.graph:
        if node.domain in PLAIN:
            found += _of(node, {v: (i, v) for i, v in enumerate(node.inputs) if v is not None}, node)
        elif (function := called(model, node)) is not None:
            found += _called(node, function)
    return found


def products_of_weights(model: Model) -> int:
    """How many contractions of a model, as loaded, have a constant operand, straight or through casts and decoding."""
    graphs = [model.graph, *model.functions.values()]
    return sum(
        any(v is not None and _constant_behind(v) for v in node.inputs[:2]) for g in graphs for node in g
        if node.domain in PLAIN and node.op_type in ("MatMul", "Gemm", "Conv")
    )  # fmt: skip


def _constant_behind(value: Value) -> bool:
    while (node := value.producer()) is not None and node.op_type in CARRY and node.inputs[0] is not None:
        value = node.inputs[0]
    return value.const_value is not None or (node is not None and node.op_type == "Constant")


def _called(node: Node, function: Function) -> list[Layer]:
    outer = {p: (i, v) for i, (p, v) in enumerate(zip(function.inputs, node.inputs, strict=False)) if v is not None}
    return [layer for inner in function if inner.domain in PLAIN for layer in _of(inner, outer, node)]


def _of(inner: Node, outer: Outer, node: Node) -> list[Layer]:
    if inner.op_type == "Gather":
        table = _outer(inner.inputs[0], outer)
        axis = integer(inner, "axis")
        found = None if table is None else _weight(outer[table[0]][1], table[1])
        return [Layer(node, found[0], None, None, 0, 1)] if found is not None and not found[1] and axis == 0 else []
    axes = _weight_axes(inner)
    operands = [_outer(v, outer) for v in inner.inputs[:2]] if axes else []
    for place, (channels, sums) in axes.items():
        mine, other = operands[place], operands[1 - place]
        found = None if mine is None else _weight(outer[mine[0]][1], mine[1])
        if found is None:
            continue
        value, perm = found
        dims = shape(value) or ()
        channels, sums = channels % len(dims), sums % len(dims)
        if perm:
            channels, sums = perm[channels], perm[sums]
        position, activation = (
            outer[other[0]] if other is not None and _only_multiplied(other[0], inner is node) else (None, None)
        )
        if activation is not None and (constant_tensor(activation) is not None or dtype(activation) != np.float32):
            position, activation = None, None
        result = inner.outputs[0] if shape(inner.outputs[0]) is not None else node.outputs[0]
        macs = (
            _size(result)
            * _size(value)
            // max(dims[channels], 1)
            // (dims[0] if len(dims) > 2 and inner.op_type == "MatMul" else 1)
        )
        batched = inner.op_type == "MatMul" and len(dims) > 2
        groups = _groups(inner, node) if inner.op_type == "Conv" else 1
        axis = _summed(inner, place)
        if other is not None and other[1]:
            axis = other[1][axis]  # the function moves it before it sums
        return [Layer(node, value, activation, position, channels, sums, batched, macs, axis, groups)]
    return []


def _only_multiplied(parameter: Value, plain: bool) -> bool:
    """Whether a function does nothing with a parameter but multiply it (and move it before): else rounding it changes more."""
    users = {user.op_type for user, _ in parameter.uses()}
    return plain or users <= {"MatMul", "Gemm", "Conv", "Transpose", "Reshape"}


def _weight_axes(inner: Node) -> dict[int, tuple[int, int]]:
    """For each operand that may be a weight: its channel axis and its summed axis."""
    match inner.op_type:
        case "MatMul":
            return {1: (-1, -2), 0: (-2, -1)}
        case "Gemm":
            transposed = bool(attributes(inner).get("transB", 0))
            return {1: (0, 1) if transposed else (1, 0)}
        case "Conv":
            return {1: (0, 1)}
        case _:
            return {}


def _groups(inner: Node, node: Node) -> int:
    """A convolution's groups; in a function, those of its call where it refers to them."""
    found = attributes(inner).get("group")
    return integer(node, found.name, 1) if isinstance(found, Reference) else integer(inner, "group", 1)


def _summed(inner: Node, place: int) -> int:
    """The axis of the other operand that meets the weight's summed axis."""
    match inner.op_type:
        case "MatMul":
            return -1 if place == 1 else -2
        case "Gemm":
            return 0 if attributes(inner).get("transA", 0) else 1
        case _:
            return 1


def _outer(value: Value | None, outer: Outer) -> Traced | None:
    """The function's parameter (of a plain node: its input) behind a value, and where each axis came from."""
    found = None if value is None else _behind(value, (), set(outer))
    return found if found is not None and found[0] in outer else None


def _weight(value: Value, perm: tuple[int, ...]) -> Traced | None:
    """The float32 weight behind a value of the graph, through transposes; None for anything else, and for small ones."""
    origin, perm = _behind(value, perm, set())
    tensor = constant_tensor(origin)
    if tensor is None or dtype(origin) != np.float32 or tensor.size < LEAST or len(tensor.shape) < 2:
        return None
    return origin, perm


def origin(value: Value | None) -> Value | None:
    """The value that a value is but for transposes."""
    return None if value is None else _behind(value, (), set())[0]


def _behind(value: Value, perm: tuple[int, ...], stop: set[Value]) -> Traced:
    while value not in stop and (node := value.producer()) is not None and node.domain in PLAIN:
        order = attributes(node).get("perm") if node.op_type == "Transpose" else None
        if (node.op_type != "Identity" and order is None) or node.inputs[0] is None:
            break
        if order is not None:
            here = tuple(int(i) for i in order)  # type: ignore[attr-defined]
            perm = tuple(here[i] for i in perm) if perm else here
        value = node.inputs[0]
    return value, perm


def _size(value: Value) -> int:
    return int(np.prod(shape(value) or (1,), dtype=np.int64))
