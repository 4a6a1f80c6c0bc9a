"""Bringing lax operands together: one type, one shape, numbers as what they meet."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax


def arrays(values: Any) -> Any:
    return tuple(jax.numpy.asarray(v) for v in values)


def scalar(value: Any, like: Any) -> Any:
    return lax.full(like.shape, value, like.dtype) if like.ndim else np.asarray(value, like.dtype)


def same_type(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands in one type: Python numbers take the other's, unequal arrays the wider one."""
    if isinstance(x, bool | int | float):
        return np.asarray(x, y.dtype), y
    if isinstance(y, bool | int | float):
        return x, np.asarray(y, x.dtype)
    if x.dtype == y.dtype:
        return x, y
    wide = np.result_type(x.dtype, y.dtype)
    return tuple(v if v.dtype == wide else lax.convert_element_type(v, wide) for v in (x, y))  # type: ignore[return-value]


def aligned(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands in one type, and in one shape unless one is a single number: primitives stretch those."""
    x, y = same_type(x, y)
    if np.shape(x) == np.shape(y) or not np.shape(x) or not np.shape(y):
        return x, y
    shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    return _stretch(x, shape), _stretch(y, shape)


def _stretch(x: Any, shape: tuple[int, ...]) -> Any:
    if np.shape(x) == shape:
        return x
    if np.ndim(x) == 0:
        return lax.broadcast(x, shape)
    return lax.broadcast_in_dim(x, shape, tuple(range(len(shape) - np.ndim(x), len(shape))))
