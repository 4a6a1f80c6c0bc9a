"""Changes of arithmetic: legacy broadcasting, Clip, Cast, Dropout, and attributes whose type or default moved."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from porter.graph.upgrade.engine import Edit, Table, changes

STEPS: Table = {}

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@changes(
    STEPS, 6, "Abs", "Ceil", "Div", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization", "LeakyRelu",
    "Log", "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sub", "Sum",
    "Tanh", "Add", "Dropout", "BatchNormalization",
)  # fmt: skip
def no_consumed_inputs(edit: Edit) -> None:
    """A hint for working in place, without meaning."""
    edit.pop("consumed_inputs")


@changes(STEPS, 6, "Selu")
def selu_defaults(edit: Edit) -> None:
    """The defaults were rounded to four digits."""
    edit.pop("consumed_inputs")
    edit.set("alpha", float(edit.attribute("alpha", 1.6732)))
    edit.set("gamma", float(edit.attribute("gamma", 1.0507)))


@changes(STEPS, 7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def legacy_broadcast(edit: Edit) -> None:
    """`broadcast=1, axis=k` laid the second operand's dims on those of the first from `k` on."""
    broadcast, axis = edit.pop("broadcast", 0), edit.pop("axis")
    if not broadcast or axis is None:
        return
    first, second = edit.required(0), edit.required(1)
    rank, own = edit.need_rank(first), edit.need_rank(second)
    start = int(axis) + rank if int(axis) < 0 else int(axis)
    trailing = rank - start - own
    if trailing > 0 and own > 0:
        wide = edit.before("Unsqueeze", [second], {"axes": tuple(range(own, own + trailing))})
        edit.node.replace_input_with(1, wide[0])


@changes(STEPS, 7, "PRelu")
def prelu_slope(edit: Edit) -> None:
    """A slope per channel lay on axis 1; now it broadcasts from the right."""
    x, slope = edit.required(0), edit.required(1)
    rank, own = edit.need_rank(x), edit.need_rank(slope)
    if own == 1 and rank > 2 and edit.dim(slope, 0) != 1:
        wide = edit.before("Unsqueeze", [slope], {"axes": tuple(range(1, rank - 1))})
        edit.node.replace_input_with(1, wide[0])


@changes(STEPS, 7, "Gemm")
def gemm_broadcast(edit: Edit) -> None:
    """C always broadcasts now."""
    edit.pop("broadcast")


@changes(STEPS, 7, "Dropout")
def dropout_test_mode(edit: Edit) -> None:
    """`is_test` is gone: a Dropout without it is inference from here on."""
    if not edit.pop("is_test", 0):
        edit.notes.append("Dropout without is_test is taken as inference")


@changes(STEPS, 10, "Dropout")
def dropout_mask_type(edit: Edit) -> None:
    """The mask had the type of the data, now it is bool."""
    if edit.unused_outputs(1):
        edit.drop_outputs(1)
        return
    x = edit.required(0)
    if x.dtype is None:
        edit.refuse("a known type of the data, since the mask has it too", "an unknown one")
    result, mask = edit.before("Dropout", [x], {"ratio": float(edit.attribute("ratio", 0.5))}, outputs=2)
    edit.replace(result, edit.before("Cast", [mask], {"to": int(x.dtype)})[0])


@changes(STEPS, 12, "Dropout")
def dropout_ratio(edit: Edit) -> None:
    """The ratio is an input, which inference does not look at; a missing `training_mode` is inference."""
    edit.pop("ratio")
    edit.set_inputs([edit.input(0)])


@changes(STEPS, 6, "Cast")
def cast_to_number(edit: Edit) -> None:
    """The type was spelled, now it is its number."""
    to = edit.attribute("to")
    if isinstance(to, str):
        if to.upper() not in ir.DataType.__members__:
            edit.refuse("an element type", f"'{to}'")
        edit.set("to", int(ir.DataType[to.upper()]))


@changes(STEPS, 6, "Clip")
def clip_defaults(edit: Edit) -> None:
    """A bound that was left out became the largest float32, which infinities feel."""
    edit.pop("consumed_inputs")
    for name, default in (("min", -math.inf), ("max", math.inf)):
        edit.set(name, float(edit.attribute(name, default)))


@changes(STEPS, 11, "Clip")
def clip_inputs(edit: Edit) -> None:
    """The bounds become inputs; the default, the largest float32, is infinite in float16."""
    x = edit.required(0)
    low, high = float(edit.pop("min", -_FLOAT32_MAX)), float(edit.pop("max", _FLOAT32_MAX))
    kind = np.dtype(np.float32) if x.dtype is None else x.dtype.numpy()
    bounds: list[ir.Value | None] = []
    for name, bound, nothing in (("min", low, -np.inf), ("max", high, np.inf)):
        with np.errstate(over="ignore"):
            free = np.asarray(bound).astype(kind) == nothing
        bounds.append(None if free else edit.scalar_like(bound, x, name))
    edit.set_inputs([x, *bounds])


@changes(STEPS, 2, "LpPool", "GlobalLpPool")
def integer_p(edit: Edit) -> None:
    """The norm's exponent was a float."""
    p = float(edit.attribute("p", 2.0))
    if p != int(p):
        edit.refuse("an integer p", str(p))
    edit.set("p", int(p))
