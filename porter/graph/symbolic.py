"""Which dims of a model's inputs depend on each other: shapes by name through the graph, and the equations that its
nodes ask for.

An operator without a rule gives unknown shapes, which ask for nothing: missing a rule can only mean that a dim has to
be given that could have been found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from porter.graph.sizes import Size, product
from porter.graph.values import called, constant_tensor, graphs, source_name

Dims = tuple[Size | None, ...]
"""A shape of known rank; None for a dim that is not known."""

SHORT = 64
"""Integer tensors up to this many elements are followed by value: they are shapes, axes and indices."""


class Kind(IntEnum):
    """How much a node wants of two sizes, from what decides to what only suggests."""

    EQUAL = 0
    BROADCAST = 1
    """Equal, or one of them 1."""
    REACH = 2
    """The left one at least as large as the right one: indices reach so far. More than that, nothing would read."""
    BRANCH = 3
    """Equal where a body runs of which it is not known whether it does: never a contradiction."""


@dataclass(frozen=True)
class Equation:
    """What a node wants of two sizes; `result` names the larger of a broadcast."""

    left: Size
    right: Size
    kind: Kind
    node: str
    result: str | None = None

    def at(self, values: dict[str, Size]) -> Equation:
        """The equation with some names replaced."""
        return replace(self, left=self.left.at(values), right=self.right.at(values))


@dataclass
class Shapes:
    """What is known of the values met so far."""

    shapes: dict[ir.Value, Dims | None] = field(default_factory=dict)
    numbers: dict[ir.Value, tuple[Size | None, ...]] = field(default_factory=dict)
    reaches: dict[ir.Value, tuple[Size | None, ...]] = field(default_factory=dict)
    """Integer tensors of known range: one more than the largest element, for all or for each index of the last axis."""
    equations: list[Equation] = field(default_factory=list)
    node: str = ""
    given: Mapping[str, Size] = field(default_factory=dict)
    """Numbers of names, for what only numbers decide: which branch runs, how many windows fit."""
    assume: bool = False
    """Whether an If that nothing decides takes its first branch, as in what exporters make of an optional squeeze."""
    undecided: bool = False
    """Whether there was such an If."""
    follow: Callable[[ir.Graph], None] = lambda graph: None
    """Enters the nodes of a body."""

    def shape(self, value: ir.Value | None) -> Dims | None:
        """The shape of a value as far as it is known."""
        if value is None:
            return None
        if value not in self.shapes:
            tensor = constant_tensor(value)
            self.shapes[value] = None if tensor is None else tuple(Size.of(d) for d in tensor.shape.numpy())
        return self.shapes[value]

    def data(self, value: ir.Value | None) -> tuple[Size | None, ...] | None:
        """The elements of a short integer tensor as far as they are known."""
        if value is None:
            return None
        if value not in self.numbers:
            tensor = constant_tensor(value)
            if tensor is None or tensor.size > SHORT:
                return None
            if not tensor.dtype.is_integer() and tensor.dtype != ir.DataType.BOOL:
                return None
            self.numbers[value] = tuple(Size.of(int(v)) for v in np.ravel(tensor.numpy()))
        return self.numbers[value]

    def ints(self, value: ir.Value | None) -> list[int] | None:
        """The elements of a constant integer tensor; None where one is not a number."""
        data = self.data(value)
        if data is None or any(size is None or size.number is None for size in data):
            return None
        return [size.number for size in data if size is not None and size.number is not None]

    def reach(self, value: ir.Value | None) -> tuple[Size | None, ...] | None:
        """One more than the largest element, for all elements or for each index of the last axis; None if not known."""
        if value is None:
            return None
        if value not in self.reaches:
            data = self.data(value)
            if data is None or len(data) != 1 or data[0] is None:
                return None
            last = data[0].number
            self.reaches[value] = (Size.of(-last) if last is not None and last < 0 else data[0] + Size.of(1),)
        return self.reaches[value]

    def truth(self, value: ir.Value | None) -> bool | None:
        """Whether a flag holds; None where that is not known."""
        data = self.data(value)
        if data is None or len(data) != 1 or data[0] is None:
            return None
        number = data[0].at(self.given).number
        return None if number is None else bool(number)

    def grid(self, value: ir.Value | None) -> np.ndarray | None:
        """The elements of a short integer tensor in its shape, as an array of sizes; None where either is not known."""
        data, dims = self.data(value), self.shape(value)
        if data is None or dims is None:
            return None
        lengths = (
            [len(data)]
            if len(dims) == 1
            else [-1 if size is None or size.number is None else size.number for size in dims]
        )
        cells = np.empty(len(data), object)
        cells[:] = data
        return cells.reshape(lengths) if min(lengths, default=0) >= 0 and math.prod(lengths) == len(data) else None

    def at_least(self, size: Size | None, reach: Size | None) -> None:
        """Indices go up to `reach` in a dim of this size."""
        if size is not None and size.number is None and reach is not None and size != reach:
            self.equations.append(Equation(size, reach, Kind.REACH, self.node))

    def equal(self, left: Size | None, right: Size | None) -> Size | None:
        """Both sizes are one: enters the equation and returns the better known."""
        if left is None or right is None:
            return left if right is None else right
        if left != right and not (left.number is not None and right.number is not None):
            self.equations.append(Equation(left, right, Kind.EQUAL, self.node))
        return right if right.number is not None else left

    def broadcast(self, *shapes: Dims | None) -> Dims | None:
        """The shape of an elementwise result."""
        if any(shape is None for shape in shapes):
            return None
        known = [shape for shape in shapes if shape is not None]
        rank = max((len(shape) for shape in known), default=0)
        one = Size.of(1)
        result: list[Size | None] = []
        for axis in range(rank):
            column = [shape[axis - rank + len(shape)] for shape in known if axis - rank + len(shape) >= 0]
            size: Size | None = one
            for other in column:
                size = self._pair(size, other)
            result.append(size)
        return tuple(result)

    def _pair(self, left: Size | None, right: Size | None) -> Size | None:
        one = Size.of(1)
        if left in (one, right):
            return right
        if right == one:
            return left
        if left is None or right is None:
            known = left if right is None else right
            return known if known is not None and known.number is not None else None
        if left.number is not None or right.number is not None:
            if left.number is None or right.number is None:
                self.equations.append(Equation(left, right, Kind.BROADCAST, self.node))
            return right if right.number is not None else left
        larger = f"max({left}, {right})"
        self.equations.append(Equation(left, right, Kind.BROADCAST, self.node, larger))
        return Size.of(larger)


Rule = Callable[[Shapes, ir.Node], Sequence[Dims | None]]
RULES: dict[str, Rule] = {}
"""The rule of each operator; one that is not the standard's stands under its domain, `com.microsoft.Attention`."""


def carry(
    model: ir.Model, start: Mapping[ir.Value, Dims], given: Mapping[str, Size] | None = None, assume: bool = False
) -> Shapes:
    """What follows from these shapes of the inputs, where some names have the given numbers."""
    shapes = Shapes(given=given or {}, assume=assume)
    shapes.follow = lambda graph: _follow(model, graph, shapes)
    shapes.shapes.update(start)
    _follow(model, model.graph, shapes)
    return shapes


def asked(shapes: Shapes, assumed: Shapes | None = None) -> list[Equation]:
    """The equations that nodes ask for, each once; those that only an assumed branch asks for are suggestions."""
    distinct: dict[tuple[Size, Size, Kind], Equation] = {}
    for equation in shapes.equations:
        distinct.setdefault((equation.left, equation.right, equation.kind), equation)
    for equation in suggested(assumed.equations if assumed is not None else ()):
        if not any((equation.left, equation.right, kind) in distinct for kind in Kind):
            distinct[equation.left, equation.right, equation.kind] = equation
    return list(distinct.values())


def suggested(equations: Sequence[Equation]) -> list[Equation]:
    """The same as suggestions of a body that may not run; an index that reaches so far suggests no length."""
    return [
        replace(equation, kind=Kind.BRANCH, result=None)
        for equation in equations
        if equation.kind is not Kind.REACH or equation.right.number is None
    ]


def known(model: ir.Model) -> Shapes:
    """What follows from the shapes that the inputs have by now: lengths that are computed, above all."""
    start: dict[ir.Value, Dims] = {
        value: tuple(Size.of(dim) if isinstance(dim, int) else None for dim in value.shape.dims)
        for value in model.graph.inputs
        if value.shape is not None
    }
    return carry(model, start)


def _follow(model: ir.Model, graph: ir.Graph, shapes: Shapes) -> None:
    for node in graph:
        function = called(model, node)
        shapes.node = f"'{source_name(node)}' ({node.op_type})"
        if function is not None:
            results = _call(model, function, node, shapes)
        elif (name := f"{node.domain}.{node.op_type}" if node.domain else node.op_type) in RULES:
            try:
                results = RULES[name](shapes, node)
            except IndexError:  # an axis beyond the rank: the check of types names it, with what is allowed
                results = ()
        else:
            results = ()
        for value, dims in zip(node.outputs, results, strict=False):
            shapes.shapes[value] = dims


def _call(model: ir.Model, function: ir.Function, node: ir.Node, shapes: Shapes) -> Sequence[Dims | None]:
    """The body with the arguments in place; each call enters anew, so what an earlier one left is forgotten."""
    forget(function.graph, shapes)
    for formal, actual in zip(function.inputs, node.inputs, strict=False):
        shapes.shapes[formal] = shapes.shape(actual)
        data = shapes.data(actual)
        shapes.numbers.pop(formal, None)
        shapes.reaches.pop(formal, None)
        if data is not None:
            shapes.numbers[formal] = data
    _follow(model, function.graph, shapes)
    for outer, inner_value in zip(node.outputs, function.outputs, strict=False):
        data = shapes.data(inner_value)
        if data is not None:
            shapes.numbers[outer] = data
    return [shapes.shape(value) for value in function.outputs]


def forget(graph: ir.Graph, shapes: Shapes) -> None:
    """Drops what is known of the values of a body, which is entered anew with other inputs."""
    for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]:
        shapes.shapes.pop(value, None)
        shapes.numbers.pop(value, None)
        shapes.reaches.pop(value, None)
    for node in graph:
        for inner in graphs(node):
            forget(inner, shapes)


def count(dims: Dims | None) -> Size | None:
    """The number of elements; None where a dim is not known."""
    if dims is None or any(size is None for size in dims):
        return None
    return product(size for size in dims if size is not None)
