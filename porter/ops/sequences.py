"""Sequences and optionals: what carries tensors from node to node, and computes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import NotKnown, ints, normal
from porter.ops.registry import REQUIRED, op
from porter.ops.types import dtype_of


class Tensors(tuple):  # type: ignore[type-arg]
    """The value of a sequence; `dtype` is the element type of its tensors, also where it has none."""

    dtype: np.dtype | None

    def __new__(cls, arrays: Iterable[Any] = (), dtype: np.dtype | None = None) -> Tensors:
        made = super().__new__(cls, arrays)
        made.dtype = made[0].dtype if made else dtype
        return made


class Nothing:
    """The value of an optional that holds nothing."""

    dtype = None


def plumbing(value: Any) -> bool:
    """Whether a value is a sequence or an empty optional: no array."""
    return isinstance(value, Tensors | Nothing)


def received(value: Any) -> Any:
    """What a caller gives, as the evaluator keeps it: a list or tuple is a sequence, None an empty optional."""
    if value is None:
        return Nothing()
    return Tensors(map(received, value), getattr(value, "dtype", None)) if isinstance(value, list | tuple) else value


def returned(value: Any) -> Any:
    """What a caller gets: None for an empty optional."""
    return None if isinstance(value, Nothing) else value


def settled(xp: Any, value: Any, dtype: np.dtype | None) -> Any:
    """`xp.settle` of a tensor, and of every tensor of a sequence."""
    if isinstance(value, Tensors):
        return Tensors((xp.settle(array, dtype) for array in value), value.dtype)
    return value if isinstance(value, Nothing) else xp.settle(value, dtype)


def known(xp: Any, value: Any) -> bool:
    """`xp.concrete` of a tensor, or of every tensor of a sequence."""
    return all(known(xp, part) for part in value) if isinstance(value, Tensors) else xp.concrete(value)


def refuse_traced(xp: Any, what: str, values: Iterable[Any]) -> None:
    """A sequence has no place among the values that one compiled loop or choice carries."""
    if xp.lazy and any(map(plumbing, values)):
        raise NotKnown(what, expected="tensors", found="a sequence or an optional, which the host carries")


def _place(position: Any, size: int, *, last: int) -> int:
    """The position in a sequence, from the end where negative; `last` where none is given."""
    if position is None:
        return last
    (place,) = ints(position)
    if not -size <= place <= last:
        raise PorterError("position", expected=f"{-size} to {last}", found=str(place))
    return place % size if place < 0 else place


@op("SequenceConstruct", since=11, moves=True)
def sequence_construct(xp, *inputs):
    """The inputs as a sequence."""
    return Tensors(inputs)


@op("SequenceEmpty", since=11, moves=True)
def sequence_empty(xp, *, dtype=1):
    """A sequence of no tensors."""
    return Tensors((), dtype_of(dtype))


@op("SequenceInsert", since=11, static=("position",), moves=True)
def sequence_insert(xp, input_sequence, tensor, position=None):
    """The sequence with a tensor more, before `position` or at its end."""
    size = len(input_sequence)
    place = _place(position, size, last=size)
    return Tensors((*input_sequence[:place], tensor, *input_sequence[place:]))


@op("SequenceErase", since=11, static=("position",), moves=True)
def sequence_erase(xp, input_sequence, position=None):
    """The sequence without the tensor at `position`, or its last one."""
    place = _place(position, len(input_sequence), last=len(input_sequence) - 1)
    return Tensors((*input_sequence[:place], *input_sequence[place + 1 :]), input_sequence.dtype)


@op("SequenceAt", since=11, static=("position",), moves=True)
def sequence_at(xp, input_sequence, position):
    """The tensor at `position`."""
    return input_sequence[_place(position, len(input_sequence), last=len(input_sequence) - 1)]


@op("SequenceLength", since=11, moves=True)
def sequence_length(xp, input_sequence):
    """How many tensors the sequence has."""
    return np.asarray(len(input_sequence), np.int64)


@op("SplitToSequence", since=11, static=("split",), moves=True)
def split_to_sequence(xp, input, split=None, *, axis=0, keepdims=1):
    """The tensor cut along an axis: in ones (the axis dropped, if keepdims is 0), equal parts, or parts of given sizes."""
    axis = normal(axis, input.ndim)
    size, parts, first = input.shape[axis], [], 0
    sizes = (1,) * size if split is None else ints(split)
    if split is not None and np.ndim(split) == 0:
        if sizes[0] < 1:
            raise PorterError("split", expected="a size of at least 1", found=str(sizes[0]))
        sizes = tuple(min(sizes[0], size - at) for at in range(0, size, sizes[0]))
    if sum(sizes) != size or any(n < 0 for n in sizes):
        raise PorterError("split", expected=f"sizes that sum to {size}", found=str(list(sizes)))
    for n in sizes:
        starts, stops = [0] * input.ndim, list(input.shape)
        starts[axis], stops[axis] = first, first + n
        part = xp.slice(input, starts, stops)
        dropped = (*input.shape[:axis], *input.shape[axis + 1 :])
        parts.append(xp.reshape(part, dropped) if split is None and not keepdims else part)
        first += n
    return Tensors(parts, input.dtype)


@op("ConcatFromSequence", since=11, moves=True)
def concat_from_sequence(xp, input_sequence, *, axis=REQUIRED, new_axis=0):
    """The tensors as one, along an axis that they have or along a new one."""
    if not input_sequence:
        raise PorterError("input_sequence", expected="at least one tensor", found="none")
    rank = input_sequence[0].ndim + (1 if new_axis else 0)
    axis = normal(axis, rank)
    if not new_axis:
        return xp.concatenate(list(input_sequence), axis=axis)
    return xp.concatenate([xp.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in input_sequence], axis=axis)


@op("SequenceMap", since=17, moves=True)
def sequence_map(xp, input_sequence, *additional_inputs, body):
    """body(*the turn's tensor of each sequence, *the tensors) for every place; its results as sequences."""
    turns = []
    for place in range(len(input_sequence)):
        more = (x[place] if isinstance(x, Tensors) else x for x in additional_inputs)
        turns.append(body(input_sequence[place], *more))
    return tuple(Tensors((turn[i] for turn in turns), body.empty(i).dtype) for i in range(body.outputs))


@op("Optional", since=15, moves=True)
def optional(xp, input=None, *, type=None):
    """The input, or nothing where there is none."""
    return Nothing() if input is None else input


@op("OptionalHasElement", since=15, moves=True)
def optional_has_element(xp, input=None):
    """Whether the optional holds something."""
    return np.asarray(input is not None and not isinstance(input, Nothing))


@op("OptionalGetElement", since=15, moves=True)
def optional_get_element(xp, input):
    """What the optional holds."""
    if isinstance(input, Nothing):
        raise PorterError("input", expected="an optional that holds something", found="an empty one")
    return input
