"""What a pattern is made of: read this to see how a Python body becomes a graph to look for, or to build.

A body such as ``lambda op, x: x * op.Sigmoid(x)`` runs once, on terms instead of arrays. Operators and
``op.Name(...)`` calls give `Apply` terms, Python numbers give `Const`, keyword-only parameters give `Param`. The same
terms are matched against a graph (`porter.rewrite.match`), built into one (`porter.rewrite.build`), and kept as the
body of a model-local function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: operators that mean the same with their two inputs exchanged
COMMUTATIVE = frozenset("Add Mul And Or Xor Equal Max Min Sum Mean BitwiseAnd BitwiseOr BitwiseXor".split())

#: the keyword under which ``**attrs`` of a body travels through an operator call
REST = "__rest__"


class Term:
    """One value of a pattern; Python's operators build ONNX's."""

    __array_ufunc__ = None  # an array on the left leaves the operator to the term

    def __add__(self, other: Any) -> Term:
        return Apply("Add", (self, lift(other)))

    def __radd__(self, other: Any) -> Term:
        return Apply("Add", (lift(other), self))

    def __sub__(self, other: Any) -> Term:
        return Apply("Sub", (self, lift(other)))

    def __rsub__(self, other: Any) -> Term:
        return Apply("Sub", (lift(other), self))

    def __mul__(self, other: Any) -> Term:
        return Apply("Mul", (self, lift(other)))

    def __rmul__(self, other: Any) -> Term:
        return Apply("Mul", (lift(other), self))

    def __truediv__(self, other: Any) -> Term:
        return Apply("Div", (self, lift(other)))

    def __rtruediv__(self, other: Any) -> Term:
        return Apply("Div", (lift(other), self))

    def __matmul__(self, other: Any) -> Term:
        return Apply("MatMul", (self, lift(other)))

    def __pow__(self, other: Any) -> Term:
        return Apply("Pow", (self, lift(other)))

    def __neg__(self) -> Term:
        return Apply("Neg", (self,))


@dataclass(frozen=True, eq=False)
class Var(Term):
    """Any value; an optional one (default None in the signature) also matches an input that is absent."""

    name: str
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Const(Term):
    """A constant of this value: stored in any dtype, as the value rounds to it; a scalar may be stored with dims of
    1.
    """

    value: Any


@dataclass(frozen=True, eq=False)
class Param(Term):
    """A number that the match finds: as an attribute, or as a constant input."""

    name: str


@dataclass(frozen=True, eq=False)
class Rest(Term):
    """All attributes of an operator that the pattern does not name (``**attrs`` of the body)."""

    name: str


@dataclass(frozen=True, eq=False)
class Apply(Term):
    """An operator on terms; `index` says which of its outputs this term is, `call` is shared by the outputs of one
    node.
    """

    op_type: str
    inputs: tuple[Term | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    index: int = 0
    outputs: int = 1
    call: object = field(default_factory=object)


@dataclass(frozen=True, eq=False)
class Either(Term):
    """Any of these spellings; the first is the one that is built."""

    alternatives: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class Shared(Term):
    """A part that others may use too: it stays for them, so only free things (views, small integers) should be
    shared.
    """

    term: Term


@dataclass(frozen=True, eq=False)
class Folded(Term):
    """What a term over constants comes to: computed in float64 and rounded once, to be stored. Checks of algebra see
    the term itself.
    """

    term: Term
    dtype: np.dtype


def lift(value: Any) -> Term | None:
    """The term of a Python value: terms and None stay, numbers and arrays become constants."""
    return value if value is None or isinstance(value, Term) else Const(value)


@dataclass(frozen=True)
class Operators:
    """The `op` of a body: ``op.Name(inputs, attribute=value, outputs=n)`` applies any ONNX operator."""

    domain: str = ""

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def call(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            one = Apply(op_type, tuple(lift(value) for value in inputs), attributes, self.domain, outputs=outputs)
            if outputs == 1:
                return one
            return tuple(
                Apply(op_type, one.inputs, attributes, self.domain, i, outputs, one.call) for i in range(outputs)
            )

        return call

    def either(self, *alternatives: Any) -> Term:
        """Any of these terms."""
        return Either(tuple(lift(term) for term in alternatives))  # type: ignore[misc]

    def shared(self, term: Term) -> Term:
        """A part that may also be used outside the pattern."""
        return Shared(term)

    def product(self, a: Any, b: Any, c: Any) -> Term:
        """a * b * c, however it is bracketed."""
        a, b, c = lift(a), lift(b), lift(c)
        return Either((a * b * c, a * (b * c), b * (a * c)))

    def folded(self, term: Term, dtype: Any) -> Term:
        """The value of a term over constants, as a stored constant of a type."""
        return Folded(term, np.dtype(dtype))

    def scaled(self, x: Term, factor: float) -> Term:
        """x times a known number, or divided by its reciprocal."""
        return Either((x * factor, x / (1.0 / factor)))

    def of(self, domain: str) -> Operators:
        """The operators of another domain."""
        return Operators(domain)


@dataclass(frozen=True)
class Signature:
    """The parameters of a body: positional ones are values, keyword-only ones numbers, ``**`` the rest of an
    operator's attributes.
    """

    values: tuple[Var, ...]
    params: tuple[Param, ...]
    rest: Rest | None

    @staticmethod
    def of(body: Callable[..., Any]) -> Signature:
        values, params, rest = [], [], None
        for parameter in list(inspect.signature(body).parameters.values())[1:]:
            match parameter.kind:
                case inspect.Parameter.KEYWORD_ONLY:
                    params.append(Param(parameter.name))
                case inspect.Parameter.VAR_KEYWORD:
                    rest = Rest(parameter.name)
                case _:
                    values.append(Var(parameter.name, parameter.default is None))
        return Signature(tuple(values), tuple(params), rest)


@dataclass(frozen=True)
class Traced:
    """A body as terms: what it takes, what it gives, and every operator in it in the order of evaluation."""

    signature: Signature
    outputs: tuple[Term, ...]

    def applies(self) -> tuple[Apply, ...]:
        """One `Apply` per operator call, operands first; of an `Either` the first spelling."""
        seen: dict[object, Apply] = {}

        def visit(term: Any) -> None:
            match term:
                case Either(alternatives):
                    visit(alternatives[0])
                case Shared(inner):
                    visit(inner)
                case Apply() if term.call not in seen:
                    for operand in term.inputs:
                        visit(operand)
                    seen.setdefault(term.call, term)

        for output in self.outputs:
            visit(output)
        return tuple(seen.values())


def trace(body: Callable[..., Any]) -> Traced:
    """Run a body on terms. Its first parameter is the `Operators`."""
    signature = Signature.of(body)
    keywords: dict[str, Any] = {param.name: param for param in signature.params}
    if signature.rest is not None:
        keywords[REST] = signature.rest
    result = body(Operators(), *signature.values, **keywords)
    outputs = result if isinstance(result, tuple) else (result,)
    return Traced(signature, tuple(lift(term) for term in outputs))  # type: ignore[misc]


def first(term: Term | None) -> Term | None:
    """The spelling of a term that is built: the first of every `Either`."""
    while isinstance(term, (Either, Shared)):
        term = term.alternatives[0] if isinstance(term, Either) else term.term
    return term


def orders(term: Apply) -> Iterator[tuple[Term | None, ...]]:
    """The orders of operands that mean the same."""
    yield term.inputs
    if term.op_type in COMMUTATIVE and not term.domain and len(term.inputs) == 2:
        yield term.inputs[::-1]


def rounds_to(value: Any, stored: np.ndarray) -> bool:
    """Whether `stored` is what `value` becomes in the stored dtype: sqrt(2) is 1.4142135 in float32 and 1.414 in
    float16.

    A scalar value tolerates a stored shape of ones, and a stored tensor of equal elements; a sequence asks for its
    own shape.
    """
    wanted = np.asarray(value)
    if wanted.ndim and wanted.shape != stored.shape:
        return False
    if not stored.size:
        return False
    if np.issubdtype(stored.dtype, np.integer) or stored.dtype == bool:
        return bool(np.all(stored == wanted))
    with np.errstate(all="ignore"):
        return bool(np.all(stored == wanted.astype(np.float64).astype(stored.dtype)))


def sequence(value: Any) -> Sequence[int]:
    """A bound parameter as a tuple of integers, one element or many."""
    return tuple(int(i) for i in np.asarray(value).reshape(-1))
