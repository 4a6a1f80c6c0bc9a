"""What the functions of this folder write with: one node on its way from onnxruntime's operators to the standard's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.edit import fresh, remove, replace_uses
from porter.graph.symbolic import Shapes
from porter.graph.upgrade.engine import Edit
from porter.graph.values import constant, source_name

DOMAIN = "com.microsoft"

Spell = Callable[["Spelling"], None]
Table = dict[str, Spell]


def spells(table: Table, *op_types: str) -> Callable[[Spell], Spell]:
    """Enters a function into a table: this is how these operators are spelled in the standard's."""

    def enter(spell: Spell) -> Spell:
        for op_type in op_types:
            table[op_type] = spell
        return spell

    return enter


@dataclass
class Spelling(Edit):
    """An edit with words for arithmetic, and with what is known of the sizes around the node."""

    shapes: Shapes = field(default_factory=Shapes)

    def op(self, op_type: str, *inputs: ir.Value | None, name: str | None = None, **attributes: Any) -> ir.Value:
        """The output of a new node before this one; attributes that are None are left out."""
        return self.several(1, op_type, *inputs, name=name, **attributes)[0]

    def several(
        self, outputs: int, op_type: str, *inputs: ir.Value | None, name: str | None = None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """The outputs of a new node before this one."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        kept = {key: value for key, value in attributes.items() if value is not None}
        return self.before(op_type, given, kept, name=name, outputs=outputs)

    def ints(self, *numbers: int, name: str = "ints") -> ir.Value:
        """A constant vector of int64."""
        return self.constant(np.asarray(numbers, np.int64), name)

    def scalar(self, number: int, name: str = "scalar") -> ir.Value:
        """A constant scalar of int64."""
        return self.constant(np.asarray(number, np.int64), name)

    def reshape(self, value: ir.Value, *sizes: int, name: str | None = None) -> ir.Value:
        """The value in another shape; 0 keeps a dim, -1 is what is left over."""
        return self.op("Reshape", value, self.ints(*sizes, name="shape"), name=name)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """The value with new dims of one."""
        return self.op("Unsqueeze", value, self.ints(*axes, name="axes"))

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """The value without dims of one."""
        return self.op("Squeeze", value, self.ints(*axes, name="axes"))

    def transpose(self, value: ir.Value, *perm: int) -> ir.Value:
        """The value with its axes in another order."""
        return self.op("Transpose", value, perm=perm)

    def part(self, value: ir.Value, start: int, end: int, axis: int) -> ir.Value:
        """A part of the value along an axis."""
        return self.op("Slice", value, self.ints(start), self.ints(end), self.ints(axis))

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        """The value in parts of these sizes."""
        return self.several(len(sizes), "Split", value, self.ints(*sizes, name="sizes"), axis=axis)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another type."""
        return value if value.dtype == dtype else self.op("Cast", value, to=int(dtype))

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """A dim as a vector of one int64: a constant where it is known, else read at run time."""
        size = self.dim(value, axis)
        if size is not None:
            return self.ints(size, name="length")
        rank = self.need_rank(value)
        axis %= rank
        return self.op("Shape", value, start=axis, end=axis + 1)

    def need_dim(self, value: ir.Value | None, axis: int) -> int:
        """A dim without which this node cannot be spelled."""
        size = self.dim(value, axis)
        if size is None:
            self.refuse(f"a known dim {axis} of '{value.name if value else ''}'", "an unknown one")
        return size

    def number(self, value: ir.Value | None) -> int | None:
        """The value of an integer scalar that is computed from shapes and constants; None where it is not known."""
        data = self.shapes.data(value)
        return data[0].number if data and len(data) == 1 and data[0] is not None else None

    def need_constant(self, index: int) -> np.ndarray:
        """The array of an input that has to be a weight."""
        array = constant(self.required(index))
        if array is None:
            self.refuse(f"input {index} to be a weight", f"'{self.required(index).name}', which is computed")
        return array

    def needed(self, index: int) -> bool:
        """Whether anything reads an output."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()

    def only(self, name: str, *allowed: Any, default: Any = 0) -> Any:
        """The value of an attribute, of which only some values can be spelled exactly."""
        value = self.attribute(name, default)
        if value not in allowed:
            wanted = " or ".join(str(choice) for choice in allowed)
            self.refuse(f"attribute '{name}' of {wanted}", str(value))
        return value

    def absent(self, index: int, name: str) -> None:
        """Refuses an input that has no exact spelling."""
        if self.input(index) is not None:
            self.refuse(f"no input '{name}'", f"'{self.required(index).name}'")

    def unread(self, index: int, name: str) -> None:
        """Refuses an output that has no exact spelling, where something reads it."""
        if self.needed(index):
            self.refuse(f"an output '{name}' that nothing reads", f"'{self.node.outputs[index].name}'")

    def finish(self, *values: ir.Value | None) -> None:
        """These values take the place of the node's outputs; None for outputs that nothing reads."""
        for old, new in zip(self.node.outputs, values, strict=False):
            if new is None:
                continue
            name, mine = old.name, new.producer() is not None and new.name != old.name and not old.is_graph_output()
            replace_uses(old, new)
            if mine and name and (new.name or "").startswith(f"{self.node.name or self.node.op_type}/"):
                old.name, new.name = fresh(f"{name}_before", self.used), name
        remove([self.node])

    def refuse(self, expected: str, found: str, hint: str | None = None) -> NoReturn:
        """Raises PorterError: this node has no exact spelling."""
        title = f"node '{source_name(self.node)}' ({self.node.domain}.{self.node.op_type})"
        raise PorterError(title, expected=expected, found=found, hint=hint)
