"""Changes of normalizations: BatchNormalization, GroupNormalization, and softmax over a flattened tail."""

from __future__ import annotations

import numpy as np

from porter.graph.upgrade.engine import Edit, Table, changes

STEPS: Table = {}


@changes(STEPS, 7, "BatchNormalization")
def batch_normalization_test_mode(edit: Edit) -> None:
    """`is_test` is gone: one output is inference, several are training."""
    edit.pop("is_test")
    edit.pop("consumed_inputs")


@changes(STEPS, 9, "BatchNormalization")
def batch_normalization_spatial(edit: Edit) -> None:
    """`spatial=0` had a scale per element and not per channel: it is spelled out."""
    if edit.pop("spatial", 1):
        return
    x, scale, bias, mean, var = (edit.required(index) for index in range(5))
    epsilon = edit.scalar_like(float(edit.attribute("epsilon", 1e-5)), x, "epsilon")
    deviation = edit.before("Sqrt", edit.before("Add", [var, epsilon]))
    normal = edit.before("Div", [*edit.before("Sub", [x, mean]), *deviation])
    edit.replace(*edit.before("Add", [*edit.before("Mul", [*normal, scale]), bias]))


@changes(STEPS, 14, "BatchNormalization")
def batch_normalization_outputs(edit: Edit) -> None:
    """Five outputs meant training; here only inference can follow."""
    if not edit.unused_outputs(1):
        edit.refuse("inference", "BatchNormalization in training mode, with its statistics as outputs")
    edit.drop_outputs(1)


@changes(STEPS, 21, "GroupNormalization")
def group_normalization_per_channel(edit: Edit) -> None:
    """Scale and bias had one value per group, now one per channel."""
    groups = int(edit.attribute("num_groups", 0))
    channels = edit.dim(edit.input(0), 1)
    for index, name in ((1, "scale"), (2, "bias")):
        value = edit.required(index)
        column = edit.before("Unsqueeze", [value, edit.constant([1], f"{name}_axes")], name=name)
        if channels is None:
            edit.refuse("a known number of channels", "an unknown one")
        wide = edit.before("Expand", [*column, edit.constant([groups, channels // groups], f"{name}_shape")], name=name)
        flat = edit.before("Reshape", [*wide, edit.constant([channels], f"{name}_flat")], name=name)
        edit.node.replace_input_with(index, flat[0])


@changes(STEPS, 13, "Softmax", "LogSoftmax", "Hardmax")
def softmax_over_a_tail(edit: Edit) -> None:
    """They used to work on a matrix of the dims before and from `axis` on, now along one axis."""
    x = edit.required(0)
    axis = int(edit.pop("axis", 1))
    rank = edit.rank(x)
    if rank is not None:
        axis = axis + rank if axis < 0 else axis
        tail = [edit.dim(x, index) for index in range(axis + 1, rank)]
        if all(size == 1 for size in tail):
            edit.set("axis", axis - rank if axis == rank - 1 else axis)
            return
    op_type = edit.node.op_type
    matrix = edit.before("Flatten", [x], {"axis": axis})
    sizes = [edit.dim(x, index) for index in range(rank or 0)]
    if rank is not None and all(size is not None for size in sizes):
        shape = edit.constant(np.asarray(sizes, np.int64), "shape")
    else:
        shape = edit.before("Shape", [x])[0]
    # every size is written out, so a 0 in them is one
    back = {"allowzero": 1} if shape.const_value is None or 0 in sizes else {}
    edit.replace(*edit.before("Reshape", [*edit.before(op_type, matrix, {"axis": -1}), shape], back))
