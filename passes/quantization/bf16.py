"""bf16: what is stored and what is multiplied in bfloat16, everything else computed in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from porter.graph import (
    DataType,
    Graph,
    Model,
    Node,
    Value,
    add_initializer,
    blank,
    called,
    constant_tensor,
    dtype,
    fresh,
    inherit,
    insert_after,
    insert_before,
    integer,
    is_unread,
    names,
    new_node,
    new_value,
    shape,
    source_name,
)
from porter.pipeline import Pass, precision
from porter.precision.blocks import blocked
from porter.precision.schemes import block_products
from porter.rewrite import Rewrite

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
#: contractions, and which of their inputs are multiplied
CONTRACTIONS = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "Attention": (0, 1, 2, 4, 5),
    "Einsum": (0, 1, 2, 3),
}
#: other operators whose first input is a tensor that had to be stored
READERS = frozenset(
    "LayerNormalization RMSNormalization GroupNormalization InstanceNormalization RotaryEmbedding".split()
)
#: operators that move elements and compute nothing: what was rounded stays so
MOVES = frozenset(
    "Reshape Transpose Slice Squeeze Unsqueeze Flatten Expand Split Identity Tile Concat Relu Neg MaxPool".split()
)


@dataclass(frozen=True)
class Bf16(Pass):
    """Store weights and activations in bfloat16, and feed contractions with it; statistics, softmax, masks and sums
    stay float32.

    A rounding is a Cast to bfloat16 and one back: the graph computes in float32 throughout, and runs wherever float32
    does. Outputs of the model are not rounded.

    db    budget of the model after this pass, with what narrower formats before it cost
    """

    db: float = 30.0

    @property
    def contract(self) -> Any:  # type: ignore[override]
        return precision("sqnr", db=self.db)

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        done: dict[Value, Value] = {}
        used = names(model.graph)
        number = 0
        native = device is not None and block_products(device) != ()
        for node in list(model.graph):
            for position in stored_inputs(model, node):
                value = node.inputs[position]
                if value is None or not _rounds(value) or (native and _meets_blocks(model, node, value)):
                    continue
                origin = moved_from(value)
                if origin not in done:
                    weight = constant_tensor(origin) is not None
                    done[origin] = round_weight(model.graph, origin, used) if weight else round_value(origin, used)
                    number += 1
                    yield Rewrite(number, "bf16", ("Cast", "Cast"), (source_name(origin.producer() or node),))


def stored_inputs(model: Model, node: Node) -> tuple[int, ...]:
    """The inputs of a node that are read from memory in the narrow format: operands of contractions, tables of
    embeddings, and large activations.
    """
    if node.domain in ("", "ai.onnx") and node.op_type == "Gather":
        return (0,) if node.inputs[0] is not None and constant_tensor(node.inputs[0]) is not None else ()
    if node.domain in ("", "ai.onnx"):
        positions = CONTRACTIONS.get(node.op_type, (0,) if node.op_type in READERS else ())
        return tuple(i for i in positions if i < len(node.inputs) and node.inputs[i] is not None)
    function = called(model, node)
    if function is None:
        return ()
    multiplied = {value for inner in function for value in _operands(inner)}
    found = []
    for position, parameter in enumerate(function.inputs):
        value = node.inputs[position] if position < len(node.inputs) else None
        large = value is not None and constant_tensor(value) is None and len(shape(value) or ()) > 1
        if parameter in multiplied or (multiplied and large):
            found.append(position)
    return tuple(found)


def _operands(node: Node) -> list[Value]:
    """What a node of a function's body multiplies, traced to where it was moved from."""
    taken = [node.inputs[i] for i in CONTRACTIONS.get(node.op_type, ()) if i < len(node.inputs)]
    return [moved_from(value) for value in taken if value is not None]


def moved_from(value: Value) -> Value:
    """Where the elements of a value were computed, before they were only moved."""
    node = value.producer()
    while node is not None and node.op_type in MOVES - {"Concat", "MaxPool", "Relu", "Neg"} and not node.domain:
        source = node.inputs[0]
        assert source is not None
        value, node = source, source.producer()
    return value


def _meets_blocks(model: Model, node: Node, value: Value) -> bool:
    """Whether a value stands for codes with block scales, and meets such codes, a weight's an activation's (a fused node has two
    weights that never meet): the unit multiplies both as they are."""
    found = [
        v for i in stored_inputs(model, node) if (v := node.inputs[i]) is not None and blocked(moved_from(v).producer())
    ]
    made = [moved_from(v).producer().inputs[0] for v in found]  # type: ignore[union-attr]
    computed = [constant_tensor(codes) is None for codes in made if codes is not None]
    return any(v is value for v in found) and any(computed) and len(found) > 1


def _rounds(value: Value) -> bool:
    """Whether the value is float32 that may hold more than bfloat16 does."""
    return dtype(value) == np.float32 and not is_rounded(value) and not is_narrow(value)


def is_rounded(value: Value | None) -> bool:
    """Whether every element is a bfloat16 number: it was cast from it, and only moved since."""
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and dtype(source) == BFLOAT16
    if node.op_type == "Concat":
        return all(is_rounded(operand) for operand in node.inputs)
    return node.op_type in MOVES and is_rounded(node.inputs[0])


def is_narrow(value: Value) -> bool:
    """Whether the value stands for narrower codes that the kernel multiplies as they are, their scale behind the product.

    A scale per block of the sum belongs to the terms, unless the block is all of the sum: such codes are decoded before they
    are multiplied, into bfloat16, and so is what meets them. Attention decodes its cache: the queries that meet it are bfloat16.
    """
    if not _decoded(value, blocked=False):
        return False
    return not any(
        user.op_type == "Attention" or any(v is not None and _decoded(v, blocked=True) for v in user.inputs)
        for user, _ in value.uses()
    )


def _decoded(value: Value, *, blocked: bool) -> bool:
    node = moved_from(value).producer()
    while blocked and node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = moved_from(node.inputs[0]).producer()  # the pass was here before
    if node is None or node.domain != "" or node.op_type != "DequantizeLinear":
        return False
    codes = dtype(node.inputs[0]) if node.inputs[0] is not None else None
    packed = codes is not None and codes.name in (
        "int4",
        "uint4",
        "float4_e2m1fn",
    )  # two in a byte: decoded like blocks
    return (packed or _in_blocks(node, value)) == blocked


def _in_blocks(node: Node, value: Value) -> bool:
    """Whether a DequantizeLinear has scales for parts of the sum. A block that fills its axis has one per token or channel,
    unless the sum is a convolution's, which runs over places as well."""
    block, axis = integer(node, "block_size"), integer(node, "axis", 1)
    dims = (shape(node.inputs[0]) if node.inputs[0] is not None else None) or (1,)
    places = math.prod(dims[axis:][1:]) > 1 and any("Conv" in user.op_type for user, _ in value.uses())
    return block > 0 and (block < dims[axis] or places)


def round_weight(graph: Graph, weight: Value, used: set[str]) -> Value:
    """Stores a weight in bfloat16; every reader gets it cast to float32."""
    tensor = constant_tensor(weight)
    assert tensor is not None
    name = f"{weight.name}/bf16"
    narrow = blank(name, BFLOAT16, tensor.shape.numpy()) if is_unread(weight) else tensor.numpy().astype(BFLOAT16)
    stored = add_initializer(graph, name, narrow, used)
    readers = list(weight.uses())
    cast = _cast(stored, np.dtype(np.float32), fresh(f"{weight.name}/float32", used))
    insert_before(_first(graph, [user for user, _ in readers]), [cast])
    for user, position in readers:
        user.replace_input_with(position, cast.outputs[0])
    if not weight.is_graph_input() and not weight.is_graph_output():
        del graph.initializers[weight.name or ""]
    return cast.outputs[0]


def round_value(value: Value, used: set[str]) -> Value:
    """Rounds a value where it is made; every reader gets the rounded one, an output of the model stays as it is, and so does
    what is rounded to fewer bits."""
    narrow = _cast(value, BFLOAT16, fresh(f"{value.name}/bf16", used))
    wide = _cast(narrow.outputs[0], np.dtype(np.float32), fresh(f"{value.name}/float32", used))
    producer = value.producer()
    readers = [use for use in value.uses() if use[0] is not narrow and not _codes(use[0])]
    if producer is not None:
        insert_after(producer, [narrow, wide])
        inherit([narrow, wide], [producer])
    else:
        graph = readers[0][0].graph  # before its first reader: at the head of the graph it would live until then
        assert graph is not None
        insert_before(_first(graph, [user for user, _ in readers]), [narrow, wide])
    for user, position in readers:
        user.replace_input_with(position, wide.outputs[0])
    return wide.outputs[0]


def _codes(node: Node) -> bool:
    """Whether a node rounds its input to fewer bits, or clamps it for that."""
    users = [user for out in node.outputs for user, _ in out.uses()]
    return node.op_type == "QuantizeLinear" or (
        node.op_type == "Clip" and all(_codes(user) for user in users) and users != []
    )


def _cast(value: Value, kind: np.dtype, name: str) -> Node:
    code = int(DataType.from_numpy(kind))
    return new_node("Cast", [value], {"to": code}, outputs=[new_value(name, kind, shape(value))])


def _first(graph: Graph, readers: list[Node]) -> Node:
    """The first of the nodes that lie in the graph; most values have one reader, and the graph is not searched for it."""
    inside = {node for node in readers if node.graph is graph}
    return next(iter(inside)) if len(inside) == 1 else next(node for node in graph if node in inside)
