"""Data movement proved: both models run on labels, and every output element must come from the same input element.

Every element of every input is a distinct number, and every element of a weight is named by its bits; movement carries
them. What computes makes a label of those that it reads: element by element where the operator does, else of all of
them and the place. So `exact` passes, which move, merge, drop and fold but do not compute otherwise, are decided too:
equal labels are equal operators on equal elements. Integers that choose what is moved (indices, shapes, conditions)
are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import graph
from porter.check.execution import SOURCE
from porter.check.expressions import Expressions
from porter.check.inputs import draw
from porter.errors import PorterError
from porter.graph import Function, Graph, Model, Node, Value
from porter.ops.arrays import Numpy
from porter.ops.residues import hashed, key_of
from porter.ops.running import Scope, results_of

MOVEMENT = frozenset(
    """Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Concat Gather GatherElements GatherND Expand
    Tile Pad DepthToSpace SpaceToDepth Trilu Where Compress ReverseSequence ScatterElements ScatterND Cast""".split()
)
# operator -> which inputs are moved, where it is not the first alone; the others say how
MOVED: dict[str, tuple[int, ...]] = {
    "Concat": tuple(range(1 << 12)), "Where": (1, 2), "ScatterElements": (0, 2), "ScatterND": (0, 2), "Pad": (0, 2)
}  # fmt: skip
ELEMENTWISE = frozenset(
    """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos
    Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less
    LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor""".split()
)
COMMUTATIVE = frozenset("Add Mul And Or Xor Equal".split())


@dataclass(frozen=True)
class Moved:
    """Whether two models move the same elements: True or False, or None where that is not said (`reason` says why).

    For False, which takes models that only move: the first output element that differs, and where each takes it from.
    """

    same: bool | None
    output: str = ""
    index: tuple[int, ...] = ()
    before: str = ""
    after: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.same:
            return "every output element comes from the same input element"
        if self.same is None:
            return f"not movement alone: {self.reason}"
        return f"output '{self.output}' at {list(self.index)} is {self.after}, expected {self.before}"


@dataclass(frozen=True)
class _Place:
    """Labels from `start` on belong to the elements of this input."""

    start: int
    name: str
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + int(np.prod(self.shape, dtype=np.int64))


class _Labels(Numpy):
    """Labels are float64 and stay what they are, whatever type a value is declared to have."""

    def __init__(self) -> None:
        super().__init__("labels", double=True)


@dataclass(frozen=True)
class _Traced:
    """A value: its labels, its declared type, what it is where that is known, and whether it depends on no input."""

    label: np.ndarray
    dtype: np.dtype
    real: np.ndarray | None
    constant: bool = False


@dataclass(frozen=True)
class _Within:
    """Where nodes stand: the opsets of a graph or a function, and the function's attributes in this call."""

    opsets: Mapping[str, int]
    bound: Mapping[str, Any] | None = None


class _Unknown(Exception):
    """Labels cannot say."""


def compare(before: Model, after: Model) -> Moved:
    """Hold the origin of every output element of `after` against that in `before`; inputs are matched in order."""
    places: list[_Place] = []
    drawn = draw(before, 0)
    inputs = [_input(places, name, x) for name, x in drawn.items()]
    try:
        old, new = (_Tracer(m, drawn).outputs(inputs) for m in (before, after))
    except (_Unknown, PorterError) as error:
        return Moved(None, reason=str(error).replace("\n ", ";"))
    computing = next((n for m in (before, after) for n in m.graph if n.op_type not in _FREE or n.domain), None)
    for value, a, b in zip(before.graph.outputs, old, new, strict=True):
        name = value.name or ""
        if computing is not None and (a.shape != b.shape or (a != b).any()):
            return Moved(None, reason=f"node '{graph.source_name(computing)}' ({computing.op_type})")
        if a.shape != b.shape:
            return Moved(False, name, (), f"of shape {list(a.shape)}", f"of shape {list(b.shape)}")
        apart = np.asarray(a != b)
        if apart.any():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(apart)), apart.shape))
            return Moved(False, name, at, _origin(a[at], places), _origin(b[at], places))
    return Moved(True)


_FREE = (MOVEMENT - {"Cast"}) | frozenset("Constant Shape Size ConstantOfShape Range".split())


class _Tracer:
    """One model on labels."""

    def __init__(self, model: Model, sample: Mapping[str, np.ndarray]) -> None:
        self.model = model
        names = [v.name or "" for v in model.graph.inputs if not v.is_initializer()]
        self.keys = Expressions(model, dict(zip(names, sample.values(), strict=True)))

    def outputs(self, inputs: Sequence[_Traced]) -> list[np.ndarray]:
        g = self.model.graph
        values = dict(zip((v for v in g.inputs if not v.is_initializer()), inputs, strict=True))
        return [x.label for x in self.run(g, dict(values), _Within(self.model.opset_imports))]

    def run(self, owner: Graph | Function, values: dict[Value, _Traced], at: _Within) -> list[_Traced]:
        def get(value: Value) -> _Traced:
            if value not in values:
                array = graph.constant(value)
                if array is None:
                    raise _Unknown(f"value '{value.name}' has no label")
                values[value] = _stored(array)
            return values[value]

        for node in owner:
            if node.op_type == "Constant" and not node.domain and graph.constant_tensor(node.outputs[0]) is not None:
                continue
            given = [None if v is None else get(v) for v in node.inputs]
            for value, made in zip(node.outputs, self.node(node, given, at), strict=False):
                values[value] = made
        return [get(v) for v in owner.outputs]

    def node(self, node: Node, given: Sequence[_Traced | None], at: _Within) -> list[_Traced]:
        function = self.model.functions.get(node.op_identifier())
        if function is not None and all(x is not None for x in given):
            bound = graph.parameters(function, node, at.bound)
            inside = dict(zip(function.inputs, given, strict=True))
            return self.run(function, inside, _Within(function.opset_imports, bound))  # type: ignore[arg-type]
        if next(graph.graphs(node), None) is not None:
            raise _Unknown(f"node '{graph.source_name(node)}' ({node.op_type}) holds a graph")
        known = all(x is None or x.real is not None for x in given)
        reals = [
            None if x is None else x.real if x.real is not None else np.ones(x.label.shape, x.dtype) for x in given
        ]
        made = self._apply(node, reals, given, at, SOURCE)
        if all(x is None or x.constant for x in given):
            return [_stored(array) for array in made]
        moved = self._moved(node, given, at)
        labels = moved if moved is not None else self._computed(node, given, made, at)
        return [
            _Traced(label, array.dtype, array if known else None) for label, array in zip(labels, made, strict=True)
        ]

    def _moved(self, node: Node, given: Sequence[_Traced | None], at: _Within) -> list[np.ndarray] | None:
        """Labels of a node that moves; None where it computes, or where what says how is not known."""
        if (by_one := _times_one(node, given)) is not None:
            return [by_one]
        idle = node.op_type == "Cast" and given[0] is not None and graph.dtype(node.outputs[0]) == given[0].dtype
        if node.domain or node.op_type not in MOVEMENT or (node.op_type == "Cast" and not idle):
            return None
        if idle:
            return [x.label for x in given if x is not None]
        if graph.attributes(node, at.bound).get("reduction", "none") not in ("none", b"none"):
            return None
        data = MOVED.get(node.op_type, (0,))
        if any(x is not None and i not in data and x.real is None for i, x in enumerate(given)):
            return None
        mixed = [None if x is None else x.label if i in data else x.real for i, x in enumerate(given)]
        return self._apply(node, mixed, given, at, _Labels())

    def _computed(
        self, node: Node, given: Sequence[_Traced | None], made: Sequence[np.ndarray], at: _Within
    ) -> list[np.ndarray]:
        """New labels: of each element where the operator works by elements, else of the whole and the place."""
        reads = {v: "x" for v in node.inputs if v is not None}
        (key, *_) = self.keys.expression(node, reads, at.bound)
        labels = [np.zeros(1) if x is None else x.label for x in given]
        if not node.domain and node.op_type in ELEMENTWISE and len(made) == 1:
            parts = [np.broadcast_to(x, made[0].shape).astype(np.int64) for x in labels]
            if node.op_type in COMMUTATIVE and len(parts) == 2:
                parts = [np.minimum(*parts), np.maximum(*parts)]
            return [_named(hashed(key_of(0, key), *parts))]
        whole = [
            hashed(key_of(i, key), x.astype(np.int64).reshape(-1), np.arange(x.size)) for i, x in enumerate(labels)
        ]
        shapes = repr([x.shape for x in labels])
        mark = int(np.bitwise_xor.reduce([np.bitwise_xor.reduce(w, initial=np.uint64(0)) for w in whole]))
        return [
            _named(hashed(key_of(mark, f"{key} {i} {shapes}"), np.arange(x.size)).reshape(x.shape))
            for i, x in enumerate(made)
        ]

    def _apply(
        self, node: Node, arrays: Sequence[Any], given: Sequence[_Traced | None], at: _Within, xp: Any
    ) -> list[np.ndarray]:
        scope = Scope(xp, self.model.functions, at.opsets, at.bound)
        for value, array, traced in zip(node.inputs, arrays, given, strict=True):
            if value is not None and traced is not None:
                scope.put(value, array, traced.dtype)
        with np.errstate(all="ignore"):
            return [np.asarray(array) for _, array, _ in results_of(node, scope)]


def _times_one(node: Node, given: Sequence[_Traced | None]) -> np.ndarray | None:
    """The labels of x in x * 1 and x / 1, which are x to the bit; None for anything else."""
    if node.domain or node.op_type not in ("Mul", "Div") or any(x is None for x in given):
        return None
    for x, one in ((0, 1), (1, 0))[: 2 if node.op_type == "Mul" else 1]:
        a, b = given[x], given[one]
        if a is not None and b is not None and b.constant and b.real is not None and (b.real == 1).all():
            return np.broadcast_to(a.label, np.broadcast_shapes(a.label.shape, b.label.shape))
    return None


def _input(places: list[_Place], name: str, drawn: np.ndarray) -> _Traced:
    place = _Place(places[-1].end if places else 1, name, drawn.shape)
    places.append(place)
    label = np.arange(place.start, place.end, dtype=np.float64).reshape(drawn.shape)
    return _Traced(label, drawn.dtype, drawn if drawn.dtype.kind in "iub" else None)


def _stored(array: np.ndarray) -> _Traced:
    """A constant is known by its type and bits; 0 is what padding is."""
    if array.dtype.kind in "OUS":
        raise _Unknown("strings have no labels")
    bits = np.frombuffer(np.ascontiguousarray(array).tobytes(), f"u{array.dtype.itemsize}").reshape(array.shape)
    label = np.where(bits == 0, 0.0, _named(hashed(key_of(0, array.dtype.name), bits)))
    return _Traced(label, array.dtype, array, True)


def _named(code: np.ndarray) -> np.ndarray:
    """Negative labels: 52 bits of a hash, which float64 holds."""
    return -1.0 - (code >> np.uint64(12)).astype(np.float64)


def _origin(label: Any, places: list[_Place]) -> str:
    number = int(label)
    for place in places:
        if place.start <= number < place.end:
            return f"{place.name}{[int(i) for i in np.unravel_index(number - place.start, place.shape)]}"
    return "0" if number == 0 else "a constant"
