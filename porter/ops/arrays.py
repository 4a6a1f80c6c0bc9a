"""The two numpy namespaces: `float64`, where the truth is computed, and `source`, which rounds as the model does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from porter.ops import windows
from porter.ops.einsum import expand, pair
from porter.ops.namespace import NARROW, WIDE, is_float

# Functions that mean in numpy what a definition means by them.
_NUMPY = frozenset(
    """abs negative sign exp log sqrt sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh floor ceil
    isnan isinf invert add subtract multiply divide power maximum minimum remainder fmod logical_and logical_or
    logical_xor logical_not bitwise_and bitwise_or bitwise_xor left_shift right_shift equal not_equal less less_equal
    greater greater_equal where asarray full reshape transpose broadcast_to concatenate flip argmax argmin matmul
    take take_along_axis log1p expm1""".split()
)

_LONG = 4096  # elements from which two more passes cost less than wrong guesses


class Numpy:
    """numpy under the names of `porter.ops.namespace`; `double` computes every float in float64."""

    rounds: bool
    lazy = False

    def __init__(self, name: str, *, double: bool) -> None:
        self.name = name
        self.double = double
        self.rounds = not double
        # the floats that are not computed in as they are, and what they are computed in
        self._wider = {d: np.dtype(np.float64 if double else np.float32) for d in (*NARROW, *WIDE)}
        self._wider = {d: wide for d, wide in self._wider.items() if d != wide and (double or d in NARROW)}

    def __repr__(self) -> str:
        return f"ops.{self.name}"

    def __getattr__(self, name: str) -> Any:
        if name not in _NUMPY:
            raise AttributeError(f"ops.{self.name} has no function '{name}'; see porter.ops.namespace")
        function = getattr(np, name)
        self.__dict__[name] = function
        return function

    # what it computes in

    def concrete(self, x: Any) -> bool:
        return True

    def float_type(self, dtype: np.dtype) -> np.dtype:
        return self._wider.get(dtype, dtype)

    def widen(self, x: np.ndarray) -> np.ndarray:
        wider = self._wider.get(x.dtype)
        return x if wider is None else x.astype(wider)

    def settle(self, x: Any, dtype: np.dtype | None) -> np.ndarray:
        if type(x) is np.ndarray:
            if x.dtype is dtype and not (self.double and x.dtype in self._wider):
                return x
        else:
            x = np.asarray(x)
        if self.double:
            x = self.widen(x)
            if dtype is None or is_float(x.dtype):
                return x
            dtype = self.float_type(dtype)
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)

    def cast(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        dtype = np.dtype(dtype)
        if self.double and is_float(dtype):
            dtype = np.dtype(np.float64)  # a rounding that the true value does not have
        return _converted(x, dtype)

    def bitcast(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return np.array(x, order="C").view(dtype)

    # what numpy calls otherwise, or does not have

    def erf(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import erf  # numpy has none, jax brings scipy along; a fifth of a second to import

        if x.size < _LONG:
            return erf(x)
        # an odd function to the bit: of |x| it takes no branch on the sign, which a processor would guess wrong half the time
        y = np.abs(x)
        return np.copysign(erf(y, y), x, out=y)

    def round(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x)

    def truncated_divide(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        quotient = np.floor_divide(x, y)
        return quotient + ((quotient < 0) & (quotient * y != x)).astype(quotient.dtype)

    def arange(self, n: int, dtype: Any = np.int64) -> np.ndarray:
        return np.arange(n, dtype=dtype)

    def slice(
        self, x: np.ndarray, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int] | None = None
    ) -> np.ndarray:
        return x[tuple(slice(a, b, s) for a, b, s in zip(starts, stops, steps or (1,) * x.ndim, strict=True))]

    def pad(self, x: np.ndarray, widths: Sequence[tuple[int, int]], value: Any = 0) -> np.ndarray:
        if not any(a or b for a, b in widths):
            return x
        out = np.full([n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)], value, x.dtype)
        out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, widths, strict=True))] = x
        return out

    # ufuncs' own reduce: np.sum and its siblings look at their arguments first, which takes as long as a short sum

    def sum(self, x: np.ndarray, axis: Any = None, keepdims: Any = False) -> np.ndarray:
        return np.add.reduce(x, axis, x.dtype, keepdims=keepdims)

    def prod(self, x: np.ndarray, axis: Any = None, keepdims: Any = False) -> np.ndarray:
        return np.multiply.reduce(x, axis, x.dtype, keepdims=keepdims)

    def max(self, x: np.ndarray, axis: Any = None, keepdims: bool = False, initial: Any = None) -> np.ndarray:
        return np.maximum.reduce(x, axis, keepdims=keepdims, **({} if initial is None else {"initial": initial}))

    def min(self, x: np.ndarray, axis: Any = None, keepdims: bool = False, initial: Any = None) -> np.ndarray:
        return np.minimum.reduce(x, axis, keepdims=keepdims, **({} if initial is None else {"initial": initial}))

    def cumsum(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.cumsum(x, axis=axis, dtype=x.dtype)

    def cumprod(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.cumprod(x, axis=axis, dtype=x.dtype)

    def first(self, x: np.ndarray, k: int, axis: int, descending: bool) -> tuple[np.ndarray, np.ndarray]:
        # equal elements keep their order in both directions: sort the reversed array, then turn the result round
        back = np.flip(x, axis) if descending else x
        order = np.argsort(back, axis=axis, kind="stable")
        if descending:
            order = np.flip(x.shape[axis] - 1 - order, axis)
        order = np.take(order, range(k), axis)
        return np.take_along_axis(x, order, axis), order

    def einsum(self, equation: str, *operands: np.ndarray) -> np.ndarray:
        terms, out = expand(equation, tuple(x.ndim for x in operands))
        roles = pair(terms[0], terms[1], out) if len(terms) == 2 else None
        if roles is None or operands[0].dtype.kind != "f":
            return np.einsum(",".join(terms) + "->" + out, *operands, optimize=len(operands) > 2)
        # as a matrix product, which BLAS does; numpy's own einsum loops where there are batch axes
        kept = [tuple(x.shape[i] for i in r) for x, r in zip(operands, roles.kept, strict=True)]
        batch, other = (tuple(x.shape[i] for i in r) for x, r in zip(operands, roles.batch, strict=True))
        a = operands[0].transpose(roles.batch[0] + roles.kept[0] + roles.summed[0])
        b = operands[1].transpose(roles.batch[1] + roles.summed[1] + roles.kept[1])
        if batch != other:  # an axis of one is repeated
            batch = np.broadcast_shapes(batch, other)
            a, b = (np.broadcast_to(v, (*batch, *v.shape[len(batch) :])) for v in (a, b))
        depth = math.prod(operands[0].shape[i] for i in roles.summed[0])
        left = a.reshape((*batch, math.prod(kept[0]), depth))
        right = b.reshape((*batch, depth, math.prod(kept[1])))
        return np.matmul(left, right).reshape((*batch, *kept[0], *kept[1])).transpose(roles.turn)

    def conv(self, x: np.ndarray, w: np.ndarray, **options: Any) -> np.ndarray:
        return windows.conv(x, w, **options)

    def window_reduce(self, kind: str, x: np.ndarray, **options: Any) -> np.ndarray:
        return windows.window_reduce(kind, x, **options)

    def determinant(self, x: np.ndarray) -> np.ndarray:
        return np.linalg.det(x)

    def gather_nd(self, x: np.ndarray, indices: np.ndarray, batch_dims: int = 0) -> np.ndarray:
        return x[_coordinates(x, indices, batch_dims)]

    def scatter_nd(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray, reduction: str) -> np.ndarray:
        return _scatter(x, _coordinates(x, indices, 0), updates, reduction)

    def scatter_along_axis(
        self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray, axis: int, reduction: str
    ) -> np.ndarray:
        where = list(np.ix_(*(np.arange(n) for n in indices.shape)))
        where[axis] = indices
        return _scatter(x, tuple(where), updates, reduction)

    # control

    def cond(self, flag: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return then() if bool(np.asarray(flag).reshape(-1)[0]) else otherwise()

    def loop(
        self,
        trip_count: int | None,
        flag: Any,
        state: tuple[Any, ...],
        body: Callable[..., tuple[Any, tuple[Any, ...], tuple[Any, ...]]],
        scans: int,
    ) -> tuple[tuple[Any, ...], list[list[Any]]]:
        """Run `body(i, flag, state) -> (flag, state, rows)` while flag holds, at most trip_count times."""
        rows: list[list[Any]] = [[] for _ in range(scans)]
        i = 0
        while (trip_count is None or i < trip_count) and bool(np.asarray(flag).reshape(-1)[0]):
            flag, state, new = body(np.int64(i), flag, state)
            for row, value in zip(rows, new, strict=True):
                row.append(value)
            i += 1
        return state, rows

    def scan(
        self, body: Callable[..., tuple[tuple[Any, ...], tuple[Any, ...]]], state: tuple[Any, ...], xs: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[np.ndarray, ...] | None]:
        """Fold `body(state, rows) -> (state, rows)` over the first axis of xs; None for no rows at all."""
        collected: list[tuple[Any, ...]] = []
        for i in range(xs[0].shape[0]):
            state, new = body(state, tuple(x[i] for x in xs))
            collected.append(new)
        if not collected:
            return state, None
        return state, tuple(np.stack(column) for column in zip(*collected, strict=True))


def _converted(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """numpy's cast; codes of eight bits and fewer are looked up, at a fifth of what ml_dtypes takes."""
    if x.dtype.itemsize == 1 and x.dtype.kind not in "iub" and dtype.kind == "f":
        return np.asarray(_values(x.dtype, dtype)[x.view(np.uint8)])
    return x.astype(dtype, copy=False)


@cache
def _values(codes: np.dtype, dtype: np.dtype) -> np.ndarray:
    """What each byte stands for."""
    return np.arange(256, dtype=np.uint8).view(codes).astype(dtype)


def _coordinates(x: np.ndarray, indices: np.ndarray, batch_dims: int) -> tuple[np.ndarray, ...]:
    """Index arrays, one per leading axis of x, that select what GatherND and ScatterND mean by `indices`."""
    lead = tuple(
        np.arange(n).reshape((n,) + (1,) * (indices.ndim - 1 - i - 1)) for i, n in enumerate(x.shape[:batch_dims])
    )
    return lead + tuple(np.moveaxis(indices, -1, 0))


_SCATTER = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(x: np.ndarray, where: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    out = x.copy()
    if reduction == "none":
        out[where] = updates
    else:
        _SCATTER[reduction].at(out, where, updates)
    return out


float64 = Numpy("float64", double=True)
source = Numpy("source", double=False)

__all__ = ["WIDE", "Numpy", "float64", "source"]
