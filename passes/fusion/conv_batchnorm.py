"""A batch normalization folded into the convolution before it."""

from porter.pipeline import rounding
from porter.rewrite import rewrite
from porter.rewrite.terms import lift

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
def folded(op, x, w, b=None, *, m, scale, bias, mean, var, epsilon, conv):
    factor = scale / op.Sqrt(lift(var) + epsilon)
    columns = (-1, *[1] * (len(m.shape("w")) - 1))
    shifted = lift(-mean if b is None else b - mean)
    dtype = m.constant("w").dtype
    weight = op.folded(w * op.Reshape(factor, columns), dtype)
    return op.Conv(x, weight, op.folded(bias + shifted * factor, dtype), **conv)
