"""What an input is for, read off the graph: an index, a mask, a length, a denominator; so that draws are valid.

A role comes from where the value goes: it is followed through operators that keep it (Cast, Unsqueeze, Slice, Add of a
constant, calls of model-local functions, subgraphs) to those that say what it must be. The name decides only between
roles that the graph leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from porter import graph
from porter.graph import Model, Node, Value


@dataclass(frozen=True)
class Role:
    """Values an input may take: integers low..high-1 of an index or a length, or a kind with values of its own.

    kind   'index', 'length', 'count', 'choice' (one number), 'mask', 'bias_mask', 'flag', 'positive', 'denominator',
           'range', 'plain'
    why    a few words for people
    span   the smallest and the largest number of a 'range', both in it
    """

    kind: str
    low: int = 0
    high: int | None = None
    why: str = ""
    span: tuple[float, float] = (0.0, 0.0)

    def shifted(self, by: int) -> Role:
        """The role of x when `self` is the role of x + by; a lower bound never falls below zero."""
        least, most = self.span
        high = None if self.high is None else self.high - by
        return replace(self, low=max(self.low - by, 0), high=high, span=(least - by, most - by))


KEEP = frozenset(
    "Cast Identity Unsqueeze Squeeze Reshape Flatten Expand Tile Transpose Slice Split Gather GatherElements GatherND "
    "Concat Pad Range CastLike Min Max Abs".split()
)
# operator -> input that must be positive, or away from zero
POSITIVE = {("Log", 0), ("Sqrt", 0), ("Pow", 0), ("Reciprocal", 0), ("BatchNormalization", 4)}
WIDE = 1e6  # a Clip to more than this bounds nothing that a model means
DEEP = 24  # uses are followed through this many operators


def roles(model: Model, value: Value) -> list[Role]:
    """Every role that the uses of a graph input give it, nearest first; empty where the graph says nothing."""
    found: list[Role] = []
    seen: set[Value] = set()
    pending: list[tuple[Value, int, int]] = [(value, 0, 0)]
    while pending:
        current, shift, depth = pending.pop(0)
        if current in seen or depth > DEEP:
            continue
        seen.add(current)
        for node, index in current.uses():
            function = graph.called(model, node)
            if function is not None:
                pending.append((function.inputs[index], shift, depth + 1))
                continue
            role = _role(node, index)
            if role is not None:
                found.append(role.shifted(shift))
                if node.op_type != "Cast":  # what becomes an integer may yet be an index
                    continue
            pending.extend((v, shift + by, depth + 1) for v, by in _onward(node, index))
    return found


def _role(node: Node, index: int) -> Role | None:
    """What the operator demands of its input number `index`, if anything."""
    at = f"{node.op_type} '{graph.source_name(node)}'"
    match node.op_type, index:
        case ("Gather" | "GatherElements" | "ScatterElements", 1):
            data = _shape(node, 0)
            axis = graph.integer(node, "axis", 0)
            return None if not data else Role("index", 0, data[axis], f"indexes axis {axis} of {list(data)} in {at}")
        case ("GatherND" | "ScatterND", 1):
            data, indices = _shape(node, 0), _shape(node, 1)
            if not data or not indices:
                return None
            start = graph.integer(node, "batch_dims", 0) if node.op_type == "GatherND" else 0
            return Role("index", 0, min(data[start : start + indices[-1]]), f"indexes {list(data)} in {at}")
        case ("TensorScatter", 2):
            cache, update, axis = _shape(node, 0), _shape(node, 1), graph.integer(node, "axis", -2)
            if not cache or not update:
                return None
            circular = graph.attributes(node).get("mode") == "circular"
            room = cache[axis] + (0 if circular else 1 - update[axis])
            return Role("index", 0, room, f"where rows start in a cache of {cache[axis]} in {at}")
        case ("OneHot", 0):
            depth = graph.constant(node.inputs[1])
            return None if depth is None else Role("index", 0, int(np.ravel(depth)[0]), f"a class of {at}")
        case ("RotaryEmbedding", 3):
            cache = _shape(node, 1)
            return None if not cache else Role("index", 0, cache[0], f"positions of a cache of {cache[0]} in {at}")
        case ("Attention", 3):
            return Role("mask" if _is_bool(node.inputs[3]) else "bias_mask", why=f"the mask of {at}")
        case ("Attention", 6):
            keys = _shape(node, 1)
            return None if not keys else Role("length", 1, keys[-2] + 1, f"keys that count in {at}")
        case ("LSTM" | "GRU" | "RNN", 4) | ("ReverseSequence", 1):
            data = _shape(node, 0)
            axis = graph.integer(node, "time_axis", 0) if node.op_type == "ReverseSequence" else 0
            least = 1 if node.op_type == "ReverseSequence" else 0
            return None if not data else Role("length", least, data[axis] + 1, f"steps that count in {at}")
        case ("TopK", 1):
            data = _shape(node, 0)
            return (
                None
                if not data
                else Role("count", 1, data[graph.integer(node, "axis", -1)] + 1, f"how many {at} keeps")
            )
        case ("SequenceAt" | "SequenceErase", 1) | ("SequenceInsert", 2):
            held = _length(node.inputs[0])
            places = None if held is None else held + (node.op_type == "SequenceInsert")
            return None if not places else Role("index", 0, places, f"a place in a sequence of {held} in {at}")
        case ("Loop", 0):
            return Role("count", 1, 5, f"iterations of {at}")
        case ("Loop" | "If", 0 | 1) if _is_bool(node.inputs[index]):
            return Role("flag", why=f"whether {at} runs")
        case ("Equal", 0 | 1) if (number := _choice(node, index)) is not None:
            return Role("choice", number, number + 1, f"what {at} compares it with")
        case ("Where", 0):
            return Role("mask", why=f"chooses in {at}")
        case ("Div" | "Mod", 1):
            return Role("denominator", why=f"the denominator of {at}")
        case ("Clip", 0) if (span := _clipped(node)) is not None:
            return Role("range", why=f"cut to it by {at}", span=span)
        case ("Cast", 0) if (span := _held(node)) is not None:
            return Role("range", why=f"what {at} holds", span=span)
        case ("Sub", 1) if _is_one(node.inputs[0]):  # 1 - mask, the way BERT spells an additive mask
            return Role("mask", why=f"1 - x in {at}")
        case (op, i) if (op, i) in POSITIVE and not (op == "Pow" and _is_integer(node.inputs[1])):
            return Role("positive", why=f"the operand of {at}")
    return None


def _length(value: Value | None) -> int | None:
    """How many tensors a sequence holds, where the graph says it."""
    maker = None if value is None else value.producer()
    if maker is None or maker.domain:
        return None
    match maker.op_type:
        case "SequenceEmpty":
            return 0
        case "SequenceConstruct":
            return len(maker.inputs)
        case "Identity":
            return _length(maker.inputs[0])
        case "SequenceInsert" | "SequenceErase" as kind:
            before = _length(maker.inputs[0])
            return None if before is None else before + (1 if kind == "SequenceInsert" else -1)
    return None


def _clipped(node: Node) -> tuple[float, float] | None:
    """The constant bounds of a Clip, where it has both and they say something."""
    bounds = [graph.constant(v) for v in node.inputs[1:3]]
    if len(bounds) < 2 or any(b is None or b.size != 1 for b in bounds):
        return None
    least, most = (float(b.reshape(-1)[0]) for b in bounds if b is not None)
    return (least, most) if least < most and most - least <= WIDE else None


def _held(node: Node) -> tuple[float, float] | None:
    """The integers of eight bits, or without a sign, that a float is cast to: what others become is nobody's promise."""
    given, made = graph.dtype(node.inputs[0]) if node.inputs[0] is not None else None, graph.dtype(node.outputs[0])
    if given is None or made is None or given.kind in "iub" or made.kind not in "iu":
        return None
    if made.kind == "i" and made.itemsize > 1:
        return None
    ends = np.iinfo(made)
    return float(ends.min), float(min(ends.max, 255))


def _choice(node: Node, index: int) -> int | None:
    """The one integer that a single number is compared with."""
    asked, other = node.inputs[index], graph.constant(node.inputs[1 - index])
    dims = None if asked is None else graph.shape(asked)
    if (
        dims is None
        or np.prod(dims, dtype=int) != 1
        or other is None
        or other.size != 1
        or other.dtype.kind not in "iu"
    ):
        return None
    return int(other.reshape(-1)[0])


def _onward(node: Node, index: int) -> Iterator[tuple[Value, int]]:
    """Values that are the input itself, or the input plus a constant, on the far side of the node."""
    if node.op_type in ("Add", "Sub"):
        other = graph.constant(node.inputs[1 - index])
        # x - c and c + x shift a range; c - x turns it over, which bounds nothing here
        if other is not None and other.dtype.kind in "iu" and other.size == 1 and (node.op_type == "Add" or index == 0):
            yield node.outputs[0], int(other.reshape(-1)[0]) * (1 if node.op_type == "Add" else -1)
    elif node.op_type in KEEP and (index == 0 or node.op_type == "Concat"):
        for value in node.outputs:
            yield value, 0
    elif node.op_type in ("Loop", "Scan"):  # carried and scanned values are inputs of the body
        for body in graph.graphs(node):
            offset = 0 if node.op_type == "Loop" else len(body.inputs) - len(node.inputs)
            if 0 <= index + offset < len(body.inputs):
                yield body.inputs[index + offset], 0


def _shape(node: Node, index: int) -> tuple[int, ...] | None:
    value = node.inputs[index]
    return None if value is None else graph.shape(value)


def _is_bool(value: Value | None) -> bool:
    return value is not None and graph.dtype(value) == np.bool_


def _is_one(value: Value | None) -> bool:
    held = graph.constant(value) if value is not None else None
    return held is not None and held.size == 1 and bool(held.reshape(-1)[0] == 1)


def _is_integer(value: Value | None) -> bool:
    held = graph.constant(value) if value is not None else None
    return held is not None and held.size == 1 and float(held.reshape(-1)[0]) % 1 == 0
