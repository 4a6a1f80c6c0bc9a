"""Drops what nobody reads: nodes, weights and functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from porter.graph import Graph, Model, remove
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, note


@dataclass(frozen=True)
class Dead(Pass):
    """Drop nodes whose results nobody reads, weights that no node reads, and functions that no node calls."""

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("duplicates",)

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model):
            for node in reversed(list(graph)):
                if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                    number += 1
                    record = note(number, "dead", [node])
                    remove([node])
                    yield record
            drop_weights(graph)
        drop_functions(model)


def drop_weights(graph: Graph) -> None:
    """Forgets the initializers that nothing reads; those that are inputs too stay, as part of the interface."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def drop_functions(model: Model) -> None:
    """Forgets the functions that are called neither from the graph nor from a function that is."""
    reached: set[tuple[str, str, str]] = set()
    pending = [node.op_identifier() for node in model.graph.all_nodes()]
    while pending:
        key = pending.pop()
        if key in model.functions and key not in reached:
            reached.add(key)
            pending.extend(node.op_identifier() for node in model.functions[key].all_nodes())
    for key in set(model.functions) - reached:
        del model.functions[key]
