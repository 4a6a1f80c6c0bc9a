"""Looking for a pattern in a graph: open this to see what counts as a match, and what is remembered of a near miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from porter.graph import HOME_OPSET, Node, Value, attributes, constant, schema, shape, source_name
from porter.rewrite.terms import REST, Apply, Const, Either, Param, Rest, Shared, Term, Traced, Var, orders, rounds_to

#: operators whose integer second input lists axes, counted from either end
_AXES_INPUT = frozenset("Squeeze Unsqueeze".split())


@dataclass(frozen=True)
class Binding:
    """What a pattern's names stand for in one place of a graph."""

    values: Mapping[str, Value | None] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[object, Node] = field(default_factory=dict)
    exact: Mapping[Value, Any] = field(default_factory=dict)  # rounded constants, and what they are without rounding
    shared: frozenset[Node] = frozenset()

    def with_value(self, name: str, value: Value | None) -> Binding:
        return replace(self, values={**self.values, name: value})

    def with_param(self, name: str, value: Any) -> Binding:
        return replace(self, params={**self.params, name: value})

    def with_call(self, call: object, node: Node) -> Binding:
        return replace(self, calls={**self.calls, call: node})

    def with_exact(self, value: Value, wanted: Any) -> Binding:
        return replace(self, exact={**self.exact, value: wanted})

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(dict.fromkeys(self.calls.values()))


@dataclass(frozen=True)
class Miss:
    """How far a pattern came: the nodes that fitted, how many it has, and what was missing next."""

    nodes: tuple[Node, ...]
    wanted: int
    reason: str


class Matcher:
    """One pattern against one graph. `best` keeps the longest attempt that failed."""

    def __init__(self, pattern: Traced) -> None:
        self.pattern = pattern
        self.size = len(pattern.applies())
        self.best: Miss | None = None

    def at(self, node: Node) -> Iterator[Binding]:
        """Every way in which the pattern's first output is the node's first output."""
        root = self.pattern.outputs[0]
        for binding in self._term(root, node.outputs[0], Binding()):
            if len(self.pattern.outputs) == 1 or self._others(binding):
                yield binding

    def _others(self, binding: Binding) -> bool:
        """Whether the further outputs of the pattern are outputs of matched nodes."""
        return all(isinstance(t, Apply) and t.call in binding.calls for t in self.pattern.outputs[1:])

    def outputs(self, binding: Binding) -> tuple[Value, ...]:
        """The graph's values that are the pattern's outputs, the root's node first."""
        found = []
        for number, term in enumerate(self.pattern.outputs):
            if number == 0:
                found.append(_root_value(term, binding))
            else:
                assert isinstance(term, Apply)
                found.append(binding.calls[term.call].outputs[term.index])
        return tuple(found)

    def miss(self, binding: Binding, reason: str) -> None:
        """Remembers the attempt if it came as far as any before."""
        if self.best is None or len(binding.nodes) > len(self.best.nodes):
            self.best = Miss(binding.nodes, self.size, reason)

    def _term(self, term: Term | None, value: Value | None, binding: Binding) -> Iterator[Binding]:
        match term:
            case None:
                if value is None:
                    yield binding
                else:
                    self.miss(binding, f"input '{value.name}' is not part of the pattern")
            case Var(name, optional):
                if value is None and not optional:
                    self.miss(binding, f"{name} is absent")
                elif name not in binding.values:
                    yield binding.with_value(name, value)
                elif binding.values[name] is value:
                    yield binding
                else:
                    self.miss(binding, f"{_name(value)} is not {name}, which is {_name(binding.values[name])}")
            case Const(wanted):
                stored = _small_constant(value, np.asarray(wanted).size)
                if stored is None:
                    self.miss(binding, f"{_name(value)} is not the constant {_show(wanted)}")
                elif not rounds_to(wanted, stored) and not _same_axes(wanted, stored, value):
                    self.miss(binding, f"{_name(value)} is {_show(stored)}, not {_show(wanted)}")
                else:
                    assert value is not None
                    yield binding if _exactly(wanted, stored) else binding.with_exact(value, wanted)
            case Param(name):
                stored = constant(value)
                if stored is None:
                    self.miss(binding, f"{_name(value)} is not a constant, which {name} must be")
                elif name in binding.params and not np.array_equal(binding.params[name], stored):
                    self.miss(
                        binding, f"{name} is {_show(binding.params[name])} in one place and {_show(stored)} in another"
                    )
                else:
                    yield binding.with_param(name, stored)
            case Either(alternatives):
                for alternative in alternatives:
                    yield from self._term(alternative, value, binding)
            case Shared(inner):
                for bound in self._term(inner, value, binding):
                    producer = None if value is None else value.producer()
                    yield bound if producer is None else replace(bound, shared=bound.shared | {producer})
            case Apply():
                yield from self._apply(term, value, binding)

    def _apply(self, term: Apply, value: Value | None, binding: Binding) -> Iterator[Binding]:
        node = None if value is None else value.producer()
        if term.call in binding.calls:
            if node is binding.calls[term.call]:
                yield binding
            else:
                self.miss(binding, f"{_name(value)} is not the same {term.op_type} as before")
            return
        if node is None or value is None:
            self.miss(binding, f"{_name(value)} is not computed by {term.op_type}: it is {_kind(value)}")
            return
        if node.op_type != term.op_type or node.domain not in (
            term.domain,
            "ai.onnx" if not term.domain else term.domain,
        ):
            self.miss(binding, f"{_name(value)} comes from {node.op_type} '{source_name(node)}', not {term.op_type}")
            return
        if value.index() != term.index:
            self.miss(binding, f"{_name(value)} is output {value.index()} of '{source_name(node)}', not {term.index}")
            return
        bound = self._attributes(term, node, binding.with_call(term.call, node))
        if bound is None:
            return
        for operands in orders(term):
            yield from self._operands(operands, list(node.inputs), bound, node)

    def _operands(
        self, operands: tuple[Term | None, ...], inputs: list[Value | None], binding: Binding, node: Node
    ) -> Iterator[Binding]:
        while inputs and inputs[-1] is None and len(inputs) > len(operands):
            inputs = inputs[:-1]
        if len(inputs) > len(operands):
            self.miss(binding, f"'{source_name(node)}' has {len(inputs)} inputs, not {len(operands)}")
            return
        inputs = inputs + [None] * (len(operands) - len(inputs))

        def rest(position: int, bound: Binding) -> Iterator[Binding]:
            if position == len(operands):
                yield bound
                return
            for extended in self._term(operands[position], inputs[position], bound):
                yield from rest(position + 1, extended)

        yield from rest(0, binding)

    def _attributes(self, term: Apply, node: Node, binding: Binding) -> Binding | None:
        """The binding extended by the node's attributes, or None where one differs from the pattern's."""
        found = with_defaults(node)
        wanted = dict(term.attributes)
        rest: Rest | None = wanted.pop(REST, None)
        carried = attributes(node)
        for name, want in wanted.items():
            have: Any = found.get(name)
            if isinstance(want, Param):
                if want.name in binding.params and not np.array_equal(binding.params[want.name], have):
                    self.miss(
                        binding,
                        f"{name} of '{source_name(node)}' is {_show(have)}, not {_show(binding.params[want.name])}",
                    )
                    return None
                binding = binding.with_param(want.name, have)
            elif not _equal_attribute(name, want, have, node):
                self.miss(binding, f"{name} of '{source_name(node)}' is {_show(have)}, not {_show(want)}")
                return None
        unnamed = {name: have for name, have in carried.items() if name not in wanted}
        if rest is not None:
            return binding.with_param(rest.name, unnamed)
        defaults = _defaults(node.domain, node.op_type)
        for name, have in unnamed.items():
            if name not in _SILENT and not (name in defaults and _equal_attribute(name, defaults[name], have, node)):
                self.miss(
                    binding, f"{name} of '{source_name(node)}' is {_show(have)}, which the pattern does not expect"
                )
                return None
        return binding


#: attributes that change no value, or say what the shapes say already
_SILENT = frozenset("stash_type storage_order noop_with_empty_axes allowzero kernel_shape".split())


def with_defaults(node: Node) -> dict[str, Any]:
    """The node's attributes, and the defaults that the standard gives to those it leaves out."""
    return {**_defaults(node.domain, node.op_type), **attributes(node)}


def _defaults(domain: str, op_type: str) -> dict[str, Any]:
    domain = "" if domain == "ai.onnx" else domain
    definition = schema(op_type, HOME_OPSET, domain)
    found: dict[str, Any] = {}
    for name, attribute in definition.attributes.items() if definition is not None else ():
        default = attribute.default_value
        if default.type:
            value = default.s.decode() if default.type == 3 else {1: default.f, 2: default.i}.get(default.type)
            found[name] = value if value is not None else tuple(default.ints or default.floats)
    return found


def _equal_attribute(name: str, want: Any, have: Any, node: Node) -> bool:
    if isinstance(want, float) and isinstance(have, float):
        return bool(np.float32(want) == np.float32(have))
    if isinstance(want, (list, tuple)) or isinstance(have, (list, tuple)):
        return have is not None and list(want) == list(have)
    if name == "axis" and isinstance(want, int) and isinstance(have, int) and want != have:
        rank = _rank(node.inputs[0])
        return rank is not None and want % rank == have % rank
    return bool(want == have)


def _same_axes(wanted: Any, stored: np.ndarray, value: Value | None) -> bool:
    """Whether a list of axes is the wanted one, counted from the other end."""
    if value is None or not np.issubdtype(stored.dtype, np.integer) or np.asarray(wanted).shape != stored.shape:
        return False
    for user, position in value.uses():
        if position == 1 and (user.op_type.startswith("Reduce") or user.op_type in _AXES_INPUT):
            rank = _rank(user.outputs[0] if user.op_type == "Unsqueeze" else user.inputs[0])
            return rank is not None and bool(np.array_equal(np.asarray(wanted) % rank, stored % rank))
    return False


def _exactly(wanted: Any, stored: np.ndarray) -> bool:
    """Whether a matching constant is stored without rounding."""
    return stored.dtype.kind in "biu" or bool(np.all(stored.astype(np.float64) == np.asarray(wanted, np.float64)))


def _rank(value: Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _small_constant(value: Value | None, size: int) -> np.ndarray | None:
    """The array of a constant of one element or of `size`; larger ones are not read, but for equal elements of a
    known few.
    """
    if value is None:
        return None
    dims = shape(value)
    if dims is not None and int(np.prod(dims, dtype=np.int64)) > max(size, 64):
        return None
    return constant(value)


@cache
def root_operators(term: Term | None) -> frozenset[str]:
    """The operators that a value must come from to be this term."""
    match term:
        case Apply():
            return frozenset([term.op_type])
        case Either(alternatives):
            return frozenset(kind for alternative in alternatives for kind in root_operators(alternative))
        case Shared(inner):
            return root_operators(inner)
    return frozenset()


def _root_value(term: Term | None, binding: Binding) -> Value:
    match term:
        case Apply() if term.call in binding.calls:
            return binding.calls[term.call].outputs[term.index]
        case Either(alternatives):
            for alternative in alternatives:
                if isinstance(alternative, (Apply, Either)):
                    try:
                        return _root_value(alternative, binding)
                    except LookupError:
                        continue
    raise LookupError("the pattern's output is not matched")


def _name(value: Value | None) -> str:
    return "an absent input" if value is None else f"'{value.name}'"


def _kind(value: Value | None) -> str:
    if value is None:
        return "absent"
    return "a constant" if value.is_initializer() else "an input of the graph"


def _show(value: Any) -> str:
    array = np.asarray(value) if not isinstance(value, (str, dict)) else None
    if array is None or array.size > 8:
        return repr(value) if array is None else f"a tensor of {array.size} elements"
    if array.dtype.kind == "f" and array.ndim == 0:
        return f"{float(array):.9g}"
    return str(array.tolist())
