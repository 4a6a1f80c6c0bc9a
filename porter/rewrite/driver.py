"""Rules at work: every place where one fits is rewritten, one at a time, and each change is handed out as a record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from porter import ops
from porter.errors import PorterError
from porter.graph import (
    Attr,
    AttributeType,
    Graph,
    Model,
    Node,
    Value,
    constant,
    constant_tensor,
    dtype,
    fresh,
    graphs,
    inherit,
    insert_before,
    names,
    remove,
    replace_uses,
    shape,
    source_name,
)
from porter.rewrite.build import Built, build
from porter.rewrite.regions import SMALL, boundary, content, has_subgraphs, region, upstream
from porter.rewrite.rule import Match, Rule

#: how often the whole graph is walked; each walk is the last unless something changed
SWEEPS = 100


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One change: where, and the region before and after as models over the same inputs.

    `before` is None where there is no region to compare (nodes that nobody reads were dropped, say): the whole model
    is compared then. `key` is equal for equal regions. `exact` holds constants of `before` that the rule knows
    without their rounding (sqrt(2) for 1.4142135): `algebraic` is about these. `rounds` says that a number was
    rounded to be stored on the other side (a merged scale): such a change is `rounding`, whatever its rule claims.
    `meant` is `after` with such constants as the expressions that they were folded from, `folded` holds what was stored
    and what that came to.
    """

    number: int
    rule: str
    nodes: tuple[str, ...]
    sources: tuple[str, ...]
    before: Model | None = None
    after: Model | None = None
    exact: Mapping[str, np.ndarray] = field(default_factory=dict)
    key: str = ""
    rounds: bool = False
    meant: Model | None = None
    folded: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def place(self) -> str:
        """The source layer, for messages."""
        return self.sources[-1] if self.sources else "the model"


def note(number: int, rule: str, nodes: Sequence[Node]) -> Rewrite:
    """The record of a change that has no region of its own."""
    return Rewrite(number, rule, tuple(node.op_type for node in nodes), _sources(nodes))


def apply(model: Model, rules: Sequence[Rule], *, start: int = 0) -> Iterator[Rewrite]:
    """Rewrites the model in place until no rule fits; yields after each change, at which point the model is valid.

    Whoever stops asking stops the rewriting. Numbers count on from `start`.
    """
    number = start
    ending: dict[str, list[Rule]] = {}
    for rule in rules:
        for kind in rule.roots():
            ending.setdefault(kind, []).append(rule)
    known = Known()
    for _ in range(SWEEPS):
        changed = False
        for graph in all_graphs(model):
            for node in list(graph):
                if node.graph is not graph:
                    continue
                for rule in ending.get(node.op_type, ()):
                    found = rule.match(node)
                    if not isinstance(found, Match):
                        continue
                    record = rewrite_once(model, graph, found, number + 1, known)
                    if record is not None:
                        number, changed = number + 1, True
                        yield record
                        break
        if not changed:
            return
    raise PorterError(
        f"rules {', '.join(rule.name for rule in rules)}", expected="an end", found=f"changes in each of {SWEEPS} walks"
    )


def all_graphs(model: Model) -> Iterator[Graph]:
    """The model's graph and the subgraphs of its control flow; the bodies of functions stay as they are."""
    pending = [model.graph]
    while pending:
        graph = pending.pop(0)
        yield graph
        for node in graph:
            pending.extend(graphs(node))


@dataclass
class Known:
    """What one application of rules remembers: the types inside equal regions, and the names of each graph."""

    types: dict[str, list[Value]] = field(default_factory=dict)
    names: dict[Graph, set[str]] = field(default_factory=dict)

    def used(self, graph: Graph) -> set[str]:
        if graph not in self.names:
            self.names[graph] = names(graph)
        return self.names[graph]


def rewrite_once(model: Model, graph: Graph, m: Match, number: int, known: Known) -> Rewrite | None:
    """Makes one change; None, and nothing changed, where the rule's other side does not fit the place."""
    functions = set(model.functions)
    built = build(model, graph, m, m.terms, known.used(graph))
    reason = _cannot_stand(m, built)
    record = None if reason else _record(model, graph, m, built, number, known)
    if record is None:
        m.refuse(reason or m.reason or "the replacement has another type or shape")
        built.drop(graph)
        for key in set(model.functions) - functions:
            del model.functions[key]
        return None
    _put(graph, m, built, known.used(graph))
    return record


def _record(model: Model, graph: Graph, m: Match, built: Built, number: int, known: Known) -> Rewrite | None:
    nodes = m.nodes
    sources = _sources(nodes)
    kinds = tuple(node.op_type for node in nodes)
    if has_subgraphs([*nodes, *built.nodes]):
        return Rewrite(number, m.rule.name, kinds, sources)
    read = {value for node in built.nodes for value in node.inputs if value is not None}
    kept = [v for v in m.binding.values.values() if v in read and v is not None and _is_data(v)]
    reads = boundary(built.nodes, built.outputs, keep=kept)
    earlier = _without(upstream(nodes, reads), reads)
    inputs = list(dict.fromkeys([*boundary(earlier, m.outputs, keep=kept), *reads]))
    before = region(earlier, inputs, m.outputs, model.functions, opset=model.opset_imports.get("", 24))
    after = region(built.nodes, inputs, built.outputs, model.functions, opset=model.opset_imports.get("", 24))
    key = content(before, after)
    if content(before) == content(after):
        m.refuse("the replacement is what is there already")
        return None
    if key not in known.types:
        ops.infer(after)
        known.types[key] = [value for node in after.graph for value in node.outputs] + list(after.graph.outputs)
    found = known.types[key]
    for old, new in zip(m.outputs, found[len(found) - len(m.outputs) :], strict=True):
        if dtype(old) is not None and (
            dtype(new) != dtype(old) or (_static(old) and tuple(new.shape or ()) != tuple(old.shape or ()))
        ):
            m.refuse(f"the replacement is {dtype(new)}{new.shape}, not {dtype(old)}{old.shape}")
            return None
    fresh_values = [value for node in built.nodes for value in node.outputs]
    for value, typed in zip(fresh_values, found, strict=False):
        value.type, value.shape = typed.type, typed.shape
    exact: dict[str, np.ndarray] = {}
    copies = dict(zip(_constants(earlier, inputs), before.graph.initializers, strict=True))
    for value, wanted in m.binding.exact.items():
        if value in copies:
            exact[copies[value]] = np.broadcast_to(np.asarray(wanted), shape(value) or ())
    meant, folded = None, tuple[tuple[np.ndarray, np.ndarray], ...]()
    if built.folded:
        spelled = build(model, graph, m, m.terms, set(known.used(graph)), fold=False)
        meant = region(spelled.nodes, inputs, spelled.outputs, model.functions, opset=model.opset_imports.get("", 24))
        spelled.drop(graph)
        folded = tuple((constant(value), exact) for value, exact in built.folded.items())  # type: ignore[misc]
    rounds = bool(folded) or any(_rounds(node) for node in built.nodes)
    return Rewrite(number, m.rule.name, kinds, sources, before, after, exact, key, rounds, meant, folded)


def _without(nodes: Sequence[Node], reads: Sequence[Value]) -> list[Node]:
    """The nodes less those that only compute what both sides read anyway."""
    wanted = set(reads)
    return [node for node in nodes if not (node.outputs and all(value in wanted for value in node.outputs))]


def _constants(nodes: Sequence[Node], inputs: Sequence[Value]) -> list[Value]:
    """The constants that `region` makes initializers of, in its order."""
    given, inside = set(inputs), {value for node in nodes for value in node.outputs}
    return list(
        dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v not in given and v not in inside)
    )


def _is_data(value: Value) -> bool:
    """Whether a constant is a weight, which any other could replace, and not a shape or a list of axes."""
    tensor, kind = constant_tensor(value), dtype(value)
    return tensor is not None and kind is not None and (kind.kind not in "iub" or tensor.size > SMALL)


def _cannot_stand(m: Match, built: Built) -> str | None:
    """Why the values cannot take the place of the pattern's outputs, if they cannot."""
    for old, new in zip(m.outputs, built.outputs, strict=True):
        if new is old:
            return "the replacement is the pattern's own output"
        maker = new.producer()
        elsewhere = maker is None or (maker not in built.nodes and maker.graph is not m.node.graph)
        taken = new.is_graph_output() or elsewhere or new in built.outputs[: built.outputs.index(new)]
        if old.is_graph_output() and taken:
            return f"'{old.name}' is an output of the graph, and '{new.name}' cannot take its name"
    return None


def _put(graph: Graph, m: Match, built: Built, used: set[str]) -> None:
    """New nodes in, uses moved over, names kept, old nodes out."""
    nodes = m.nodes
    for node in built.nodes:
        _round_attributes(node)
    inherit(built.nodes, nodes)
    insert_before(m.node, built.nodes)
    mine = {value for node in built.nodes for value in node.outputs}
    for old, new in zip(m.outputs, built.outputs, strict=True):
        name, interface = old.name, old.is_graph_output()
        if new in mine and not new.is_graph_output():
            new.type, new.shape = new.type or old.type, new.shape or old.shape
        replace_uses(old, new)
        if new in mine and name and not interface and not new.is_graph_output():
            old.name = fresh(f"{name}_replaced", used)
            new.name = name
    for node in reversed(nodes):
        if not any(value.is_graph_output() or value.uses() for value in node.outputs):
            read = [value for value in node.inputs if value is not None]
            remove([node])
            forget(graph, read)


def forget(graph: Graph, values: Iterable[Value]) -> None:
    """Drops those of the values that are weights of the graph and that nothing reads any more."""
    for value in values:
        kept = value.uses() or value.is_graph_input() or value.is_graph_output()
        if value.is_initializer() and not kept and graph.initializers.get(value.name or "") is value:
            del graph.initializers[value.name or ""]


def _rounds(node: Node) -> bool:
    """Whether a float attribute is no float32, which is what a file holds."""
    floats = [a.value for a in node.attributes.values() if not a.is_ref() and a.type == AttributeType.FLOAT]
    return any(float(np.float32(value)) != value for value in floats)


def _round_attributes(node: Node) -> None:
    """Float attributes as the file will hold them."""
    for name, attribute in list(node.attributes.items()):
        if not attribute.is_ref() and attribute.type == AttributeType.FLOAT:
            node.attributes[name] = Attr(name, AttributeType.FLOAT, float(np.float32(attribute.value)))


def _static(value: Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


def _sources(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source_name(node) for node in nodes))
