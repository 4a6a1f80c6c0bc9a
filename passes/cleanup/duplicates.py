"""Computes once what is computed twice: equal nodes on equal inputs, and equal small constants."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from porter.graph import Graph, Model, Node, Value, attributes, constant_tensor, graphs, is_unread, remove, replace_uses
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, note

#: operators that give another result each time
RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial Dropout".split()
)


@dataclass(frozen=True)
class Duplicates(Pass):
    """Keep one of several equal nodes, and one of several equal constants of up to `elements` elements."""

    elements: int = 4096

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("shapes",)

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model):
            self._constants(graph)
            first: dict[Hashable, Node] = {}
            for node in list(graph):
                if node.op_type in RANDOM or next(graphs(node), None) is not None:
                    continue
                kept = first.setdefault(_identity(node), node)
                if kept is node or any(value.is_graph_output() for value in node.outputs):
                    continue
                number += 1
                record = note(number, "duplicate", [kept, node])
                for old, new in zip(node.outputs, kept.outputs, strict=True):
                    replace_uses(old, new)
                remove([node])
                yield record

    def _constants(self, graph: Graph) -> None:
        seen: dict[Hashable, Value] = {}
        for value in list(graph.initializers.values()):
            tensor = constant_tensor(value)
            if tensor is None or tensor.size > self.elements or value.is_graph_input() or value.is_graph_output():
                continue
            if is_unread(value):
                continue
            array = tensor.numpy()
            data: Hashable = tuple(array.reshape(-1).tolist()) if array.dtype == object else array.tobytes()
            kept = seen.setdefault((tensor.dtype, array.shape, data), value)
            if kept is not value:
                replace_uses(value, kept)
                del graph.initializers[value.name or ""]


def _identity(node: Node) -> Hashable:
    def plain(value: object) -> Hashable:
        if isinstance(value, np.ndarray):
            return (value.dtype.str, value.shape, value.tobytes())
        return value if isinstance(value, (int, float, str, tuple)) else id(value)

    given = tuple(sorted((name, type(value).__name__, plain(value)) for name, value in attributes(node).items()))
    return (node.op_identifier(), tuple(id(value) for value in node.inputs), len(node.outputs), given)
