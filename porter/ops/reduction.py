"""Reductions over axes, running ones included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from porter.ops.namespace import highest, ints, is_float, lowest, normals
from porter.ops.registry import op


def _axes(x: Any, axes: Any, noop: int) -> tuple[int, ...] | None:
    """The axes to reduce; all of them where none are named, or none at all (None) where the node asks for that."""
    if axes is None or not (axes.size if isinstance(axes, np.ndarray) else len(axes)):
        return None if noop else tuple(range(x.ndim))
    return normals(ints(axes) if isinstance(axes, np.ndarray) else axes, x.ndim)


def _reducer(name: str, formula: str, since: int, compute: Callable[..., Any], before: Callable[..., Any]) -> None:
    """Axes were an attribute before opset `since`, and are a second input from then on."""

    def apply(xp: Any, data: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        over = _axes(data, axes, noop_with_empty_axes)
        if over is None:
            return before(xp, data)
        return compute(xp, data, over, bool(keepdims))

    def old(xp: Any, data: Any, *, axes: Any = None, keepdims: int = 1) -> Any:
        return compute(xp, data, _axes(data, axes, 0), bool(keepdims))

    apply.__doc__ = old.__doc__ = f"{formula} over the axes; over all where none are given."
    op(name)(old)
    op(name, since=since, static=("axes",))(apply)


def _same(xp: Any, x: Any) -> Any:
    return x


def _extreme(kind: str) -> Callable[..., Any]:
    def compute(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
        if any(x.shape[a] == 0 for a in axes):  # nothing to choose from: the identity
            start = lowest(x.dtype) if kind == "max" else highest(x.dtype)
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
            return xp.full(shape, start, x.dtype)
        return getattr(xp, kind)(x, axis=axes, keepdims=keepdims)

    return compute


def mean(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool = True) -> Any:
    """sum / number of elements; integers divide towards zero."""
    count = math.prod(x.shape[a] for a in axes)
    total = xp.sum(x, axis=axes, keepdims=keepdims)
    return total / float(count) if is_float(x.dtype) else xp.truncated_divide(total, xp.full((), count, x.dtype))


def _log_sum_exp(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    """log(sum(exp(x))), shifted by the largest element so that nothing overflows."""
    if any(x.shape[a] == 0 for a in axes):
        return xp.log(xp.sum(xp.exp(x), axis=axes, keepdims=keepdims))
    top = xp.max(x, axis=axes, keepdims=True)
    top = xp.where(xp.isinf(top), xp.full((), 0, x.dtype), top)
    out = xp.log(xp.sum(xp.exp(x - top), axis=axes, keepdims=True)) + top
    return out if keepdims else xp.reshape(out, [n for i, n in enumerate(x.shape) if i not in axes])


def _float(xp: Any, x: Any) -> Any:
    """ONNX's log and root reductions take integers too, and compute them in double before rounding back."""
    return x if is_float(x.dtype) else xp.cast(x, np.float64)


_reducer("ReduceSum", "Sum", 13, lambda xp, x, a, k: xp.sum(x, axis=a, keepdims=k), _same)
_reducer("ReduceProd", "Product", 18, lambda xp, x, a, k: xp.prod(x, axis=a, keepdims=k), _same)
_reducer("ReduceMean", "Sum / number of elements", 18, mean, _same)
_reducer("ReduceMax", "Largest element", 18, _extreme("max"), _same)
_reducer("ReduceMin", "Smallest element", 18, _extreme("min"), _same)
_reducer(
    "ReduceL1", "Sum of |x|", 18, lambda xp, x, a, k: xp.sum(xp.abs(x), axis=a, keepdims=k), lambda xp, x: xp.abs(x)
)
_reducer(
    "ReduceL2",
    "Root of the sum of squares",
    18,
    lambda xp, x, a, k: xp.cast(xp.sqrt(_float(xp, xp.sum(x * x, axis=a, keepdims=k))), x.dtype),
    lambda xp, x: xp.abs(x),
)
_reducer(
    "ReduceSumSquare", "Sum of squares", 18, lambda xp, x, a, k: xp.sum(x * x, axis=a, keepdims=k), lambda xp, x: x * x
)
_reducer(
    "ReduceLogSum",
    "Logarithm of the sum",
    18,
    lambda xp, x, a, k: xp.cast(xp.log(_float(xp, xp.sum(x, axis=a, keepdims=k))), x.dtype),
    lambda xp, x: xp.cast(xp.log(_float(xp, x)), x.dtype),
)
_reducer(
    "ReduceLogSumExp",
    "Logarithm of the sum of exp(x)",
    18,
    lambda xp, x, a, k: xp.cast(_log_sum_exp(xp, _float(xp, x), a, k), x.dtype),
    _same,
)


def _arg(xp: Any, data: Any, kind: str, axis: int, keepdims: int, last: int) -> Any:
    axis = normals((axis,), data.ndim)[0]
    n = data.shape[axis]
    found = getattr(xp, kind)(xp.flip(data, axis) if last else data, axis=axis)
    found = n - 1 - found if last else found
    return xp.reshape(found, [1 if i == axis else d for i, d in enumerate(data.shape)]) if keepdims else found


@op("ArgMax")
def arg_max(xp, data, *, axis=0, keepdims=1, select_last_index=0):
    """Index of the largest element along the axis, the first of equals unless the last is asked for."""
    return _arg(xp, data, "argmax", axis, keepdims, select_last_index)


@op("ArgMin")
def arg_min(xp, data, *, axis=0, keepdims=1, select_last_index=0):
    """Index of the smallest element along the axis, the first of equals unless the last is asked for."""
    return _arg(xp, data, "argmin", axis, keepdims, select_last_index)


def _running(xp: Any, x: Any, axis: Any, exclusive: int, reverse: int, kind: str) -> Any:
    along = normals(ints(axis), x.ndim)[0]
    y = xp.flip(x, along) if reverse else x
    if exclusive:  # shift by one: the first element sees nothing before it
        widths = [(1, 0) if i == along else (0, 0) for i in range(x.ndim)]
        y = xp.pad(y, widths, 0 if kind == "cumsum" else 1)
        y = xp.slice(y, (0,) * x.ndim, x.shape)
    y = getattr(xp, kind)(y, axis=along)
    return xp.flip(y, along) if reverse else y


@op("CumSum", since=11, static=("axis",))
def cum_sum(xp, x, axis, *, exclusive=0, reverse=0):
    """Sum of the elements up to each one along the axis; exclusive leaves out its own, reverse starts at the end."""
    return _running(xp, x, axis, exclusive, reverse, "cumsum")


@op("CumProd", since=26, static=("axis",))
def cum_prod(xp, x, axis, *, exclusive=0, reverse=0):
    """Product of the elements up to each one along the axis."""
    return _running(xp, x, axis, exclusive, reverse, "cumprod")
