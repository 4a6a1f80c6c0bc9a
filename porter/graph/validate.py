"""What has to hold after every edit: definitions before uses, names of one meaning, nodes that fit their operators."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.inference import check_types
from porter.graph.operators import schema
from porter.graph.protocheck import find_cycle
from porter.graph.values import graphs, source_name


def validate(model: ir.Model) -> None:
    """Raises PorterError, naming the node, unless the model is a valid ONNX model.

    Checked are the structure of every graph and function (definitions before uses, each value defined once, names
    unique in their scope, calls of functions that exist), and each node against its operator's definition. Weights
    are not read.
    """
    for root in [model.graph, *(function.graph for function in model.functions.values())]:
        _check_graph(model, root, root.opset_imports, set(), set())
    _check_calls(model)
    check_types(model)


def _title(node: ir.Node) -> str:
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"node '{source_name(node)}' ({operator})"


def _check_graph(
    model: ir.Model, graph: ir.Graph, imports: dict[str, int], outer: set[ir.Value], outer_names: set[str]
) -> None:
    visible, taken = set(outer), set(outer_names)

    def define(value: ir.Value, where: str) -> None:
        if not value.name:
            raise PorterError(where, expected="a name for every value", found="a value without one")
        if value.name in taken:
            raise PorterError(where, expected="one value of each name", found=f"another '{value.name}'")
        taken.add(value.name)
        visible.add(value)

    for value in graph.inputs:
        define(value, f"input '{value.name}'")
    for name, value in graph.initializers.items():
        if value.const_value is None or name != value.name:
            raise PorterError(f"weight '{name}'", expected="data under its own name", found="none")
        if value not in visible:
            define(value, f"weight '{name}'")
    names: set[str] = set()
    for node in graph:
        if node.name and node.name in names:
            raise PorterError(_title(node), expected="one node of each name", found=f"another '{node.name}'")
        names.add(node.name or "")
        _check_operator(model, node, imports)
        for used in node.inputs:
            if used is not None and used not in visible:
                producer = used.producer()
                late = producer is not None and producer.graph is graph
                raise PorterError(
                    _title(node),
                    expected="inputs that are computed before it",
                    found=f"'{used.name}', which " + ("comes after it" if late else "nothing in scope defines"),
                )
        for inner in graphs(node):
            _check_graph(model, inner, imports, visible, taken)
        for value in node.outputs:
            if value.name:
                define(value, _title(node))
            elif value.uses() or value.is_graph_output():
                raise PorterError(_title(node), expected="a name for every value", found="a value without one")
    for value in graph.outputs:
        if value not in visible:
            raise PorterError(
                f"output '{value.name}'", expected="an output that is computed", found="a value that nothing defines"
            )


def _check_operator(model: ir.Model, node: ir.Node, imports: dict[str, int]) -> None:
    function = model.functions.get(node.op_identifier())
    if node.domain not in imports:
        raise PorterError(_title(node), expected="an opset import of its domain", found=f"none of '{node.domain}'")
    if function is not None:
        for what, given, most in (
            ("inputs", len(node.inputs), len(function.inputs)),
            ("outputs", len(node.outputs), len(function.outputs)),
        ):
            if given > most:
                raise PorterError(_title(node), expected=f"at most {most} {what}", found=str(given))
        unknown = set(node.attributes) - set(function.attributes)
        if unknown:
            raise PorterError(_title(node), expected="attributes that the function has", found=f"'{min(unknown)}'")
        return
    if node.domain != "" or schema(node.op_type, imports[""]) is None:
        raise PorterError(_title(node), expected="an operator of ai.onnx or a function of the model", found="neither")


def _check_calls(model: ir.Model) -> None:
    calls = {
        identifier: [inner for inner in _callees(function) if inner in model.functions]
        for identifier, function in model.functions.items()
    }
    cycle = find_cycle(calls)
    if cycle:
        path = " -> ".join(f"{domain}.{name}" for domain, name, _ in [*cycle, cycle[0]])
        raise PorterError("the model", expected="functions that do not call themselves", found=path)


def _callees(function: ir.Function) -> Iterator[tuple[str, str, str]]:
    for node in function.all_nodes():
        yield node.op_identifier()
