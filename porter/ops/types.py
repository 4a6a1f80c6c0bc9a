"""ONNX's own type rules, read from its schemas: what an operator accepts, and the element types of what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import defs

from porter.errors import PorterError

_PREFIX = {
    "FLOAT": "float", "DOUBLE": "double", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "BOOL": "bool",
}  # fmt: skip


def _dtypes() -> tuple[dict[str, np.dtype], dict[int, np.dtype]]:
    by_name, by_number = {}, {}
    for name, number in onnx.TensorProto.DataType.items():
        if name in ("UNDEFINED", "COMPLEX64", "COMPLEX128"):
            continue
        dtype = np.dtype(object) if name == "STRING" else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
        by_name[f"tensor({_PREFIX.get(name, name.lower())})"] = dtype
        by_number[number] = dtype
    return by_name, by_number


_BY_NAME, _BY_NUMBER = _dtypes()
_TO_NAME = {dtype: name for name, dtype in _BY_NAME.items()}

# Attributes that name an element type, and the output that has it.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")

# Operators on sequences and optionals: the element type of what they carry is that of the tensors in it.
_CARRIERS = frozenset(
    {"SequenceConstruct", "SequenceAt", "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement"}
)


def dtype_of(number: int) -> np.dtype:
    """The numpy type of an ONNX element type number, as Cast's `to` has it."""
    if number not in _BY_NUMBER:
        raise PorterError("an element type", expected="a numeric ONNX type", found=str(number))
    return _BY_NUMBER[number]


def onnx_name(dtype: np.dtype) -> str:
    """How ONNX writes this element type: 'float16', 'int64', ..."""
    return _TO_NAME.get(np.dtype(dtype), str(dtype)).removeprefix("tensor(").removesuffix(")")


@dataclass(frozen=True)
class Slot:
    """One formal input or output: its name, type variable, allowed types (None: any), and how it may occur."""

    name: str
    variable: str
    allowed: frozenset[np.dtype] | None
    required: bool
    variadic: bool
    homogeneous: bool


@dataclass(frozen=True)
class Signature:
    """The formal inputs and outputs of an operator at one version."""

    name: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    least: int
    most: int

    def input(self, position: int) -> Slot | None:
        if position < len(self.inputs):
            return self.inputs[position]
        return self.inputs[-1] if self.inputs and self.inputs[-1].variadic else None

    def output(self, position: int) -> Slot | None:
        if position < len(self.outputs):
            return self.outputs[position]
        return self.outputs[-1] if self.outputs and self.outputs[-1].variadic else None


@cache
def schema(domain: str, op_type: str, opset: int) -> defs.OpSchema | None:
    """ONNX's schema of the operator at this opset, or None where ONNX has none."""
    try:
        return defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except defs.SchemaError:
        return None


@cache
def signature(domain: str, op_type: str, opset: int) -> Signature | None:
    """The schema's inputs and outputs with numpy element types, or None where ONNX has no schema."""
    found = schema(domain, op_type, opset)
    if found is None:
        return None
    constraints = {c.type_param_str: c.allowed_type_strs for c in found.type_constraints}

    def slot(formal: Any) -> Slot:
        names = constraints.get(formal.type_str, [formal.type_str])
        known = frozenset(_BY_NAME[n] for n in names if n in _BY_NAME)
        return Slot(
            formal.name,
            formal.type_str,
            known if all(n in _BY_NAME or "complex" in n for n in names) else None,
            formal.option == defs.OpSchema.FormalParameterOption.Single,
            formal.option == defs.OpSchema.FormalParameterOption.Variadic,
            formal.is_homogeneous,
        )

    return Signature(
        op_type,
        tuple(slot(i) for i in found.inputs),
        tuple(slot(o) for o in found.outputs),
        found.min_input,
        found.max_input,
    )


def result_types(
    found: Signature | None, types: Sequence[np.dtype | None], attributes: Mapping[str, Any], outputs: int
) -> list[np.dtype | None]:
    """The declared element type of each output; None where neither inputs nor attributes fix it."""
    if found is None:
        return [None] * outputs
    bound: dict[str, np.dtype] = {}
    for position, dtype in enumerate(types):
        slot = found.input(position)
        if slot is not None and dtype is not None and slot.homogeneous:
            bound.setdefault(slot.variable, dtype)
    named = next((attributes[a] for a in _TYPE_ATTRIBUTES if attributes.get(a)), None)
    held = attributes.get("value")
    result: list[np.dtype | None] = []
    for position in range(outputs):
        slot = found.output(position)
        if slot is None:
            result.append(None)
        elif slot.variable in bound and slot.homogeneous:
            result.append(bound[slot.variable])
        elif slot.allowed is not None and len(slot.allowed) == 1:
            result.append(next(iter(slot.allowed)))
        elif found.name in _CARRIERS and types and types[0] is not None:
            result.append(types[0])
        elif isinstance(named, int):
            result.append(dtype_of(named))
        elif isinstance(held, np.ndarray):  # Constant, ConstantOfShape
            result.append(held.dtype)
        else:
            result.append(None)
    return result


def check(found: Signature, node: str, types: Sequence[np.dtype | None]) -> None:
    """Hold input types against the schema; PorterError names node, input, expected and found. None is not judged."""
    present = len(types)
    while present and types[present - 1] is None:
        present -= 1
    where = f"node '{node}' ({found.name})"
    if not len(types) >= found.least or present > found.most:
        many = str(found.least) if found.least == found.most else f"{found.least} to {found.most}"
        raise PorterError(where, expected=f"{many} inputs", found=str(len(types)))
    bound: dict[str, tuple[str, np.dtype]] = {}
    for position, dtype in enumerate(types):
        slot = found.input(position)
        if slot is None or dtype is None:
            continue
        if slot.allowed is not None and dtype not in slot.allowed:
            allowed = ", ".join(sorted(onnx_name(t) for t in slot.allowed))
            raise PorterError(f"{where}, input '{slot.name}'", expected=f"one of {allowed}", found=onnx_name(dtype))
        if not slot.homogeneous:
            continue
        first, other = bound.setdefault(slot.variable, (slot.name, dtype))
        if other != dtype:
            raise PorterError(
                f"{where}, input '{slot.name}'",
                expected=f"{onnx_name(other)}, the type of input '{first}'",
                found=onnx_name(dtype),
            )
