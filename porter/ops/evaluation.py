"""Running graphs in the namespace of your choice: every node by its definition, in order.

evaluate(model, {"x": x}, float64)            # the outputs, floats in float64
reference(model, {"x": x})                    # the same, cast to the declared types
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Function, Graph, Model, TensorType, Value, constant, dtype, shape
from porter.ops.arrays import Numpy, float64
from porter.ops.namespace import is_float
from porter.ops.plans import SHORT, Plan, Plans, Ready
from porter.ops.running import Array, Scope, run
from porter.ops.sequences import plumbing, received, returned, settled
from porter.ops.types import onnx_name


class Evaluator:
    """A model, graph or function made ready to run many times; it must not be edited meanwhile.

    What a node says (its definition, attributes, types, last uses) is looked up in the first run and kept.
    """

    def __init__(
        self,
        source_of: Model | Graph | Function,
        *,
        functions: Mapping[Any, Function] | None = None,
        opsets: Mapping[str, int] | None = None,
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        self.graph: Any = source_of.graph if isinstance(source_of, Model) else source_of
        if isinstance(source_of, Model):
            functions, opsets = source_of.functions, source_of.opset_imports
        self.functions, self.opsets, self.bound = functions or {}, opsets or self.graph.opset_imports, bound
        self.plans = Plans()

    @cached_property
    def names(self) -> dict[str | None, Value]:
        """Every value that may be given, by name."""
        known = {v.name: v for node in self.graph for v in node.outputs}
        if isinstance(self.graph, Graph):
            known.update(self.graph.initializers)
        known.update((v.name, v) for v in self.graph.inputs)
        return known

    def __call__(
        self,
        inputs: Mapping[str, Array] | Sequence[Array],
        xp: Any,
        *,
        want: Iterable[str] | None = None,
        on_value: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """As `evaluate`."""
        graph = self.graph
        scope = Scope(xp, self.functions, self.opsets, self.bound, plans=self.plans)
        if not isinstance(inputs, Mapping):
            inputs = {str(v.name): a for v, a in zip(graph.inputs, inputs, strict=True)}
        given = _given(graph, self.names, inputs, scope)
        wanted = frozenset(v.name for v in graph.outputs) if want is None else frozenset(want)
        with np.errstate(all="ignore"):
            if on_value is None and isinstance(xp, Numpy):
                self._run(scope, wanted, given)
            else:
                plan = self.plans.of(graph, self.opsets, self.functions, wanted, given, on_value is not None)
                run(plan, scope, given, None if on_value is None else _shown(on_value))
        missing = wanted - self.names.keys()
        if missing:
            raise PorterError(
                f"values {sorted(map(str, missing))}", expected="values of the graph", found="no such names"
            )
        results = {str(name): returned(scope.get(self.names[name])) for name in wanted}
        return {str(v.name): results[str(v.name)] for v in graph.outputs} if want is None else results

    def _run(self, scope: Scope, wanted: frozenset[str | None], given: frozenset[Value]) -> None:
        """Run on numbers; what the shapes of the inputs fix is left out where a run on the same shapes came before."""
        arrays = scope.values
        shapes = [(v, arrays[v].shape, arrays[v].dtype) for v in given if not plumbing(arrays[v])]
        key = scope.xp, wanted, given, frozenset(shapes)
        ready = self.plans.ready.get(key)
        if ready is not None:
            if ready.plan is None:
                ready.plan = self._shorter(scope.xp, wanted, given, ready)
            scope.values, scope.types = ready.values | arrays, ready.types | scope.types
            return run(ready.plan, scope, given)
        plan = self.plans.of(self.graph, self.opsets, self.functions, wanted, given)
        fixed = plan.fixed_by_shapes(given) if len(shapes) == len(given) else frozenset[Value]()
        ready = self.plans.ready[key] = Ready()

        def keep(value: Value, array: Array, declared: np.dtype | None) -> None:
            if value in fixed and value.name not in wanted and array.size <= SHORT:
                ready.values[value], ready.types[value] = array, declared

        return run(plan, scope, given, keep)

    def _shorter(self, xp: Any, wanted: frozenset[str | None], given: frozenset[Value], ready: Ready) -> Plan:
        """The plan without what is ready already, to which the short constants that are left are added."""
        plan = self.plans.of(self.graph, self.opsets, self.functions, wanted, given.union(ready.values))
        for value in plan.constants:
            stored = self.plans.constant(value)
            if stored is not None and stored.size <= SHORT:
                ready.values[value], ready.types[value] = xp.settle(stored, None), stored.dtype
        return plan


def _shown(on_value: Callable[[str, Array], None]) -> Callable[[Value, Array, Any], None]:
    return lambda value, array, _: on_value(str(value.name), returned(array))


def evaluate(
    source_of: Model | Graph | Function,
    inputs: Mapping[str, Array] | Sequence[Array],
    xp: Any,
    *,
    want: Iterable[str] | None = None,
    on_value: Callable[[str, Array], None] | None = None,
    functions: Mapping[Any, Function] | None = None,
    opsets: Mapping[str, int] | None = None,
    bound: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """Compute named values, the outputs unless `want` says otherwise, as arrays of the namespace `xp`.

    `inputs` are given by name or in order; a name may be any value's, which then is not computed. `on_value` sees every
    value as it is computed. Dead values are freed. Nested calls need the model's `functions`, a bare graph its
    `opsets`, a function its attributes in `bound`. Raises PorterError naming the source model's node.
    """
    ready = Evaluator(source_of, functions=functions, opsets=opsets, bound=bound)
    return ready(inputs, xp, want=want, on_value=on_value)


def reference(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs computed in float64 from end to end, cast to the declared types at the very end."""
    results = evaluate(model, inputs, float64)
    for value in model.graph.outputs:
        declared = dtype(value)
        if declared is not None:
            results[str(value.name)] = results[str(value.name)].astype(declared)
    return results


def _given(
    graph: Any, known: Mapping[str | None, Value], inputs: Mapping[str, Array], scope: Scope
) -> frozenset[Value]:
    """Put what the caller gives into the scope; PorterError where an input is missing, unknown or does not fit."""
    named = {v.name: v for v in graph.inputs}
    for name, array in inputs.items():
        if name not in known:
            raise PorterError(f"input '{name}'", expected=f"one of {', '.join(map(str, named))}", found="no such input")
        if known[name].type is None or isinstance(known[name].type, TensorType):
            array = array if hasattr(array, "dtype") else np.asarray(array)
            if name in named:
                _fits(known[name], array)
        else:
            array = received(array)
        scope.put(known[name], settled(scope.xp, array, None), dtype(known[name]))
    for name, value in named.items():
        if name not in inputs and constant(value) is None:
            raise PorterError(f"input '{name}'", expected=_declaration(value), found="nothing")
    return frozenset(known[name] for name in inputs)


def _fits(value: Value, array: Array) -> None:
    declared, dims = dtype(value), shape(value)
    same = declared is None or array.dtype == declared or (is_float(declared) and is_float(array.dtype))
    if not same or (dims is not None and tuple(array.shape) != dims):
        raise PorterError(
            f"input '{value.name}'",
            expected=_declaration(value),
            found=f"{onnx_name(array.dtype)}{list(array.shape)} ({math.prod(array.shape)} elements)",
        )


def _declaration(value: Value) -> str:
    declared, dims = dtype(value), value.shape
    text = onnx_name(declared) if declared is not None else "a tensor"
    return text + ("" if dims is None else f"[{', '.join(str(d) for d in dims)}]")
