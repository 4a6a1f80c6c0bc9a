"""What running a node means: its definition, or a function's body, on arrays of the scope's namespace; errors name the node.

run(plan, scope)                    # every node of a plan, values forgotten after their last use
results_of(node, scope)             # one node: values, arrays, declared types
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Function, Graph, Node, Value, attributes, dtype, parameters, source_name
from porter.ops.arrays import Numpy, source
from porter.ops.bodies import body_of
from porter.ops.namespace import NARROW, NotKnown, fed, is_kernel
from porter.ops.plans import SHORT, Plan, Plans, Step, options, step_of
from porter.ops.registry import Definition, lookup
from porter.ops.sequences import Tensors, known, plumbing, settled
from porter.ops.types import check, onnx_name, result_types

Array = Any

# Known values larger than this stay in a kernel's jaxpr as what makes them (an iota, say), not as a table.
_FOLDED = 64


@dataclass
class Scope:
    """What the nodes of one graph see: namespace, functions, opsets, the enclosing function's attributes, values.

    `watch` sees every value of the graph and its subgraphs; `checks` holds every node against ONNX's type rules.
    """

    xp: Any
    functions: Mapping[Any, Function]
    opsets: Mapping[str, int]
    bound: Mapping[str, Any] | None = None
    values: dict[Value, Array] = field(default_factory=dict)
    types: dict[Value, np.dtype | None] = field(default_factory=dict)
    exact: set[Value] = field(default_factory=set)
    watch: Callable[[Value, Array, np.dtype | None], None] | None = None
    checks: bool = False
    plans: Plans = field(default_factory=Plans)

    def within(self, opsets: Mapping[str, int], bound: Mapping[str, Any] | None) -> Scope:
        """An empty scope for a function or a subgraph that a node of this one runs."""
        return Scope(self.xp, self.functions, opsets, bound, checks=self.checks, plans=self.plans)

    def put(self, value: Value, array: Array, declared: np.dtype | None) -> None:
        self.values[value] = array
        self.types[value] = declared if declared is not None else array.dtype

    def get(self, value: Value) -> Array:
        """The array of a value: computed, given, or a constant that is read now; None where a call left it out."""
        if value not in self.values:
            stored = self.plans.constant(value)
            if stored is None:
                raise PorterError(f"value '{value.name}'", expected="an input, a constant or a node that computes it")
            self.put(value, self.xp.settle(stored, None), stored.dtype)
        return self.values[value]


def run(
    plan: Plan, scope: Scope, given: Container[Value] = (), see: Callable[[Value, Array, Any], None] | None = None
) -> None:
    """Run the nodes of a plan, forgetting every value after its last use; `see` is shown each value and its type."""
    values, types, watch = scope.values, scope.types, scope.watch
    for step, dead in plan.steps:
        arrays, declared = _results(step, scope)
        for value, array, kind in zip(step.outputs, arrays, declared, strict=False):
            if array is None or value in given:
                continue
            values[value] = array
            types[value] = array.dtype if kind is None else kind
            if see is not None:
                see(value, array, kind)
            if watch is not None:
                watch(value, array, kind)
        for value in dead:
            values.pop(value, None)


def results_of(node: Node, scope: Scope) -> list[tuple[Value, Array, np.dtype | None]]:
    """The node's outputs, each with its array and its declared type."""
    step = step_of(node, scope.opsets, scope.functions)
    arrays, declared = _results(step, scope)
    return [(v, a, t) for v, a, t in zip(step.outputs, arrays, declared, strict=False) if a is not None]


def _results(step: Step, scope: Scope) -> tuple[list[Array], list[Any]]:
    """The arrays that the node gives, None for what it leaves out, and their declared types."""
    node, function, defaults = step.node, step.function, dict[str, Any]()
    values, types_of = scope.values, scope.types
    args: list[Array] = []
    types: list[Any] = []
    for value in step.inputs:
        if value is None:
            args.append(None)
            types.append(None)
        else:
            args.append(values[value] if value in values else scope.get(value))
            types.append(types_of[value])
    try:
        if scope.checks and step.signature is not None:
            check(step.signature, source_name(node), types)
        if step.plain and not scope.xp.lazy:
            assert step.keywords is not None
            declared = step.declared(types)
            keywords = {**step.keywords, "types": tuple(types)} if step.asks_types else step.keywords
            arrays = compute(step, scope.xp, args, keywords, declared)
            return arrays, _settled_types(arrays, declared)
        if function is None and step.definition is None:
            function, defaults = body_of(node, step.opset, types)
        if function is not None:
            bound = defaults | parameters(function, node, scope.bound)
            return _call(function, bound, args, types, scope)
        if step.definition is None:
            lookup(node.domain, node.op_type, step.opset, node=source_name(node))  # raises
        return _apply(step, args, types, scope)
    except PorterError as error:
        raise _at(node, error) from error
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise _at(node, PorterError("", expected="inputs that fit together", found=_shapes(args, error))) from error


def _shapes(args: Sequence[Array], error: Exception) -> str:
    shown = ("absent" if a is None else _said(a) for a in args)
    return f"{', '.join(shown)}: {error}"


def _said(array: Array) -> str:
    if plumbing(array):
        return f"a sequence of {len(array)}" if isinstance(array, Tensors) else "an empty optional"
    return f"{onnx_name(array.dtype)}{list(array.shape)}"


def _at(node: Node, error: PorterError) -> PorterError:
    """The error with the node in front, unless it already names one."""
    if error.where.startswith("node '") or " at node '" in error.where:
        return error
    where = f"node '{source_name(node)}' ({node.op_type})" + (f": {error.where}" if error.where else "")
    return type(error)(where, expected=error.expected, found=error.found, hint=error.hint)


def _call(
    function: Function, bound: Mapping[str, Any], args: list[Array], types: list[Any], scope: Scope
) -> tuple[list[Array], list[Any]]:
    inner = scope.within(function.opset_imports, bound)
    for value, array, declared in zip(function.inputs, args, types, strict=False):
        if array is not None:
            inner.put(value, array, declared)
    for value in function.inputs:
        inner.values.setdefault(value, None)
        inner.types.setdefault(value, None)
    run(scope.plans.of(function, inner.opsets, inner.functions, frozenset(v.name for v in function.outputs)), inner)
    arrays = [inner.get(v) for v in function.outputs]
    return arrays, [inner.types[v] for v in function.outputs]


def _apply(step: Step, args: list[Array], types: list[Any], scope: Scope) -> tuple[list[Array], list[Any]]:
    """One operator on arrays of the scope's namespace: widened before, settled to the declared types after."""
    definition, node, xp = step.definition, step.node, scope.xp
    assert definition is not None
    keywords = step.keywords
    if keywords is None:  # an attribute is the enclosing function's
        carried = attributes(node, scope.bound if scope.bound is not None else {})
        keywords = options(definition, carried, node)
        declared = result_types(step.signature, types, carried, len(node.outputs))
    else:
        declared = step.declared(types)
    if "types" in definition.asks:
        keywords = {**keywords, "types": tuple(types)}
    if step.holds:
        bodies = {k: Body(v, step, scope) for k, v in keywords.items() if isinstance(v, Graph)}
        keywords = {**keywords, **bodies}
    if xp.lazy and not step.holds and all(a is None or known(xp, a) for a in args):
        arrays = compute(step, source, args, keywords, declared)
        if xp.rounds or not args or all(plumbing(a) or a.size <= _FOLDED for a in arrays if a is not None):
            return arrays, _settled_types(arrays, declared)
    if is_kernel(xp):
        args = _operands(definition, node, args, types, scope)
    arrays = compute(step, xp, args, keywords, declared)
    return arrays, _settled_types(arrays, declared)


def _operands(definition: Definition, node: Node, args: list[Array], types: list[Any], scope: Scope) -> list[Array]:
    """A kernel's operands: loads cast to float32 once, computed ones rounded on their way to a matrix unit.

    `scope.exact` remembers which float32 arrays hold nothing that their narrow declared type does not.
    """
    operands = []
    for position, (value, array, declared) in enumerate(zip(node.inputs, args, types, strict=True)):
        if value is not None and array is not None and not scope.xp.concrete(array) and not definition.moves:
            array = scope.values[value]  # the same value, read twice by one node, is cast once
            if array.dtype in NARROW:
                array = scope.values[value] = scope.xp.widen(array)
                scope.exact.add(value)
            elif definition.is_fed(position) and value not in scope.exact:
                array = fed(scope.xp, array, declared)
        operands.append(array)
    if definition.moves and all(v is None or v in scope.exact for v in node.inputs):
        scope.exact.update(node.outputs)
    return operands


def compute(
    step: Step, xp: Any, args: list[Array], keywords: Mapping[str, Any], declared: Sequence[Any]
) -> list[Array]:
    """The definition's function on prepared operands; PorterError where a static input is not known."""
    definition, stored = step.definition, step.stored
    assert definition is not None
    if not isinstance(xp, Numpy):
        _known(definition, xp, args)
    if len(stored) < len(args):
        args = [a if a is None or i in stored else xp.widen(a) for i, a in enumerate(args)]
    if step.absent:
        args = args + [None] * step.absent
    results = definition.fn(xp, *args, **keywords)
    if type(results) is not tuple:
        if type(results) is np.ndarray and len(declared) == 1:  # nearly every node
            return [xp.settle(results, declared[0])]
        results = (results,)
    if len(declared) < len(results):
        declared = [*declared, *[None] * (len(results) - len(declared))]
    return [None if r is None else settled(xp, r, d) for r, d in zip(results, declared, strict=False)]


def _known(definition: Definition, xp: Any, args: Sequence[Array]) -> None:
    """PorterError where what decides on shapes, or what only the host computes, is known only at run time."""
    for position, array in enumerate(args):
        if array is not None and definition.is_static(position) and not xp.concrete(array):
            raise NotKnown(
                f"input {position + 1} of {definition.name}",
                expected="a value that is known before the model runs",
                found="one that is computed at run time",
            )
    if xp.lazy and definition.host and not all(a is None or xp.concrete(a) for a in args):
        raise NotKnown(definition.name, expected="values that are known", found=definition.host)


def _settled_types(arrays: Sequence[Array], declared: Sequence[Any]) -> list[Any]:
    if len(arrays) == len(declared) == 1 and declared[0] is not None:
        return [declared[0]]
    return [
        declared[i] if i < len(declared) and declared[i] is not None else None if a is None else a.dtype
        for i, a in enumerate(arrays)
    ]


class Body:
    """A subgraph as a function: call it with its inputs, get its outputs; what it captures comes from outside."""

    def __init__(self, graph: Graph, step: Step, scope: Scope) -> None:
        self.graph = graph
        self.outer = scope
        self.seen = step.captured
        self.outputs = len(graph.outputs)
        self.wanted = frozenset(v.name for v in graph.outputs)

    @cached_property
    def _held(self) -> Scope:
        """What every turn starts with: what the body captures, and the short constants that it reads."""
        held = self.outer.within(self.outer.opsets, self.outer.bound)
        for value in self.seen:
            held.put(value, self.outer.get(value), self.outer.types[value])
        plan = held.plans.of(self.graph, held.opsets, held.functions, self.wanted)
        for value in plan.constants:
            stored = held.plans.constant(value)
            if stored is not None and stored.size <= SHORT:
                held.get(value)
        return held

    @cached_property
    def _kinds(self) -> list[np.dtype | None]:
        return [dtype(value) for value in self.graph.inputs]

    def __call__(self, *inputs: Array) -> tuple[Array, ...]:
        return self._run(inputs, self.outer.watch)

    def _run(self, inputs: Sequence[Array], watch: Any) -> tuple[Array, ...]:
        outer, held = self.outer, self._held
        plan = outer.plans.of(self.graph, outer.opsets, outer.functions, self.wanted, whole=watch is not None)
        inner = outer.within(outer.opsets, outer.bound)
        inner.watch = watch
        inner.values, inner.types = held.values.copy(), held.types.copy()
        for value, kind, array in zip(self.graph.inputs, self._kinds, inputs, strict=True):
            array = array if hasattr(array, "dtype") else np.asarray(array)
            inner.put(value, array, kind)
            if watch is not None:
                watch(value, array, inner.types[value])
        run(plan, inner)
        return tuple(inner.get(v) for v in self.graph.outputs)

    def empty(self, index: int, *inputs: Array) -> np.ndarray:
        """What output `index` collects in no turns at all; a turn on `inputs` tells its shape where no one has said it."""
        value = self.graph.outputs[index]
        dims = (None,) if value.shape is None else tuple(value.shape.dims)
        if inputs and not all(isinstance(n, int) for n in dims):
            dims = self._run(inputs, None)[index].shape
        return np.zeros((0, *(n if isinstance(n, int) else 0 for n in dims)), dtype(value))
