"""What each elementwise operation of a tile means, in numpy: the table that interpreters and simulators share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf  # numpy has none; jax brings scipy along

    return erf(x)


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer division truncates towards zero, as in jax and in C."""
    if np.issubdtype(np.result_type(a), np.integer):
        b = np.where(b == 0, np.ones_like(b), b)
        floor = np.floor_divide(a, b)
        return floor + ((floor < 0) & (floor * b != a)).astype(floor.dtype)
    return np.divide(a, b)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _not(x: np.ndarray) -> np.ndarray:
    return np.logical_not(x) if x.dtype == bool else np.bitwise_not(x)


def _round(x: np.ndarray) -> np.ndarray:
    """To nearest, ties to even."""
    return np.rint(x)


# name: (arguments, meaning). `select` is (condition, if true, if false). Comparisons give bool.
ELEMENTWISE: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "add": (2, np.add), "sub": (2, np.subtract), "mul": (2, np.multiply), "div": (2, _div), "rem": (2, np.fmod),
    "max": (2, np.maximum), "min": (2, np.minimum), "pow": (2, np.power), "atan2": (2, np.arctan2),
    "neg": (1, np.negative), "abs": (1, np.abs), "sign": (1, np.sign),
    "floor": (1, np.floor), "ceil": (1, np.ceil), "round": (1, _round),
    "exp": (1, np.exp), "exp2": (1, np.exp2), "expm1": (1, np.expm1), "log": (1, np.log), "log1p": (1, np.log1p),
    "sqrt": (1, np.sqrt), "rsqrt": (1, lambda x: 1 / np.sqrt(x)), "cbrt": (1, np.cbrt),
    "sin": (1, np.sin), "cos": (1, np.cos), "tan": (1, np.tan), "asin": (1, np.arcsin), "acos": (1, np.arccos),
    "atan": (1, np.arctan), "sinh": (1, np.sinh), "cosh": (1, np.cosh), "tanh": (1, np.tanh),
    "asinh": (1, np.arcsinh), "acosh": (1, np.arccosh), "atanh": (1, np.arctanh),
    "erf": (1, _erf), "logistic": (1, _logistic), "isfinite": (1, np.isfinite),
    "eq": (2, np.equal), "ne": (2, np.not_equal), "lt": (2, np.less), "le": (2, np.less_equal),
    "gt": (2, np.greater), "ge": (2, np.greater_equal),
    "and": (2, np.bitwise_and), "or": (2, np.bitwise_or), "xor": (2, np.bitwise_xor), "not": (1, _not),
    "shl": (2, np.left_shift), "shr": (2, np.right_shift),
    "select": (3, np.where),
}  # fmt: skip

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "isfinite"})

# op: (combine two tiles of partial results, reduce an array over axes)
REDUCTIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "add": (np.add, np.sum), "mul": (np.multiply, np.prod), "max": (np.maximum, np.max), "min": (np.minimum, np.min),
    "and": (np.bitwise_and, np.bitwise_and.reduce), "or": (np.bitwise_or, np.bitwise_or.reduce),
}  # fmt: skip


def identity(op: str, dtype: str) -> float | int | bool:
    """The value that leaves a reduction unchanged: 0, 1, or the dtype's lowest or highest value."""
    if op in ("add", "or"):
        return False if dtype == "bool" else 0
    if op == "and":
        return True if dtype == "bool" else -1
    if op == "mul":
        return 1
    sign = -1 if op == "max" else 1
    if dtype == "bool":
        return op == "min"
    if np.issubdtype(np.dtype(dtype), np.integer):
        info = np.iinfo(dtype)
        return int(info.min if op == "max" else info.max)
    return sign * float("inf")
