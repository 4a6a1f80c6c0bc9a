"""Moving nodes into a model-local function and back: the two edits that fusion and partition are made of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.edit import fresh, inherit, names, remove, replace_uses
from porter.graph.values import SOURCE, captured, graphs, nodes_of, require_function, source_name


def outline(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    domain: str,
    name: str,
    *,
    inputs: Sequence[ir.Value] | None = None,
    outputs: Sequence[ir.Value] | None = None,
) -> ir.Node:
    """Moves nodes of one graph into a new model-local function and returns the call that stands in their place.

    The nodes must be convex: no path from one of them to another leads outside. The function's inputs are the values
    that the nodes read from outside, in order of first use, weights among them; its outputs those read outside.
    Either order may be given instead. `name` gets a suffix where the model already has such a function. Raises
    PorterError.
    """
    where = f"outlining {domain}.{name}"
    if not nodes:
        raise PorterError(where, expected="at least one node", found="none")
    graph = nodes[0].graph
    chosen = set(nodes)
    if graph is None or any(node.graph is not graph for node in nodes):
        raise PorterError(where, expected="nodes of one graph", found="nodes of several, or of none")
    ordered = [node for node in graph if node in chosen]
    inside = {value for node in ordered for value in node.outputs}
    taken = list(
        dict.fromkeys(
            value
            for node in ordered
            for value in [*node.inputs, *captured(node)]
            if value is not None and value not in inside
        )
    )
    given = list(
        dict.fromkeys(
            value
            for node in ordered
            for value in node.outputs
            if value.is_graph_output() or any(_home(user, graph) not in chosen for user, _ in value.uses())
        )
    )
    taken = _ordered(where, "inputs", taken, inputs)
    given = _ordered(where, "outputs", given, outputs)
    place = _place(where, graph, ordered, chosen, taken)

    identifier, number = (domain, name, ""), 1
    while identifier in model.functions:
        identifier, number = (domain, f"{name}_{number}", ""), number + 1
    body = ir.GraphView(taken, given, nodes=ordered).clone()
    for value in body.inputs:  # a weight arrives as an input; its data stays with the caller
        value.const_value = None
    body.opset_imports.update(model.opset_imports)
    function = ir.Function(*identifier, graph=body, attributes=[])
    used = {node.domain for node in body.all_nodes()}
    for unused in set(body.opset_imports) - used - {""}:
        del body.opset_imports[unused]
    model.functions[identifier] = function
    model.opset_imports.setdefault(domain, 1)

    call = ir.Node(domain, identifier[1], taken, num_outputs=len(given), name=_node_name(graph, ordered[-1]))
    inherit([call], ordered)
    _replace(graph, place, given, call)
    remove(ordered)
    return call


def inline(model: ir.Model, call: ir.Node) -> list[ir.Node]:
    """Puts the body of the called function in the place of the call and returns the new nodes.

    The function leaves the model with its last call. Attributes of the call replace the references to them in the
    body. Raises PorterError where the node calls no function of the model.
    """
    function = require_function(model, call)
    graph = call.graph
    assert graph is not None
    given = dict(function.attributes.items())
    given = {key: value for key, value in given.items() if value.type != ir.AttributeType.UNDEFINED} | dict(
        call.attributes.items()
    )
    copy = function.clone()
    used = names(graph)
    actual: dict[ir.Value, ir.Value | None] = dict.fromkeys(copy.inputs)
    actual.update(zip(copy.inputs, call.inputs, strict=False))
    prefix = call.name or call.op_type
    nodes = list(copy)
    # a result that is one of the function's inputs, or is given twice, needs a node of its own to carry it
    results: list[ir.Value] = []
    for value in copy.outputs:
        if value in actual or value in results:
            identity = ir.Node("", "Identity", [value])
            nodes.append(identity)
            value = identity.outputs[0]
        results.append(value)
    for node in nodes:
        _bind(node, given)
        for user in [node, *(inner for inner_graph in _nested(node) for inner in inner_graph)]:
            for index, used_value in enumerate(user.inputs):
                if used_value is not None and used_value in actual:
                    user.replace_input_with(index, actual[used_value])
    for inner_graph in [g for node in nodes for g in _nested(node)]:
        for index, value in enumerate(inner_graph.outputs):
            given_value = actual.get(value)
            if given_value is not None:
                inner_graph.outputs[index] = given_value
    copy.outputs.clear()
    copy.remove([node for node in nodes if node.graph is not None])
    bodies = [body for node in nodes for body in _nested(node)]
    for node in [*nodes, *(inner for body in bodies for inner in body)]:
        node.name = f"{prefix}/{node.name or node.op_type}"
        for value in node.outputs:
            if value.name or node in nodes:
                value.name = fresh(f"{prefix}/{value.name or node.op_type}", used)
    for body in bodies:
        for value in [*body.inputs, *body.initializers.values()]:
            value.name = fresh(f"{prefix}/{value.name}", used)
    inherit(nodes, [call])
    graph.insert_before(call, nodes)
    for old, new in zip(call.outputs, results, strict=False):
        if new.type is None:
            new.type = old.type
        if new.shape is None:
            new.shape = old.shape
        replace_uses(old, new)
    remove([call])
    _drop_unless_called(model, function)
    return nodes


def _drop_unless_called(model: ir.Model, function: ir.Function) -> None:
    identifier, domain_used = function.identifier(), False
    for root in [model.graph, *(other.graph for other in model.functions.values())]:
        for node in nodes_of(root):
            if node.op_type == function.name and node.op_identifier() == identifier:
                return
            domain_used = domain_used or node.domain == function.domain
    del model.functions[identifier]
    if not domain_used:
        model.opset_imports.pop(function.domain, None)


def _home(node: ir.Node, graph: ir.Graph) -> ir.Node | None:
    """The node of `graph` that is `node` or holds it in a subgraph."""
    if node.graph is graph:
        return node
    for candidate in graph:
        if any(node in set(inner.all_nodes()) for inner in graphs(candidate)):
            return candidate
    return None


def _ordered(where: str, what: str, found: list[ir.Value], wanted: Sequence[ir.Value] | None) -> list[ir.Value]:
    if wanted is None:
        return found
    missing = [value.name for value in found if value not in wanted]
    if missing:
        raise PorterError(where, expected=f"{what} that include all values that cross", found=f"{missing} left out")
    return list(wanted)


def _place(where: str, graph: ir.Graph, ordered: list[ir.Node], chosen: set[ir.Node], taken: list[ir.Value]) -> ir.Node:
    """The chosen node before which the call can stand, once what lies between is moved; raises unless convex."""
    tainted: set[ir.Node] = set()
    first, last = ordered[0], ordered[-1]
    between: list[ir.Node] = []
    started = False
    for node in graph:
        started = started or node is first
        if not started:
            continue
        producers = {value.producer() for value in [*node.inputs, *captured(node)] if value is not None}
        if node in chosen:
            bad = next((producer for producer in producers if producer in tainted), None)
            if bad is not None:
                raise PorterError(
                    where,
                    expected="a convex set of nodes",
                    found=f"a path through node '{source_name(bad)}', which is not among them",
                )
        elif producers & (chosen | tainted):
            tainted.add(node)
        else:
            between.append(node)
        if node is last:
            break
    # what the call may need goes before it, what needs the call stays behind it
    for node in between:
        graph.remove(node)
        graph.insert_before(first, node)
    return first


def _replace(graph: ir.Graph, place: ir.Node, given: list[ir.Value], call: ir.Node) -> None:
    graph.insert_before(place, call)
    for old, new in zip(given, call.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}_moved"
        new.name = name


def _node_name(graph: ir.Graph, last: ir.Node) -> str:
    return last.name or last.metadata_props.get(SOURCE, last.op_type)


def _nested(node: ir.Node) -> list[ir.Graph]:
    """All subgraphs below a node, outermost first."""
    found: list[ir.Graph] = []
    pending = list(graphs(node))
    while pending:
        graph = pending.pop(0)
        found.append(graph)
        for inner in graph:
            pending.extend(graphs(inner))
    return found


def _bind(node: ir.Node, given: dict[str, ir.Attr]) -> None:
    """Puts values in the place of references to the function's attributes, in the node and in its subgraphs."""
    for user in [node, *(inner for graph in _nested(node) for inner in graph)]:
        for key, attribute in list(user.attributes.items()):
            if not attribute.is_ref():
                continue
            value = given.get(attribute.ref_attr_name or "")
            if value is None:
                del user.attributes[key]
            elif value.is_ref():
                user.attributes[key] = ir.RefAttr(key, value.ref_attr_name or "", value.type)
            else:
                user.attributes[key] = ir.Attr(key, value.type, value.value)
