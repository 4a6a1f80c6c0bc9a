"""Control flow that is known: an If by its branch, a Loop or Scan of few turns by the turns, one after another.

A Loop of at most so many turns whose condition is computed, and that collects nothing, becomes all of them, each result
taken while the loop goes on; not where the body reads computed places, which past the end may lie outside. An If whose
condition is computed becomes both branches and a choice between their results, where they have one shape: operators have no
effects, so the branch not taken does no harm. Where one branch cannot run with these shapes, valid inputs take the other.
Sequences and optionals of known length and places, which loops often collect in, become plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import ops
from porter.errors import PorterError
from porter.graph import (
    Graph,
    Model,
    Node,
    Value,
    add_initializer,
    attributes,
    constant,
    dtype,
    inherit,
    insert_before,
    new_node,
    nodes_of,
    remove,
    replace_uses,
    shape,
)
from porter.passes.cleanup._sequences import resolve
from porter.passes.cleanup._splice import carried, detach, splice
from porter.passes.cleanup.constants import Constants
from porter.passes.cleanup.dead import Dead
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, note

after = ("constants",)

# Operators that demand something of their data, by which inputs are drawn too (porter/check/roles.py): places, counts, lengths.
DEMANDING = frozenset({
    "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "TensorScatter", "SequenceAt", "SequenceErase",
    "SequenceInsert", "ReverseSequence", "TopK", "RotaryEmbedding", "Attention", "LSTM", "GRU", "RNN", "Range", "Loop",
})  # fmt: skip


@dataclass(frozen=True)
class Unroll(Pass):
    """Inline branches whose condition is known; unroll loops of at most `turns` turns and `nodes` nodes in all."""

    turns: int = 64
    nodes: int = 4096

    contract = exact

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for change in resolve(model):
            number += 1
            yield Rewrite(number, change.rule, change.nodes, change.sources)
        unfit = ops.infer(model) if any(_computed(node) for graph in all_graphs(model) for node in graph) else {}
        while (found := self._next(model, unfit)) is not None:
            node, results = found
            number += 1
            record = note(number, "unroll", [node])
            for old, new in zip(node.outputs, results, strict=True):
                if new is not None:
                    replace_uses(old, new)
            remove([node])
            detach(node)
            unfit = ops.infer(model)
            yield record
            for change in resolve(model):
                number += 1
                yield Rewrite(number, change.rule, change.nodes, change.sources)
            for change in Constants().run(model, device):  # what the turn's number and a branch's shapes decide
                number += 1
                yield Rewrite(number, change.rule, change.nodes, change.sources)
        if number:
            for change in Dead().run(model, device):
                number += 1
                yield Rewrite(number, change.rule, change.nodes, change.sources)

    def _next(self, model: Model, unfit: Mapping[Graph, PorterError]) -> tuple[Node, list[Value | None]] | None:
        for graph in all_graphs(model):
            for node in graph:
                if node.domain in ("", "ai.onnx") and node.op_type in ("If", "Loop", "Scan"):
                    results = (
                        self._branch(node, unfit) if node.op_type == "If"
                        else self._loop(node) if node.op_type == "Loop" else self._scan(node)
                    )  # fmt: skip
                    if results is not None:
                        return node, [_own(node, v, o) for v, o in zip(results, node.outputs, strict=True)]
        return None

    def _branch(self, node: Node, unfit: Mapping[Graph, PorterError]) -> list[Value] | None:
        assert node.inputs[0] is not None
        given: dict[str, Any] = attributes(node)
        flag = constant(node.inputs[0])
        if flag is not None:
            way = "then_branch" if bool(flag.reshape(-1)[0]) else "else_branch"
            return splice(node, given[way], [], way[:4])
        ways = [given["then_branch"], given["else_branch"]]
        if len(fit := [way for way in ways if way not in unfit]) == 1:
            return splice(node, fit[0], [], "then" if fit[0] is ways[0] else "else")
        for a, b in zip(*(w.outputs for w in ways), strict=True):
            if shape(a) is None or shape(a) != shape(b) or dtype(a) is None or dtype(a) != dtype(b):
                return None
        if sum(map(_size, ways)) > self.nodes:
            return None
        then, other = (splice(node, way, [], label) for way, label in zip(ways, ("then", "else"), strict=True))
        return [_put(node, "Where", [node.inputs[0], a, b]) for a, b in zip(then, other, strict=True)]

    def _loop(self, node: Node) -> list[Value] | None:
        count, start, *state = node.inputs
        body: Graph = attributes(node)["body"]  # type: ignore[assignment]
        trips = None if count is None else constant(count)
        held = None if start is None else constant(start)
        values: list[Value] = [v for v in state if v is not None]
        if trips is None or len(values) < len(state):
            return None
        turns = int(trips.reshape(-1)[0]) if held is None or bool(held.reshape(-1)[0]) else 0
        rows = len(body.outputs) - 1 - len(state)
        if turns < (1 if rows else 0) or not self._small(body, turns):
            return None
        going = start if held is None else None  # computed, else true: of no turns nothing is left
        if turns and (going is not None or not _always(body)):
            return self._guarded(node, body, turns, going, values)
        graph = _graph(node)
        columns: list[list[Value]] = [[] for _ in range(rows)]
        for t in range(turns):
            turn = add_initializer(graph, f"{node.name}/{t}", np.asarray(t, np.int64))
            going = add_initializer(graph, f"{node.name}/{t}/going", np.asarray(True))
            results = splice(node, body, [turn, going, *values], str(t))
            values = results[1 : 1 + len(state)]
            for column, row in zip(columns, results[1 + len(state) :], strict=True):
                column.append(row)
        return [*values, *(_stack(node, column, 0) for column in columns)]

    def _guarded(
        self, node: Node, body: Graph, turns: int, going: Value | None, values: list[Value]
    ) -> list[Value] | None:
        """The turns there may be of a loop that collects nothing; each result is taken only while the loop goes on."""
        inner, flags = list(body.outputs[1:]), [body.outputs[0], *([] if going is None else [going])]
        if len(inner) != len(values) or any(shape(f) != () for f in flags):
            return None
        if any(n.op_type in DEMANDING for n in nodes_of(body)):
            return None
        for before, after in zip(values, inner, strict=True):
            if shape(after) is None or dtype(after) is None:
                return None
            if shape(before) != shape(after) or dtype(before) != dtype(after):
                return None
        graph, true = _graph(node), np.asarray(True)
        for t in range(turns):
            turn = add_initializer(graph, f"{node.name}/{t}", np.asarray(t, np.int64))
            more, *made = splice(
                node, body, [turn, add_initializer(graph, f"{node.name}/{t}/going", true), *values], str(t)
            )
            if going is None:
                values, going = made, more
                continue
            values = [_put(node, "Where", [going, a, b]) for a, b in zip(made, values, strict=True)]
            going = _put(node, "And", [going, more]) if t + 1 < turns else going
        return values

    def _scan(self, node: Node) -> list[Value] | None:
        given: dict[str, Any] = attributes(node)
        body: Graph = given["body"]
        scanned = int(given["num_scan_inputs"])
        if any(v is None for v in node.inputs) or len(body.inputs) != len(node.inputs):
            return None
        inputs: list[Value] = [v for v in node.inputs if v is not None]
        carried_in, xs = inputs[: len(inputs) - scanned], inputs[len(inputs) - scanned :]
        if any(shape(x) is None for x in xs):
            return None
        axes = [a % len(shape(x) or ()) for a, x in zip(given.get("scan_input_axes") or [0] * scanned, xs, strict=True)]
        turns = (shape(xs[0]) or ())[axes[0]]
        if not isinstance(turns, int) or turns < 1 or not self._small(body, turns):
            return None
        ways = given.get("scan_input_directions") or [0] * scanned
        columns: list[list[Value]] = [[] for _ in body.outputs[len(carried_in) :]]
        out_ways = given.get("scan_output_directions") or [0] * len(columns)
        values, graph = carried_in, _graph(node)
        for t in range(turns):
            rows = []
            for x, axis, way in zip(xs, axes, ways, strict=True):
                place = add_initializer(
                    graph, f"{node.name}/{t}/place", np.asarray(turns - 1 - t if way else t, np.int64)
                )
                rows.append(_put(node, "Gather", [x, place], {"axis": axis}))
            results = splice(node, body, [*values, *rows], str(t))
            values = results[: len(carried_in)]
            for column, row, way in zip(columns, results[len(carried_in) :], out_ways, strict=True):
                column.insert(0 if way else len(column), row)
        out_axes = given.get("scan_output_axes") or [0] * len(columns)
        return [*values, *(_stack(node, column, axis) for column, axis in zip(columns, out_axes, strict=True))]

    def _small(self, body: Graph, turns: int) -> bool:
        return turns <= self.turns and turns * _size(body) <= self.nodes


def _computed(node: Node) -> bool:
    """Whether it is an If on what is not known yet."""
    return node.op_type == "If" and not node.domain and node.inputs[0] is not None and constant(node.inputs[0]) is None


def _graph(node: Node) -> Graph:
    assert isinstance(node.graph, Graph)
    return node.graph


def _size(body: Graph) -> int:
    return sum(1 for _ in nodes_of(body))


def _always(body: Graph) -> bool:
    """Whether the loop goes on after every turn."""
    going = body.outputs[0]
    while (maker := going.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        going = maker.inputs[0]
    value = constant(going)
    return going is body.inputs[1] or (value is not None and bool(value.reshape(-1)[0]))


def _put(node: Node, op_type: str, inputs: list[Value], given: dict[str, object] | None = None) -> Value:
    made = new_node(op_type, inputs, given or {})
    inherit([made], [node])
    insert_before(node, [made])
    return made.outputs[0]


def _stack(node: Node, rows: list[Value], axis: int) -> Value:
    """The rows as one array, along a new axis."""
    where = add_initializer(_graph(node), f"{node.name}/axis", np.asarray([axis], np.int64))
    parts = [_put(node, "Unsqueeze", [row, where]) for row in rows]
    return _put(node, "Concat", list(parts), {"axis": axis}) if len(parts) > 1 else parts[0]


def _own(node: Node, value: Value, output: Value) -> Value:
    """The value, or a copy of it where it stood before the node or already is a result."""
    maker = value.producer()
    if maker is None or value.is_graph_output() or maker.op_type not in ("Where", "Concat", "Unsqueeze"):
        return carried(node, value, output)
    value.type, value.shape = output.type, output.shape
    return value
