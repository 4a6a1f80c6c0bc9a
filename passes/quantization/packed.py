"""Weights of 4 bits as bytes of two codes: what memory holds is what the model weighs, and kernels take the codes apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.formats import of
from porter.graph import (
    DataType,
    Function,
    Model,
    Node,
    Value,
    add_initializer,
    blank,
    constant,
    constant_tensor,
    dtype,
    fresh,
    inherit,
    insert_after,
    insert_before,
    integer,
    names,
    new_node,
    new_value,
    parse,
    shape,
    source_name,
)
from porter.pipeline import Pass, exact
from porter.precision.schemes import block_products
from porter.rewrite import Rewrite
from porter.tile.block_scales import MIXED
from porter.tile.target import target_of

DOMAIN = "porter"
KINDS = ("int4", "uint4", "float4_e2m1fn")


@dataclass(frozen=True)
class Packed(Pass):
    """Each DequantizeLinear of a 4-bit weight becomes one function of bytes and scales: shift, mask, decode, scale.

    A byte holds codes that lie half a group apart along the summed axis, so that a kernel's low and high codes are two
    plain products over half of the sum. Where the target's own languages have 4-bit elements (`Limits.subbyte`), nothing is
    done; packed=1, packed=0 say it outright.
    """

    packed: str = "device"

    contract = exact

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        if self.packed == "0" or (self.packed == "device" and _subbyte(device)):
            return
        used, done = names(model.graph), dict[Value, Value]()
        whole = device is not None and bool({"mxfp4", "nvfp4", MIXED} & set(block_products(device)))
        number = 0
        for node in list(model.graph):
            if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
                continue
            made = _packing(node, whole)
            if made is None:
                continue
            _replace(model, node, made, used, done)
            number += 1
            yield Rewrite(number, "packed", ("DequantizeLinear",), (source_name(node),))


def _subbyte(device: Any) -> bool:
    return device is None or target_of(device.family).limits(device).subbyte


@dataclass(frozen=True)
class Packing:
    """How a weight's codes lie in bytes: byte j of a group of `group` codes along `axis` holds codes j and j + group / 2."""

    kind: str
    shape: tuple[int, ...]
    axis: int
    group: int

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """The bytes: the shape with half the axis."""
        patterns = of(self.kind).patterns(codes).reshape(self._cut(self.group // 2, halves=2))
        low, high = np.take(patterns, 0, self.axis + 1), np.take(patterns, 1, self.axis + 1)
        return np.asarray(low | high << 4, np.uint8).reshape(self.stored)

    @property
    def stored(self) -> tuple[int, ...]:
        return tuple(n // 2 if i == self.axis else n for i, n in enumerate(self.shape))

    def _cut(self, part: int, halves: int = 0) -> tuple[int, ...]:
        """The shape with the axis cut into groups, (halves) and parts."""
        inside = (self.shape[self.axis] // self.group, *((halves,) if halves else ()), part)
        return (*self.shape[: self.axis], *inside, *self.shape[self.axis + 1 :])

    def text(self) -> list[str]:
        """ONNX's steps from `packed` to `bits`, the codes' patterns one in a byte."""
        rank = len(self.shape)
        order = [*range(self.axis + 1), rank + 1, *range(self.axis + 1, rank + 1)]
        return [
            *_constant("cut", "int64", (*self._cut(self.group // 2), 1)),
            "parts = Reshape (packed, cut)",
            *_constant("shifts", "uint8", (0, 4)),
            'both = BitShift <direction = "RIGHT"> (parts, shifts)',
            "fifteen = Constant <value = uint8 {15}> ()",
            "low = BitwiseAnd (both, fifteen)",
            f"turned = Transpose <perm = [{', '.join(map(str, order))}]> (low)",
            *_constant("whole", "int64", self.shape),
            "bits = Reshape (turned, whole)",
        ]


#: ONNX's steps from `bits` to `number`, the codes as float32. Two's complement is the pattern with its sign turned, less 8;
#: the magnitudes of e2m1 are the convex max(m, 2m - 4, 4m - 16) / 2.
DECODED = {
    "uint4": ["number = Cast <to = 1> (bits)"],
    "int4": [
        "eight = Constant <value = uint8 {8}> ()",
        "turned_sign = BitwiseXor (bits, eight)",
        "shifted = Cast <to = 1> (turned_sign)",
        "middle = Constant <value = float {8.0}> ()",
        "number = Sub (shifted, middle)",
    ],
    "float4_e2m1fn": [
        "seven = Constant <value = uint8 {7}> ()",
        "size = BitwiseAnd (bits, seven)",
        "m = Cast <to = 1> (size)",
        "two = Constant <value = float {2.0}> ()",
        "four = Constant <value = float {4.0}> ()",
        "sixteen = Constant <value = float {16.0}> ()",
        "half = Constant <value = float {0.5}> ()",
        "m2 = Mul (m, two)",
        "second = Sub (m2, four)",
        "m4 = Mul (m, four)",
        "third = Sub (m4, sixteen)",
        "doubled = Max (m, second, third)",
        "magnitude = Mul (doubled, half)",
        "negative = Greater (bits, seven)",
        "opposite = Neg (magnitude)",
        "number = Where (negative, opposite, magnitude)",
    ],
}


#: from `halves`, numbers of e2m1 without -0, to `pattern`, their codes as float32: doubled, they count 0 to 4, 6, 8 and 12
ENCODED = [
    "two = Constant <value = float {2.0}> ()",
    "four = Constant <value = float {4.0}> ()",
    "eight = Constant <value = float {8.0}> ()",
    "half = Constant <value = float {0.5}> ()",
    "quarter = Constant <value = float {0.25}> ()",
    "none = Constant <value = float {0.0}> ()",
    "size = Abs (halves)",
    "doubled = Mul (size, two)",
    "past4 = Sub (doubled, four)",
    "over4 = Relu (past4)",
    "step4 = Mul (over4, half)",
    "past8 = Sub (doubled, eight)",
    "over8 = Relu (past8)",
    "step8 = Mul (over8, quarter)",
    "less4 = Sub (doubled, step4)",
    "magnitude = Sub (less4, step8)",
    "negative = Less (halves, none)",
    "signed = Where (negative, eight, none)",
    "pattern = Add (magnitude, signed)",
]


def _constant(name: str, kind: str, values: tuple[int, ...]) -> list[str]:
    return [f"{name} = Constant <value = {kind}[{len(values)}] {{{', '.join(map(str, values))}}}> ()"]


def _packing(node: Node, whole: bool) -> Packing | None:
    """How the codes of a DequantizeLinear are packed; None where it has no 4-bit weight, or one whose axes are all odd.

    whole   a group is a block, as units want it that multiply such codes; codes that a QuantizeLinear makes are packed too
    """
    value = node.inputs[0]
    kind = None if value is None else dtype(value)
    if value is None or kind is None or kind.name not in KINDS:
        return None
    dims = shape(value) or ()
    axis, block = _axis(node), _block(node)
    maker = value.producer()
    known = constant_tensor(value) is not None or (maker is not None and maker.op_type == "QuantizeLinear")
    if whole and known and kind.name == "float4_e2m1fn" and block and block % 2 == 0 and dims[axis] % block == 0:
        return Packing(kind.name, dims, axis, block)
    if constant_tensor(value) is None:
        return None
    if block and dims[axis] % block:
        return None
    scale = node.inputs[1]
    whole_scale = scale is not None and len(shape(scale) or ()) == 0
    summed = [axis] if block else [i for i in range(len(dims)) if i != axis or whole_scale]
    for place in [*summed, *range(len(dims))]:
        size = dims[place]
        if size % 2 == 0 and (place != axis or not block or (size // 2) % block == 0):
            return Packing(kind.name, dims, place, size)
        if place == axis and block and block % 2 == 0:
            return Packing(kind.name, dims, place, block)
    return None


def _axis(node: Node) -> int:
    codes = node.inputs[0]
    rank = len((shape(codes) if codes is not None else None) or ())
    return integer(node, "axis", 1) % max(rank, 1)


def _block(node: Node) -> int:
    return integer(node, "block_size")


def _replace(model: Model, node: Node, made: Packing, used: set[str], done: dict[Value, Value]) -> None:
    codes, scale, *rest = node.inputs
    zero = rest[0] if rest else None
    assert codes is not None and scale is not None
    if codes not in done:
        if codes.producer() is not None:
            done[codes] = _written(model, codes, made, used)
        else:
            name, held = f"{codes.name}/packed", constant(codes)
            stored = blank(name, np.dtype(np.uint8), made.stored) if held is None else made.pack(np.asarray(held))
            done[codes] = add_initializer(model, name, stored, used)
    scale, whole = _two_levels(scale)
    inputs = [done[codes], scale]
    if zero is not None:
        inputs.append(_unpacked_points(model, zero, used, done))
    inputs += [whole] if whole is not None else []
    function = _function(model, node, made, scale, zero, whole)
    out = new_value(fresh(f"{codes.name}/decoded", used), dtype(node.outputs[0]), shape(node.outputs[0]))
    call = new_node(function.name, inputs, domain=DOMAIN, outputs=[out])
    insert_before(node, [call])
    inherit([call], [node])
    old = node.outputs[0]
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    graph = node.graph
    assert graph is not None
    label = old.name
    decoder = node.inputs[1].producer() if node.inputs[1] is not None else None
    graph.remove(node, safe=True)
    if whole is not None and decoder is not None and not decoder.outputs[0].uses():
        graph.remove(decoder, safe=True)
    out.name = label
    for value in (codes, zero):
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        if value.producer() is None:
            graph.initializers.pop(str(value.name), None)


def _written(model: Model, codes: Value, made: Packing, used: set[str]) -> Value:
    """The bytes of codes that the model makes, by a function after their QuantizeLinear."""
    size = "x".join(map(str, made.shape))
    identifier = (DOMAIN, f"Packed_{made.kind}_{size}_{made.axis}by{made.group}", "")
    if identifier not in model.functions:
        lines = [
            "single = Cast <to = 1> (codes)",
            *_constant("cut", "int64", made._cut(made.group // 2, halves=2)),
            "halves = Reshape (single, cut)",
            *ENCODED,
            "first = Constant <value = int64 {0}> ()",
            "second = Constant <value = int64 {1}> ()",
            f"low = Gather <axis = {made.axis + 1}> (pattern, first)",
            f"high = Gather <axis = {made.axis + 1}> (pattern, second)",
            "sixteen = Constant <value = float {16.0}> ()",
            "upper = Mul (high, sixteen)",
            "both = Add (low, upper)",
            "bytes = Cast <to = 2> (both)",
            *_constant("stored", "int64", made.stored),
            "y = Reshape (bytes, stored)",
        ]
        _define(model, identifier, ["codes"], lines)
    out = new_value(fresh(f"{codes.name}/packed", used), np.dtype(np.uint8), made.stored)
    maker = codes.producer()
    assert maker is not None
    call = new_node(identifier[1], [codes], domain=DOMAIN, outputs=[out])
    insert_after(maker, [call])
    inherit([call], [maker])
    return out


def _define(model: Model, identifier: tuple[str, str, str], inputs: list[str], lines: list[str]) -> None:
    """Adds a function of ONNX's steps to the model."""
    body, opset = "\n".join(f"  {line}" for line in lines), model.opset_imports[""]
    text = f"""<ir_version: 10, opset_import: ["": {opset}, "{DOMAIN}": 1]>
    g (float[1] x) => (float[1] y) {{ y = Identity (x) }}
    <domain: "{DOMAIN}", opset_import: ["": {opset}]>
    {identifier[1]} ({", ".join(inputs)}) => (y) {{
{body}
    }}"""
    model.functions[identifier] = parse(text).functions[identifier]
    model.opset_imports.setdefault(DOMAIN, 1)


def _unpacked_points(model: Model, zero: Value, used: set[str], done: dict[Value, Value]) -> Value:
    """Zero points as int8: one for a block or a channel, they weigh little."""
    if zero not in done:
        held = constant(zero)
        assert held is not None
        done[zero] = add_initializer(model, f"{zero.name}/bytes", np.asarray(held).astype(np.int8), used)
    return done[zero]


def _two_levels(scale: Value) -> tuple[Value, Value | None]:
    """The codes of a scale and the one scale that they have, where it is decoded itself (NVFP4); else the scale."""
    maker = scale.producer()
    plain = maker is not None and maker.op_type == "DequantizeLinear" and maker.domain == "" and len(maker.inputs) == 2
    if maker is None or not plain or _block(maker) or dtype(scale) != np.float32:
        return scale, None
    codes, whole = maker.inputs
    single = codes is not None and whole is not None and math.prod(shape(whole) or ()) == 1
    return (codes, whole) if single and codes is not None else (scale, None)


def _function(
    model: Model, node: Node, made: Packing, scale: Value, zero: Value | None, whole: Value | None
) -> Function:  # fmt: skip
    """The function of bytes and scales (and zero points, and a scale of scales), the same one for equal weights."""
    dims, axis, block, count = made.shape, _axis(node), _block(node), shape(scale) or ()
    result, scales = np.dtype(dtype(node.outputs[0])), np.dtype(dtype(scale))
    lines = [*made.text(), *DECODED[made.kind]]
    if block:
        wide = (*dims[:axis], dims[axis] // block, block, *dims[axis + 1 :])
        spread = (*dims[:axis], dims[axis] // block, 1, *dims[axis + 1 :])
    else:
        wide = dims
        spread = tuple(n if i == axis and math.prod(count) > 1 else 1 for i, n in enumerate(dims))
    lines += [*_constant("wide", "int64", wide), "each = Reshape (number, wide)", *_constant("spread", "int64", spread)]
    if zero is not None:
        lines += ["point = Cast <to = 1> (zero)", "points = Reshape (point, spread)", "exact = Sub (each, points)"]
    if whole is not None:
        lines += ["wide_scale = Cast <to = 1> (scale)", "one_scale = Mul (wide_scale, over)"]
    lines += [
        "single = Cast <to = 1> (scale)" if whole is None else "single = Identity (one_scale)",
        "scales = Reshape (single, spread)",
        f"product = Mul ({'each' if zero is None else 'exact'}, scales)",
        f"{'y' if result == np.float32 else 'sum'} = Reshape (product, whole)",
    ]
    if result != np.float32:
        lines.append(f"y = Cast <to = {int(DataType.from_numpy(result))}> (sum)")
    size = "x".join(map(str, dims))
    blocks = f"_{block}" if block else f"_axis{axis}" if math.prod(count) > 1 else ""
    name = f"Decoded_{made.kind}_{size}_{made.axis}by{made.group}{blocks}_{scales.name}_{result.name}"
    name += ("_points" if zero is not None else "") + ("_two_levels" if whole is not None else "")
    identifier = (DOMAIN, name, "")
    if identifier not in model.functions:
        _define(model, identifier, ["packed", "scale", *(["zero"] if zero is not None else []),
                                    *(["over"] if whole is not None else [])], lines)  # fmt: skip
    return model.functions[identifier]
