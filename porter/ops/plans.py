"""A graph made ready to run: what each node says, looked up once, and after which node each value is dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Function, Graph, Node, Reference, Value, attributes, captured, constant
from porter.ops.registry import REQUIRED, Definition, find, single
from porter.ops.types import Signature, result_types, signature

# An attribute of opset 1 that told a runtime where it may write; it has no meaning.
_IGNORED = frozenset({"consumed_inputs"})
# Constants of up to so many elements are kept as arrays; larger ones only where that copies nothing.
_SHORT = 4096

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
    _declared: dict[tuple[np.dtype | None, ...], list[np.dtype | None]] = field(default_factory=dict)

    def declared(self, types: Types) -> list[np.dtype | None]:
        """The element types of the outputs for inputs of these types; None where nothing fixes one."""
        key = tuple(types)
        if key not in self._declared:
            self._declared[key] = result_types(self.signature, types, self.carried, len(self.outputs))
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


Plan = list[tuple[Step, tuple[Value, ...]]]
"""The nodes to run in order, each with the values that nothing reads after it."""


class Plans:
    """The plans of a graph, its functions and its subgraphs, made when they first run; and the constants they read."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self._steps: dict[Node, Step] = {}
        self._constants: dict[Value, np.ndarray] = {}

    def of(
        self,
        graph: Any,
        opsets: Mapping[str, int],
        functions: Mapping[Any, Function],
        wanted: frozenset[str | None],
        given: frozenset[Value],
    ) -> Plan:
        """What has to run for the wanted values where some are given."""
        key = (graph, wanted, given)
        if key not in self._plans:
            self._plans[key] = self._plan(graph, opsets, functions, wanted, given)
        return self._plans[key]

    def _plan(
        self,
        graph: Any,
        opsets: Mapping[str, int],
        functions: Mapping[Any, Function],
        wanted: frozenset[str | None],
        given: frozenset[Value],
    ) -> Plan:
        needed: set[Value] = set()
        order: list[tuple[Step, list[Value]]] = []
        for node in reversed(list(graph)):
            if any((out.name in wanted or out in needed) and out not in given for out in node.outputs):
                if node not in self._steps:
                    self._steps[node] = step_of(node, opsets, functions)
                step = self._steps[node]
                reads = [v for v in (*step.inputs, *step.captured) if v is not None]
                needed.update(reads)
                order.append((step, reads))
        plan: Plan = []
        live: set[Value] = set()  # read by a later node
        for step, reads in order:
            dead = [v for v in dict.fromkeys((*reads, *step.outputs)) if v not in live and v.name not in wanted]
            live.update(reads)
            plan.append((step, tuple(dead)))
        plan.reverse()
        return plan

    def constant(self, value: Value) -> np.ndarray | None:
        """The array of an initializer or a Constant node; None for anything computed."""
        stored = self._constants.get(value)
        if stored is None:
            stored = constant(value)
            if stored is not None and (stored.size <= _SHORT or stored.base is not None):
                self._constants[value] = stored
        return stored
