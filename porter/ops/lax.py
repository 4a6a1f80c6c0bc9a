"""The jax namespaces: operators as lax primitives, one where one will do, and no sub-jaxprs.

`jax_namespace` rounds narrow floats after every operator, as the source model does; `kernel_namespace` is what kernels
are traced with: float32 throughout, rounding only where the model casts. jax is set up here, once: 64-bit types, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from porter.ops.einsum import expand, pair
from porter.ops.namespace import INT_CODES, NARROW, NotKnown, highest, is_float, lowest

jax.config.update("jax_enable_x64", True)
if not jax.config.jax_platforms:  # operators are traced and evaluated on the host; a user's own choice stands
    jax.config.update("jax_platforms", "cpu")

_UNARY = {
    "exp": lax.exp, "log": lax.log, "sqrt": lax.sqrt, "sin": lax.sin, "cos": lax.cos, "tan": lax.tan,
    "arcsin": lax.asin, "arccos": lax.acos, "arctan": lax.atan, "sinh": lax.sinh, "cosh": lax.cosh, "tanh": lax.tanh,
    "arcsinh": lax.asinh, "arccosh": lax.acosh, "arctanh": lax.atanh, "erf": lax.erf, "floor": lax.floor,
    "ceil": lax.ceil, "negative": lax.neg, "sign": lax.sign, "log1p": lax.log1p, "expm1": lax.expm1,
    "invert": lax.bitwise_not, "logical_not": lax.bitwise_not,
}  # fmt: skip
_BINARY = {
    "add": lax.add, "subtract": lax.sub, "multiply": lax.mul, "divide": lax.div, "maximum": lax.max,
    "minimum": lax.min, "fmod": lax.rem, "truncated_divide": lax.div, "logical_and": lax.bitwise_and,
    "logical_or": lax.bitwise_or, "logical_xor": lax.bitwise_xor, "bitwise_and": lax.bitwise_and,
    "bitwise_or": lax.bitwise_or, "bitwise_xor": lax.bitwise_xor, "left_shift": lax.shift_left, "equal": lax.eq,
    "not_equal": lax.ne, "less": lax.lt, "less_equal": lax.le, "greater": lax.gt, "greater_equal": lax.ge,
}  # fmt: skip
_HIGHEST = lax.Precision.HIGHEST


class Jax:
    """lax under the names of `porter.ops.namespace`; `rounds` says whether narrow results are rounded after each."""

    lazy = True

    def __init__(self, name: str, *, rounds: bool) -> None:
        self.name = name
        self.rounds = rounds

    def __repr__(self) -> str:
        return f"ops.{self.name}"

    def __getattr__(self, name: str) -> Any:
        if name in _UNARY:
            primitive = _UNARY[name]
            function: Callable[..., Any] = lambda x: primitive(x)
        elif name in _BINARY:
            binary = _BINARY[name]
            function = lambda x, y: binary(*_pair(x, y))
        else:
            raise AttributeError(f"ops.{self.name} has no function '{name}'; see porter.ops.namespace")
        self.__dict__[name] = function
        return function

    # what it computes in

    def concrete(self, x: Any) -> bool:
        return not isinstance(x, jax.Array)

    def float_type(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.float32) if dtype in NARROW else dtype

    def widen(self, x: Any) -> Any:
        return self._convert(x, self.float_type(x.dtype))

    def settle(self, x: Any, dtype: np.dtype | None) -> Any:
        if dtype is None:
            return x
        if self.rounds:
            return self._convert(x, dtype)
        if dtype == np.int64 and x.dtype == np.int32:
            return x  # a position: kernels count in 32 bits
        # a kernel holds narrow floats in float32: what a Cast has rounded widens here, once
        return self._convert(x, self.float_type(dtype))

    def cast(self, x: Any, dtype: np.dtype) -> Any:
        dtype = np.dtype(dtype)
        if not self.concrete(x) and is_float(x.dtype) and (dtype.kind in "iu" or dtype in INT_CODES):
            # lax saturates where C wraps; every 32-bit value survives the way through int64
            x = self._convert(x, np.dtype(np.int64)) if dtype.itemsize < 8 else x
        if not self.concrete(x) and dtype == np.bool_ and x.dtype != np.bool_:
            return lax.ne(*_pair(x, 0))
        return self._convert(x, dtype)

    def _convert(self, x: Any, dtype: np.dtype) -> Any:
        if x.dtype == dtype:
            return x
        return x.astype(dtype) if self.concrete(x) else lax.convert_element_type(x, dtype)

    def bitcast(self, x: Any, dtype: np.dtype) -> Any:
        x = self._convert(x, np.dtype(np.uint8)) if x.dtype == np.bool_ else x
        return lax.bitcast_convert_type(x, dtype)

    # elementwise

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        return x if isinstance(x, jax.Array) else np.asarray(x, dtype)

    def abs(self, x: Any) -> Any:
        return x if x.dtype.kind in "ub" else lax.abs(x)

    def round(self, x: Any) -> Any:
        return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)

    def isnan(self, x: Any) -> Any:
        return lax.ne(x, x)

    def isinf(self, x: Any) -> Any:
        return lax.eq(*_pair(lax.abs(x), np.inf))

    def power(self, x: Any, y: Any) -> Any:
        if self.concrete(y) and np.ndim(y) <= np.ndim(x) and np.size(y) == 1:
            exponent = float(np.asarray(y).reshape(()))
            if exponent.is_integer() and abs(exponent) <= 8 and (exponent >= 0 or is_float(x.dtype)):
                return lax.integer_pow(x, int(exponent))
        if self.concrete(y) and np.ndim(y) == 0:
            y = np.asarray(y)
        if y.dtype != x.dtype and not (is_float(x.dtype) and y.dtype.kind in "iu"):
            wide = np.result_type(x.dtype, y.dtype)
            return self.cast(lax.pow(*_pair(self._convert(x, wide), self._convert(y, wide))), x.dtype)
        if x.dtype.kind in "iu":
            return self.cast(self.round(lax.pow(*_pair(self.cast(x, np.float64), self.cast(y, np.float64)))), x.dtype)
        return lax.pow(*_pair(x, self._convert(y, x.dtype)))

    def remainder(self, x: Any, y: Any) -> Any:
        x, y = _pair(x, y)
        r = lax.rem(x, y)
        if x.dtype.kind == "u":
            return r
        zero = _scalar(0, r)
        wrong = lax.bitwise_and(lax.ne(r, zero), lax.ne(lax.lt(r, zero), lax.lt(y, zero)))
        return lax.select_n(wrong, r, lax.add(r, y))

    def right_shift(self, x: Any, y: Any) -> Any:
        x, y = _pair(x, y)
        return (lax.shift_right_logical if x.dtype.kind == "u" else lax.shift_right_arithmetic)(x, y)

    def where(self, flag: Any, x: Any, y: Any) -> Any:
        x, y = _same_type(x, y)
        shape = np.broadcast_shapes(np.shape(flag), np.shape(x), np.shape(y))
        flag = flag if np.ndim(flag) == 0 else self.broadcast_to(flag, shape)
        return lax.select_n(flag, self.broadcast_to(y, shape), self.broadcast_to(x, shape))

    # making

    def full(self, shape: Sequence[int], value: Any, dtype: Any) -> Any:
        return lax.full(tuple(shape), value, dtype)

    def arange(self, n: int, dtype: Any = np.int64) -> Any:
        if not self.rounds and np.dtype(dtype) == np.int64 and n < 2**31:
            dtype = np.int32  # a position; kernels count in 32 bits
        return lax.iota(dtype, n)

    # movement

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        shape = tuple(int(n) for n in shape)
        if -1 in shape:
            rest = math.prod(n for n in shape if n != -1)
            shape = tuple((math.prod(x.shape) // rest if rest else 0) if n == -1 else n for n in shape)
        return x if tuple(x.shape) == shape else lax.reshape(x, shape)

    def transpose(self, x: Any, axes: Sequence[int] | None = None) -> Any:
        axes = tuple(reversed(range(x.ndim))) if axes is None else tuple(axes)
        return x if axes == tuple(range(x.ndim)) else lax.transpose(x, axes)

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> Any:
        shape = tuple(shape)
        if tuple(np.shape(x)) == shape:
            return x
        if np.ndim(x) == 0:
            return lax.broadcast(x, shape)
        return lax.broadcast_in_dim(x, shape, tuple(range(len(shape) - x.ndim, len(shape))))

    def concatenate(self, xs: Sequence[Any], axis: int = 0) -> Any:
        if len(xs) == 1:
            return xs[0]
        wide = np.result_type(*(x.dtype for x in xs)) if len({x.dtype for x in xs}) > 1 else xs[0].dtype
        return lax.concatenate([self._convert(x, wide) for x in xs], axis % xs[0].ndim)

    def slice(self, x: Any, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int] | None = None) -> Any:
        """Any numpy slice; a negative step is a slice of the reversed axis."""
        steps = tuple(steps or (1,) * x.ndim)
        lows, highs, strides, turned = [], [], [], []
        for axis, (a, b, s) in enumerate(zip(starts, stops, steps, strict=True)):
            places = range(x.shape[axis])[slice(a, b, s)]
            if not places:
                lows, highs, strides = [*lows, 0], [*highs, 0], [*strides, 1]
                continue
            low, high = min(places[0], places[-1]), max(places[0], places[-1])
            lows, highs, strides = [*lows, low], [*highs, high + 1], [*strides, abs(s)]
            turned += [axis] if s < 0 and len(places) > 1 else []
        whole = all(a == 0 and b == n and s == 1 for a, b, s, n in zip(lows, highs, strides, x.shape, strict=True))
        y = x if whole else lax.slice(x, lows, highs, None if all(s == 1 for s in strides) else strides)
        return lax.rev(y, tuple(turned)) if turned else y

    def flip(self, x: Any, axis: int | Sequence[int]) -> Any:
        return lax.rev(x, (axis,) if isinstance(axis, int) else tuple(axis))

    def pad(self, x: Any, widths: Sequence[tuple[int, int]], value: Any = 0) -> Any:
        if not any(a or b for a, b in widths):
            return x
        fill = value if isinstance(value, jax.Array) else np.asarray(value, x.dtype)
        return lax.pad(x, fill, [(int(a), int(b), 0) for a, b in widths])

    # reductions

    def _reduce(self, primitive: Any, x: Any, axis: Any, keepdims: bool) -> Any:
        axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
        axes = tuple(a % x.ndim for a in axes)
        y = primitive(x, axes)
        return lax.expand_dims(y, sorted(axes)) if keepdims else y

    def sum(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return self._reduce(lax.reduce_sum, x, axis, keepdims)

    def prod(self, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return self._reduce(lax.reduce_prod, x, axis, keepdims)

    def max(self, x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
        return self._reduce(lax.reduce_or if x.dtype == np.bool_ else lax.reduce_max, x, axis, keepdims)

    def min(self, x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
        return self._reduce(lax.reduce_and if x.dtype == np.bool_ else lax.reduce_min, x, axis, keepdims)

    def argmax(self, x: Any, axis: int) -> Any:
        return lax.argmax(x, axis % x.ndim, np.int32 if not self.rounds else np.int64)

    def argmin(self, x: Any, axis: int) -> Any:
        return lax.argmin(x, axis % x.ndim, np.int32 if not self.rounds else np.int64)

    def cumsum(self, x: Any, axis: int) -> Any:
        return lax.cumsum(x, axis % x.ndim)

    def cumprod(self, x: Any, axis: int) -> Any:
        return lax.cumprod(x, axis % x.ndim)

    def sort_with_index(self, x: Any, axis: int, descending: bool) -> tuple[Any, Any]:
        axis = axis % x.ndim
        places = lax.broadcasted_iota(np.int64, x.shape, axis)
        key = self.flip(x, axis) if descending else x
        places = self.flip(places, axis) if descending else places
        key, places = lax.sort((key, places), dimension=axis, is_stable=True, num_keys=1)
        return (self.flip(key, axis), self.flip(places, axis)) if descending else (key, places)

    # contractions

    def matmul(self, a: Any, b: Any) -> Any:
        """numpy's matmul as one dot_general; a plain matrix on the right needs no batch dimensions."""
        a, b = _same_type(a, b)
        rows, columns = a.ndim > 1, b.ndim > 1
        a = a if rows else self.reshape(a, (1, *a.shape))
        b = b if columns else self.reshape(b, (*b.shape, 1))
        if b.ndim == 2:
            y = _dot(a, b, (((a.ndim - 1,), (0,)), ((), ())))
        else:
            batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            a, b = (self.broadcast_to(v, (*batch, *v.shape[-2:])) for v in (a, b))
            lead = tuple(range(len(batch)))
            y = _dot(a, b, (((a.ndim - 1,), (b.ndim - 2,)), (lead, lead)))
        keep = [n for n, wanted in ((y.shape[-2], rows), (y.shape[-1], columns)) if wanted]
        return self.reshape(y, (*y.shape[:-2], *keep))

    def einsum(self, equation: str, *operands: Any) -> Any:
        terms, out = expand(equation, [x.ndim for x in operands])
        roles = pair(*terms, out) if len(terms) == 2 else None
        if roles is None:
            return jax.numpy.einsum(",".join(terms) + "->" + out, *operands, precision=_HIGHEST)
        a, b = _same_type(*operands)
        return self.transpose(_dot(a, b, (roles.summed, roles.batch)), roles.turn)

    def conv(
        self,
        x: Any,
        w: Any,
        *,
        strides: Sequence[int],
        pads: Sequence[tuple[int, int]],
        dilations: Sequence[int],
        group: int = 1,
        stretch: Sequence[int] | None = None,
    ) -> Any:
        x, w = _same_type(x, w)
        return lax.conv_general_dilated(
            x,
            w,
            tuple(strides),
            [(int(a), int(b)) for a, b in pads],
            lhs_dilation=tuple(stretch) if stretch else None,
            rhs_dilation=tuple(dilations),
            feature_group_count=group,
            precision=_HIGHEST,
            preferred_element_type=x.dtype,
        )

    def window_reduce(
        self,
        kind: str,
        x: Any,
        *,
        window: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[tuple[int, int]],
        dilations: Sequence[int],
    ) -> Any:
        compute, start = {
            "sum": (lax.add, 0),
            "max": (lax.max, lowest(x.dtype)),
            "min": (lax.min, highest(x.dtype)),
        }[kind]
        lead = x.ndim - len(window)
        ones = (1,) * lead
        return lax.reduce_window(
            x,
            np.asarray(start, x.dtype)[()],
            compute,
            (*ones, *window),
            (*ones, *strides),
            [(0, 0)] * lead + [(int(a), int(b)) for a, b in pads],
            window_dilation=(*ones, *dilations),
        )

    def determinant(self, x: Any) -> Any:
        return jax.numpy.linalg.det(x)

    # indexing: indices are in range already, so the out-of-range rule is a formality

    def take(self, x: Any, indices: Any, axis: int) -> Any:
        axis, rank = axis % x.ndim, np.ndim(indices)
        offset = (*range(axis), *range(axis + rank, x.ndim - 1 + rank))
        numbers = lax.GatherDimensionNumbers(offset_dims=offset, collapsed_slice_dims=(axis,), start_index_map=(axis,))
        sizes = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
        return lax.gather(x, lax.expand_dims(indices, (rank,)), numbers, sizes, mode="clip")

    def take_along_axis(self, x: Any, indices: Any, axis: int) -> Any:
        axis = axis % x.ndim
        lead = tuple(i for i in range(x.ndim) if i != axis)
        x = self.slice(x, (0,) * x.ndim, tuple(n if i == axis else indices.shape[i] for i, n in enumerate(x.shape)))
        numbers = lax.GatherDimensionNumbers(
            offset_dims=(),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
            operand_batching_dims=lead,
            start_indices_batching_dims=lead,
        )
        return lax.gather(x, lax.expand_dims(indices, (x.ndim,)), numbers, (1,) * x.ndim, mode="clip")

    def gather_nd(self, x: Any, indices: Any, batch_dims: int = 0) -> Any:
        depth, rank = indices.shape[-1], indices.ndim - 1
        lead = tuple(range(batch_dims))
        mapped = tuple(range(batch_dims, batch_dims + depth))
        numbers = lax.GatherDimensionNumbers(
            offset_dims=tuple(range(rank, rank + x.ndim - batch_dims - depth)),
            collapsed_slice_dims=mapped,
            start_index_map=mapped,
            operand_batching_dims=lead,
            start_indices_batching_dims=lead,
        )
        sizes = tuple(1 if i < batch_dims + depth else n for i, n in enumerate(x.shape))
        return lax.gather(x, indices, numbers, sizes, mode="clip")

    def scatter_nd(self, x: Any, indices: Any, updates: Any, reduction: str) -> Any:
        depth, rank = indices.shape[-1], indices.ndim - 1
        numbers = lax.ScatterDimensionNumbers(
            update_window_dims=tuple(range(rank, rank + x.ndim - depth)),
            inserted_window_dims=tuple(range(depth)),
            scatter_dims_to_operand_dims=tuple(range(depth)),
        )
        return _SCATTER[reduction](x, indices, self._convert(updates, x.dtype), numbers, mode="clip")

    def scatter_along_axis(self, x: Any, indices: Any, updates: Any, axis: int, reduction: str) -> Any:
        where = [lax.broadcasted_iota(indices.dtype, indices.shape, i) for i in range(x.ndim)]
        where[axis] = indices
        return self.scatter_nd(x, lax.concatenate([lax.expand_dims(w, (x.ndim,)) for w in where], x.ndim),
                               updates, reduction)  # fmt: skip

    # control

    def cond(self, flag: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        if self.concrete(flag):
            return then() if bool(np.asarray(flag).reshape(-1)[0]) else otherwise()
        chosen = self.reshape(flag, ())
        return _shapes_kept(lambda: lax.cond(chosen, lambda: _arrays(then()), lambda: _arrays(otherwise())))

    def loop(
        self, trip_count: Any, flag: Any, state: tuple[Any, ...], body: Callable[..., Any], scans: int
    ) -> tuple[tuple[Any, ...], list[Any]]:
        """As in numpy: a few turns unroll, many are a scan, an unknown number is a while_loop that collects no rows."""
        known = self.concrete(trip_count) and trip_count is not None
        if self.concrete(flag) and known and trip_count <= _UNROLLED:
            rows: list[list[Any]] = [[] for _ in range(scans)]
            turns = trip_count if bool(np.all(flag)) else 0
            held = state
            for i in range(turns):
                flag, held, new = body(np.int64(i), flag, held)
                for row, value in zip(rows, new, strict=True):
                    row.append(value)
                if not self.concrete(flag):
                    break
                if not bool(np.all(flag)):
                    return held, rows
            else:
                return held, rows
        if not scans:
            return self._while(trip_count, flag, state, body), []
        if not known or not self.concrete(flag) or not bool(np.all(flag)):
            raise NotKnown("Loop", expected="a number of turns that is known", found="a computed one")

        def step(carry: Any, i: Any) -> Any:
            held, values, new = body(i, np.asarray(True), carry)
            if not self.concrete(held) or not bool(np.all(held)):
                raise NotKnown("Loop", expected="a number of turns that is known", found="a computed condition")
            return _arrays(values), _arrays(new)

        final, columns = _shapes_kept(lambda: lax.scan(step, _arrays(state), lax.iota(np.int64, trip_count)))
        return final, list(columns)

    def _while(self, trip_count: Any, flag: Any, state: tuple[Any, ...], body: Callable[..., Any]) -> tuple[Any, ...]:
        limit = np.int64(np.iinfo(np.int64).max) if trip_count is None else trip_count

        def turn(carry: Any) -> Any:
            n, held, values = carry
            held, values, _ = body(n, held, values)
            return n + 1, self.reshape(jax.numpy.asarray(held), ()), _arrays(values)

        start = (jax.numpy.asarray(np.int64(0)), self.reshape(jax.numpy.asarray(flag), ()), _arrays(state))
        more = lambda c: lax.bitwise_and(c[1], lax.lt(*_pair(c[0], limit)))
        return _shapes_kept(lambda: lax.while_loop(more, turn, start))[2]

    def scan(
        self, body: Callable[..., Any], state: tuple[Any, ...], xs: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
        if xs[0].shape[0] == 0:
            return state, None

        def step(carry: Any, rows: Any) -> Any:
            held, new = body(carry, rows)
            return _arrays(held), _arrays(new)

        return _shapes_kept(lambda: lax.scan(step, _arrays(state), _arrays(xs)))


_SCATTER = {
    "none": lax.scatter,
    "add": lax.scatter_add,
    "mul": lax.scatter_mul,
    "max": lax.scatter_max,
    "min": lax.scatter_min,
}


# Loops of at most this many turns unroll: each turn then knows its number.
_UNROLLED = 32


def _shapes_kept(build: Callable[[], Any]) -> Any:
    """What `build` makes; jax wants every branch and every turn to return the same shapes."""
    try:
        return build()
    except TypeError as error:
        raise NotKnown("control flow", expected="the same shapes on every way", found=str(error)) from error


def _arrays(values: Any) -> Any:
    return tuple(jax.numpy.asarray(v) for v in values)


def _scalar(value: Any, like: Any) -> Any:
    return lax.full(like.shape, value, like.dtype) if like.ndim else np.asarray(value, like.dtype)


def _same_type(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands in one type: Python numbers take the other's, unequal arrays the wider one."""
    if isinstance(x, bool | int | float):
        return np.asarray(x, y.dtype), y
    if isinstance(y, bool | int | float):
        return x, np.asarray(y, x.dtype)
    if x.dtype == y.dtype:
        return x, y
    wide = np.result_type(x.dtype, y.dtype)
    return tuple(v if v.dtype == wide else lax.convert_element_type(v, wide) for v in (x, y))  # type: ignore[return-value]


def _pair(x: Any, y: Any) -> tuple[Any, Any]:
    """Both operands in one type, and in one shape unless one is a single number: primitives stretch those."""
    x, y = _same_type(x, y)
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


def _dot(a: Any, b: Any, dimensions: Any) -> Any:
    return lax.dot_general(a, b, dimensions, precision=_HIGHEST, preferred_element_type=a.dtype)


jax_namespace = Jax("jax_namespace", rounds=True)
kernel_namespace = Jax("kernel_namespace", rounds=False)
