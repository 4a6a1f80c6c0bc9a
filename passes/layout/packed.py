"""Weights of convolutions stored with the contracted axes first, as a kernel's loads want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from porter.graph import (
    Model,
    Node,
    Value,
    add_initializer,
    called,
    constant,
    dtype,
    fresh,
    inherit,
    inline,
    insert_before,
    names,
    new_node,
    new_value,
    shape,
    source_name,
)
from porter.pipeline import Pass, algebraic
from porter.rewrite import Rewrite, all_graphs, content, forget, join, region

CONVOLUTIONS = frozenset("Conv ConvTranspose".split())


@dataclass(frozen=True)
class Packed(Pass):
    """Store convolution weights [out, in, ...places] as [in, ...places, out]: contracted axes first, results side by
    side.

    ONNX's Conv wants them the other way, so each becomes a function that takes packed weights, with a transpose
    inside, which costs nothing once it is part of a kernel's indices. On where the device says so (`layout.packed`),
    or by option: packed=1, packed=0.
    """

    packed: str = "device"

    contract = algebraic
    after: ClassVar[tuple[str, ...]] = ("channels_last", "reductions", "transposes")

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model) if asked(self.packed, device, "layout.packed") else ():
            used = names(graph)
            for node in list(graph):
                weights = convolved(model, node, frozenset(["Conv"]))
                if len(weights) == 1 and constant(weights[0]) is not None and len(weights[0].uses()) == 1:
                    number += 1
                    yield pack(model, node, weights[0], number, used)


def asked(option: str, device: Any, fact: str) -> bool:
    """What an option says: 1 or 0, or the fact of the device where it leaves that to it."""
    if option == "device":
        return bool(device is not None and device.get(fact, False))
    return option.lower() in ("1", "true", "yes", "on")


def convolved(model: Model, node: Node, kinds: frozenset[str] = CONVOLUTIONS) -> list[Value]:
    """What a node convolves with: the second input of a Conv, or what a function hands to its Conv as that."""
    function = called(model, node)
    if function is None:
        return [node.inputs[1]] if node.op_type in kinds and not node.domain else []  # type: ignore[list-item]
    weights = [inner.inputs[1] for inner in function if inner.op_type in kinds]
    return [
        value for value, own in zip(node.inputs, function.inputs, strict=False) if own in weights and value is not None
    ]


def pack(model: Model, node: Node, weight: Value, number: int, used: set[str]) -> Rewrite:
    """A function in the place of the node, with the weight packed. New names are added to `used`."""
    graph, opset = node.graph, model.opset_imports.get("", 24)
    array, rank = constant(weight), len(shape(weight) or ())
    assert graph is not None and array is not None
    name, source, result = node.op_type, source_name(node), node.outputs[0]
    wanted = result.name or name
    if not result.is_graph_output():
        result.name = fresh(f"{wanted}/unpacked", used)
        used.discard(wanted)
    images = [v for v in dict.fromkeys(node.inputs) if v is not None and v is not weight]
    before = region([node], images, [result], model.functions, opset=opset)
    stored = add_initializer(graph, f"{weight.name}/packed", np.ascontiguousarray(array.transpose(*range(1, rank), 0)))
    unpacked = new_value(fresh(f"{weight.name}/unpacked", used), dtype(weight), shape(weight))
    unpack = new_node("Transpose", [stored], {"perm": (rank - 1, *range(rank - 1))}, outputs=[unpacked])
    insert_before(node, [unpack])
    inherit([unpack], [node])
    for position, operand in enumerate(node.inputs):
        if operand is weight:
            node.replace_input_with(position, unpacked)
    forget(graph, [weight])
    inner = inline(model, node) if called(model, node) is not None else [node]
    call = join(model, [unpack, *inner], f"{name}Packed")
    if not call.outputs[0].is_graph_output():
        call.outputs[0].name = fresh(wanted, used)
    after = region([call], images, list(call.outputs), model.functions, opset=opset)
    return Rewrite(number, "packed", (name,), (source,), before, after, {}, content(before, after))
