"""Faults planted in a model by program: each attribute, edge and constant, changed by as little as means something.

    for what, node, proto in mutations(model): ...

Whether a mutation that a check calls equivalent changes the function at all is asked in float64, on every draw and edge:
`harmless` says why it does not, or nothing, and then it was missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from porter import ops
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, Subject
from porter.check.gate import RMS_RATIO, floor
from porter.check.measure import is_float, rms
from porter.check.numeric import matched_outputs, renamed

SMALL = 1e-2  # of a constant's largest element: three times what rounding to bfloat16 does to it
COMMUTATIVE = frozenset("Add Mul And Or Xor Equal Max Min Sum Mean".split())
_WORDS = {"approximate": ["none", "tanh"], "mode": [], "auto_pad": [], "coordinate_transformation_mode": [],
          "nearest_mode": [], "direction": [], "equation": []}  # fmt: skip
DITHERED = Dithered(1)  # how far the formats of a model let it be off
TYPED = frozenset(
    {"to", "dtype", "num_outputs", "saturate", "value", "keepdims"}
)  # another one is another type or shape

Mutation = tuple[str, str, onnx.ModelProto]


def mutations(model: onnx.ModelProto) -> Iterator[Mutation]:
    """(what was changed, the node it was done to, the mutated model), lazily; the model is left as it is."""
    types = _types(model)
    for i, node in enumerate(model.graph.node):
        here = node.name or node.output[0]
        for j, attribute in enumerate(node.attribute):
            for value in changed(node.op_type, attribute):
                proto = _copy(model)
                proto.graph.node[i].attribute[j].CopyFrom(helper.make_attribute(attribute.name, value))
                name = "constant" if node.op_type == "Constant" else attribute.name
                yield f"{node.op_type} {here}: {name} {_shown(attribute)} -> {value}", here, proto
        if node.op_type == "Constant":
            yield from _constant_node(model, i)
        yield from _edges(model, i, types)
    read = {name for node in model.graph.node for name in node.input}
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name in read and (moved := _nudged(tensor)) is not None:
            proto = _copy(model)
            proto.graph.initializer[i].CopyFrom(moved)
            user = next(n for n in model.graph.node if tensor.name in n.input)
            yield f"weight {tensor.name}", user.name or user.output[0], proto


def changed(op_type: str, attribute: AttributeProto) -> list[Any]:
    """The smallest meaningful changes of an attribute."""
    if attribute.name in TYPED:
        return []
    if attribute.type == AttributeProto.FLOAT:
        return [attribute.f * 1.001 if attribute.f else SMALL]
    if attribute.type == AttributeProto.INT:
        return [attribute.i + 1, attribute.i - 1]
    if attribute.type == AttributeProto.INTS:
        value = list(attribute.ints)
        if attribute.name == "perm":
            swaps = [value[:k] + [value[k + 1], value[k]] + value[k + 2 :] for k in range(len(value) - 1)]
            return [s for s in swaps if s != value]
        return [[v + (k == j) for k, v in enumerate(value)] for j in range(len(value))]
    if attribute.type == AttributeProto.STRING:
        word = attribute.s.decode()
        return [w for w in _WORDS.get(attribute.name, []) if w != word]
    return []


def _edges(model: onnx.ModelProto, i: int, types: Mapping[str, Any]) -> Iterator[Mutation]:
    """Each input read from the nearest other value of its type, and the first two inputs swapped."""
    node = model.graph.node[i]
    here = node.name or node.output[0]
    inputs = list(node.input)
    if len(inputs) >= 2 and inputs[0] != inputs[1] and types.get(inputs[0]) == types.get(inputs[1]) is not None:
        proto = _copy(model)
        proto.graph.node[i].input[0], proto.graph.node[i].input[1] = inputs[1], inputs[0]
        yield f"{node.op_type} {here}: inputs 0 and 1 swapped", here, proto
    earlier = [v.name for v in model.graph.input] + [o for n in model.graph.node[:i] for o in n.output if o]
    for k, name in enumerate(inputs):
        other = next((e for e in reversed(earlier) if e != name and types.get(e) == types.get(name) is not None), None)
        if other is not None and name in set(earlier):
            proto = _copy(model)
            proto.graph.node[i].input[k] = other
            yield f"{node.op_type} {here}: input {k} {name} -> {other}", here, proto


def _constant_node(model: onnx.ModelProto, i: int) -> Iterator[Mutation]:
    node = model.graph.node[i]
    for j, attribute in enumerate(node.attribute):
        if attribute.name == "value" and (moved := _nudged(attribute.t)) is not None:
            proto = _copy(model)
            proto.graph.node[i].attribute[j].t.CopyFrom(moved)
            users = [n for n in model.graph.node if node.output[0] in n.input]
            yield f"constant {node.output[0]}", (users[0].name or users[0].output[0]) if users else "", proto


def _nudged(tensor: TensorProto) -> TensorProto | None:
    """The largest element moved: by a thousandth, by one, or turned over; None for text and for nothing."""
    array = numpy_helper.to_array(tensor).copy()
    if not array.size or array.dtype.kind in "OUS" or array.dtype.kind not in "fiub":
        return None
    place = np.unravel_index(int(np.argmax(np.abs(array.astype(np.float64)))), array.shape)
    if array.dtype.kind == "b":
        array[place] = not array[place]
    elif array.dtype.kind in "iu":
        array[place] = array[place] - 1 if array[place] == np.iinfo(array.dtype).max else array[place] + 1
    else:
        array[place] = array[place] * array.dtype.type(1 - SMALL) if array[place] else array.dtype.type(SMALL)
    return numpy_helper.from_array(array, tensor.name)


def harmless(what: str, before: Subject, after: Subject, samples: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Why a mutation does not change the function; empty where it does, and should have been seen."""
    worst = 0.0
    for sample in samples:
        other = renamed(before.model, after.model, sample)
        wide, own, new = (
            before.outputs(ops.float64, sample),
            before.outputs(SOURCE, sample),
            after.outputs(ops.float64, other),
        )
        for a, b in matched_outputs(before.model, after.model):
            x, y, z = (np.asarray(v) for v in (wide[a.name or ""], new[b.name or ""], own[a.name or ""]))
            if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
                return ""
            if not is_float(z.dtype):
                if not np.array_equal(x, y):
                    return ""
                continue
            must = before.outputs(DITHERED, sample)[a.name or ""]
            with np.errstate(invalid="ignore"):
                moved, *rounding = (np.nan_to_num(x - np.asarray(v, np.float64)) for v in (y, z, must))
            limit = max(*(rms(r) for r in rounding), floor(x, z.dtype))
            worst = max(worst, rms(moved) / limit if limit else float(bool(rms(moved))))
    if worst == 0:
        swapped = "swapped" in what and what.partition(" ")[0] in COMMUTATIVE
        return (
            f"{what.partition(' ')[0]} is commutative" if swapped else "no output moves in float64 on any draw or edge"
        )
    if worst <= RMS_RATIO:
        return f"moves outputs by {worst:.2g} of what its formats round off, at most"
    return ""


def _types(model: onnx.ModelProto) -> dict[str, Any]:
    """Type and shape of what inference knows, as text."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        inferred = model.graph
    return {v.name: v.type.SerializeToString() for v in (*inferred.input, *inferred.value_info, *inferred.output)}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _shown(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
