"""Says what Trainium's engines lack in terms of what they have: a tile program in, an equal tile program out.

Table functions are right only within a range and clamp nothing, so arguments are brought into it here; functions that
no engine has are composed. The result is still a tile program: the tile interpreter runs it as it runs any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from porter.tile.program import Cast, Elementwise, For, Full, Program, Scalar, Statement, Tile, types

LOW, HIGH = 2.0**-64, 2.0**64  # where the engine's log is right
_TAU = 2 * math.pi
# 2 pi in three float32 parts: the first two have few bits, so that k times them is exact for k below 2**14.
_TAU_PARTS = (
    6.28125,
    float(np.float32(0.0019350051879882812)),
    float(np.float32(_TAU - 6.28125 - 0.0019350051879882812)),
)
_PI = float(np.float32(math.pi))


def expand(program: Program) -> Program:
    """The program with every elementwise operation that the engines lack composed of ones that they have."""
    return replace(program, body=_Expander(program).block(program.body))


class _Expander:
    def __init__(self, program: Program) -> None:
        self.types = types(program)
        self.constants = {s.name: s.value for s in program.body if isinstance(s, Full)}
        self.out: list[Statement] = []
        self.count = 0
        self.base = ""

    def block(self, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        outer, self.out = self.out, []
        for s in body:
            match s:
                case For():
                    self.out.append(replace(s, body=self.block(s.body)))
                case Elementwise(type=t, op=op) if (rule := self._rule(op, t, s)) is not None:
                    self.base = s.name
                    self._finish(s.name, rule(*(_Term(self, a) for a in s.args)))
                case _:
                    self.out.append(s)
        result, self.out = tuple(self.out), outer
        return result

    def _rule(self, op: str, t: Tile, s: Elementwise) -> Callable[..., _Term] | None:
        kind = "integer" if np.dtype(t.dtype).kind in "iu" else "float"
        if op == "pow" and (exponent := self.constants.get(s.args[1])) in (2, 3):
            return lambda x, a, b: a * a if exponent == 2 else a * a * a
        return (_INTEGER if kind == "integer" else _FLOAT).get(op)

    def _finish(self, name: str, term: _Term) -> None:
        """Give the last statement made the name of the value it stands for."""
        last = self.out[-1]
        assert isinstance(last, Elementwise | Cast) and last.name == term.name
        self.out[-1] = replace(last, name=name)
        self.types[name] = last.type

    def add(self, make: Callable[[str], Statement], t: Tile) -> _Term:
        self.count += 1
        name = f"{self.base}_{self.count}"
        self.out.append(make(name))
        self.types[name] = t
        return _Term(self, name)


class _Term:
    """A value of the program, with arithmetic."""

    def __init__(self, expander: _Expander, name: str) -> None:
        self.expander, self.name = expander, name

    @property
    def type(self) -> Tile:
        return self.expander.types[self.name]

    def _op(self, op: str, *others: _Term | Scalar, dtype: str | None = None) -> _Term:
        e = self.expander
        terms = [self, *(o if isinstance(o, _Term) else self.constant(o) for o in others)]
        axes = frozenset(a for x in terms for a in x.type.axes)
        order = max((x.type.axes for x in terms), key=len)
        t = Tile(dtype or self.type.dtype, order if set(order) == axes else tuple(sorted(axes)))
        return e.add(lambda n: Elementwise(n, t, op, tuple(x.name for x in terms)), t)

    def constant(self, value: Scalar) -> _Term:
        t = Tile(self.type.dtype)
        return self.expander.add(lambda n: Full(n, t, value), t)

    def __add__(self, o: _Term | Scalar) -> _Term:
        return self._op("add", o)

    def __sub__(self, o: _Term | Scalar) -> _Term:
        return self._op("sub", o)

    def __rsub__(self, o: Scalar) -> _Term:
        return self.constant(o)._op("sub", self)

    def __mul__(self, o: _Term | Scalar) -> _Term:
        return self._op("mul", o)

    def __truediv__(self, o: _Term | Scalar) -> _Term:
        return self._op("div", o)

    def __lt__(self, o: _Term | Scalar) -> _Term:
        return self._op("lt", o, dtype="bool")

    def __gt__(self, o: _Term | Scalar) -> _Term:
        return self._op("gt", o, dtype="bool")

    def __ge__(self, o: _Term | Scalar) -> _Term:
        return self._op("ge", o, dtype="bool")

    def same(self, o: _Term | Scalar) -> _Term:
        return self._op("eq", o, dtype="bool")

    def differs(self, o: _Term | Scalar) -> _Term:
        return self._op("ne", o, dtype="bool")

    def high(self, o: _Term | Scalar) -> _Term:
        return self._op("max", o)

    def low(self, o: _Term | Scalar) -> _Term:
        return self._op("min", o)

    def choose(self, yes: _Term | Scalar, no: _Term | Scalar) -> _Term:
        """self ? yes : no."""
        assert isinstance(yes, _Term) or isinstance(no, _Term)
        model = yes if isinstance(yes, _Term) else no
        assert isinstance(model, _Term)
        yes = yes if isinstance(yes, _Term) else model.constant(yes)
        no = no if isinstance(no, _Term) else model.constant(no)
        return self._op("select", yes, no, dtype=model.type.dtype)

    def cast(self, dtype: str) -> _Term:
        t = Tile(dtype, self.type.axes)
        return self.expander.add(lambda n: Cast(n, t, self.name), t)

    def __getattr__(self, op: str) -> Callable[[], _Term]:
        """x.exp() is the table function of that name."""
        return lambda: self._op(op)


def _round(x: _Term) -> _Term:
    """Nearest even: a float32 of 2**23 has no fraction bits left, so adding it rounds."""
    a = x.abs()
    return (a < 2.0**23).choose((a + 2.0**23 - 2.0**23) * x.sign(), x)


def _log(x: _Term) -> _Term:
    """Scaled into [2**-64, 2**64] first; -inf at 0, NaN below, inf at inf."""
    small, big = x < 2.0**-63, x > 2.0**63
    scaled = big.choose(x * 2.0**-64, small.choose(x * 2.0**96, x))
    back = big.choose((x * 0.0 + 64 * math.log(2)), small.choose(x * 0.0 - 96 * math.log(2), x * 0.0))
    y = scaled.high(LOW).low(HIGH).log() + back
    y = x.same(math.inf).choose(math.inf, x.same(0.0).choose(-math.inf, y))
    return (x < 0.0).choose(math.nan, y)


def _log1p(x: _Term) -> _Term:
    """log(u) x / (u - 1) with u = 1 + x repairs what 1 + x loses (Goldberg, theorem 4)."""
    u = x + 1.0
    d = u - 1.0
    whole = _log(u)
    return (x.abs() < 0.5).choose(d.same(0.0).choose(x, whole * x / d), whole)


def _expm1(x: _Term) -> _Term:
    t = (x * 0.5).tanh()
    return (x.abs() < 0.5).choose(t * 2.0 / (1.0 - t), x.exp() - 1.0)


def _turns(x: _Term, k: _Term, shift: float) -> _Term:
    """x - 2 pi k + shift, within [-pi, pi]."""
    for part in _TAU_PARTS:
        x = x - k * part
    return (x + shift if shift else x).high(-_PI).low(_PI)


def _sin(x: _Term) -> _Term:
    return _turns(x, _round(x * (1 / _TAU)), 0.0).sin()


def _cos(x: _Term) -> _Term:
    return _turns(x, _round(x * (1 / _TAU) + 0.25), math.pi / 2).sin()


def _atan(x: _Term) -> _Term:
    """pi/2 - atan(1/a) beyond 1."""
    a = x.abs()
    steep = a > 1.0
    t = steep.choose(a.constant(1.0) / a, a).atan()
    return steep.choose(math.pi / 2 - t, t) * x.sign()


def _atan2(y: _Term, x: _Term) -> _Term:
    a, b = y.abs(), x.abs()
    large = a.high(b)
    t = large.same(0.0).choose(0.0, a.low(b) / large).atan()
    t = (a > b).choose(math.pi / 2 - t, t)
    t = (x < 0.0).choose(math.pi - t, t)
    return (y < 0.0).choose(t * -1.0, t)


def _asin(x: _Term) -> _Term:
    return _atan2(x, ((1.0 - x) * (x + 1.0)).sqrt())


def _acos(x: _Term) -> _Term:
    return _atan2((1.0 - x).sqrt(), (x + 1.0).sqrt()) * 2.0


def _sinh(x: _Term) -> _Term:
    t = _expm1(x.abs())
    bounded = t.low(2.0**64)  # beyond, the quotient is 1
    return (t + bounded / (bounded + 1.0)) * 0.5 * x.sign()


def _cosh(x: _Term) -> _Term:
    e = x.abs().exp()
    return (e + e.constant(1.0) / e) * 0.5


def _asinh(x: _Term) -> _Term:
    a = x.abs()
    b = a.low(2.0**32)  # squares stay finite; beyond, asinh is log(2 a)
    small = _log1p(b + b * b / ((b * b + 1.0).sqrt() + 1.0))
    return (a > 2.0**32).choose(_log(a) + math.log(2), small) * x.sign()


def _acosh(x: _Term) -> _Term:
    t = x.low(2.0**32) - 1.0
    return (x > 2.0**32).choose(_log(x) + math.log(2), _log1p(t + (t * 2.0 + t * t).sqrt()))


def _atanh(x: _Term) -> _Term:
    return _log1p(x * 2.0 / (1.0 - x)) * 0.5


def _divide(a: _Term, b: _Term) -> _Term:
    """Towards zero, exactly: of magnitudes, which an unsigned type of as many bits holds."""
    dtype = np.dtype(a.type.dtype)
    if dtype.kind == "u":
        return _quotient(a, b)
    m, n = (_magnitude(x).cast(f"u{dtype.name}") for x in (a, b))
    q = _quotient(m, n).cast(dtype.name)
    return (a < 0).differs(b < 0).choose(q * -1, q)


def _magnitude(x: _Term) -> _Term:
    return x + 0 if np.dtype(x.type.dtype).kind == "u" else x.high(x * -1)


def _quotient(m: _Term, n: _Term) -> _Term:
    """Of unsigned integers. The highest bit of 32 has no place in int32: half the quotient of half of m, and one more where
    n still fits into what that leaves; a divisor with that bit fits once or not at all."""
    dtype = m.type.dtype
    if np.dtype(dtype).itemsize < 4:
        return _positive(m.cast("int32"), n.cast("int32")).cast(dtype)
    q = _positive(m._op("shr", 1).cast("int32"), n.cast("int32")).cast(dtype) * 2
    q = q + (m - q * n >= n).cast(dtype)
    return (n.cast("int32") < 0).choose((m >= n).cast(dtype), q)


def _positive(m: _Term, n: _Term) -> _Term:
    """Of int32 from 0 on: a float32 quotient, a second one of what it left over, and one step either way."""
    q = (m.cast("float32") / n.cast("float32")).cast("int32")
    q = q + ((m - q * n).cast("float32") / n.cast("float32")).cast("int32")
    rest = m - q * n
    return q + (rest >= n).cast("int32") - (rest < 0).cast("int32")


def _remainder(a: _Term, b: _Term) -> _Term:
    return a - _divide(a, b) * b


def _shift_right(a: _Term, b: _Term) -> _Term:
    """The engine shifts zeros in: a negative number is shifted as its complement."""
    if np.dtype(a.type.dtype).kind == "u":
        return a._op("shr", b)
    negative = a < 0
    positive = negative.choose(a * -1 - 1, a)._op("shr", b)
    return negative.choose(positive * -1 - 1, positive)


_FLOAT: dict[str, Callable[..., _Term]] = {
    "round": _round, "log": _log, "log1p": _log1p, "expm1": _expm1, "sin": _sin, "cos": _cos,
    "exp2": lambda x: (x * math.log(2)).exp(), "tan": lambda x: _sin(x) / _cos(x),
    "atan": _atan, "atan2": _atan2, "asin": _asin, "acos": _acos, "sinh": _sinh, "cosh": _cosh,
    "asinh": _asinh, "acosh": _acosh, "atanh": _atanh,
    "cbrt": lambda x: x.abs()._op("pow", 1 / 3) * x.sign(),
}  # fmt: skip
_INTEGER: dict[str, Callable[..., _Term]] = {
    "div": _divide, "rem": _remainder, "shr": _shift_right, "abs": _magnitude,
    "sign": lambda x: (x > 0).cast(x.type.dtype) - (x < 0).cast(x.type.dtype),
    "floor": lambda x: x + 0, "ceil": lambda x: x + 0, "round": lambda x: x + 0,
    "pow": lambda x, y: x.cast("float32")._op("pow", y.cast("float32")).cast(x.type.dtype),
}  # fmt: skip
