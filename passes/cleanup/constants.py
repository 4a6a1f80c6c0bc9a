"""Computes at compile time what depends on nothing but constants and shapes, in the source dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import ops
from porter.graph import (
    Graph,
    Model,
    Node,
    Value,
    add_initializer,
    attributes,
    constant_tensor,
    dtype,
    graphs,
    remove,
    replace_uses,
    shape,
)
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, forget, note, region

#: operators that are not folded: what they give is new each time, or is stored better as it is
KEPT = frozenset(
    (
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial "
        "DequantizeLinear QuantizeLinear"
    ).split()
)


@dataclass(frozen=True)
class Constants(Pass):
    """Fold nodes whose inputs are constants, and the shapes of values that have static ones.

    A result is kept folded up to `elements` elements; a larger one only where it takes the place of a constant that
    nothing else reads and that is no smaller. Quantized weights stay quantized.
    """

    elements: int = 1 << 16

    contract = exact

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model):
            for node in list(graph):
                results = self._results(model, node)
                if results is None:
                    continue
                number += 1
                record = note(number, "constant", [node])
                for value, array in zip(node.outputs, results, strict=True):
                    _replace(graph, value, array)
                read = [value for value in node.inputs if value is not None]
                remove([node])
                forget(graph, read)
                yield record

    def _results(self, model: Model, node: Node) -> list[Any] | None:
        """The arrays (or tensors, untouched) of a node's outputs, where they are known and worth keeping."""
        if node.domain not in ("", "ai.onnx") or node.op_type in KEPT or any(v.is_graph_output() for v in node.outputs):
            return None
        if node.op_type == "Constant":
            tensor = constant_tensor(node.outputs[0])
            return None if tensor is None else [tensor]
        if node.op_type in ("Shape", "Size"):
            return _shape_of(node)
        if not node.inputs or next(graphs(node), None) is not None:
            return None
        if any(value is not None and constant_tensor(value) is None for value in node.inputs):
            return None
        if not self._worth_it(node):
            return None
        alone = region([node], [], list(node.outputs), model.functions, opset=model.opset_imports.get("", 24))
        found = ops.evaluate(alone, {}, ops.source)
        return [np.asarray(found[value.name or ""]) for value in alone.graph.outputs]

    def _worth_it(self, node: Node) -> bool:
        sizes = [shape(value) for value in node.outputs]
        if any(size is None for size in sizes):
            return True  # small integer arithmetic on shapes, whose types were not inferred
        made = sum(int(np.prod(size, dtype=np.int64)) for size in sizes if size is not None)
        if made <= self.elements:
            return True
        freed = [
            value
            for value in node.inputs
            if value is not None and len(value.uses()) == 1 and not value.is_graph_output()
        ]
        return made <= sum(tensor.size for value in freed if (tensor := constant_tensor(value)) is not None)


def _shape_of(node: Node) -> list[np.ndarray] | None:
    value = node.inputs[0]
    dims = None if value is None else shape(value)
    if dims is None:
        return None
    if node.op_type == "Size":
        return [np.asarray(np.prod(dims, dtype=np.int64), np.int64)]
    given: dict[str, Any] = attributes(node)
    return [np.asarray(dims[given.get("start", 0) : given.get("end")], np.int64)]


def _replace(graph: Graph, value: Value, data: Any) -> None:
    if isinstance(data, np.ndarray) and dtype(value) is not None and data.dtype != dtype(value):
        data = data.astype(dtype(value))
    name = value.name or "constant"
    value.name = f"{name}/computed"
    replace_uses(value, add_initializer(graph, name, data))
