"""onnxruntime's own operators (`com.microsoft`), and TensorRT's (`trt`), brought to the standard's at load: one small
function per operator.

onnxruntime is the truth for what the first mean. What the standard's operators cannot say exactly is refused, with the
attribute or input that asks for it.
"""

from __future__ import annotations

import onnx_ir as ir

from porter.graph.contrib import activation, attention, blocked, grouped, moe, normalization, quantized, tensorrt
from porter.graph.contrib.spelling import DOMAIN, Spell, Spelling, Table
from porter.graph.repair import note
from porter.graph.symbolic import known
from porter.graph.upgrade.engine import taken
from porter.graph.values import every_graph

TABLE: Table = {}
for _module in (activation, attention, blocked, grouped, moe, normalization, quantized):
    for _key, _spell in _module.SPELLINGS.items():
        assert _key not in TABLE, _key
        TABLE[_key] = _spell

UNPREFIXED = frozenset({"SimplifiedLayerNormalization", "LayerNormalization"})
"""Operators that onnxruntime's optimizer writes without a domain; the second is the standard's from opset 17 on."""

TABLES = {DOMAIN: TABLE, tensorrt.DOMAIN: tensorrt.SPELLINGS}

OPERATORS = frozenset(
    {(domain, name) for domain, table in TABLES.items() for name in table} | {("", name) for name in UNPREFIXED}
)
"""What `normalize` understands, as (domain, operator)."""


def adopt(model: ir.Model) -> None:
    """Gives onnxruntime's operators that stand without a domain the one they belong to, and that domain an import."""
    for root in [model.graph, *(function.graph for function in model.functions.values())]:
        opset = root.opset_imports.get("", 0)
        for node in root.all_nodes():
            if node.domain == "" and node.op_type in UNPREFIXED and (node.op_type[0] == "S" or opset < 17):
                node.domain = DOMAIN
            if node.domain == DOMAIN:
                root.opset_imports.setdefault(DOMAIN, 1)


def normalize(model: ir.Model) -> None:
    """Spells every operator of `com.microsoft` and `trt` in the standard's, in place; the model is at its home opset.

    Raises PorterError, naming the node and the attribute or input, where there is no exact spelling.
    """
    local = {identifier[:2] for identifier in model.functions}
    found = [
        (graph, node) for graph in every_graph(model) for node in graph
        if node.domain in TABLES and (node.domain, node.op_type) not in local
    ]  # fmt: skip
    if not found:
        return
    shapes = known(model)
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    used: set[str] = set().union(*(taken(root) for root in roots))
    inside = {graph for function in model.functions.values() for graph in [function.graph, *function.subgraphs()]}
    weights: set[ir.Value] = set()
    counts: dict[str, dict[str, int]] = {}
    for graph, node in found:
        weights |= {value for value in node.inputs if value is not None and value.is_initializer()}
        mine = counts.setdefault(node.domain, {})
        mine[node.op_type] = mine.get(node.op_type, 0) + 1
        TABLES[node.domain][node.op_type](Spelling(node, graph, graph in inside, used, [], shapes))
    for value in weights:
        if not value.uses() and not value.is_graph_output() and value.graph is not None:
            value.graph.initializers.pop(value.name or "")
    for root in roots:
        left = {node.domain for node in root.all_nodes()}
        for domain in TABLES.keys() - left:
            root.opset_imports.pop(domain, None)
    for domain, mine in counts.items():
        listed = ", ".join(f"{count} {name}" for name, count in mine.items())
        note(model, [f"operators of {domain} are spelled in the standard's: {listed}"])


__all__ = ["DOMAIN", "OPERATORS", "TABLE", "Spell", "Spelling", "adopt", "normalize"]
