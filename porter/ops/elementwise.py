"""Operators that treat every element alike: arithmetic, comparison, logic, bits, trigonometry."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from porter.ops.namespace import is_float
from porter.ops.registry import op

# one input, the same function of the same name in every namespace
_UNARY = {
    "Abs": ("abs", "|x|"),
    "Neg": ("negative", "-x"),
    "Sign": ("sign", "-1, 0 or 1"),
    "Exp": ("exp", "e ** x"),
    "Log": ("log", "natural logarithm"),
    "Sqrt": ("sqrt", "x ** 0.5"),
    "Sin": ("sin", "sine"),
    "Cos": ("cos", "cosine"),
    "Tan": ("tan", "tangent"),
    "Asin": ("arcsin", "inverse sine"),
    "Acos": ("arccos", "inverse cosine"),
    "Atan": ("arctan", "inverse tangent"),
    "Sinh": ("sinh", "hyperbolic sine"),
    "Cosh": ("cosh", "hyperbolic cosine"),
    "Tanh": ("tanh", "hyperbolic tangent"),
    "Asinh": ("arcsinh", "inverse hyperbolic sine"),
    "Acosh": ("arccosh", "inverse hyperbolic cosine"),
    "Atanh": ("arctanh", "inverse hyperbolic tangent"),
    "Erf": ("erf", "2/sqrt(pi) * integral of exp(-t*t) from 0 to x"),
    "Floor": ("floor", "largest integer not above x"),
    "Ceil": ("ceil", "smallest integer not below x"),
    "Round": ("round", "nearest integer, ties to even"),
    "Not": ("logical_not", "logical negation"),
    "BitwiseNot": ("invert", "every bit flipped"),
    "IsNaN": ("isnan", "x is not a number"),
}
# two inputs that broadcast against each other
_BINARY = {
    "Add": ("add", "a + b", 7),
    "Sub": ("subtract", "a - b", 7),
    "Mul": ("multiply", "a * b", 7),
    "And": ("logical_and", "a and b", 7),
    "Or": ("logical_or", "a or b", 7),
    "Xor": ("logical_xor", "one of a, b, not both", 7),
    "BitwiseAnd": ("bitwise_and", "bits in both", 18),
    "BitwiseOr": ("bitwise_or", "bits in either", 18),
    "BitwiseXor": ("bitwise_xor", "bits in one of the two", 18),
    "Equal": ("equal", "a == b", 7),
    "Less": ("less", "a < b", 7),
    "LessOrEqual": ("less_equal", "a <= b", 12),
    "Greater": ("greater", "a > b", 7),
    "GreaterOrEqual": ("greater_equal", "a >= b", 12),
}


def _unary(name: str, function: str, formula: str) -> None:
    def apply(xp: Any, x: Any) -> Any:
        return getattr(xp, function)(x)

    apply.__doc__ = f"{formula}, elementwise."
    op(name)(apply)


def _binary(name: str, function: str, formula: str, since: int) -> None:
    def apply(xp: Any, a: Any, b: Any) -> Any:
        return getattr(xp, function)(a, b)

    apply.__doc__ = f"{formula}, broadcast against each other."
    op(name, since=since)(apply)


for _name, (_function, _formula) in _UNARY.items():
    _unary(_name, _function, _formula)
for _name, (_function, _formula, _since) in _BINARY.items():
    _binary(_name, _function, _formula, _since)


@op("Div", since=7)
def div(xp, a, b):
    """a / b; integers round towards zero."""
    return xp.divide(a, b) if is_float(a.dtype) else xp.truncated_divide(a, b)


@op("Mod", since=10)
def mod(xp, a, b, *, fmod=0):
    """a - b * floor(a / b), with the sign of b; with fmod a - b * truncate(a / b), with the sign of a."""
    return xp.fmod(a, b) if fmod else xp.remainder(a, b)


@op("Pow", since=7)
def pow_(xp, x, y):
    """x ** y in the type of x."""
    return xp.cast(xp.power(x, y), x.dtype)


@op("Reciprocal")
def reciprocal(xp, x):
    """1 / x."""
    return 1.0 / x


@op("Max")
def max_(xp, *data_0):
    """The largest of the inputs, broadcast against each other; NaN where one is."""
    return reduce(xp.maximum, data_0)


@op("Min")
def min_(xp, *data_0):
    """The smallest of the inputs, broadcast against each other; NaN where one is."""
    return reduce(xp.minimum, data_0)


@op("Sum")
def sum_(xp, *data_0):
    """a + b + ..., broadcast against each other."""
    return reduce(xp.add, data_0)


@op("Mean")
def mean(xp, *data_0):
    """(a + b + ...) / number of inputs."""
    return reduce(xp.add, data_0) / float(len(data_0))


@op("Where", since=9)
def where(xp, condition, x, y):
    """x where the condition holds, y elsewhere."""
    return xp.where(condition, x, y)


@op("Clip", since=11)
def clip(xp, x, low=None, high=None):
    """min(max(x, low), high); a bound that is left out does not bound."""
    x = x if low is None else xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


@op("IsInf", since=10)
def is_inf(xp, x, *, detect_negative=1, detect_positive=1):
    """x is infinite, of the signs asked for."""
    if detect_negative and detect_positive:
        return xp.isinf(x)
    if detect_negative or detect_positive:
        return xp.equal(x, np.inf if detect_positive else -np.inf)
    return xp.full(x.shape, False, np.bool_)


@op("BitShift", since=11)
def bit_shift(xp, x, y, *, direction):
    """x shifted by y bits; those shifted out are lost. What is left of a shift by the width or more is the sign."""
    width = 8 * x.dtype.itemsize
    moved = (xp.left_shift if direction == "LEFT" else xp.right_shift)(x, xp.minimum(y, width - 1))
    if direction == "RIGHT" and x.dtype.kind == "i":
        return moved
    return xp.where(xp.less(y, width), moved, xp.full((), 0, x.dtype))


@op("Identity", moves=True)
def identity(xp, x):
    """x."""
    return x
