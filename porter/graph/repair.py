"""Mends what common exporters get wrong, and keeps a note of each mend in the model."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.graph.edit import fresh
from porter.graph.protocheck import counted
from porter.graph.values import every_graph

NOTES = "porter.notes"
"""The metadata key of a model that holds what was repaired, a line each."""


def notes(model: ir.Model) -> tuple[str, ...]:
    """What was repaired or decided when the model was loaded, for the user to read."""
    text = model.metadata_props.get(NOTES, "")
    return tuple(text.split("\n")) if text else ()


def note(model: ir.Model, lines: Sequence[str]) -> None:
    """Adds notes to the model, each once."""
    kept = list(dict.fromkeys([*notes(model), *lines]))
    if kept:
        model.metadata_props[NOTES] = "\n".join(kept)


def repair(model: ir.Model, found: Sequence[str] = ()) -> None:
    """Puts nodes in order, makes names unique, takes weights out of the inputs, and notes each mend in the model."""
    mends = list(found)
    _normalize_domains(model)
    mends += _weights_among_inputs(model)
    model.graph.sort()
    for function in model.functions.values():
        function.graph.sort()
    mends += _node_names(model)
    mends += _shadowed(model)
    _explicit_axes(model)
    note(model, mends)


def _normalize_domains(model: ir.Model) -> None:
    """'ai.onnx' is another spelling of ''; a domain without nodes needs no import."""
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        imports = graph.opset_imports
        if "ai.onnx" in imports:
            imports.setdefault("", imports.pop("ai.onnx"))
        used = {node.domain for node in graph.all_nodes()}
        for domain in set(imports) - used - {""}:
            del imports[domain]


def _weights_among_inputs(model: ir.Model) -> list[str]:
    """Before IR version 4 every weight had to be listed as an input; after it, such an input has a default."""
    graph = model.graph
    weights = [value for value in graph.inputs if value.is_initializer()]
    for value in weights:
        graph.inputs.remove(value)
    if not weights or (model.ir_version or 0) < 4:
        return []
    listed = ", ".join(f"'{value.name}'" for value in weights[:4]) + (", ..." if len(weights) > 4 else "")
    return [f"{counted(len(weights), 'input')} with a default value, kept as weights: {listed}"]


def _explicit_axes(model: ir.Model) -> None:
    """Writes down a default without which onnx 1.23 refuses MeanVarianceNormalization in strict shape inference."""
    for graph in every_graph(model):
        for node in graph:
            if node.op_type == "MeanVarianceNormalization" and node.domain == "" and "axes" not in node.attributes:
                node.attributes["axes"] = ir.AttrInt64s("axes", (0, 2, 3))


def _node_names(model: ir.Model) -> list[str]:
    """Every node gets a name of its own."""
    nodes = [node for graph in every_graph(model) for node in graph]
    used = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    empty = double = 0
    for node in nodes:
        if not node.name:
            empty += 1
            node.name = fresh(f"{node.op_type}_{_first_output(node)}", used)
        elif node.name in seen:
            double += 1
            node.name = fresh(node.name, used)
        seen.add(node.name)
    mends = []
    if empty:
        mends.append(f"{counted(empty, 'node')} had no name; named after operator and output")
    if double:
        mends.append(f"{counted(double, 'node')} shared a name with another; a number was added")
    return mends


def _first_output(node: ir.Node) -> str:
    return next((value.name for value in node.outputs if value.name), "none")


def _shadowed(model: ir.Model) -> list[str]:
    """A name of a subgraph that is also a name outside is changed inside: tools differ on what it would mean."""
    changed: list[str] = []
    for root in [model.graph, *(function.graph for function in model.functions.values())]:
        _rename_shadows(root, set(), changed)
    if not changed:
        return []
    count = counted(len(changed), "value")
    return [f"{count} of subgraphs had the name of a value outside, the first '{changed[0]}'; renamed"]


def _rename_shadows(graph: ir.Graph, outer: set[str], changed: list[str]) -> None:
    own = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    taken = outer | {value.name for value in own if value.name}
    for value in own:
        if value.name in outer:
            changed.append(value.name)
            value.name = fresh(value.name, taken)
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _rename_shadows(attribute.as_graph(), taken, changed)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    _rename_shadows(inner, taken, changed)
