"""Codes as kernels read them: zero points of zero left out, and each reader of a DequantizeLinear decodes for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from porter.graph import (
    DataType,
    Model,
    Node,
    constant,
    dtype,
    fresh,
    inherit,
    insert_before,
    names,
    new_node,
    new_value,
    shape,
    source_name,
)
from porter.graph import attributes as attributes_of
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite

PAIR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Decoded(Pass):
    """Nothing is computed otherwise: memory holds the codes, and no decoded tensor is stored because two layers read it."""

    contract = exact

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        used = names(model.graph)
        number = 0
        for node in list(model.graph):
            if node.op_type not in PAIR or node.domain != "":
                continue
            changed = _plain(node)
            changed |= node.op_type == "DequantizeLinear" and _apart(node, used)
            if changed:
                number += 1
                yield Rewrite(number, "decoded", (node.op_type,), (source_name(node),))


def _plain(node: Node) -> bool:
    """Leaves out a zero point that is zero everywhere; QuantizeLinear then names its output's type."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    zero = constant(node.inputs[2])
    if zero is None or zero.astype("float32").any():
        return False
    if node.op_type == "QuantizeLinear" and zero.dtype.name == "float4_e2m1fn":
        return False  # there it turns -0 into 0
    if node.op_type == "QuantizeLinear":
        kind = dtype(node.inputs[2])
        assert kind is not None
        given = {k: v for k, v in attributes_of(node).items() if k != "output_dtype"}
        made = new_node(
            "QuantizeLinear", list(node.inputs[:2]), {**given, "output_dtype": int(DataType.from_numpy(kind))}
        )
        out = made.outputs[0]
        out.type, out.shape = node.outputs[0].type, node.outputs[0].shape
        insert_before(node, [made])
        inherit([made], [node])
        node.outputs[0].replace_all_uses_with(out, replace_graph_outputs=True)
        name = node.outputs[0].name
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        out.name = name
        return True
    node.replace_input_with(2, None)
    return True


def _apart(node: Node, used: set[str]) -> bool:
    """A copy of the node for every reader but the first."""
    uses = list(node.outputs[0].uses())
    for user, position in uses[1:]:
        old = node.outputs[0]
        out = new_value(fresh(f"{old.name}", used), dtype(old), shape(old))
        copy = new_node(node.op_type, list(node.inputs), dict(attributes_of(node)), outputs=[out])
        insert_before(user, [copy])
        inherit([copy], [node])
        user.replace_input_with(position, out)
    return len(uses) > 1
