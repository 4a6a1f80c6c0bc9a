"""Gelu, as exporters spell it with erf or tanh."""

from math import pi, sqrt

from porter.rewrite import fusion


@fusion
def Gelu(op, x):
    """x times the normal distribution's probability of being below x."""
    return op.product(x, 0.5, 1.0 + op.Erf(op.scaled(x, sqrt(0.5))))


@Gelu.also(approximate="tanh")
def by_tanh(op, x):
    cube = op.either(op.Pow(x, 3.0), x * x * x, x * (x * x))
    inner = op.either(x + 0.044715 * cube, x * (1.0 + 0.044715 * (x * x)), x + op.product(0.044715, x, x * x))
    return op.product(x, 0.5, 1.0 + op.Tanh(sqrt(2.0 / pi) * inner))


@Gelu.also(approximate="tanh")
def by_tanh_factored(op, x):
    inner = op.product(x, sqrt(2.0 / pi), 1.0 + 0.044715 * (x * x))
    return op.product(x, 0.5, 1.0 + op.Tanh(inner))


@Gelu.when
def floating(m):
    return m.dtype("x").is_float or m.refuse("x is not floating")
