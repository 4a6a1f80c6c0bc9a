"""A decoder's caches in few bits: which outputs they are, the formats that they can have, and what the final graph made of them."""

from __future__ import annotations

import numpy as np

from porter.device import Device
from porter.graph import Model, Value, called, dtype, shape
from porter.precision.schemes import Coding, legal, scheme_of

FORMATS = {
    "fp8": "fp8",
    "mxfp8": "mxfp8w",
    "mxfp4": "mxfp4w",
    "nvfp4": "nvfp4w",
}  # and the schemes that have their codes
MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def caches(model: Model) -> list[Value]:
    """Keys and values that a model hands out: float32 [batch, heads, tokens, channels] named present..., computed here."""
    return [
        v for v in model.graph.outputs
        if "present" in str(v.name) and len(shape(v) or ()) == 4 and dtype(v) == np.float32 and v.producer() is not None
    ]  # fmt: skip


def coding(format: str, device: Device | None) -> Coding:
    """How a cache of that format is coded in the device's own flavours."""
    kept = legal(scheme_of(FORMATS[format]), device).scheme
    return kept.activation or kept.weight


def fits(value: Value, coding: Coding) -> bool:
    """Whether a head's channels are whole blocks, where scales lie in blocks."""
    return coding.per != "block" or (shape(value) or (0,))[-1] % coding.block == 0


def held(model: Model, value: Value) -> str:
    """The format of the codes whose numbers an output of a graph is, as it lies or through the kernel that makes it; its own
    format where it is no numbers of codes."""
    node = value.producer()
    outer: dict[Value, Value | None] = {}
    while node is not None and node.op_type != "DequantizeLinear":
        place = next(i for i, v in enumerate(node.outputs) if v is value)
        if (function := called(model, node)) is not None:
            outer |= dict(zip(function.inputs, node.inputs, strict=False))
            value = function.outputs[place]
        elif node.op_type in MOVES and node.inputs[0] is not None:
            value = node.inputs[0]
        else:
            break
        while value.producer() is None and outer.get(value) is not None:
            value = outer[value]  # type: ignore[assignment]
        node = value.producer()
    found = node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else value
    kind = dtype(found) if found is not None else None
    return "" if kind is None else kind.name
