"""The free dims of a model's inputs: which there are, what is forced, and binding them to numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import onnx_ir as ir

from porter.errors import PorterError


@dataclass(frozen=True)
class Dim:
    """A free dim: the name to bind it by, and the places it stands in, as `input[axis]`."""

    name: str
    places: tuple[str, ...]


def dims(model: ir.Model) -> tuple[Dim, ...]:
    """The free dims of the model's inputs, in the order in which they first stand there."""
    found: dict[str, list[str]] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                place = f"{value.name}[{axis}]"
                found.setdefault(dim.value or place, []).append(place)
    return tuple(Dim(name, tuple(places)) for name, places in found.items())


def bind(model: ir.Model, given: Mapping[str, int]) -> None:
    """Sets the free dims of the inputs to the given numbers."""
    free = dims(model)
    names = {name for dim in free for name in (dim.name, *dim.places)}
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, 1)
            raise PorterError(f"dim '{name}'", expected="a free dim of the inputs", hint=near[0] if near else None)
    for dim in free:
        size = next((given[name] for name in (dim.name, *dim.places) if name in given), None)
        if size is None:
            raise PorterError(
                f"dim '{dim.name}' of {dim.places[0]}", expected="a number", found="none", hint=f"--dim '{dim.name}=N'"
            )
    for value in model.graph.inputs:
        sizes = []
        for axis, dim in enumerate(value.shape or ()):
            place = f"{value.name}[{axis}]"
            sizes.append(dim if isinstance(dim, int) else given.get(place, given.get(dim.value or place)))
        if value.shape is not None:
            value.shape = ir.Shape(sizes)
