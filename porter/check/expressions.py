"""Every value of a model as the expression that it is of the inputs: equal digests compute the same, bit for bit.

    one, two = Expressions(before), Expressions(after)
    one.of[value] == two.of[other]

Names, the order of nodes, where weights are stored, repeated and idle nodes do not show. What is computed from
constants alone, in a branch or loop too, counts as the constant that it makes in the source dtypes, so that folding does
not show either; a branch is a choice between its results, by a node If or Where. This costs a hash per weight and no
evaluation of the model: what most optimizers leave of a model as it was is known to be equal before anything is run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx

from porter import graph
from porter.check.execution import SOURCE, run
from porter.errors import PorterError
from porter.graph import Function, Graph, Model, Node, Value
from porter.ops import Evaluator
from porter.ops.namespace import NotKnown
from porter.ops.running import Scope, results_of

# a + b and b + a have the same bits; of max(-0, 0) and max(0, -0) that is not said
_COMMUTATIVE = frozenset("Add Mul And Or Xor Equal BitwiseAnd BitwiseOr BitwiseXor".split())
_RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial Dropout".split()
)
AT_ONCE = 1 << 26  # bytes of computed constants that are held at a time
SMALL = 1 << 16  # bytes of one that is kept, for what branches and loops compute from it


@dataclass(frozen=True)
class Place:
    """Where a node stands: its opsets, constants that were computed there, the attributes of the function around it, and
    whether this is the body of a function by itself, whose shapes and attributes are those of each call."""

    opsets: Mapping[str, int]
    known: Mapping[Value, Any]
    bound: Mapping[str, Any] | None = None
    abstract: bool = False


class Expressions:
    """Digests of the values of one model's graph; `inputs` are the names that its inputs go by (its own by default).

    of          value -> digest
    first       digest -> the first value that has it
    dependent   values that depend on an input
    position    where each node stands
    shapes      what nodes say of shapes that are known, by name: given to a run, it need not compute what has them
    """

    def __init__(self, model: Model, sample: Mapping[str, np.ndarray], inputs: Mapping[str, str] | None = None) -> None:
        self.model, self.of, self.first = model, dict[Value, str](), dict[str, Value]()
        self.dependent = dependent(model)
        self.position = {node: i for i, node in enumerate(model.graph)}
        self._functions: dict[Any, str] = {}
        self._computed: dict[Value, np.ndarray] = {}  # small constants that nodes of the graph compute
        self._randoms = 0
        for value in model.graph.inputs:
            if not value.is_initializer():
                self._put(value, f"input {(inputs or {}).get(value.name or '', value.name or '')}")
        self._constants(sample)

    @cached_property
    def ready(self) -> Evaluator:
        """The model made ready to run many times."""
        return Evaluator(self.model)

    def copy(self) -> Expressions:
        """The same so far: what is numbered in one does not show in the other. Weights are not hashed again."""
        made = copy(self)
        made.of, made.first, made._functions = dict(self.of), dict(self.first), dict(self._functions)
        return made

    def number(self, node: Node) -> None:
        """Digests of a node's outputs, from those of its inputs; what is known stays as it is."""
        if any(v in self.dependent for v in node.outputs):
            for value, digest in zip(node.outputs, self._node(node, self.of, self._place()), strict=True):
                if value not in self.of:
                    self._put(value, digest)

    def all(self) -> Expressions:
        """Every node numbered, in order."""
        for node in self.model.graph:
            self.number(node)
        return self

    def expression(self, node: Node, of: Mapping[Value, str], bound: Mapping[str, Any] | None = None) -> list[str]:
        """Digests of a node's outputs from inputs that go by other digests than here; `bound` are the attributes of the
        function that the node stands in.
        """
        return self._node(node, of, self._place(bound))

    def unify(self, value: Value, digest: str) -> None:
        """The value is known to be another expression's equal: whatever reads it is numbered by that."""
        self._put(value, digest)

    def _put(self, value: Value, digest: str) -> None:
        self.of[value] = digest
        self.first.setdefault(digest, value)

    def _constants(self, sample: Mapping[str, np.ndarray]) -> None:
        """Constants by content, computed ones by what they come to; only those that something dependent reads."""
        g = self.model.graph
        outputs = set(g.outputs)
        reads = {v for n in g if any(o in self.dependent for o in n.outputs) for v in (*n.inputs, *graph.captured(n))}
        computed: list[Value] = []
        for value in (*g.initializers.values(), *(v for n in g for v in n.outputs)):
            if value in self.dependent or (value not in reads and value not in outputs):
                continue
            tensor = graph.constant_tensor(value)
            if tensor is not None:
                self._put(value, graph.content_hash(tensor))
            else:
                computed.append(value)
        self.shapes = known = _shapes(self.model)
        named = {v.name or "": v for v in computed}
        for name in named.keys() & known.keys():
            self._put(named[name], _content(known[name]))
            self._computed[named[name]] = known[name]
        for names in _batches(v for v in computed if v.name not in known):
            for name, array in run(self.ready, {**sample, **known}, SOURCE, want=names).items():
                self._put(named[name], _content(array))
                if array.nbytes <= SMALL:
                    self._computed[named[name]] = array

    def _place(self, bound: Mapping[str, Any] | None = None) -> Place:
        return Place(self.model.opset_imports, self._computed, bound)

    def _node(self, node: Node, of: Mapping[Value, str], place: Place) -> list[str]:
        function = self.model.functions.get(node.op_identifier())
        if function is None and not node.domain:
            if node.op_type == "Identity" or (node.op_type == "Cast" and _idle_cast(node)):
                return [of[node.inputs[0]]]  # type: ignore[index]
            if node.op_type == "If":
                return self._branch(node, of, place)
            if node.op_type == "Where" and not place.abstract and _by_one(node):
                return [_choice(*(of[v] for v in node.inputs))]  # type: ignore[index]
        opset = place.opsets.get(node.domain, 1)
        inputs = ["-" if v is None else of[v] for v in node.inputs]
        while inputs and inputs[-1] == "-":
            inputs.pop()
        if not node.domain and node.op_type in _COMMUTATIVE:
            inputs.sort()
        digest = hashlib.sha256(f"{node.domain}.{node.op_type}.{_version(node, opset)}{inputs}".encode())
        if function is not None:
            digest.update(self._function(function).encode())
        if not node.domain and node.op_type in _RANDOM:
            self._randoms += 1
            digest.update(f"random {self._randoms}".encode())
        defaults = _defaults(node.domain, node.op_type, opset)
        for name, value in sorted(graph.attributes(node, place.bound).items()):
            if isinstance(value, Graph):
                digest.update(f"{name}{self._body(value, of, place)}".encode())
            elif (shown := _shown(value)) != defaults.get(name):
                digest.update(f"{name}={shown}".encode())
        made = digest.hexdigest()
        return [f"{made}.{i}" for i in range(len(node.outputs))]

    def _branch(self, node: Node, of: Mapping[Value, str], place: Place) -> list[str]:
        """Of an If: its branch where the condition is known, else a choice between the two, output by output."""
        given: dict[str, Any] = graph.attributes(node)
        bodies: list[Graph] = [given["then_branch"], given["else_branch"]]
        condition = node.inputs[0]
        assert condition is not None
        flag = place.known[condition] if condition in place.known else graph.constant(condition)
        if flag is not None:
            return self._body(bodies[not np.asarray(flag).item()], of, place)
        pairs = zip(*(self._body(body, of, place) for body in bodies), strict=True)
        return [_choice(of[condition], *pair) for pair in pairs]

    def _body(self, body: Graph | Function, outer: Mapping[Value, str], place: Place) -> list[str]:
        """Digests of the outputs of a body, whose inputs go by their place."""
        inner = dict(outer)
        inner.update((v, f"body {i} {v.type} {v.shape}") for i, v in enumerate(body.inputs))
        scope = Scope(SOURCE, self.model.functions, place.opsets)
        for value, array in place.known.items():
            scope.put(value, array, None)
        stored = body.initializers.values() if isinstance(body, Graph) else ()
        for value in (*stored, *(n.outputs[0] for n in body if n.op_type == "Constant")):
            tensor = graph.constant_tensor(value)
            if tensor is not None:
                inner[value] = graph.content_hash(tensor)
        place = replace(place, known=scope.values)
        for node in body:
            if all(v in inner for v in node.outputs):
                continue
            arrays = _folded(node, scope, place)
            if arrays:
                inner.update((v, _content(array)) for v, array in arrays.items())
            else:
                inner.update(zip(node.outputs, self._node(node, inner, place), strict=True))
        return [inner[v] for v in body.outputs]

    def _function(self, function: Function) -> str:
        key = function.identifier()
        if key not in self._functions:
            shown = sorted((n, repr(a.value)) for n, a in function.attributes.items())
            self._functions[key] = (
                f"{shown}{self._body(function, {}, Place(function.opset_imports, {}, abstract=True))}"
            )
        return self._functions[key]


def dependent(model: Model) -> set[Value]:
    """Values that depend on an input; dims are bound, so that a shape does not where it is known."""
    found: set[Value] = {v for v in model.graph.inputs if not v.is_initializer()}
    for node in model.graph:
        if _is_shape(node):
            continue
        random = not node.domain and node.op_type in _RANDOM
        if random or any(v in found for v in (*node.inputs, *graph.captured(node))):
            found.update(node.outputs)
    return found


def _is_shape(node: Node) -> bool:
    known = node.op_type in ("Shape", "Size") and not node.domain and node.inputs[0] is not None
    return known and graph.shape(node.inputs[0]) is not None  # type: ignore[arg-type]


def _shape_of(node: Node) -> np.ndarray:
    """What a Shape or Size says."""
    shape = np.asarray(graph.shape(node.inputs[0]), np.int64)  # type: ignore[arg-type]
    given = graph.attributes(node)
    if node.op_type == "Size":
        return np.asarray(shape.prod(), np.int64)
    return shape[given.get("start", 0) : given.get("end")]  # type: ignore[misc]


def _shapes(model: Model) -> dict[str, np.ndarray]:
    """What nodes say of shapes that are known: nothing has to be run for it."""
    return {node.outputs[0].name or "": _shape_of(node) for node in model.graph if _is_shape(node)}


def _folded(node: Node, scope: Scope, place: Place) -> dict[Value, np.ndarray]:
    """What a node of a body computes, if from constants alone; the scope knows it from then on."""
    made: list[tuple[Value, Any, Any]]
    if place.abstract:
        return {}
    if _is_shape(node):
        made = [(node.outputs[0], _shape_of(node), None)]
    else:
        inputs = [v for v in node.inputs if v is not None]
        constant = all(v in scope.values or graph.constant_tensor(v) is not None for v in inputs)
        if not inputs or not constant or graph.captured(node) or node.op_type in _RANDOM:
            return {}
        try:
            made = results_of(node, scope)
        except (PorterError, NotKnown):  # it says so where the model is run
            return {}
    if not all(isinstance(array, np.ndarray | np.generic) for _, array, _ in made):
        return {}
    for value, array, declared in made:
        scope.put(value, array, declared)
    return {value: array for value, array, _ in made}


def _by_one(node: Node) -> bool:
    """Whether a Where takes all of one or all of the other."""
    flag, one, two = (None if v is None else graph.shape(v) for v in node.inputs)
    return flag is not None and math.prod(flag) == 1 and one is not None and one == two and len(flag) <= len(one)


def _choice(flag: str, one: str, two: str) -> str:
    return hashlib.sha256(f"choice {flag} {one} {two}".encode()).hexdigest()


def _batches(values: Iterable[Value]) -> Iterable[list[str]]:
    """Names, as many at a time as may be held together; those of unknown size alone."""
    batch, held = list[str](), 0
    for value in values:
        shape, dtype = graph.shape(value), graph.dtype(value)
        size = AT_ONCE if shape is None or dtype is None else int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if batch and held + size > AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(value.name or "")
        held += size
    if batch:
        yield batch


def _content(array: Any) -> str:
    """The hash that a stored tensor of this array has."""
    if not isinstance(array, np.ndarray | np.generic):
        raise PorterError("a computed constant", expected="a tensor", found=type(array).__name__)
    return graph.content_hash(graph.make_tensor(np.asarray(array)))


def _idle_cast(node: Node) -> bool:
    value = node.inputs[0]
    to = graph.attributes(node).get("to")
    return value is not None and value.dtype is not None and value.dtype.value == to


def _version(node: Node, opset: int) -> int:
    """The opset that brought the operator's definition: the same operator at 20 and at 22 is one expression."""
    schema = graph.schema(node.op_type, opset, node.domain)
    return schema.since_version if schema is not None else opset


@cache
def _defaults(domain: str, op_type: str, opset: int) -> dict[str, str]:
    schema = graph.schema(op_type, opset, domain)
    if schema is None:
        return {}
    given = {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}
    return {n: _shown(_plain(onnx.helper.get_attribute_value(a))) for n, a in given.items()}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return _content(value)
    return repr(value)
