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
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, content, forget, join, region


@dataclass(frozen=True)
class Packed(Pass):
    """Store convolution weights [out, in, ...places] as [in, ...places, out]: contracted axes first, results side by side.

    ONNX's Conv wants them the other way, so each becomes a function that takes packed weights, with a transpose inside, which costs
    nothing once it is part of a kernel's indices. On where the device says so (`layout.packed`), or by option: packed=1, packed=0.
    """

    packed: str = "device"

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("channels_last", "reductions", "transposes")

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model) if asked(self.packed, device, "layout.packed") else ():
            used = names(graph)
            for node in list(graph):
                weight = convolved(model, node)
                if weight is not None and len(weight.uses()) == 1 and not weight.is_graph_output():
                    number += 1
                    yield pack(model, node, weight, number, used)


def asked(option: str, device: Any, fact: str) -> bool:
    """What an option says: 1 or 0, or the fact of the device where it leaves that to it."""
    if option == "device":
        return bool(device is not None and device.get(fact, False))
    return option.lower() in ("1", "true", "yes", "on")


def convolved(model: Model, node: Node) -> Value | None:
    """The constant that a node convolves with: the second input of a Conv, or what a function hands to its Conv."""
    function = called(model, node)
    if function is None:
        found = node.inputs[1] if node.op_type == "Conv" and not node.domain else None
    else:
        parameters = [inner.inputs[1] for inner in function if inner.op_type == "Conv"]
        positions = [i for i, parameter in enumerate(function.inputs) if parameter in parameters]
        found = node.inputs[positions[0]] if len(parameters) == 1 and positions else None
    return found if found is not None and constant(found) is not None else None


def pack(model: Model, node: Node, weight: Value, number: int, used: set[str]) -> Rewrite:
    """A function in the place of the node, with the weight packed. New names are added to `used`."""
    graph, opset = node.graph, model.opset_imports.get("", 24)
    array, rank = constant(weight), len(shape(weight) or ())
    assert graph is not None and array is not None
    name, source, result = node.op_type, source_name(node), node.outputs[0]
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
    after = region([call], images, list(call.outputs), model.functions, opset=opset)
    return Rewrite(number, "packed", (name,), (source,), before, after, {}, content(before, after))
