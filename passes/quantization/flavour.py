"""E4M3 of a model as its maker scaled it, in the codes that the device's own E4M3 shares with OCP's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.formats import of
from porter.graph import (
    Graph,
    Model,
    Node,
    Value,
    add_initializer,
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
from porter.pipeline import Pass, precision
from porter.precision import audit
from porter.precision.schemes import OCP, flavour
from porter.rewrite import Rewrite

HALVED = 2.0  # 448 / 2 = 224 is below 240, and a power of two moves no code but subnormal ones


@dataclass(frozen=True)
class Flavour(Pass):
    """Codes beyond 240 are halved and their scales doubled where E4M3 ends at 240 (Trn1, Inf2, Trn2): only codes below
    2**-6 lose a bit. What is quantized is clamped before, since casts do not saturate there. Where 0x80 is NaN (TPU v5 and
    v6), -0 becomes 0. What cannot be brought there is refused, and the layer named; so
    are integer products whose sums may pass 2**24 where the device adds them in float32.

    db   budget of the model after this pass
    """

    db: float = 40.0

    @property
    def contract(self) -> Any:  # type: ignore[override]
        return precision("sqnr", db=self.db)

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        own = flavour(device) if device is not None else None
        if device is not None:
            audit.integers(model, device)
        if own in (None, OCP):
            return
        used, number = names(model.graph), 0
        for node in list(model.graph):
            if node.domain != "" or node.op_type != "DequantizeLinear" or _kind(node.inputs[0]) != OCP:
                continue
            codes = constant(node.inputs[0])
            changed = False
            if own == "float8_e4m3b11fnuz" and codes is not None:
                changed = _positive(model.graph, node, codes, used)
            elif own == "float8_e4m3" and codes is not None and _beyond(codes):
                changed = _weight(model.graph, node, codes, used)
            elif own == "float8_e4m3" and codes is None:
                changed = _activation(model.graph, node, used)
            if changed:
                number += 1
                yield Rewrite(number, "flavour", ("DequantizeLinear",), (source_name(node),))
        audit.flavours(model, device)


def _kind(value: Value | None) -> str:
    kind = None if value is None else dtype(value)
    return "" if kind is None else kind.name


def _beyond(codes: np.ndarray) -> bool:
    return bool(np.any((np.ascontiguousarray(codes).view(np.uint8) & 0x7F) >= 0x78))


def _positive(graph: Graph, node: Node, codes: np.ndarray, used: set[str]) -> bool:
    bits = np.ascontiguousarray(codes).view(np.uint8)
    if not np.any(bits == 0x80):
        return False
    _replaced(graph, node, 0, np.where(bits == 0x80, np.uint8(0), bits).view(codes.dtype), used)
    return True


def _weight(graph: Graph, node: Node, codes: np.ndarray, used: set[str]) -> bool:
    scale = constant(node.inputs[1])
    if scale is None or (scale.dtype.name.startswith("float8") and scale.dtype.name != "float8_e8m0fnu"):
        return False
    half = of(OCP).encode(codes.astype(np.float32) / HALVED)
    _replaced(graph, node, 0, half, used)
    _replaced(graph, node, 1, _doubled(scale), used)
    return True


def _doubled(scale: np.ndarray) -> np.ndarray:
    return np.asarray(scale.astype(np.float32) * HALVED).astype(scale.dtype)


def _activation(graph: Graph, node: Node, used: set[str]) -> bool:
    """The QuantizeLinear before, of a constant scale for the whole tensor, and this node by twice that scale."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "QuantizeLinear" or source.inputs[0] is None:
        return False
    scale, mine = constant(source.inputs[1]), constant(node.inputs[1])
    clamp = source.inputs[0].producer()
    if scale is None or mine is None or scale.size != 1 or (clamp is not None and clamp.op_type == "Clip"):
        return False
    if source.metadata_props.get("porter.halved") is None:
        edge = of(OCP).max * np.abs(scale.astype(np.float32)).reshape(())
        bounds = [
            add_initializer(
                graph, fresh(f"{source.outputs[0].name}/{word}", used), np.asarray(sign * edge, scale.dtype)
            )
            for word, sign in (("low", -1), ("high", 1))
        ]
        held = source.inputs[0]
        out = new_value(fresh(f"{held.name}/clamped", used), dtype(held), shape(held))
        made = new_node("Clip", [held, *bounds], outputs=[out])
        insert_before(source, [made])
        inherit([made], [source])
        source.replace_input_with(0, out)
        _replaced(graph, source, 1, _doubled(scale), used)
        source.metadata_props["porter.halved"] = "1"
    _replaced(graph, node, 1, _doubled(mine), used)
    return True


def _replaced(graph: Graph, node: Node, position: int, array: np.ndarray, used: set[str]) -> None:
    """The node reads a new weight; the old one goes where nothing else reads it."""
    old = node.inputs[position]
    assert old is not None
    name = str(old.name)
    sole = len(old.uses()) == 1 and old.is_initializer() and not old.is_graph_input() and not old.is_graph_output()
    if sole:
        graph.initializers.pop(name)
        used.discard(name)
        node.replace_input_with(position, add_initializer(graph, fresh(name, used), array))
    else:
        node.replace_input_with(position, add_initializer(graph, fresh(f"{name}/own", used), array))
