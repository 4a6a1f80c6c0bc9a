"""Activation functions, softmax among them."""

from __future__ import annotations

import math

from porter.ops.registry import op

_SQRT_HALF = math.sqrt(0.5)


@op("Relu")
def relu(xp, x):
    """max(x, 0)."""
    return xp.maximum(x, 0)


@op("LeakyRelu")
def leaky_relu(xp, x, *, alpha=0.01):
    """x where x >= 0, alpha * x elsewhere."""
    return xp.where(xp.less(x, 0), alpha * x, x)


@op("PRelu", since=7)
def prelu(xp, x, slope):
    """x where x >= 0, slope * x elsewhere; the slope broadcasts to x."""
    return xp.where(xp.less(x, 0), slope * x, x)


@op("ThresholdedRelu", since=10)
def thresholded_relu(xp, x, *, alpha=1.0):
    """x where x > alpha, 0 elsewhere."""
    return xp.where(xp.greater(x, alpha), x, xp.full((), 0, x.dtype))


@op("Sigmoid")
def sigmoid(xp, x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + xp.exp(-x))


@op("HardSigmoid")
def hard_sigmoid(xp, x, *, alpha=0.2, beta=0.5):
    """alpha * x + beta, clipped to [0, 1]."""
    return xp.minimum(xp.maximum(alpha * x + beta, 0), 1)


@op("HardSwish", since=14)
def hard_swish(xp, x):
    """x * clip(x / 6 + 1/2, 0, 1)."""
    return x * hard_sigmoid(xp, x, alpha=1 / 6, beta=0.5)


@op("Swish", since=24)
def swish(xp, x, *, alpha=1.0):
    """x * sigmoid(alpha * x)."""
    return x * sigmoid(xp, x if alpha == 1.0 else alpha * x)


@op("SwiGLU", since=28)
def swiglu(xp, a, b, *, alpha=1.0):
    """swish(a) * b."""
    return swish(xp, a, alpha=alpha) * b


@op("Gelu", since=20)
def gelu(xp, x, *, approximate="none"):
    """x/2 * (1 + erf(x / sqrt 2)), or with "tanh" x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * (1.0 + xp.erf(x * _SQRT_HALF))


@op("Elu")
def elu(xp, x, *, alpha=1.0):
    """x where x >= 0, alpha * (exp(x) - 1) elsewhere."""
    return xp.where(xp.less(x, 0), alpha * (xp.exp(x) - 1.0), x)


@op("Celu", since=12)
def celu(xp, x, *, alpha=1.0):
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return xp.maximum(x, 0) + xp.minimum(alpha * (xp.exp(x / alpha) - 1.0), 0)


@op("Selu", since=6)
def selu(xp, x, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
    """gamma * x where x > 0, gamma * alpha * (exp(x) - 1) elsewhere."""
    return gamma * xp.where(xp.greater(x, 0), x, alpha * (xp.exp(x) - 1.0))


@op("Mish", since=18)
def mish(xp, x):
    """x * tanh(softplus(x))."""
    return x * xp.tanh(softplus(xp, x))


@op("Softplus")
def softplus(xp, x):
    """log(1 + exp(x)), written so that exp never overflows."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@op("Softsign")
def softsign(xp, x):
    """x / (1 + |x|)."""
    return x / (1.0 + xp.abs(x))


@op("Shrink", since=9)
def shrink(xp, x, *, bias=0.0, lambd=0.5):
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    # computed in floats whatever the type of x, as the function body of the standard does
    v = xp.cast(x, "float32") if x.dtype.kind in "iu" else x
    low = xp.where(xp.less(v, -lambd), v + bias, xp.full((), 0, v.dtype))
    return xp.cast(xp.where(xp.greater(v, lambd), v - bias, low), x.dtype)


@op("Softmax", since=13)
def softmax(xp, x, *, axis=-1):
    """exp(x - max) / sum, along one axis."""
    if not x.shape[axis]:  # nothing has no largest element
        return x
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


@op("LogSoftmax", since=13)
def log_softmax(xp, x, *, axis=-1):
    """(x - max) - log(sum(exp(x - max))), along one axis."""
    if not x.shape[axis]:  # nothing has no largest element
        return x
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@op("Hardmax", since=13)
def hardmax(xp, x, *, axis=-1):
    """1 at the first largest element along the axis, 0 elsewhere."""
    axis = axis % x.ndim
    if not x.shape[axis]:  # nothing has no largest element
        return x
    best = xp.argmax(x, axis=axis)
    places = xp.reshape(xp.arange(x.shape[axis]), [-1 if i == axis else 1 for i in range(x.ndim)])
    best = xp.reshape(best, [1 if i == axis else n for i, n in enumerate(x.shape)])
    return xp.cast(xp.equal(places, best), x.dtype)
