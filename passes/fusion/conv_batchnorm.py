"""A batch normalization folded into the convolution before it."""

import numpy as np

from porter.pipeline import rounding
from porter.rewrite import rewrite

contract = rounding


@rewrite
def conv_batchnorm(op, x, w, b=None, *, scale, bias, mean, var, epsilon, **conv):
    """gamma (w * x + b - mean) / sqrt(var + epsilon) + beta, its constants computed in float64 and rounded once."""
    return op.BatchNormalization(op.Conv(x, w, b, **conv), scale, bias, mean, var, epsilon=epsilon)


@conv_batchnorm.when
def constants(m):
    known = m.constant("w") is not None and (m.value("b") is None or m.constant("b") is not None)
    return known or m.refuse("the weights of the convolution are not constants")


@conv_batchnorm.to
def folded(op, x, m, *, scale, bias, mean, var, epsilon, conv):
    w, b = m.constant("w"), m.constant("b")
    wide = np.float64
    factor = scale.astype(wide) / np.sqrt(var.astype(wide) + epsilon)
    weight = w.astype(wide) * factor.reshape(-1, *[1] * (w.ndim - 1))
    shift = bias.astype(wide) + ((0.0 if b is None else b.astype(wide)) - mean.astype(wide)) * factor
    return op.Conv(x, weight.astype(w.dtype), shift.astype(w.dtype), **conv)
