"""Data movement proved: both models run on labels, and every output element must come from the same input element.

Every element of every float input is a distinct number, and every element of a weight is named by its bits, so that
movement operators carry them unchanged whatever the dtype of the model. Integer inputs (indices, shapes) are drawn. A
model that also computes is not decided by this method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from porter import graph
from porter.check.execution import run
from porter.check.inputs import draw
from porter.check.measure import is_float
from porter.graph import Model, Node, Value
from porter.ops.arrays import Numpy
from porter.ops.residues import hashed, key_of

MOVEMENT = frozenset(
    """Identity Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Concat Gather GatherElements GatherND Expand
    Tile Pad DepthToSpace SpaceToDepth Trilu Where Compress ReverseSequence Constant Shape Size ConstantOfShape Range
    ScatterElements ScatterND""".split()
)


@dataclass(frozen=True)
class Moved:
    """Whether two models move the same elements: True or False, or None where one computes (`reason` says where).

    For False: the first output element that differs, and where each model takes it from.
    """

    same: bool | None
    output: str = ""
    index: tuple[int, ...] = ()
    before: str = ""
    after: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.same:
            return "every output element comes from the same input element"
        if self.same is None:
            return f"not movement alone: {self.reason}"
        return f"output '{self.output}' at {list(self.index)} is {self.after}, expected {self.before}"


@dataclass(frozen=True)
class _Place:
    """Labels from `start` on belong to the elements of this input."""

    start: int
    name: str
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + int(np.prod(self.shape, dtype=np.int64))


class _Labels(Numpy):
    """Labels are float64 and stay what they are, whatever type a value is declared to have."""

    def __init__(self) -> None:
        super().__init__("labels", double=True)


def compare(before: Model, after: Model) -> Moved:
    """Hold the origin of every output element of `after` against that in `before`; inputs are matched in order."""
    for model in (before, after):
        computing = next((n for n in model.graph if n.op_type not in MOVEMENT or n.domain), None)
        if computing is not None:
            return Moved(None, reason=f"node '{graph.source_name(computing)}' ({computing.op_type})")
    places: list[_Place] = []
    drawn = draw(before, 0)
    labels = {name: _labelled(places, name, x) for name, x in drawn.items()}
    renamed = dict(zip((v.name or "" for v in _inputs(after)), labels.values(), strict=True))
    old = run(before, labels | _weights(before), _Labels())
    new = run(after, renamed | _weights(after), _Labels())
    for (name, a), b in zip(old.items(), new.values(), strict=True):
        if a.shape != b.shape:
            return Moved(False, name, (), f"of shape {list(a.shape)}", f"of shape {list(b.shape)}")
        apart = np.asarray(a != b)
        if apart.any():
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(apart)), apart.shape))
            return Moved(False, name, at, _origin(a[at], places), _origin(b[at], places))
    return Moved(True)


def _labelled(places: list[_Place], name: str, drawn: np.ndarray) -> np.ndarray:
    if not is_float(drawn.dtype):
        return drawn
    place = _Place(places[-1].end if places else 1, name, drawn.shape)
    places.append(place)
    return np.arange(place.start, place.end, dtype=np.float64).reshape(drawn.shape)


def _weights(model: Model) -> dict[str, np.ndarray]:
    """Negative labels for float constants, by dtype and bits: 52 bits of a hash, which float64 holds."""
    made: dict[str, np.ndarray] = {}
    for value in _constants(model):
        array = graph.constant(value)
        if array is not None and is_float(array.dtype):
            bits = np.frombuffer(np.ascontiguousarray(array).tobytes(), f"u{array.dtype.itemsize}")
            code = hashed(key_of(0, array.dtype.name), bits) >> np.uint64(12)
            made[value.name or ""] = -1.0 - code.astype(np.float64).reshape(array.shape)
    return made


def _origin(label: Any, places: list[_Place]) -> str:
    number = int(label)
    for place in places:
        if place.start <= number < place.end:
            return f"{place.name}{[int(i) for i in np.unravel_index(number - place.start, place.shape)]}"
    return "padding" if number == 0 else "a constant"


def _inputs(model: Model) -> list[Value]:
    return [v for v in model.graph.inputs if not v.is_initializer()]


def _constants(model: Model) -> list[Value]:
    nodes: list[Node] = [n for n in model.graph if n.op_type == "Constant"]
    return [*model.graph.initializers.values(), *(n.outputs[0] for n in nodes)]
