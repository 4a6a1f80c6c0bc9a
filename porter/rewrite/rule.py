"""`@fusion` and `@rewrite`: how a pass author says what to look for and what to put there.

    @fusion
    def SwiGLU(op, x, w_gate, w_up):
        \"\"\"silu(x @ w_gate) * (x @ w_up), the gated half of a feed-forward layer.\"\"\"
        gate = x @ w_gate
        return gate * op.Sigmoid(gate) * (x @ w_up)

    @SwiGLU.also
    def with_swish(op, x, w_gate, w_up):
        return op.Swish(x @ w_gate) * (x @ w_up)

    @SwiGLU.when
    def floating(m):
        return m.dtype("x").is_float or m.refuse("x is not floating")

The body of a fusion is what the fused operator means and what the matcher looks for. Where ONNX has an operator of
that name the replacement is that operator, its attributes the keyword-only parameters; else it is a model-local
function of domain `porter` with the body inside. A `@rewrite` draws its other side with `.to`, and so may a fusion
whose attributes need computing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx.defs import OpSchema

from porter.errors import PorterError
from porter.graph import HOME_OPSET, Node, Value, constant, dtype, schema, shape, source_name
from porter.rewrite.match import Binding, Matcher, Miss, root_operators
from porter.rewrite.terms import Apply, Operators, Term, Traced, Var, lift, trace

Body = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """An element type, as conditions ask for it."""

    dtype: np.dtype | None

    @property
    def is_float(self) -> bool:
        """Any floating type, the narrow ones of ml_dtypes included; False where it is unknown."""
        return self.dtype is not None and (self.dtype.kind == "f" or self.dtype.name.startswith(("bfloat", "float")))

    @property
    def is_integer(self) -> bool:
        return self.dtype is not None and self.dtype.kind in "iu"

    @property
    def name(self) -> str:
        return "unknown" if self.dtype is None else self.dtype.name


class Match:
    """One place where a pattern fits; conditions and computed replacements ask it what the names stand for."""

    def __init__(
        self, rule: Rule, pattern: Traced, binding: Binding, outputs: tuple[Value, ...], fixed: dict[str, Any]
    ) -> None:
        self.rule = rule
        self.pattern = pattern
        self.binding = binding
        self.outputs = outputs
        self.params: dict[str, Any] = {**binding.params, **fixed}
        self.reason: str | None = None
        self.terms: tuple[Term, ...] = ()

    @property
    def node(self) -> Node:
        """The node of the first output."""
        node = self.outputs[0].producer()
        assert node is not None
        return node

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The matched nodes in the order of their graph."""
        graph = self.node.graph
        assert graph is not None
        chosen = set(self.binding.nodes)
        if len(chosen) == 1:
            return tuple(chosen)
        return tuple(node for node in graph if node in chosen)

    def __getitem__(self, name: str) -> Any:
        """The number that a parameter stands for: a plain value from an attribute, an array from a constant."""
        return self.params[name]

    def __contains__(self, name: str) -> bool:
        return name in self.params or self.binding.values.get(name) is not None

    def set(self, **params: Any) -> bool:
        """Gives parameters that the replacement uses; True, so that a condition can return it."""
        self.params.update(params)
        return True

    def value(self, name: str) -> Value | None:
        """The graph's value of that name in the pattern; None where an optional one is absent."""
        return self.binding.values.get(name)

    def dtype(self, name: str) -> Kind:
        value = self.value(name)
        return Kind(None if value is None else dtype(value))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The static shape, or None."""
        value = self.value(name)
        return None if value is None else shape(value)

    def rank(self, name: str) -> int | None:
        value = self.value(name)
        return None if value is None or value.shape is None else len(value.shape)

    def constant(self, name: str) -> np.ndarray | None:
        """The array, where the value is an initializer or a Constant."""
        return constant(self.value(name))

    def scalar(self, name: str) -> float:
        """A parameter of one element, as a float."""
        return float(np.asarray(self.params[name]).reshape(-1)[0])

    def refuse(self, reason: str) -> bool:
        """Says why the place is left alone; False, so that a condition can return it."""
        self.reason = reason
        return False


@dataclass(frozen=True)
class Spelling:
    """One body to look for, and the attributes that it fixes."""

    name: str
    pattern: Traced
    fixed: dict[str, Any]


@dataclass(eq=False)
class Rule:
    """What to look for (in one or more spellings), when, and what to put there."""

    name: str
    body: Body
    fused: bool
    fixed: dict[str, Any] = field(default_factory=dict)
    spellings: list[Spelling] = field(default_factory=list)
    conditions: list[Callable[[Match], Any]] = field(default_factory=list)
    target: Body | None = None

    def __post_init__(self) -> None:
        self.spellings.append(Spelling(self.name, trace(self.body), dict(self.fixed)))

    def roots(self) -> frozenset[str]:
        """The operators that a match can end in."""
        return frozenset(kind for spelling in self.spellings for kind in root_operators(spelling.pattern.outputs[0]))

    @property
    def formula(self) -> str:
        """The docstring: what the operator means, or what the rewrite is good for."""
        return inspect.getdoc(self.body) or ""

    @property
    def module(self) -> str:
        return self.body.__module__

    def also(self, body: Body | None = None, **fixed: Any) -> Any:
        """Another spelling of the same thing; `fixed` are attributes of the replacement that this spelling implies."""
        if body is None:
            return lambda other: self.also(other, **fixed)
        self.spellings.append(Spelling(body.__name__, trace(body), {**self.fixed, **fixed}))
        return body

    def when(self, condition: Callable[[Match], Any]) -> Callable[[Match], Any]:
        """A condition: returns a true value, or `m.refuse(reason)`."""
        self.conditions.append(condition)
        return condition

    def to(self, body: Body) -> Body:
        """The other side: takes the pattern's names (those it lists, and the match as `m` if it lists that), returns
        terms.
        """
        self.target = body
        return body

    def match(self, node: Node) -> Match | Miss | None:
        """The rule applied at a node: a match, how near it came, or None where not even the operator fits."""
        nearest: Miss | None = None
        for spelling in self.spellings:
            if node.op_type not in root_operators(spelling.pattern.outputs[0]):
                continue
            matcher = Matcher(spelling.pattern)
            for binding in matcher.at(node):
                found = Match(self, spelling.pattern, binding, matcher.outputs(binding), dict(spelling.fixed))
                if self._holds(found):
                    return found
                nearest = _nearer(
                    nearest, Miss(binding.nodes, matcher.size, found.reason or "a condition does not hold")
                )
            nearest = _nearer(nearest, matcher.best)
        return nearest

    def _holds(self, m: Match) -> bool:
        reason = _used_elsewhere(m)
        if reason is not None:
            return m.refuse(reason)
        for condition in self.conditions:
            if not condition(m):
                m.reason = m.reason or f"{condition.__name__.replace('_', ' ')} does not hold"
                return False
        m.terms = self._replacement(m)
        return bool(m.terms)

    @property
    def is_onnx(self) -> bool:
        """Whether ONNX has an operator of this name."""
        return self.fused and schema(self.name, HOME_OPSET) is not None

    def _replacement(self, m: Match) -> tuple[Term, ...]:
        """The other side for one match, as terms over its names; empty where it refused (`m.reason` says why)."""
        if self.target is not None:
            result = self.target(Operators(), **_arguments(self.target, m))
            if result is None or result is False:
                m.reason = m.reason or "the replacement cannot be computed"
                return ()
            return tuple(lift(term) for term in (result if isinstance(result, tuple) else (result,)))  # type: ignore[misc]
        if not self.fused:
            hint = f"@{self.name}.to, on a function that draws it"
            raise PorterError(f"rewrite {self.name} of {self.module}", expected="what to put there", hint=hint)
        main = self.spellings[0].pattern.signature
        values = tuple(Var(var.name) if m.value(var.name) is not None else None for var in main.values)
        while values and values[-1] is None:
            values = values[:-1]
        if self.is_onnx:
            return (Apply(self.name, values, _onnx_attributes(self.name, m.params)),)
        params = {param.name: m.params[param.name] for param in main.params}
        if main.rest is not None:
            params.update(m.params[main.rest.name])
        return tuple(_call(self.name, values, params, len(self.spellings[0].pattern.outputs)))


def fusion(body: Body | None = None, /, **fixed: Any) -> Any:
    """Declares a fused operator by what it means. `fixed` are attributes of the ONNX operator that the body implies."""
    if body is None:
        return lambda other: Rule(other.__name__, other, True, fixed)
    return Rule(body.__name__, body, True, fixed)


def rewrite(body: Body) -> Rule:
    """Declares what to look for; `.to` declares what to put there."""
    return Rule(body.__name__, body, False)


def _nearer(a: Miss | None, b: Miss | None) -> Miss | None:
    if a is None or b is None:
        return a or b
    return b if len(b.nodes) > len(a.nodes) else a


def _used_elsewhere(m: Match) -> str | None:
    nodes = set(m.binding.nodes)
    for node in m.binding.nodes:
        if node in m.binding.shared:
            continue
        for value in node.outputs:
            if value in m.outputs:
                continue
            if value.is_graph_output():
                return f"'{value.name}' in the middle is an output of the graph"
            for user, _ in value.uses():
                if user not in nodes:
                    return f"'{value.name}' in the middle is also used by {user.op_type} '{source_name(user)}'"
    return None


def _arguments(body: Body, m: Match) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name in list(inspect.signature(body).parameters)[1:]:
        if name == "m":
            given[name] = m
        elif name in m.params:
            given[name] = m.params[name]
        else:
            given[name] = Var(name) if m.value(name) is not None else None
    return given


def _onnx_attributes(op_type: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are attributes of the operator, as the types that its schema asks for."""
    found: dict[str, Any] = {}
    definition = schema(op_type, HOME_OPSET)
    assert definition is not None
    for name, attribute in definition.attributes.items():
        if name not in params or params[name] is None:
            continue
        value = params[name]
        match attribute.type:
            case OpSchema.AttrType.FLOAT:
                found[name] = float(np.asarray(value).reshape(-1)[0])
            case OpSchema.AttrType.INT:
                found[name] = int(np.asarray(value).reshape(-1)[0])
            case OpSchema.AttrType.INTS:
                found[name] = tuple(int(i) for i in np.asarray(value).reshape(-1))
            case _:
                found[name] = value
    return found


def _call(name: str, values: tuple[Any, ...], params: dict[str, Any], outputs: int) -> tuple[Term, ...]:
    result = getattr(Operators("porter"), name)(*values, outputs=outputs, **params)
    return result if isinstance(result, tuple) else (result,)
