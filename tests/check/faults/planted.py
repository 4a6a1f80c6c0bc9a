"""Faults planted in a model by program: each attribute, edge and constant, changed by as little as means something.

    for site in sites(model, types):
        for what, proto in site.mutants(model): ...     the smallest change first

A site is an element of an attribute, an edge or a constant, of the graph or a subgraph. It has several changes, because
the smallest may be none: a pad more is another shape, which the next operator does not take, a pad moved from one end
to the other is not. Sites of one kind do alike: of a large model one of each kind is taken (`chosen`).

Whether a mutation that a check calls equivalent changes the function at all is asked in float64, on every draw and edge:
`harmless` says why it does not, or nothing, and then it was missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from porter import ops
from porter.check import gate
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, Subject
from porter.check.inputs import draw
from porter.check.measure import is_float, rms
from porter.check.numeric import matched_outputs, reference, renamed

SMALL = 1e-2  # of a constant's largest element: three times what rounding to bfloat16 does to it
EVERY = 60  # sites up to which a model has all of them planted
SCALES = (1, 1, 3, 30, 300, 0.1)  # of draws other than the checker's own
LONG = 16  # elements of an attribute that count one by one
NEAR = 3  # other values that an edge is tried from
COMMUTATIVE = frozenset("Add Mul And Or Xor Equal Max Min Sum Mean".split())
WORDS = {
    "approximate": ["none", "tanh"],
    "mode": ["constant", "reflect", "edge", "nearest", "linear", "cubic", "DCR", "CRD"],
    "coordinate_transformation_mode": ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
    "nearest_mode": ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"],
    "direction": ["forward", "reverse"],
    "reduction": ["none", "add", "mul"],
    "padding_mode": ["zeros", "border", "reflection"],
    "auto_pad": ["SAME_UPPER", "SAME_LOWER"],
    "activations": [],
}
TYPED = frozenset(
    {"to", "dtype", "num_outputs", "saturate", "keepdims", "output_dtype", "stash_type"}
)  # another one is
# another type or shape, which no graph around it takes

Change = Callable[[GraphProto, NodeProto], str | None]
"""Makes the change in a copy of the model and says what it was; None where there is none."""


@dataclass(frozen=True)
class Site:
    """A place of a model that can be changed; `kind` is equal for places of which one stands for all."""

    what: str
    node: str
    kind: str
    place: tuple[int, int]  # which graph, which of its nodes
    changes: tuple[Change, ...]

    def mutants(self, model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
        """(what was changed, the mutated model), lazily; the model is left as it is."""
        for change in self.changes:
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
            graph = list(graphs(proto.graph))[self.place[0]]
            how = change(graph, graph.node[self.place[1]])
            if how is not None:
                yield f"{self.what}{how}", proto


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every subgraph, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def sites(model: onnx.ModelProto, types: Mapping[str, Any]) -> list[Site]:
    """Every place of the model; `types` tells what each value is, as anything that can be compared."""
    found: list[Site] = []
    for g, graph in enumerate(graphs(model.graph)):
        made = [v.name for v in graph.input]
        weights = {t.name: t for t in graph.initializer}
        seen: set[str] = set()
        for n, node in enumerate(graph.node):
            here = node.name or node.output[0]
            rows = [*_attributes(node), *_edges(node, made, list(weights), types)]
            if node.op_type == "Constant":
                rows += _constant_node(graph, node)
            for k, name in enumerate(node.input):
                if name in weights and name not in seen:  # at its first user
                    seen.add(name)
                    rows += _weight(weights[name], f"{node.op_type} input {k}")
            found += [
                Site(f"{node.op_type} {here}: {w}", here, f"{node.op_type} {k}", (g, n), tuple(c)) for w, k, c in rows
            ]
            made += [o for o in node.output if o]
    return [s for s in found if s.changes]


def chosen(found: Sequence[Site]) -> list[Site]:
    """All sites of a small model, of a large one one of each kind: which, its name decides."""
    if len(found) <= EVERY:
        return list(found)
    first: dict[str, Site] = {}
    for site in sorted(found, key=lambda s: hashlib.sha256(s.what.encode()).hexdigest()):
        first.setdefault(site.kind, site)
    return sorted(first.values(), key=lambda s: s.place)


Row = tuple[str, str, list[Change]]  # what, kind, the ways to change it


def _attributes(node: NodeProto) -> Iterator[Row]:
    for j, attribute in enumerate(node.attribute):
        if attribute.name in TYPED or node.op_type == "Constant":
            continue
        for element, values in changed(attribute).items():
            where = attribute.name + ("" if element is None else f"[{element}]")
            yield (
                f"{where} {_shown(helper.get_attribute_value(attribute))}",
                f"{where} {_shown(helper.get_attribute_value(attribute))}",
                [_set(j, attribute.name, v) for v in values],
            )


def _set(j: int, name: str, value: Any) -> Change:
    def change(_: GraphProto, node: NodeProto) -> str:
        node.attribute[j].CopyFrom(helper.make_attribute(name, value))
        return f" -> {_shown(value)}"

    return change


def changed(attribute: AttributeProto) -> dict[int | None, list[Any]]:
    """The changes of each element of an attribute, the smallest first; None stands for the whole."""
    match attribute.type:
        case AttributeProto.FLOAT:
            return {None: [attribute.f * 1.001 if attribute.f else SMALL]}
        case AttributeProto.INT:
            near = [attribute.i + d for d in (1, -1, 2, -2)]
            return {None: [i for i in near if _held(i)]}
        case AttributeProto.FLOATS:
            return {k: [_put(attribute.floats, k, v * 1.001 or SMALL)] for k, v in enumerate(attribute.floats[:LONG])}
        case AttributeProto.INTS:
            return {k: _integers(attribute.name, list(attribute.ints), k) for k in range(len(attribute.ints[:LONG]))}
        case AttributeProto.STRING:
            word = attribute.s.decode()
            others = [w for w in WORDS.get(attribute.name, []) if w != word]
            return {None: others or ([_other_equation(word)] if attribute.name == "equation" else [])}
    return {}


def _integers(name: str, value: list[int], k: int) -> list[list[int]]:
    """One element more or less, then what leaves the shape of the result: an element exchanged for another's."""
    half = len(value) // 2
    if name == "perm":
        others = [j for j in range(len(value)) if j != k]
        return [_swapped(value, k, j) for j in sorted(others, key=lambda j: abs(j - k))]
    ways = [_put(value, k, value[k] + 1)]
    if name == "pads" and half:
        far = (k + half) % len(value)  # the other end of the same axis
        ways += [_put(_put(value, k, value[k] + d), far, value[far] - d) for d in (1, -1)]
    ways += [_put(value, k, value[k] - 1), *(_swapped(value, k, j) for j in range(len(value)) if value[j] != value[k])]
    return [w for w in ways if min(w) >= min(0, *value) and all(map(_held, w))]


def _held(i: int) -> bool:
    """Whether an attribute holds it: a Slice of opset 1 may end at the largest integer there is."""
    return -(2**63) <= i < 2**63


def _put(value: Sequence[Any], k: int, new: Any) -> list[Any]:
    return [new if j == k else v for j, v in enumerate(value)]


def _swapped(value: Sequence[Any], k: int, j: int) -> list[Any]:
    return _put(_put(value, k, value[j]), j, value[k])


def _other_equation(equation: str) -> str:
    """The last two letters of the first operand exchanged."""
    first, comma, rest = equation.replace(" ", "").partition(",")
    return f"{first[:-2]}{first[-1]}{first[-2]}{comma}{rest}" if len(first) > 1 else equation


def _edges(node: NodeProto, made: Sequence[str], weights: Sequence[str], types: Mapping[str, Any]) -> Iterator[Row]:
    """Each input read from the nearest other values of its type, and the first two inputs swapped."""
    inputs = list(node.input)
    if len(inputs) >= 2 and inputs[0] != inputs[1] and types.get(inputs[0]) == types.get(inputs[1]) is not None:
        yield "inputs 0 and 1 swapped", "swap", [_swap]
    for k, name in enumerate(inputs):
        pool = list(reversed(made)) if name in made else weights if name in weights else []
        others = [e for e in pool if e != name and types.get(e) == types.get(name) is not None][:NEAR]
        if others:
            held = "a weight" if name in weights else "a value"
            yield f"input {k} {name}", f"edge {k}, {held}", [_read(k, o) for o in others]


def _swap(_: GraphProto, node: NodeProto) -> str:
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return ""


def _read(k: int, name: str) -> Change:
    def change(_: GraphProto, node: NodeProto) -> str:
        node.input[k] = name
        return f" -> {name}"

    return change


def _weight(tensor: TensorProto, user: str) -> Iterator[Row]:
    def moved(number: int) -> Change:
        def change(graph: GraphProto, _: NodeProto) -> str | None:
            return _nudge(next(t for t in graph.initializer if t.name == tensor.name), number)

        return change

    kind = f"weight of {user}, {TensorProto.DataType.Name(tensor.data_type)}"
    yield f"weight {tensor.name}", kind, [moved(i) for i in range(len(NUDGES))]


def _constant_node(graph: GraphProto, node: NodeProto) -> Iterator[Row]:
    users = [
        f"{n.op_type} input {list(n.input).index(node.output[0])}" for n in graph.node if node.output[0] in n.input
    ]
    user = users[0] if users else "a subgraph"

    def moved(j: int, number: int) -> Change:
        return lambda _, node: _nudge(node.attribute[j].t, number)

    for j, attribute in enumerate(node.attribute):
        if attribute.name == "value":
            kind = f"of {user}, {TensorProto.DataType.Name(attribute.t.data_type)}"
            yield f"constant {node.output[0]}", kind, [moved(j, i) for i in range(len(NUDGES))]
        elif attribute.name in ("value_float", "value_int", "value_floats", "value_ints"):
            for element, values in changed(attribute).items():
                what = f"constant {node.output[0]}" + ("" if element is None else f"[{element}]")
                yield what, f"of {user}, {attribute.name}", [_set(j, attribute.name, v) for v in values]


NUDGES = ("more", "less", "exchanged")


def _nudge(tensor: TensorProto, number: int) -> str | None:
    """Moves the largest element by a hundredth, by one, or turns it over; of integers, then the other way, or exchanges two.
    The name of the change; None where there is no such one."""
    array = numpy_helper.to_array(tensor)
    whole = array.dtype.kind in "iu"
    if not array.size or array.dtype.kind not in "fiubV" or array.dtype.names or (number and not whole):
        return None
    flat = array.reshape(-1).copy()
    wide = np.abs(flat.astype(np.float64))
    place = int(np.argmax(np.where(np.isfinite(wide), wide, -1)))
    held = flat[place].item() if whole else float(flat[place])
    if NUDGES[number] == "exchanged":
        others = np.flatnonzero(flat != flat[place])
        if not others.size:
            return None
        other = others[np.argmin(np.abs(others - place))]
        flat[place], flat[other] = flat[other], flat[place]
        how = ": two exchanged"
    elif whole:
        by = 1 if NUDGES[number] == "more" else -1
        if not np.iinfo(flat.dtype).min <= held + by <= np.iinfo(flat.dtype).max:
            return None
        flat[place] = held + by
        how = f": one {NUDGES[number]}"
    elif array.dtype.kind == "b":
        flat[place] = not flat[place]
        how = ": one turned over"
    else:
        flat[place] = held * (1 - SMALL) if held else SMALL
        if float(flat[place]) == held:  # a format of few bits
            flat[place] = held / 2
        how = ": the largest by a hundredth"
    tensor.CopyFrom(numpy_helper.from_array(flat.reshape(array.shape), tensor.name))
    return how


def harmless(what: str, before: Subject, after: Subject, samples: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Why a mutation does not change the function; empty where it does, and should have been seen."""
    worst = 0.0
    if ("more", 0) not in before.drawn:
        before.drawn["more", 0] = [draw(before.model, 500 + i, scale) for i, scale in enumerate(SCALES)]
    for sample in (*samples, *before.drawn["more", 0]):
        other = renamed(before.model, after.model, sample)
        wide, own, new = (
            before.outputs(ops.float64, sample),
            before.outputs(SOURCE, sample),
            after.outputs(ops.float64, other),
        )
        for a, b in matched_outputs(before.model, after.model):
            x, y, z = (np.asarray(v) for v in (wide[a.name or ""], new[b.name or ""], own[a.name or ""]))
            x = reference(x, z)
            if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
                return ""
            if not is_float(z.dtype):
                if not np.array_equal(x, y):
                    return ""
                continue
            # how far its formats let the model be off, at most: of few elements that is asked more often
            draws = [before.outputs(Dithered(1 + i), sample)[a.name or ""] for i in range(gate.samples([x.size]))]
            with np.errstate(invalid="ignore"):
                moved, *rounding = (
                    np.nan_to_num(x - np.asarray(v, np.float64)) for v in (y, z, *draws) if v.shape == x.shape
                )
            limit = max(*(rms(r) for r in rounding), gate.floor(x, z.dtype))
            worst = max(worst, rms(moved) / limit if limit else float(bool(rms(moved))))
    if worst == 0:
        swapped = "swapped" in what and what.partition(" ")[0] in COMMUTATIVE
        return (
            f"{what.partition(' ')[0]} is commutative" if swapped else "no output moves in float64 on any draw or edge"
        )
    if worst <= gate.RMS_RATIO:
        return f"moves outputs by {worst:.2g} of what its formats round off, at most"
    return ""


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_shown(v) for v in value] if isinstance(value, list | tuple) else value
