"""The array namespace that operator definitions are written over: what every `xp` offers.

Arrays have `.shape`, `.ndim`, `.dtype` and the arithmetic and comparison operators. Functions carry numpy's names and
meaning, and never change the element type of equal-typed operands:

    elementwise   abs negative sign exp log sqrt sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh
                  arctanh erf floor ceil round (ties to even) isnan isinf invert
                  add subtract multiply divide (true division of floats) power maximum minimum
                  remainder (sign of the divisor) fmod (sign of the dividend) truncated_divide (integers, to zero)
                  logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor
                  left_shift right_shift equal not_equal less less_equal greater greater_equal where
    making        asarray full(shape, value, dtype) arange(n, dtype) cast(x, dtype) bitcast(x, dtype)
    movement      reshape transpose broadcast_to concatenate slice(x, starts, stops, steps) flip
                  pad(x, [(low, high), ...], value)
    reduction     sum prod max min (axis: tuple, keepdims) argmax argmin (first of equals) cumsum cumprod
    contraction   matmul einsum conv(x, w, strides, pads, dilations, group, stretch) window_reduce(kind, x, window,
                  strides, pads, dilations) over the trailing axes
    indexing      take(x, indices, axis) take_along_axis gather_nd(x, indices, batch_dims)
                  scatter_nd(x, indices, updates, reduction) scatter_along_axis: indices are in range already
                  first(x, k, axis, descending): k of them in order and where they were, stable
    control       cond(flag, then, otherwise) loop(...) scan(...)

What a namespace says about itself:

    widen(x)             what an operator computes on: a stored array in, the array of the compute type out
    settle(x, dtype)     what is kept of a result whose declared type is `dtype`
    rounds               whether results of a narrow declared type are rounded after every operator
    concrete(x)          whether the values of x are known here and now
    float_type(dtype)    the type in which floats declared as `dtype` are computed

A type of eight bits or fewer (float8, float4, int4, ...) is a code: Cast, Quantize, Dequantize and movement speak it,
arithmetic does not, so codes stay what they are in every namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from porter.errors import PorterError

# The floats that operators never compute in: they widen to float32 and the result is rounded once.
NARROW = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})
WIDE = frozenset({np.dtype(np.float32), np.dtype(np.float64)})

FLOAT_CODES = frozenset(
    np.dtype(t)
    for t in (
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
        ml_dtypes.float8_e8m0fnu,
        ml_dtypes.float4_e2m1fn,
    )
)
INT_CODES = frozenset(np.dtype(t) for t in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2))


def is_float(dtype: np.dtype) -> bool:
    """Whether arithmetic on this type is floating: float64, float32, float16 or bfloat16."""
    return dtype in WIDE or dtype in NARROW


def is_kernel(xp: Any) -> bool:
    """Whether this namespace traces kernels: float32 throughout, rounding where the model or a matrix unit does."""
    return bool(xp.lazy and not xp.rounds)


def fed(xp: Any, x: Any, dtype: np.dtype | None) -> Any:
    """x as a kernel's matrix unit reads it: what was computed in float32 rounds to its declared narrow type."""
    return xp.widen(xp.cast(x, dtype)) if is_kernel(xp) and dtype in NARROW else x


class NotKnown(PorterError):
    """A shape would depend on values that are computed at run time."""


def ints(x: Any) -> tuple[int, ...]:
    """A static integer input as Python ints; a scalar gives a 1-tuple."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu":
        return tuple(x.reshape(-1).tolist())
    if not isinstance(x, np.ndarray | np.generic | int):
        raise NotKnown("an input that fixes a shape", expected="known values", found="values computed at run time")
    return tuple(int(v) for v in np.atleast_1d(x).reshape(-1))


def normal(axis: int, rank: int) -> int:
    """An axis in [0, rank); negative ones count from the end."""
    if not -rank <= axis < max(rank, 1):
        raise PorterError(f"axis {axis}", expected=f"an axis of a tensor of rank {rank}", found=str(axis))
    return axis % rank if rank else 0


def normals(axes: Sequence[int] | np.ndarray, rank: int) -> tuple[int, ...]:
    """Axes in [0, rank), in the order given."""
    return tuple(normal(int(a), rank) for a in axes)


def lowest(dtype: np.dtype) -> Any:
    """The identity of max in this type, as a Python number."""
    if dtype == np.bool_:
        return False
    return -np.inf if is_float(dtype) else int(np.iinfo(dtype).min)


def highest(dtype: np.dtype) -> Any:
    """The identity of min in this type, as a Python number."""
    if dtype == np.bool_:
        return True
    return np.inf if is_float(dtype) else int(np.iinfo(dtype).max)
