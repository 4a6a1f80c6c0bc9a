"""Channels last around convolutions and pools: transposes put in, for `layout.transposes` to push and cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from porter.graph import (
    Model,
    Node,
    Value,
    called,
    constant_tensor,
    dtype,
    fresh,
    inherit,
    inline,
    insert_after,
    insert_before,
    names,
    new_node,
    new_value,
    replace_uses,
    shape,
    source_name,
)
from porter.passes.layout.packed import asked, convolved
from porter.pipeline import Pass, algebraic
from porter.rewrite import Rewrite, all_graphs, content, join, region

SPATIAL = frozenset("Conv ConvTranspose MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool".split())


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Give convolutions, pools, and functions around a convolution their tensors with the channels as the last axis.

    ONNX's operators keep channels first: each becomes a function that takes and gives channels last, with transposes
    inside, which cost nothing once they are part of a kernel's indices. On where the device says so
    (`layout.channels_last`), or by option: channels_last=1, channels_last=0.
    """

    channels_last: str = "device"

    contract = algebraic

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        wanted = asked(self.channels_last, device, "layout.channels_last")
        number = 0
        for graph in all_graphs(model) if wanted else ():
            used = names(graph)
            for node in list(graph):
                if spatial(model, node):
                    number += 1
                    yield turn(model, node, number, used)


def spatial(model: Model, node: Node) -> bool:
    """Whether a node works on channels and places: such an operator, or a function with one as its contraction."""
    function = called(model, node)
    kinds = {node.op_type} if function is None else {inner.op_type for inner in function}
    dims = shape(node.outputs[0])
    # the places of a pool's largest elements count in the order of channels first
    alone = not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    return (
        bool(kinds & SPATIAL)
        and not (function is None and node.domain)
        and dims is not None
        and len(dims) > 2
        and alone
    )


def turn(model: Model, node: Node, number: int, used: set[str]) -> Rewrite:
    """A function in the place of the node whose images arrive and leave with channels last. New names are added to
    `used`.
    """
    rank = len(node.outputs[0].shape or ())
    last, first = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
    opset = model.opset_imports.get("", 24)
    images = _images(model, node, rank)
    name, source, result = node.op_type, source_name(node), node.outputs[0]
    before = region(
        [node], list(dict.fromkeys(v for v in node.inputs if v is not None)), [result], model.functions, opset=opset
    )
    inputs = list(dict.fromkeys(v for v in node.inputs if v is not None))

    there = [_transpose(value, last, f"{value.name}/channels_last", used) for value in images]
    back = [_transpose(turned.outputs[0], first, f"{turned.outputs[0].name}/first", used) for turned in there]
    for position, operand in enumerate(node.inputs):
        if operand in images:
            node.replace_input_with(position, back[images.index(operand)].outputs[0])
    insert_before(node, [*there, *back])
    leaving = _transpose(result, last, f"{result.name}/channels_last", used)
    returned = _transpose(leaving.outputs[0], first, f"{result.name}/channels_first", used)
    insert_after(node, [leaving, returned])
    inherit([*there, *back, leaving, returned], [node])
    replace_uses(result, returned.outputs[0])
    leaving.replace_input_with(0, result)

    inner = inline(model, node) if called(model, node) is not None else [node]
    call = join(model, [*back, *inner, leaving], f"{name}ChannelsLast")
    after = region([*there, call, returned], inputs, [returned.outputs[0]], model.functions, opset=opset)
    return Rewrite(number, "channels_last", (name,), (source,), before, after, {}, content(before, after))


def _images(model: Model, node: Node, rank: int) -> list[Value]:
    """The inputs that are tensors of images: computed, of the result's rank, and no weights."""
    weights = convolved(model, node)
    read = [value for value in dict.fromkeys(node.inputs) if value is not None and value not in weights]
    return [value for value in read if constant_tensor(value) is None and len(value.shape or ()) == rank]


def _transpose(value: Value, perm: tuple[int, ...], name: str, used: set[str]) -> Node:
    dims = shape(value)
    result = new_value(fresh(name, used), dtype(value), None if dims is None else [dims[i] for i in perm])
    return new_node("Transpose", [value], {"perm": perm}, outputs=[result])
