"""A Resize that no kernel can hold, as what it means: along each axis a few gathers, weighed and added."""

from __future__ import annotations

from functools import reduce

import numpy as np
from onnx_ir import DataType

from porter.graph import attributes, constant, dtype
from porter.ops.namespace import is_float
from porter.ops.resize import repeated, steps_of, strided
from porter.pipeline import rounding
from porter.rewrite import rewrite
from porter.rewrite.terms import lift
from porter.tile.pull import CHOICES

contract = rounding  # a weight is rounded, as it is inside the operator

#: attributes that say what is done with a result, not where it comes from
OTHERS = ("extrapolation_value",)


@rewrite
def uneven(op, x, roi=None, scales=None, sizes=None, **options):
    """A Resize; its places and weights are constants inside a kernel, and a kernel holds few."""
    return op.Resize(x, roi, scales, sizes, **options)


@uneven.to
def gathers(op, x, m):
    given = attributes(m.node, {})
    shape, numbers = m.shape("x"), [None if v is None else constant(v) for v in m.node.inputs[1:]]
    if shape is None or any(v is not None and n is None for v, n in zip(m.node.inputs[1:], numbers, strict=True)):
        return m.refuse("a shape is not static")
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return m.refuse("what is outside is extrapolated")
    kind, weighed = dtype(m.value("x")), given.get("mode", "nearest") != "nearest"
    if kind is None or (weighed and not is_float(kind)):
        return m.refuse("integers are rounded back")
    steps = steps_of(shape, *numbers, **{k: v for k, v in given.items() if k not in OTHERS})
    if not any(len(s.taps) > CHOICES and not _even(s, shape[s.axis]) for s in steps):
        return m.refuse("a kernel can hold its places")
    computed = np.dtype(np.float32) if weighed and kind.itemsize < 4 else kind  # narrow floats are rounded once
    if computed != kind:
        x = op.Cast(x, to=DataType.from_numpy(computed))
    for step in steps:
        x = _along(op, x, step, len(shape), computed)
    return x if computed == kind else op.Cast(x, to=DataType.from_numpy(kind))


def _even(step, n):
    return step.weights is None and (repeated(step.taps[:, 0], n) or strided(step.taps[:, 0]))


def _along(op, x, step, rank, kind):
    if step.weights is None:
        return op.Gather(x, step.taps[:, 0], axis=step.axis)
    along = [-1 if i == step.axis else 1 for i in range(rank)]
    terms = [
        op.Mul(op.Gather(x, taps, axis=step.axis), op.folded(lift(weights.reshape(along)), kind))
        for taps, weights in step.columns()
    ]
    return reduce(op.Add, terms)
