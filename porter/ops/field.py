"""The prime-field namespace: operator definitions as exact algebra on random residues, without tolerances.

A float is a residue modulo p, with a second residue modulo q for exponents (p = 2q + 1); integers and booleans are
themselves. What holds, each law with a test:

    + - * / and contraction   exact; constants are the rationals they were rounded from (`residues.meaning`)
    exp                       g ** (x mod q): exp(a + b) = exp(a) exp(b), so any maximum in a softmax cancels
    sqrt, abs, sign           sqrt(ab) = sqrt(a) sqrt(b), sqrt(x * x) = |x| = x sign(x); sqrt(x) ** 2 = x for half of x
    tanh, sinh, cosh          by exp; erf, sin, arctan, ... are odd, cos is even
    max, min, comparison, sorting     the order of a keyed hash: associative, commutative, idempotent
    any other function        a keyed hash of its arguments
    infinities                tagged: exp(-inf) = 0, -inf is below everything; what would be NaN is tagged undefined

Past an exp the second residue is a hash of the first: laws of exp hold up to the next value that is renewed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from porter import formats
from porter.errors import Undecided
from porter.ops import residues as mod
from porter.ops import windows
from porter.ops.arrays import source
from porter.ops.namespace import is_float
from porter.ops.residue_array import HIGH, LOW, UNDEFINED, Residues
from porter.ops.residue_values import NeedsExponents, Values
from porter.ops.residues import P, Q

# Unary functions without laws, odd ones f(x) = x h(x * x), even ones f(x) = h(x * x).
_PLAIN = frozenset("log floor ceil round arccos arcsinh arccosh log1p".split())
_ODD = frozenset("sin tan arcsin arctan arctanh erf".split())
_EVEN = frozenset({"cos"})
_MOVES = frozenset("reshape transpose broadcast_to slice flip take take_along_axis gather_nd".split())
_ORDER = {"less": np.less, "less_equal": np.less_equal, "greater": np.greater, "greater_equal": np.greater_equal,
          "equal": np.equal, "not_equal": np.not_equal}  # fmt: skip
_PAIRED = frozenset("remainder fmod truncated_divide".split())


class Field(Values):
    """Residues under the names of `porter.ops.namespace`; see `Values` for what a field is made with."""

    name = "field"
    rounds = True
    lazy = False

    def __getattr__(self, name: str) -> Any:
        """A function of that name: of residues where an argument is one, numpy's otherwise."""
        if name.startswith("_"):
            raise AttributeError(name)
        here = getattr(type(self), f"field_{name}", None)
        plain = getattr(source, name, None)
        if here is None and plain is None:
            raise AttributeError(f"ops.field has no function '{name}'; see porter.ops.namespace")

        def call(*args: Any, **options: Any) -> Any:
            if not any(map(_has_residues, args)):
                assert plain is not None
                return plain(*args, **options)
            if here is not None:
                return here(self, *args, **options)
            return self._by_table(name, *args, **options)

        self.__dict__[name] = call
        return call

    def _by_table(self, name: str, *args: Any, **options: Any) -> Any:
        if name in _MOVES:
            indices = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in args[1:]]
            return args[0].each(lambda part: getattr(source, name)(part, *indices, **options))
        if name in _ORDER:
            return self._compare(name, *args)
        if name in _PLAIN:
            return self.keyed(name, args[0])
        if name in _ODD:
            x = self.lift(args[0])
            return x * self.keyed(name, x * x)
        if name in _EVEN:
            x = self.lift(args[0])
            return self.keyed(name, x * x)
        if name in _PAIRED:
            return self.keyed(name, *args)
        raise Undecided(f"'{name}' in a prime field", expected="a function with a law or a hash", found="neither")

    # what it computes in

    def concrete(self, x: Any) -> bool:
        return not isinstance(x, Residues)

    def float_type(self, dtype: np.dtype) -> np.dtype:
        return source.float_type(dtype)

    def widen(self, x: Any) -> Any:
        if isinstance(x, Residues):
            return x.typed(self.float_type(x.dtype))
        return self.lift(x) if is_float(x.dtype) else source.widen(x)

    def settle(self, x: Any, dtype: np.dtype | None) -> Any:
        if isinstance(x, Residues):  # an array of its own, since `renew` changes it
            return x.each(lambda part: part).typed(x.dtype if dtype is None else dtype)
        return np.asarray(x) if dtype is None else source.settle(x, dtype)

    # elementwise

    def field_cast(self, x: Any, dtype: np.dtype) -> Any:
        dtype = np.dtype(dtype)
        if dtype == np.bool_:
            return self._compare("not_equal", x, 0)
        if dtype.name not in formats.FORMATS:
            raise Undecided("a Cast in a prime field", expected="a number format", found=str(dtype))
        target, held = formats.of(dtype.name), formats.of(x.dtype.name)
        wider = target.is_float and target.mantissa >= held.mantissa and target.max >= held.max
        if wider or (not held.is_float and target.bits >= held.bits):
            return x.typed(dtype)
        return self.keyed(f"cast to {dtype.name}", x).typed(dtype)

    def field_asarray(self, x: Any, *_: Any) -> Any:
        return x

    def field_add(self, a: Any, b: Any) -> Residues:
        return self.lift(a) + b

    def field_subtract(self, a: Any, b: Any) -> Residues:
        return self.lift(a) - b

    def field_multiply(self, a: Any, b: Any) -> Residues:
        return self.lift(a) * b

    def field_divide(self, a: Any, b: Any) -> Residues:
        return self.lift(a) / b

    def field_negative(self, x: Residues) -> Residues:
        return -x

    def field_power(self, x: Any, y: Any) -> Residues:
        """Whole and half exponents that are known by multiplication and square root; others by hash."""
        x, y = self.lift(x), self.lift(y)
        if y.known is None or y.known.size != 1:
            return self.keyed("power", x, y)
        exponent = float(y.known.reshape(-1)[0])
        if exponent * 2 % 1 or abs(exponent) > 64:
            return self.keyed("power", x, y)
        base = x if exponent % 1 == 0 else self.sqrt(x)
        whole = int(exponent) if exponent % 1 == 0 else int(exponent * 2)
        result = base.to_power(abs(whole))
        return 1.0 / result if whole < 0 else result

    def field_exp(self, x: Residues) -> Residues:
        if not self.exponents:
            raise NeedsExponents
        assert x.q is not None
        self.degree += x.degree
        p = mod.exponential(x.q)
        value = mod.hashed(mod.key_of(self.seed, "exp"), p)
        tag = None
        if x.tag is not None:
            p = np.where(x.tag == LOW, 0, p)
            tag = np.where(x.tag == LOW, 0, x.tag).astype(np.int8)
            value = np.where(x.tag == LOW, 0, value)
        q = np.where(p == 0, 0, mod.hashed(mod.key_of(self.seed, "exponent"), value) % np.uint64(Q)).astype(np.int64)
        return Residues(self, p, q, tag, dtype=x.dtype, doubt=x.doubt.hashed())

    def field_expm1(self, x: Residues) -> Residues:
        return self.exp(x) - 1

    def field_log1p(self, x: Residues) -> Residues:
        return self.keyed("log", 1 + x)

    def field_tanh(self, x: Residues) -> Residues:
        e = self.exp(x + x)
        return (e - 1) / (e + 1)

    def field_sinh(self, x: Residues) -> Residues:
        return (self.exp(x) - self.exp(-x)) / 2

    def field_cosh(self, x: Residues) -> Residues:
        return (self.exp(x) + self.exp(-x)) / 2

    def field_sqrt(self, x: Residues) -> Residues:
        self.degree += x.degree
        tag = None if x.tag is None else np.where(x.tag == LOW, UNDEFINED, x.tag).astype(np.int8)
        q = None if x.q is None else mod.square_root(x.q, Q)
        return Residues(self, mod.square_root(x.p, P), q, tag, dtype=x.dtype, doubt=x.doubt.hashed())

    def field_sign(self, x: Residues) -> Residues:
        self.degree += x.degree
        q = None if x.q is None else mod.square_sign(x.q, Q)
        return Residues(self, mod.square_sign(x.p, P), q, x.tag, dtype=x.dtype, doubt=x.doubt.hashed())

    def field_abs(self, x: Residues) -> Residues:
        flat = x if x.tag is None else x.tagged(np.where(x.tag == LOW, HIGH, x.tag))
        return flat.scaled_by_sign()

    def field_isnan(self, x: Residues) -> np.ndarray:
        return x.tags == UNDEFINED

    def field_isinf(self, x: Residues) -> np.ndarray:
        return (x.tags == LOW) | (x.tags == HIGH)

    def field_where(self, flag: Any, a: Any, b: Any) -> Residues:
        if isinstance(flag, Residues):
            flag = self._compare("not_equal", flag, 0)
        return self.lift(a).joined(lambda x, y: np.asarray(np.where(flag, x, y)), self.lift(b))

    def field_maximum(self, a: Any, b: Any) -> Residues:
        return self._choose(a, b, np.greater_equal)

    def field_minimum(self, a: Any, b: Any) -> Residues:
        return self._choose(a, b, np.less_equal)

    def _choose(self, a: Any, b: Any, keep: Callable[..., np.ndarray]) -> Residues:
        a, b = self.lift(a), self.lift(b)
        self.degree += a.degree + b.degree
        out = self.where(np.asarray(keep(self.order(a), self.order(b))), a, b)
        if a.known is not None and b.known is not None:
            return out
        share = 0.5
        if a.known is not None or b.known is not None:
            constant, variable = (a, b) if a.known is not None else (b, a)
            above, _ = self.compared(constant, variable)
            wins = above if keep is np.greater_equal else 1 - above
            # a constant that is another shows wherever it takes the place of an element
            share = min(wins, 1 - wins ** max(1, variable.size // constant.size)) if above < 1 else 1.0
        out.doubt = self.chosen(out.doubt, share, a, b)
        return out

    def _compare(self, name: str, a: Any, b: Any) -> np.ndarray:
        a, b = self.lift(a), self.lift(b)
        if a.known is not None and b.known is not None:
            return _ORDER[name](a.known, b.known)
        self.degree += a.degree + b.degree
        first, second = self.order(a), self.order(b)
        if not any(
            x.known is not None and not np.isfinite(x.known).any() for x in (a, b)
        ):  # infinities are as they are
            self.visible *= a.doubt.visible * b.doubt.visible * self._seen(name, a, b)
        return _ORDER[name](first, second)

    def _seen(self, name: str, a: Residues, b: Residues) -> float:
        """The chance that a difference in one element of a or b is seen by this comparison."""
        if name in ("equal", "not_equal"):
            return float(a.p is b.p)  # of two variables no chance tells which would be equal
        if a.known is None and b.known is None:
            return 1 / 3  # of three values in any order, that the first and second lie on two sides of the third
        above, told = self.compared(*((a, b) if a.known is not None else (b, a)))
        return min(2 * above * (1 - above), told)

    # joining and padding

    def field_pad(self, x: Residues, widths: Sequence[tuple[int, int]], value: Any = 0) -> Residues:
        filler = self.lift(value)
        return x.joined(lambda part, v: source.pad(part, widths, v.reshape(-1)[0]), filler)

    def concatenate(self, xs: Sequence[Any], axis: int = 0) -> Any:
        if not any(isinstance(x, Residues) for x in xs):
            return np.concatenate(xs, axis=axis)
        first, *rest = [self.lift(x) for x in xs]
        return first.joined(lambda *parts: np.concatenate(parts, axis=axis), *rest)

    # contraction

    def field_matmul(self, a: Any, b: Any) -> Residues:
        a, b = self.lift(a), self.lift(b)
        return self._bilinear(np.matmul, a, b, a.shape[-1] if a.ndim else 1)

    def field_einsum(self, equation: str, *operands: Any) -> Residues:
        xs = [self.lift(x) for x in operands]
        if len(xs) == 1:
            return xs[0].summed(lambda part: np.einsum(equation, part))
        if len(xs) > 2:
            raise Undecided(
                f"einsum '{equation}' in a prime field", expected="at most two operands", found=str(len(xs))
            )
        length = xs[0].size if xs[0].size < xs[1].size else xs[1].size
        return self._bilinear(lambda a, b: np.einsum(equation, a, b, optimize=True), xs[0], xs[1], length)

    def field_conv(self, x: Any, w: Any, **options: Any) -> Residues:
        x, w = self.lift(x), self.lift(w)
        return self._bilinear(lambda a, b: windows.conv(a, b, **options), x, w, int(np.prod(w.shape[1:])))

    def _bilinear(self, product: Callable[..., np.ndarray], a: Residues, b: Residues, length: int) -> Residues:
        if a.tag is not None or b.tag is not None:
            raise Undecided("a contraction in a prime field", expected="finite operands", found="an infinity")
        p = mod.bilinear(product, a.p, b.p, length, P)
        q = None if a.q is None or b.q is None else mod.bilinear(product, a.q, b.q, length, Q)
        return Residues(self, p, q, dtype=a.dtype, doubt=a.doubt.times(b.doubt))

    # reduction

    def field_sum(self, x: Residues, axis: Any = None, keepdims: bool = False) -> Residues:
        return x.summed(lambda part: np.sum(part, axis=axis, keepdims=keepdims))

    def field_cumsum(self, x: Residues, axis: int) -> Residues:
        return x.summed(lambda part: np.cumsum(part, axis=axis))

    def field_prod(self, x: Residues, axis: Any = None, keepdims: bool = False) -> Residues:
        return x.folded(axis, keepdims)

    def field_cumprod(self, x: Residues, axis: int) -> Residues:
        rows, total = [], None
        for i in range(x.shape[axis]):
            row = self.take(x, np.array([i]), axis=axis)
            total = row if total is None else total * row
            rows.append(total)
        return self.concatenate(rows, axis=axis)

    def field_max(self, x: Residues, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Residues:
        return self._extreme(x, axis, keepdims, initial, np.argmax, self.maximum)

    def field_min(self, x: Residues, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Residues:
        return self._extreme(x, axis, keepdims, initial, np.argmin, self.minimum)

    def _extreme(self, x: Residues, axis: Any, keepdims: bool, initial: Any, arg: Any, join: Any) -> Residues:
        self.degree += x.degree
        flat = x.flattened(axis)
        at = np.expand_dims(arg(self.order(flat), axis=-1), -1)
        out = flat.each(lambda part: np.take_along_axis(part, at, -1)[..., 0])
        if x.known is None and flat.shape[-1] > 1:
            out.doubt = self.chosen(out.doubt, 1 / flat.shape[-1], x)
        axes = range(x.ndim) if axis is None else {a % x.ndim for a in np.atleast_1d(axis)}
        if keepdims:
            shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
            out = out.each(lambda part: part.reshape(shape))
        return out if initial is None else join(out, initial)

    def field_argmax(self, x: Residues, axis: int | None = None) -> np.ndarray:
        return self._place(x, axis, np.argmax)

    def field_argmin(self, x: Residues, axis: int | None = None) -> np.ndarray:
        return self._place(x, axis, np.argmin)

    def _place(self, x: Residues, axis: int | None, arg: Callable[..., Any]) -> np.ndarray:
        self.degree += x.degree
        self.visible *= x.doubt.visible / max(1, x.size if axis is None else x.shape[axis])
        return np.asarray(arg(self.order(x), axis=axis))

    def field_first(self, x: Residues, k: int, axis: int, descending: bool) -> tuple[Residues, np.ndarray]:
        self.degree += x.degree
        self.visible *= x.doubt.visible * k / max(1, x.shape[axis])
        _, order = source.first(self.order(x), k, axis, descending)
        return x.each(lambda part: np.take_along_axis(part, order, axis)), order

    def field_window_reduce(self, kind: str, x: Residues, **options: Any) -> Residues:
        if kind == "sum":
            return x.summed(lambda part: windows.window_reduce("sum", part, **options))
        lead = x.ndim - len(options["window"])
        padded = self.pad(x, [(0, 0)] * lead + list(options["pads"]), -np.inf if kind == "max" else np.inf)

        def view(part: np.ndarray) -> np.ndarray:
            part = part.reshape(1, math.prod(x.shape[:lead]), *part.shape[lead:])
            out = windows.every_window(part, options["window"], options["strides"], options["dilations"])
            return out.reshape(*x.shape[:lead], *out.shape[2 : 2 + len(options["window"])], -1)

        many = padded.each(view)
        return self.max(many, axis=-1) if kind == "max" else self.min(many, axis=-1)

    # indexing

    def field_scatter_nd(self, x: Any, indices: np.ndarray, updates: Any, reduction: str) -> Residues:
        return self._scattered(x, updates, reduction, lambda a, b, r: source.scatter_nd(a, indices, b, r))

    def field_scatter_along_axis(
        self, x: Any, indices: np.ndarray, updates: Any, axis: int, reduction: str
    ) -> Residues:
        return self._scattered(x, updates, reduction, lambda a, b, r: source.scatter_along_axis(a, indices, b, axis, r))

    def _scattered(self, x: Any, updates: Any, reduction: str, scatter: Callable[..., np.ndarray]) -> Residues:
        x, updates = self.lift(x), self.lift(updates)
        if reduction == "none":
            return x.joined(lambda a, b: scatter(a, b, "none"), updates)
        if reduction != "add" or x.tag is not None or updates.tag is not None:
            raise Undecided(f"a scatter with '{reduction}' in a prime field", expected="none or add", found=reduction)
        parts = [
            None if a is None or b is None else scatter(a, b, "add") % m
            for a, b, m in ((x.p, updates.p, P), (x.q, updates.q, Q))
        ]
        assert parts[0] is not None
        return Residues(self, parts[0], parts[1], dtype=x.dtype, doubt=x.doubt.plus(updates.doubt))

    # control

    def cond(self, flag: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        if isinstance(flag, Residues):
            raise Undecided("a branch in a prime field", expected="a condition that is known", found="a residue")
        return source.cond(flag, then, otherwise)

    def loop(self, *args: Any) -> Any:
        return source.loop(*args)

    def scan(self, body: Callable[..., Any], state: tuple[Any, ...], xs: tuple[Any, ...]) -> Any:
        """Fold over the first axis; rows of residues are stacked as such."""
        collected: list[tuple[Any, ...]] = []
        for i in range(xs[0].shape[0]):
            state, new = body(state, tuple(x[i] for x in xs))
            collected.append(new)
        if not collected:
            return state, None
        columns = zip(*collected, strict=True)
        return state, tuple(self.concatenate([row[None] for row in column]) for column in columns)


def _has_residues(x: Any) -> bool:
    return isinstance(x, Residues) or (isinstance(x, list | tuple) and any(isinstance(i, Residues) for i in x))
