"""Contractions with what follows them element by element: bias, residual, activation, as one function each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from porter.graph import Model, Node, shape
from porter.pipeline import Pass, exact
from porter.rewrite import Rewrite, all_graphs, fuse

CONTRACTIONS = frozenset("MatMul Gemm Conv ConvTranspose".split())
ACTIVATIONS = frozenset(
    (
        "Relu LeakyRelu PRelu Sigmoid HardSigmoid Tanh Gelu Swish HardSwish Mish Elu Selu Celu Softplus Softsign Clip"
    ).split()
)
RESIDUALS = frozenset("Add Sub".split())


@dataclass(frozen=True)
class Epilogue(Pass):
    """Join each contraction with the bias, residual and activation that alone read it, up to `longest` of them."""

    longest: int = 4

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("conv_bias", "gelu", "gemm", "layernorm", "rmsnorm", "swish", "tidy")

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        number = 0
        for graph in all_graphs(model):
            for node in list(graph):
                if node.op_type not in CONTRACTIONS or node.domain:
                    continue
                chain = [node]
                while len(chain) <= self.longest and (reader := following(chain[-1])) is not None:
                    chain.append(reader)
                if len(chain) > 1:
                    number += 1
                    yield fuse(model, chain, "".join(link.op_type for link in chain), number)


def following(node: Node) -> Node | None:
    """The one reader of a node's result, where it is elementwise and keeps the shape."""
    value = node.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader, _ = uses[0]
    fits = reader.op_type in ACTIVATIONS or reader.op_type in RESIDUALS
    same = (
        reader.graph is node.graph
        and not reader.domain
        and shape(value) is not None
        and shape(value) == shape(reader.outputs[0])
    )
    return reader if fits and same else None
