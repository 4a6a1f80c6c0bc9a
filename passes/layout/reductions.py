"""Transposes moved through sums, means and softmax: the same terms, met in another order."""

from __future__ import annotations

import numpy as np

from porter.passes.cleanup.identity import transpose_by_nothing
from porter.passes.cleanup.shapes import transpose_pair
from porter.passes.layout import transposes
from porter.rewrite import rewrite

after = ("transposes",)

REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare".split()


@rewrite
def through_reduction(op, x, *, perm, axes, keepdims):
    """A reduction of a transposed value is a reduction of the value over the axes that those were."""
    turned = op.Transpose(x, perm=perm)
    return op.either(*(getattr(op, name)(turned, axes, keepdims=keepdims) for name in REDUCTIONS))


@through_reduction.to
def reduced(op, x, m, *, perm, axes, keepdims):
    rank = len(perm)
    over = sorted(perm[int(axis) % rank] for axis in np.reshape(axes, -1))
    result = getattr(op, m.node.op_type)(x, over, keepdims=keepdims)
    if keepdims:
        return op.Transpose(result, perm=perm)
    left = [axis for axis in perm if axis not in over]
    order = tuple(sorted(left).index(axis) for axis in left)
    return result if order == tuple(range(len(order))) else op.Transpose(result, perm=order)


@rewrite
def through_softmax(op, x, *, perm, axis):
    """Softmax of a transposed value, along the axis that this was."""
    turned = op.Transpose(x, perm=perm)
    return op.either(op.Softmax(turned, axis=axis), op.LogSoftmax(turned, axis=axis))


@through_softmax.to
def softmax(op, x, m, *, perm, axis):
    return op.Transpose(getattr(op, m.node.op_type)(x, axis=perm[axis % len(perm)]), perm=perm)


rules = (transpose_pair, transpose_by_nothing, through_reduction, through_softmax, *transposes.rules[2:])
