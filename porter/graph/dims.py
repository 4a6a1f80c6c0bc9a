"""The free dims of a model's inputs: which there are, what follows from what, and binding them to numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import onnx_ir as ir

from porter.errors import PorterError
from porter.graph import shape_rules as _rules  # noqa: F401  (its rules are entered by being imported)
from porter.graph.repair import note
from porter.graph.sizes import Size, parse
from porter.graph.symbolic import Dims, Equation, follow


@dataclass(frozen=True)
class Dim:
    """A free dim: the name to bind it by, and the places it stands in, as `input[axis]`.

    `follows` is the size it takes when it is not given, in terms of dims before it; None where it must be given.
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
    return _Inputs(sizes, names, follow(model, start) if names else [])


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
    """The names' values that the user gave, a place standing for the name in it."""
    values: dict[str, Size] = {}
    places = inputs.names
    known = {*places, *places.values()}
    for key, number in given.items():
        if key in inputs.sizes and key not in places:
            if inputs.sizes[key].number != number:
                raise PorterError(
                    f"dim '{key}'", expected=f"{inputs.sizes[key]}, which the model fixes", found=str(number)
                )
            continue
        if key not in known and key not in {name for size in inputs.sizes.values() for name in size.names}:
            near = get_close_matches(key, known, 3)
            listed = ", ".join(f"'{name}'" for name in dict.fromkeys(inputs.names.values())) or "none: all are fixed"
            outputs = {str(dim) for value in model.graph.outputs for dim in value.shape or ()}
            found = "a dim of the outputs, which is inferred" if key in outputs else f"'{key}'"
            raise PorterError(
                f"dim '{key}'", expected=f"a free dim of the inputs ({listed})", found=found,
                hint=" or ".join(f"--dim '{name}={number}'" for name in near) or None,
            )  # fmt: skip
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise PorterError(f"dim '{key}'", expected="a number of 1 or more", found=str(number))
        size = inputs.sizes[key] if key in places else Size.of(key)
        if key in places.values() and key not in places:
            size = inputs.sizes[next(place for place, name in places.items() if name == key)]
        equation = Equation(size, Size.of(number), False, "--dim")
        inputs.equations.insert(0, equation)
        if size.names == {next(iter(size.names), "")} and size == Size.of(next(iter(size.names))):
            name = next(iter(size.names))
            if values.get(name, Size.of(number)).number != number:
                raise PorterError(
                    f"dim '{name}'", expected="one number", found=f"both {values[name]} and {number} given"
                )
            values[name] = Size.of(number)
    return values


def _solve(equations: list[Equation], values: dict[str, Size], notes: list[str]) -> None:
    """Finds what follows from the given values; a broadcast decides only what nothing else does."""
    progress = True
    while progress:
        progress = False
        for broadcast in (False, True):
            for equation in equations:
                if equation.broadcast != broadcast:
                    continue
                reduced = equation.at(values)
                solved = _single(reduced)
                if solved is not None:
                    name, size = solved
                    if size is None or size < 1:
                        raise _contradiction(equation, values)
                    values[name] = Size.of(size)
                    notes.append(_found(name, size, equation))
                    progress = True
                    break
                if (reduced.left - reduced.right).number not in (None, 0) and not (
                    broadcast and 1 in (reduced.left.number, reduced.right.number)
                ):
                    raise _contradiction(equation, values)
            if progress:
                break


def _single(equation: Equation) -> tuple[str, int | None] | None:
    """The name that an equation decides and its value, None where that is no whole number; None if it decides none."""
    difference = equation.left - equation.right
    if len(difference.names) != 1:
        return None
    name = next(iter(difference.names))
    terms = dict(difference.terms)
    if set(terms) - {(), (name,)}:
        return None
    constant, factor = terms.get((), 0), terms[(name,)]
    if equation.broadcast and factor not in (1, -1):
        return None
    return name, -constant // factor if constant % factor == 0 else None


def _found(name: str, size: int, equation: Equation) -> str:
    where = "--dim" if equation.node == "--dim" else f"node {equation.node}"
    return f"dim '{name}' is {size}, as {where} needs {equation.left} = {equation.right}"


def _contradiction(equation: Equation, values: dict[str, Size]) -> PorterError:
    left, right = equation.left.at(values), equation.right.at(values)
    return PorterError(
        f"node {equation.node}" if equation.node != "--dim" else f"dim '{equation.left}'",
        expected=f"{equation.left} = {equation.right}" + (", or one of them 1" if equation.broadcast else ""),
        found=f"{left} and {right}",
        hint="other numbers with --dim",
    )


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
    """Names that follow from names before them in `order`: exact equations first, then what broadcasts suggest."""
    rank = {name: index for index, name in enumerate(order)}
    found: dict[str, Size] = {}
    for broadcast in (False, True):
        for equation in equations:
            if equation.broadcast != broadcast:
                continue
            difference = (equation.left - equation.right).at(found)
            if not difference.names or not difference.names <= set(rank):
                continue
            pivot = max(difference.names, key=rank.__getitem__)
            terms = dict(difference.terms)
            if terms.get((pivot,)) not in (1, -1) or sum(pivot in monomial for monomial in terms) != 1:
                continue
            sign = terms[pivot,]
            rest = Size(tuple(term for term in difference.terms if term[0] != (pivot,)))
            size = -rest if sign == 1 else rest
            found = {name: other.at({pivot: size}) for name, other in found.items()}
            found[pivot] = size
    return found
