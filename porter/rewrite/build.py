"""The other side of a rewrite, built: terms become nodes, and the body of a fusion a model-local function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.graph import (
    HOME_OPSET,
    Attr,
    AttributeType,
    Function,
    Graph,
    Model,
    Node,
    RefAttr,
    Value,
    dtype,
    fresh,
    make_tensor,
    new_node,
    new_value,
)
from porter.ops import evaluate, float64
from porter.rewrite.regions import canonical, region
from porter.rewrite.rule import Match, Rule
from porter.rewrite.terms import REST, Apply, Const, Folded, Param, Rest, Term, Var, first

#: the domain of fused operators that ONNX has no name for
DOMAIN = "porter"


@dataclass(frozen=True)
class Built:
    """New nodes in order of evaluation, not yet in the graph; the values that replace the outputs; the weights made
    for them; those of the weights that were folded from terms, with what these came to in float64.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    weights: tuple[Value, ...]
    folded: Mapping[Value, np.ndarray]

    def drop(self, graph: Graph) -> None:
        """Undo the building: nothing uses what it read, and its weights are no initializers."""
        for value in self.weights:
            del graph.initializers[value.name or ""]
        for node in reversed(self.nodes):
            for position in range(len(node.inputs)):
                node.replace_input_with(position, None)


def build(model: Model, graph: Graph, m: Match, terms: tuple[Term, ...], used: set[str], *, fold: bool = True) -> Built:
    """The nodes of the terms. Numbers take the type of the pattern's first output, sequences of integers are int64.

    `used` are the names of the graph; those of new values are added. Without `fold`, terms that would be folded into
    weights stay nodes: what the rewrite means before it rounds.
    """
    if m.rule.fused and m.rule.target is None and not m.rule.is_onnx:
        terms = _with_function(model, m, terms)
    nodes: list[Node] = []
    weights: list[Value] = []
    folded: dict[Value, np.ndarray] = {}
    done: dict[object, Any] = {}
    stem = m.outputs[0].name or m.rule.name
    floating = dtype(m.outputs[0])

    def stored(array: np.ndarray) -> Value:
        key = (array.dtype, array.shape, array.tobytes())
        if key not in done:
            name = fresh(f"{stem}/{'x'.join(map(str, array.shape)) or 'scalar'}", used)
            done[key] = new_value(name, array.dtype, array.shape)
            done[key].const_value = make_tensor(array, name=name)
            graph.register_initializer(done[key])
            weights.append(done[key])
        return done[key]

    def value(term: Term | None) -> Value | None:
        term = first(term)
        match term:
            case None:
                return None
            case Var(name):
                return m.binding.values[name]
            case Const(data):
                return stored(_array(data, floating))
            case Folded(computed, to) if fold:
                if term not in done:
                    exact = _computed(model, graph, m, computed, used)
                    done[term] = stored(exact.astype(to))
                    folded[done[term]] = exact
                return done[term]
            case Folded(computed):
                return value(computed)
            case Given(known):
                return known
            case Apply():
                if term.call not in done:
                    inputs = [value(operand) for operand in term.inputs]
                    while inputs and inputs[-1] is None:
                        inputs.pop()
                    outputs = [new_value(fresh(f"{stem}/{term.op_type}", used)) for _ in range(term.outputs)]
                    attributes = {k: v for k, v in term.attributes.items() if k != REST} | dict(
                        term.attributes.get(REST, {})
                    )
                    done[term.call] = new_node(
                        term.op_type, inputs, _plain(attributes), domain=term.domain, outputs=outputs
                    )
                    nodes.append(done[term.call])
                return done[term.call].outputs[term.index]
        raise TypeError(f"{type(term).__name__} cannot be built")

    outputs = tuple(value(term) for term in terms)
    return Built(tuple(nodes), outputs, tuple(weights), folded)  # type: ignore[arg-type]


def _computed(model: Model, graph: Graph, m: Match, term: Term, used: set[str]) -> np.ndarray:
    """What a term over constants comes to in float64."""
    made = build(model, graph, m, (term,), set(used))
    found = evaluate(region(made.nodes, [], made.outputs), {}, float64)
    made.drop(graph)
    return np.asarray(next(iter(found.values())))


@dataclass(frozen=True, eq=False)
class Given(Term):
    """A value of the graph itself, for replacements that reach beyond the pattern's names."""

    value: Value


def function(rule: Rule, m: Match) -> Function:
    """The body of a fusion as a model-local function: values are inputs, parameters attributes."""
    pattern = rule.spellings[0].pattern
    signature = pattern.signature
    inputs = {var.name: new_value(var.name) for var in signature.values}
    given: dict[str, Any] = {param.name: m.params[param.name] for param in signature.params}
    if signature.rest is not None:
        given.update(m.params[signature.rest.name])
    kinds = {name: _attribute_type(name, value) for name, value in given.items()}
    nodes: list[Node] = []
    done: dict[object, Any] = {}
    floating = dtype(m.outputs[0])
    used = set(inputs)

    def constant(key: object, attribute: Attr) -> Value:
        if key not in done:
            node = Node("", "Constant", [], [attribute], outputs=[new_value(fresh("constant", used))])
            nodes.append(node)
            done[key] = node.outputs[0]
        return done[key]

    def value(term: Term | None) -> Value | None:
        term = first(term)
        match term:
            case None:
                return None
            case Var(name):
                return inputs[name]
            case Const(data):
                array = _array(data, floating)
                attribute = new_node("Constant", [], {"value": array}).attributes["value"]
                return constant((array.dtype, array.shape, array.tobytes()), attribute)
            case Param(name):
                kind = kinds[name]
                spelled = {"FLOAT": "value_float", "INT": "value_int", "FLOATS": "value_floats", "INTS": "value_ints"}
                return constant(name, RefAttr(spelled[kind.name], name, kind))
            case Apply():
                if term.call not in done:
                    operands = [value(operand) for operand in term.inputs]
                    outputs = [new_value(fresh(term.op_type.lower(), used)) for _ in range(term.outputs)]
                    done[term.call] = Node(
                        term.domain, term.op_type, operands, _references(term, m, kinds), outputs=outputs
                    )
                    nodes.append(done[term.call])
                return done[term.call].outputs[term.index]
        raise TypeError(f"{type(term).__name__} cannot be built")

    outputs = [value(term) for term in pattern.outputs]
    graph = Graph(list(inputs.values()), outputs, nodes=nodes, opset_imports={"": model_opset(m)}, name=rule.name)  # type: ignore[arg-type]
    made = Function(
        DOMAIN, rule.name, "", graph=graph, attributes=[Attr(name, AttributeType.UNDEFINED, None) for name in kinds]
    )
    made.doc_string = rule.formula
    return made


def model_opset(m: Match) -> int:
    """The opset of the graph that a match stands in."""
    graph = m.node.graph
    assert graph is not None
    return graph.opset_imports.get("", 0) or HOME_OPSET


def _with_function(model: Model, m: Match, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The call terms under the name of the function, which is added to the model unless an equal one is there."""
    made = function(m.rule, m)
    name, number = made.name, 1
    while (found := model.functions.get((DOMAIN, name, ""))) is not None:
        if _same(found, made):
            break
        name, number = f"{made.name}_{number}", number + 1
    else:
        made.name = name
        model.functions[(DOMAIN, name, "")] = made
        model.opset_imports.setdefault(DOMAIN, 1)
    return tuple(
        Apply(name, t.inputs, t.attributes, DOMAIN, t.index, t.outputs, t.call) for t in terms if isinstance(t, Apply)
    )


def _same(a: Function, b: Function) -> bool:
    return set(a.attributes) == set(b.attributes) and canonical(a) == canonical(b)


def _references(term: Apply, m: Match, kinds: dict[str, Any]) -> list[Attr]:
    """The attributes of a node in a function's body: fixed ones as they are, parameters as references."""
    made: list[Attr] = []
    for name, wanted in term.attributes.items():
        match wanted:
            case Param(param):
                made.append(RefAttr(name, param, kinds[param]))
            case Rest(rest):
                made.extend(RefAttr(key, key, kinds[key]) for key in m.params[rest])
            case _:
                made.append(new_node("X", [], {name: wanted}).attributes[name])
    return made


def _attribute_type(name: str, value: Any) -> AttributeType:
    return new_node("X", [], _plain({name: value})).attributes[name].type


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as ONNX takes them: numpy scalars and small integer arrays as Python numbers."""
    made = {}
    for name, value in attributes.items():
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        elif isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "if":
            value = tuple(value.tolist())
        elif isinstance(value, np.generic):
            value = value.item()
        if value is not None:
            made[name] = value
    return made


def _array(data: Any, floating: np.dtype | None) -> np.ndarray:
    if isinstance(data, (np.ndarray, np.generic)):
        return np.asarray(data)
    if isinstance(data, (list, tuple)):
        return np.asarray(data, np.int64)
    if isinstance(data, bool):
        return np.asarray(data)
    return np.asarray(data).astype(np.dtype(np.float32) if floating is None else floating)
