"""A graph made ready to run: what each node says, looked up once; after which node each value is dead; and which values
the shapes of the inputs fix already, so that only the first run of those shapes computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Function, Graph, Node, Reference, Value, attributes, captured, constant, constant_tensor
from porter.ops.registry import REQUIRED, Definition, find, single
from porter.ops.types import Signature, result_types, signature

# An attribute of opset 1 that told a runtime where it may write; it has no meaning.
_IGNORED = frozenset({"consumed_inputs"})
# Constants of up to so many elements are kept as arrays; larger ones only where that copies nothing.
SHORT = 4096

Types = Sequence[np.dtype | None]


@dataclass
class Step:
    """One node with what it says; `keywords` is None where an attribute is the enclosing function's."""

    node: Node
    opset: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    function: Function | None
    definition: Definition | None
    signature: Signature | None
    carried: dict[str, Any]
    keywords: dict[str, Any] | None
    holds: bool  # subgraphs
    captured: tuple[Value, ...]  # what they read from outside
    plain: bool = False  # the definition and the attributes alone say what the node gives
    asks_types: bool = False  # the definition wants to see the declared types of its inputs
    absent: int = 0  # inputs of the definition that the node leaves out at its end
    stored: frozenset[int] = frozenset()  # inputs that the definition takes as they are stored, not widened
    _declared: dict[tuple[np.dtype | None, ...], list[np.dtype | None]] = field(default_factory=dict)
    _last: tuple[list[np.dtype | None], list[np.dtype | None]] | None = None

    def __post_init__(self) -> None:
        definition = self.definition
        if definition is not None:
            places = range(len(self.inputs))
            self.stored = frozenset(i for i in places if definition.moves or definition.is_static(i))
            self.absent = 0 if definition.variadic else max(0, len(definition.parameters) - len(self.inputs))

            self.plain = self.keywords is not None and not self.holds
            self.asks_types = "types" in definition.asks

    def declared(self, types: list[np.dtype | None]) -> list[np.dtype | None]:
        """The element types of the outputs for inputs of these types; None where nothing fixes one."""
        if self._last is not None and self._last[0] == types:  # as in the run before
            return self._last[1]
        key = tuple(types)
        if key not in self._declared:
            self._declared[key] = result_types(self.signature, types, self.carried, len(self.outputs))
        self._last = types, self._declared[key]
        return self._declared[key]


def step_of(node: Node, opsets: Mapping[str, int], functions: Mapping[Any, Function]) -> Step:
    """A node made ready; what it gets wrong is raised when it runs, with its name."""
    opset = opsets.get(node.domain, 1)
    function = functions.get(node.op_identifier())
    definition = None if function is not None else find(node.domain, node.op_type, opset)
    carried = attributes(node)
    keywords = None
    if definition is not None and not any(isinstance(v, Reference) for v in carried.values()):
        try:
            keywords = options(definition, carried, node)
        except PorterError:
            keywords = None  # raised again by the run, which knows where
    holds = any(isinstance(v, Graph) for v in carried.values())
    rules = signature(node.domain, node.op_type, opset)
    return Step(
        node, opset, tuple(node.inputs), tuple(node.outputs), function, definition, rules, carried, keywords, holds,
        tuple(captured(node)) if holds else (),
    )  # fmt: skip


def options(definition: Definition, carried: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """The definition's keyword arguments: defaults, then what the node carries, floats as ONNX stores them."""
    known = dict(definition.attributes)
    unknown = [k for k in carried if k not in known and k not in _IGNORED]
    if unknown:
        has = ", ".join(known) or "no attributes"
        raise PorterError(f"attribute '{unknown[0]}' of {definition.name}", expected=has, found=f"'{unknown[0]}'")
    keywords = {k: carried.get(k, default) for k, default in known.items()}
    for name, value in keywords.items():
        if value is REQUIRED:
            raise PorterError(f"attribute '{name}' of {definition.name}", expected="a value", found="none")
        keywords[name] = tuple(single(v) for v in value) if isinstance(value, tuple) else single(value)
    if "outputs" in definition.asks:
        # an output without a name is not wanted, unless a later one is
        keywords["outputs"] = max((i + 1 for i, v in enumerate(node.outputs) if v.name), default=1)
    return keywords


# Definitions whose results say nothing of the kind that `fixed_by_shapes` follows.
_LOOSE = frozenset({"control", "sequences", "chance"})


@dataclass
class Plan:
    """The nodes to run in order, each with the values that nothing reads after it, and the constants that they read."""

    steps: list[tuple[Step, tuple[Value, ...]]]
    constants: tuple[Value, ...]

    def fixed_by_shapes(self, given: frozenset[Value]) -> frozenset[Value]:
        """The values that are the same in every run on inputs of the same shapes: what is computed from shapes and constants.

        A value has a fixed shape where the inputs of its node do and those that decide on shapes have fixed elements.
        """
        fixed = set(self.constants)  # elements known
        formed = fixed | given  # shape known
        for step, _ in self.steps:
            definition = step.definition
            if not step.plain or definition is None or definition.host or definition.family in _LOOSE:
                continue
            reads = [v for v in step.inputs if v is not None]
            if not formed.issuperset(reads):
                continue
            if definition.name in ("Shape", "Size") or fixed.issuperset(reads):
                fixed.update(step.outputs)
                formed.update(step.outputs)
            elif all(v is None or v in fixed or not definition.is_static(i) for i, v in enumerate(step.inputs)):
                formed.update(step.outputs)
        return frozenset(fixed - set(self.constants) - given)


@dataclass
class Ready:
    """Values that runs start with, since one before them has computed or read them, their types, and the plan of the rest.

    The plan is made by the second run: many graphs run once.
    """

    plan: Plan | None = None
    values: dict[Value, Any] = field(default_factory=dict)
    types: dict[Value, np.dtype | None] = field(default_factory=dict)


class Plans:
    """The plans of a graph, its functions and its subgraphs, made when they first run; and the constants they read."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self._steps: dict[Node, Step] = {}
        self._constants: dict[Value, np.ndarray] = {}
        self.ready: dict[Any, Ready] = {}  # by what fixes them: namespace, shapes and types of what is given

    def of(
        self,
        graph: Any,
        opsets: Mapping[str, int],
        functions: Mapping[Any, Function],
        wanted: frozenset[str | None],
        given: frozenset[Value] = frozenset(),
        whole: bool = False,
    ) -> Plan:
        """What has to run for the wanted values where some are given; Constant nodes too in a whole plan."""
        key = (graph, wanted, given, whole)
        if key not in self._plans:
            self._plans[key] = self._plan(graph, opsets, functions, wanted, given, whole)
        return self._plans[key]

    def _plan(
        self,
        graph: Any,
        opsets: Mapping[str, int],
        functions: Mapping[Any, Function],
        wanted: frozenset[str | None],
        given: frozenset[Value],
        whole: bool,
    ) -> Plan:
        needed: set[Value] = set()
        order: list[tuple[Step, list[Value]]] = []
        for node in reversed(list(graph)):
            if not whole and node.op_type == "Constant" and self.constant(node.outputs[0]) is not None:
                continue  # read where it is used, as a stored weight is
            if any((out.name in wanted or out in needed) and out not in given for out in node.outputs):
                if node not in self._steps:
                    self._steps[node] = step_of(node, opsets, functions)
                step = self._steps[node]
                reads = [v for v in (*step.inputs, *step.captured) if v is not None]
                needed.update(reads)
                order.append((step, reads))
        steps: list[tuple[Step, tuple[Value, ...]]] = []
        live: set[Value] = set()  # read by a later node
        for step, reads in order:
            dead = [v for v in dict.fromkeys((*reads, *step.outputs)) if v not in live and v.name not in wanted]
            live.update(reads)
            steps.append((step, tuple(dead)))
        steps.reverse()
        computed = {out for step, _ in steps for out in step.outputs}
        stored = [v for v in live if v not in computed and v not in given and constant_tensor(v) is not None]
        return Plan(steps, tuple(stored))

    def constant(self, value: Value) -> np.ndarray | None:
        """The array of an initializer or a Constant node; None for anything computed."""
        stored = self._constants.get(value)
        if stored is None:
            stored = constant(value)
            if stored is not None and (stored.size <= SHORT or stored.base is not None):
                self._constants[value] = stored
        return stored
