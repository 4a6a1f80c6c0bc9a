"""A recurrent layer as a row of single steps: each step is the same kernel, launched once per element of the sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import ops
from porter.graph import (
    Model,
    Node,
    Value,
    add_initializer,
    attributes,
    inherit,
    insert_before,
    new_node,
    remove,
    replace_uses,
    shape,
)
from porter.pipeline import Pass, rounding
from porter.rewrite import Rewrite, all_graphs, note

STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}  # of the outputs after Y, and of the inputs from the sixth on
ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}  # per direction


@dataclass(frozen=True)
class Steps(Pass):
    """Layers of at most `turns` steps whose sequences all have full length, direction after direction."""

    turns: int = 512

    contract = rounding

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model):
            for node in list(graph):
                if node.op_type in STATES and node.domain == "" and self._fits(node):
                    number += 1
                    record = note(number, "steps", [node])
                    results = _Layer(node).results()
                    for old, new in zip(node.outputs, results, strict=False):
                        if new is not None:
                            new.type, new.shape = old.type, old.shape
                            replace_uses(old, new)
                    remove([node])
                    ops.infer(model)
                    yield record

    def _fits(self, node: Node) -> bool:
        given = attributes(node)
        dims = None if node.inputs[0] is None else shape(node.inputs[0])
        if dims is None or given.get("activation_alpha") or given.get("activation_beta"):
            return False
        lengths = node.inputs[4] if len(node.inputs) > 4 else None
        return lengths is None and 1 < dims[1 if given.get("layout") else 0] <= self.turns


class _Layer:
    def __init__(self, node: Node) -> None:
        self.node, self.given = node, attributes(node)
        self.kind, self.time = node.op_type, 1 if self.given.get("layout") else 0
        self.ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
            str(self.given.get("direction", "forward"))
        ]
        assert node.inputs[0] is not None
        self.steps = (shape(node.inputs[0]) or ())[self.time]

    def results(self) -> list[Value | None]:
        """Y, and the final states; None for what nobody reads."""
        along = 2 if self.time else 1  # the axis of directions in Y; in a state it is 1 or 0
        ways = [self._way(d, backward) for d, backward in enumerate(self.ways)]
        joined: list[Value | None] = []
        for k, (output, parts) in enumerate(zip(self.node.outputs, zip(*ways, strict=True), strict=False)):
            if not output.uses() and not output.is_graph_output():
                joined.append(None)
                continue
            whole = [
                rows[0] if len(rows) == 1 else self._put("Concat", list(rows), {"axis": self.time}) for rows in parts
            ]
            axis = along if k == 0 else 1 if self.time else 0
            joined.append(whole[0] if len(whole) == 1 else self._put("Concat", list(whole), {"axis": axis}))
        return joined

    def _way(self, d: int, backward: bool) -> list[list[Value]]:
        """The rows of Y, and the final states as rows of one."""
        node = self.node
        inputs = [*node.inputs, *[None] * 8][:8]
        x, w, r, b, _, *rest = inputs
        w, r, b = (self._part(v, d, 0) for v in (w, r, b))
        states = [self._part(v, d, 1 if self.time else 0) for v in rest[: STATES[self.kind]]]
        peep = [self._part(rest[2], d, 0)] if self.kind == "LSTM" else []
        settings: dict[str, object] = {k: v for k, v in self.given.items() if k not in ("direction", "activations")}
        if "activations" in self.given:
            functions, n = self.given["activations"], ACTIVATIONS[self.kind]
            assert isinstance(functions, tuple)
            settings["activations"] = functions[d * n : (d + 1) * n]
        rows: list[Value] = []
        for t in range(self.steps):
            place = self.steps - 1 - t if backward else t
            row = self._cut(x, place, place + 1, self.time)
            step = new_node(self.kind, [row, w, r, b, None, *states, *peep], settings, outputs=1 + STATES[self.kind])
            self._insert(step)
            rows.insert(0 if backward else len(rows), step.outputs[0])
            states = list(step.outputs[1:])
        return [rows, *([s] for s in states if s is not None)]

    def _part(self, value: Value | None, d: int, axis: int) -> Value | None:
        if value is None or len(self.ways) == 1:
            return value
        return self._cut(value, d, d + 1, axis)

    def _cut(self, value: Value | None, start: int, stop: int, axis: int) -> Value:
        assert value is not None
        numbers = [self._constant([n]) for n in (start, stop, axis)]
        return self._put("Slice", [value, *numbers])

    def _constant(self, numbers: list[int]) -> Value:
        graph = self.node.graph
        assert graph is not None
        return add_initializer(graph, f"{self.node.name}/{'_'.join(map(str, numbers))}", np.asarray(numbers, np.int64))  # type: ignore[arg-type]

    def _put(self, op_type: str, inputs: list[Value | None], given: dict[str, object] | None = None) -> Value:
        made = new_node(op_type, inputs, given or {})
        self._insert(made)
        return made.outputs[0]

    def _insert(self, made: Node) -> None:
        inherit([made], [self.node])
        insert_before(self.node, [made])
