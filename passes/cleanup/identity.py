"""Drops operators that change nothing, where that holds for every bit pattern."""

from __future__ import annotations

import numpy as np

from porter.graph import attributes, shape
from porter.pipeline import exact
from porter.rewrite import rewrite

contract = exact
after = ("constants",)


def same_shape(m):
    """The result has x's shape: nothing is broadcast."""
    before, result = m.shape("x"), shape(m.outputs[0])
    return (before is not None and before == result) or m.refuse(f"x of shape {before} is broadcast to {result}")


def keeps_x(rule):
    """Completes a rule whose other side is x, shape and all."""
    rule.when(same_shape)
    rule.to(lambda op, x: x)
    return rule


@rewrite
def identity(op, x):
    """Identity(x) is x."""
    return op.Identity(x)


identity.to(lambda op, x: x)


@keeps_x
@rewrite
def times_one(op, x):
    """1 x is x for every x, NaN and -0 among them; so is x / 1 and x to the power of 1."""
    return op.either(x * 1.0, x / 1.0, op.Pow(x, 1.0))


@keeps_x
@rewrite
def plus_nothing(op, x, *, zero):
    """x + -0.0 and x - 0.0 are x; x + 0.0 is not, where x is -0.0. Integers have one zero."""
    return op.either(x + zero, x - zero)


@plus_nothing.when
def zero_that_keeps_signs(m):
    zero = np.asarray(m["zero"])
    if zero.size == 0 or np.any(zero != 0):
        return m.refuse("the constant is not 0")
    if m.node.op_type == "Sub" and m.node.inputs[0] is not m.value("x"):
        return m.refuse("0 - x is no identity")
    if not m.dtype("x").is_float:
        return True
    negative = bool(np.all(np.signbit(zero)))
    kept = negative if m.node.op_type == "Add" else not np.any(np.signbit(zero))
    return kept or m.refuse("x + 0.0 turns -0.0 into 0.0")


@keeps_x
@rewrite
def reshape_to_itself(op, x, shape):
    """A Reshape or Expand to the shape that x has."""
    return op.either(op.Reshape(x, shape), op.Expand(x, shape))


@rewrite
def transpose_by_nothing(op, x, *, perm):
    """A Transpose that leaves the axes in order."""
    return op.Transpose(x, perm=perm)


@transpose_by_nothing.when
def in_order(m):
    return list(m["perm"] or ()) == list(range(m.rank("x") or -1)) or m.refuse(f"perm is {m['perm']}")


transpose_by_nothing.to(lambda op, x: x)


@rewrite
def cast_to_itself(op, x, *, to):
    """A Cast to the type that x has."""
    return op.Cast(x, to=to)


@cast_to_itself.when
def same_type(m):
    return m.outputs[0].dtype == m.value("x").dtype or m.refuse(
        f"x is {m.dtype('x').name}, the result {m.outputs[0].dtype}"
    )


cast_to_itself.to(lambda op, x: x)


@keeps_x
@rewrite
def slice_of_all(op, x, starts, ends, axes=None, steps=None):
    """A Slice with steps of 1 that keeps x's shape keeps all of x."""
    return op.Slice(x, starts, ends, axes, steps)


@slice_of_all.when
def steps_of_one(m):
    steps = m.constant("steps")
    return m.value("steps") is None or (steps is not None and bool(np.all(steps == 1))) or m.refuse("steps are not 1")


@keeps_x
@rewrite
def one_of_one(op, x, **axis):
    """A Concat, Sum, Max, Min or Mean of a single tensor."""
    return op.either(op.Concat(x, **axis), op.Sum(x), op.Max(x), op.Min(x), op.Mean(x))


@rewrite
def dropout(op, x, ratio=None, training=None):
    """Dropout at inference is x; the mask, if it has one, must be unused."""
    return op.Dropout(x, ratio, training)


@dropout.when
def at_inference(m):
    training = m.constant("training")
    if m.value("training") is not None and (training is None or bool(np.any(training))):
        return m.refuse("training_mode may be true")
    return all(not value.uses() for value in m.node.outputs[1:]) or m.refuse("its mask is used")


dropout.to(lambda op, x: x)


@keeps_x
@rewrite
def and_true(op, x):
    """x and True is x; x or False is x."""
    return op.either(op.And(x, True), op.Or(x, False))


@keeps_x
@rewrite
def where_known(op, condition, x, y):
    """Where under a constant condition that is the same everywhere."""
    return op.Where(condition, x, y)


@where_known.when
def all_true(m):
    condition = m.constant("condition")
    if condition is None or condition.size == 0:
        return m.refuse("the condition is not a constant")
    return bool(np.all(condition)) or m.refuse("the condition is not true everywhere")


@rewrite
def where_never(op, condition, y, x):
    """Where under a constant condition that is false everywhere."""
    return op.Where(condition, y, x)


@where_never.when
def all_false(m):
    condition = m.constant("condition")
    return (condition is not None and condition.size and not np.any(condition)) or m.refuse(
        "the condition is not false everywhere"
    )


keeps_x(where_never)


@rewrite
def attention_to_all(op, q, k, v, mask, **attention):
    """Attention under a boolean mask that is true everywhere needs no mask."""
    return op.Attention(q, k, v, mask, **attention)


@attention_to_all.when
def mask_is_true(m):
    mask = m.constant("mask")
    return (mask is not None and mask.dtype == bool and bool(np.all(mask))) or m.refuse("the mask hides something")


@attention_to_all.to
def without_mask(op, q, k, v, m):
    return op.Attention(q, k, v, **attributes(m.node))
