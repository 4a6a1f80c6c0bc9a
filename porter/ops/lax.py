"""The jax namespaces: operators as lax primitives, one where one will do, and no sub-jaxprs.

`jax_namespace` rounds narrow floats after every operator, as the source model does; `kernel_namespace` is what kernels
are traced with: float32 throughout, rounding only where the model casts. jax is set up here: 64-bit types, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from porter.ops.einsum import expand, pair
from porter.ops.lax_control import Control
from porter.ops.lax_indexing import Indexing
from porter.ops.namespace import INT_CODES, NARROW, highest, is_float, lowest
from porter.ops.operands import aligned, same_type, scalar

jax.config.update("jax_enable_x64", True)
if not getattr(
    jax.config, "jax_platforms", None
):  # operators are traced and evaluated on the host; a user's own choice stands
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


class Jax(Indexing, Control):
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
            function = lambda x, y: binary(*aligned(x, y))
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
        # a kernel leaves narrow floats as it computed them, in float32 or as a Cast has rounded them, and its positions
        # in 32 bits
        return x if dtype in NARROW or (dtype == np.int64 and x.dtype == np.int32) else self._convert(x, dtype)

    def cast(self, x: Any, dtype: np.dtype) -> Any:
        dtype = np.dtype(dtype)
        if not self.concrete(x) and is_float(x.dtype) and (dtype.kind in "iu" or dtype in INT_CODES):
            # lax saturates where C wraps; every 32-bit value survives the way through int64
            x = self._convert(x, np.dtype(np.int64)) if dtype.itemsize < 8 else x
        if not self.concrete(x) and dtype == np.bool_ and x.dtype != np.bool_:
            return lax.ne(*aligned(x, 0))
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
        return lax.eq(*aligned(lax.abs(x), np.inf))

    def power(self, x: Any, y: Any) -> Any:
        if self.concrete(y) and np.ndim(y) <= np.ndim(x) and np.size(y) == 1:
            exponent = float(np.asarray(y).reshape(()))
            if exponent.is_integer() and abs(exponent) <= 8 and (exponent >= 0 or is_float(x.dtype)):
                return lax.integer_pow(x, int(exponent))
        if isinstance(y, int | float):  # a plain number takes the type of what it meets
            y = np.asarray(y, x.dtype if is_float(x.dtype) else None)
        elif self.concrete(y) and np.ndim(y) == 0:
            y = np.asarray(y)
        if y.dtype != x.dtype and not (is_float(x.dtype) and y.dtype.kind in "iu"):
            wide = np.result_type(x.dtype, y.dtype)
            return self.cast(lax.pow(*aligned(self._convert(x, wide), self._convert(y, wide))), x.dtype)
        if x.dtype.kind in "iu":
            return self.cast(
                self.round(lax.pow(*aligned(self.cast(x, np.dtype(np.float64)), self.cast(y, np.dtype(np.float64))))),
                x.dtype,
            )
        return lax.pow(*aligned(x, self._convert(y, x.dtype)))

    def remainder(self, x: Any, y: Any) -> Any:
        x, y = aligned(x, y)
        r = lax.rem(x, y)
        if x.dtype.kind == "u":
            return r
        zero = scalar(0, r)
        wrong = lax.bitwise_and(lax.ne(r, zero), lax.ne(lax.lt(r, zero), lax.lt(y, zero)))
        return lax.select_n(wrong, r, lax.add(r, y))

    def right_shift(self, x: Any, y: Any) -> Any:
        x, y = aligned(x, y)
        return (lax.shift_right_logical if x.dtype.kind == "u" else lax.shift_right_arithmetic)(x, y)

    def where(self, flag: Any, x: Any, y: Any) -> Any:
        x, y = same_type(x, y)
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
        lows: list[int] = []
        highs: list[int] = []
        strides: list[int] = []
        turned: list[int] = []
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

    def first(self, x: Any, k: int, axis: int, descending: bool) -> tuple[Any, Any]:
        axis = axis % x.ndim
        places = lax.broadcasted_iota(np.int64, x.shape, axis)
        key = self.flip(x, axis) if descending else x
        places = self.flip(places, axis) if descending else places
        key, places = lax.sort((key, places), dimension=axis, is_stable=True, num_keys=1)
        if descending:
            key, places = self.flip(key, axis), self.flip(places, axis)
        return lax.slice_in_dim(key, 0, k, axis=axis), lax.slice_in_dim(places, 0, k, axis=axis)

    # contractions

    def matmul(self, a: Any, b: Any) -> Any:
        """numpy's matmul as one dot_general; a plain matrix on the right needs no batch dimensions."""
        a, b = same_type(a, b)
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
        terms, out = expand(equation, tuple(x.ndim for x in operands))
        roles = pair(terms[0], terms[1], out) if len(terms) == 2 else None
        if roles is None:
            return jax.numpy.einsum(",".join(terms) + "->" + out, *operands, precision=_HIGHEST)
        a, b = same_type(*operands)
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
        x, w = same_type(x, w)
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


def _dot(a: Any, b: Any, dimensions: Any) -> Any:
    return lax.dot_general(a, b, dimensions, precision=_HIGHEST, preferred_element_type=a.dtype)


jax_namespace = Jax("jax_namespace", rounds=True)
kernel_namespace = Jax("kernel_namespace", rounds=False)
