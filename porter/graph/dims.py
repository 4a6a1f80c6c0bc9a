"""The free dims of a model's inputs: which there are, what follows from what, and binding them to numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import onnx_ir as ir

from porter.errors import PorterError
from porter.graph import body_rules, part_rules, shape_rules  # noqa: F401  they enter their rules by being imported
from porter.graph.repair import note
from porter.graph.sizes import Size, parse
from porter.graph.symbolic import Dims, Equation, Kind, Shapes, asked, carry


@dataclass(frozen=True)
class Dim:
    """A free dim: the name to bind it by, and the places it stands in, as `input[axis]`.

    `follows` is the size it takes when it is not given, in terms of other dims; None where it must be given.
    """

    name: str
    places: tuple[str, ...]
    follows: str | None = None


@dataclass
class _Inputs:
    """The sizes of the inputs' dims, by place, and the name that stands in each free place."""

    sizes: dict[str, Size]
    names: dict[str, str]
    equations: list[Equation]
    shapes: Shapes


def dims(model: ir.Model) -> tuple[Dim, ...]:
    """The free dims of the model's inputs, in the order in which they first stand there.

    Dims of outputs are never asked for: they are inferred.
    """
    inputs = _read(model)
    order = list(dict.fromkeys(name for place in inputs.names for name in sorted(inputs.sizes[place].names)))
    follows = _eliminate(inputs.equations, order)
    found: dict[str, list[str]] = {}
    for place, name in inputs.names.items():
        found.setdefault(name, []).append(place)
    result = []
    for name, places in found.items():
        size = inputs.sizes[places[0]]
        reduced = size.at(follows)
        own = size == Size.of(name)
        free = reduced == size and own
        result.append(Dim(name, tuple(places), None if free else str(reduced)))
    return tuple(result)


def shapes(model: ir.Model) -> dict[str, tuple[int | str | None, ...]]:
    """The shape of every value of the graph that is known, in terms of the dims that have to be given.

    A dim of an output that the rules do not follow has the name that the model declares; None where it has none.
    """
    inputs = _read(model)
    follows = _eliminate(inputs.equations, list(dict.fromkeys(inputs.names.values())))

    def plain(size: Size | None) -> int | str | None:
        if size is None:
            return None
        reduced = size.at(follows)
        return str(reduced) if reduced.number is None else reduced.number

    found: dict[str, tuple[int | str | None, ...]] = {}
    for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
        sizes = inputs.shapes.shape(value)
        declared = None if value.shape is None or not value.is_graph_output() else value.shape.dims
        if sizes is None and declared is not None:
            sizes = (None,) * len(declared)
        if sizes is not None and value.name:
            known = [plain(size) for size in sizes]
            if declared is not None and len(declared) == len(known):
                given = [
                    plain(Size.of(d) if isinstance(d, int) else parse(d.value) if d.value else None) for d in declared
                ]
                known = [second if first is None else first for first, second in zip(known, given, strict=True)]
            found[value.name] = tuple(known)
    return found


def bind(model: ir.Model, given: Mapping[str, int]) -> None:
    """Sets the free dims of the inputs to the given numbers, and those that follow from them.

    What was found and not given is noted in the model. Raises PorterError for a name that is no free dim, a number
    that cannot be, a contradiction (with the node that sees it), and a dim that is left open.
    """
    inputs = _read(model, given)
    values = _given(model, inputs, given)
    found: list[str] = []
    _solve(inputs.equations, values, found)
    missing = [place for place in inputs.names if inputs.sizes[place].at(values).number is None]
    if missing:
        _ask(inputs, missing)
    for value in model.graph.inputs:
        if isinstance(value.type, ir.TensorType) and value.shape is not None:
            places = (f"{value.name}[{axis}]" for axis in range(len(value.shape.dims)))
            value.shape = ir.Shape([inputs.sizes[place].at(values).number or 0 for place in places])
    note(model, found)


def _read(model: ir.Model, given: Mapping[str, int] | None = None) -> _Inputs:
    texts: dict[str, int | str] = {}
    for value in model.graph.inputs:
        if not isinstance(value.type, ir.TensorType):
            continue
        if value.shape is None:
            value.shape = _rank_from(value, given)
            if value.shape is None:
                continue
        for axis, dim in enumerate(value.shape.dims):
            place = f"{value.name}[{axis}]"
            texts[place] = dim if isinstance(dim, int) else dim.value or place
    plain = {text for text in texts.values() if isinstance(text, str)}
    sizes: dict[str, Size] = {}
    for place, text in texts.items():
        size = Size.of(text) if isinstance(text, int) else parse(text)
        # a sum of names that stand nowhere else is better asked for as a whole
        sizes[place] = size if isinstance(text, int) or size.names <= plain else Size.of(text)
    names = {place: text for place, text in texts.items() if isinstance(text, str)}
    start: dict[ir.Value, Dims] = {
        value: tuple(sizes[f"{value.name}[{axis}]"] for axis in range(len(value.shape.dims)))
        for value in model.graph.inputs
        if isinstance(value.type, ir.TensorType) and value.shape is not None
    }
    numbers = {names.get(key, key): Size.of(number) for key, number in (given or {}).items()}
    shapes = carry(model, start, numbers)
    assumed = carry(model, start, numbers, assume=True) if names and shapes.undecided else None
    return _Inputs(sizes, names, asked(shapes, assumed) if names else [], shapes)


def _rank_from(value: ir.Value, given: Mapping[str, int] | None) -> ir.Shape | None:
    """The shape of an input that declares none, from the places that are given for it."""
    if given is None:
        return None
    count = 0
    while f"{value.name}[{count}]" in given:
        count += 1
    if not count:
        raise PorterError(
            f"input '{value.name}'",
            expected="a shape, or at least a rank",
            found="none",
            hint=f"--dim '{value.name}[0]=N' --dim '{value.name}[1]=N' ... for every axis",
        )
    return ir.Shape([None] * count)


def _given(model: ir.Model, inputs: _Inputs, given: Mapping[str, int]) -> dict[str, Size]:
    """The names' values that the user gave, a place standing for the size in it; sums become equations."""
    values: dict[str, Size] = {}
    known = {*inputs.names, *inputs.names.values()}
    place_of = {name: place for place, name in reversed(inputs.names.items())}
    for key, number in given.items():
        if key in inputs.sizes and key not in inputs.names:
            if inputs.sizes[key].number != number:
                fixed = f"{inputs.sizes[key]}, which the model fixes"
                raise PorterError(f"dim '{key}'", expected=fixed, found=str(number))
            continue
        if key not in known:
            raise _unknown(model, inputs, key, number)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise PorterError(f"dim '{key}'", expected="a number of 1 or more", found=str(number))
        size = inputs.sizes[key if key in inputs.names else place_of[key]]
        name = next(iter(size.names))
        if size != Size.of(name):
            inputs.equations.insert(0, Equation(size, Size.of(number), Kind.EQUAL, "--dim"))
        elif values.setdefault(name, Size.of(number)).number != number:
            both = f"both {values[name]} and {number} given"
            raise PorterError(f"dim '{name}'", expected="one number", found=both)
    return values


def _unknown(model: ir.Model, inputs: _Inputs, key: str, number: int) -> PorterError:
    listed = ", ".join(f"'{name}'" for name in dict.fromkeys(inputs.names.values())) or "none: all are fixed"
    outputs = {str(dim) for value in model.graph.outputs for dim in value.shape or ()}
    near = get_close_matches(key, {*inputs.names, *inputs.names.values()}, 3)
    return PorterError(
        f"dim '{key}'",
        expected=f"a free dim of the inputs ({listed})",
        found="a dim of the outputs, which is inferred" if key in outputs else f"'{key}'",
        hint=" or ".join(f"--dim '{name}={number}'" for name in near) or None,
    )


def _solve(equations: list[Equation], values: dict[str, Size], notes: list[str]) -> None:
    """Finds what follows from the given values; what a node only suggests decides what nothing else does."""
    found: tuple[str, int] | None = ("", 0)
    while found is not None:
        found = None
        for guess in Kind:
            for equation in equations:
                found = _follows(equation, values, guess)
                if found is not None:
                    name, size = found
                    values[name] = Size.of(size)
                    if not name.startswith("max("):
                        notes.append(_found(name, size, equation))
                    break
            if found is not None:
                break


def _follows(equation: Equation, values: dict[str, Size], guess: Kind) -> tuple[str, int] | None:
    """A name that an equation decides, and its value; None where it decides none. Raises where it cannot hold.

    A broadcast of two known sizes decides its result; of an unknown one it can only be guessed that it is not 1.
    """
    reduced = equation.at(values)
    left, right = reduced.left, reduced.right
    if equation.kind is Kind.EQUAL:
        return _single(equation, left, right, values)
    if equation.kind is Kind.REACH:
        return _reached(equation, left, right, values, guess)
    if equation.kind is Kind.BRANCH:
        if guess < Kind.BRANCH or (left.number is not None and right.number is not None):
            return None
        try:
            return _single(equation, left, right, values)
        except PorterError:  # what a body that may not run would need cannot be
            return None
    result = values.get(equation.result or "")
    if left.number is not None and right.number is not None:
        larger = max(left.number, right.number)
        fits = left == right or 1 in (left.number, right.number)
        if not fits or (result is not None and result.number != larger):
            raise _contradiction(equation, values)
        return (equation.result, larger) if equation.result is not None and result is None else None
    known = next((size for size in (result, left, right) if size is not None and size.number is not None), None)
    if guess < equation.kind or known is None:
        return None
    unknown = left if left.number is None else right
    return _single(equation, unknown, known, values)


def _reached(
    equation: Equation, left: Size, right: Size, values: dict[str, Size], guess: Kind
) -> tuple[str, int] | None:
    """Where nothing else decides a dim that is only read by index, it is as long as the indices reach; a constant index says
    no more than that it is there (the last token, the first).
    """
    if left.number is not None and right.number is not None:
        if left.number < right.number:
            raise _contradiction(equation, values)
        return None
    return _single(equation, left, right, values) if guess is Kind.REACH and not _constant(equation) else None


def _constant(equation: Equation) -> bool:
    return equation.kind is Kind.REACH and equation.right.number is not None


def _single(equation: Equation, left: Size, right: Size, values: dict[str, Size]) -> tuple[str, int] | None:
    """The only name in left = right and its value; None where there are several, or it stands in a product."""
    terms = dict((left - right).terms)
    names = (left - right).names
    if not names:
        if terms:
            raise _contradiction(equation, values)
        return None
    name = next(iter(names))
    if len(names) > 1 or set(terms) - {(), (name,)}:
        return None
    constant, factor = terms.get((), 0), terms[(name,)]
    if constant % factor or -constant // factor < 1:
        raise _contradiction(equation, values)
    return name, -constant // factor


def _found(name: str, size: int, equation: Equation) -> str:
    where = "--dim" if equation.node == "--dim" else f"node {equation.node}"
    relation = "to reach" if equation.kind is Kind.REACH else "="
    return f"dim '{name}' is {size}, as {where} needs {equation.left} {relation} {equation.right}"


def _contradiction(equation: Equation, values: dict[str, Size]) -> PorterError:
    left, right = equation.left.at(values), equation.right.at(values)
    return PorterError(
        f"node {equation.node}" if equation.node != "--dim" else f"dim '{equation.left}'",
        expected=_RELATIONS[equation.kind].format(equation.left, equation.right),
        found=f"{left} and {right}",
        hint="other numbers with --dim",
    )


_RELATIONS = {
    Kind.EQUAL: "{} = {}",
    Kind.BROADCAST: "{} = {}, or one of them 1",
    Kind.REACH: "{} of at least {}",
    Kind.BRANCH: "{} = {}",
}


def _ask(inputs: _Inputs, missing: list[str]) -> None:
    """Raises for dims that are left open, with the flags that would close them."""
    order = list(dict.fromkeys(inputs.names[place] for place in missing))
    first = {name: next(place for place in missing if inputs.names[place] == name) for name in order}
    follows = _eliminate(inputs.equations, order)
    needed = [name for name in order if name not in follows] or order
    listed = ", ".join(name if name == first[name] else f"'{name}' ({first[name]})" for name in needed)
    flags = " ".join(f"--dim {_quoted(name)}" for name in needed)
    raise PorterError(
        "the inputs",
        expected="a number for every free dim",
        found=f"none for {listed}",
        hint=flags,
    )


def _quoted(name: str) -> str:
    return f"{name}=N" if name.replace("_", "a").replace(".", "a").isalnum() else f"'{name}=N'"


def _eliminate(equations: list[Equation], order: list[str]) -> dict[str, Size]:
    """Names that follow from others, the later in `order` from the earlier unless a sum follows from its parts.

    Exact equations come first, then what nodes suggest.
    """
    rank = {name: index for index, name in enumerate(order)}
    found: dict[str, Size] = {}

    def settle(name: str, size: Size) -> None:
        for other in found:
            found[other] = found[other].at({name: size})
        found[name] = size

    def eliminate(left: Size, right: Size) -> None:
        difference = (left - right).at(found)
        terms = dict(difference.terms)
        if not difference.names or not difference.names <= set(rank):
            return
        rests: dict[str, Size] = {}
        for name in sorted(difference.names, key=rank.__getitem__, reverse=True):
            if terms.get((name,)) in (1, -1) and sum(name in monomial for monomial in terms) == 1:
                rest = Size(tuple(term for term in difference.terms if term[0] != (name,)))
                rests[name] = -rest if terms[name,] == 1 else rest
        sums = [name for name, rest in rests.items() if all(factor > 0 for _, factor in rest.terms)]
        pivot = next(iter([*sums, *rests]), None)
        if pivot is not None:
            settle(pivot, rests[pivot])

    def exact() -> None:
        for equation in equations:
            if equation.kind is Kind.EQUAL:
                eliminate(equation.left, equation.right)

    exact()
    for equation in sorted(equations, key=lambda equation: equation.kind):
        if equation.kind is not Kind.EQUAL and not _constant(equation):
            eliminate(equation.left, equation.right)
            if equation.result is not None:
                settle(equation.result, equation.left.at(found))
                exact()
    return found
