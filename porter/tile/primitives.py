"""How each jax primitive is pulled: which elements of its operands one element of its result needs.

Primitives that look like no loop nest are one all the same: a running sum is a sum with a triangular mask, an argmax is
the smallest index that holds the maximum, a sort counts for each element how many come before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from porter.tile.affine import Affine
from porter.tile.elementwise import identity
from porter.tile.flat import Equation
from porter.tile.form import Cast, Cut, Elementwise, Index, Iota, Reduce
from porter.tile.primitives_indexing import dynamic_slice, dynamic_update_slice, gather, scatter, sort, top_k
from porter.tile.primitives_windows import convolution, product, window
from porter.tile.pull import Position, Puller

Rule = Callable[[Puller, Equation, Position, int], int]
ZERO = Index(Affine())


def _aligned(p: Puller, v: Any, at: Position) -> Position:
    """The position in an operand of an elementwise primitive: 0 where its dimension is 1."""
    shape = p.shape(v)
    if not shape:
        return ()
    return tuple(ZERO if n == 1 else i for i, n in zip(at, shape, strict=True))


def _elementwise(op: str) -> Rule:
    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        args = tuple(p.pull(v, _aligned(p, v, at)) for v in e.operands)
        return p.form.add(Elementwise(op, args, p.dtype(e.outputs[0])))

    return rule


def _power(p: Puller, e: Equation, at: Position, _: int) -> int:
    """x ** n by squaring, for an integer n."""
    x, n = p.pull(e.operands[0], at), int(e.settings["y"])
    result = None
    square, left = x, abs(n)
    while left:
        if left & 1:
            result = square if result is None else p.form.ew("mul", result, square)
        left >>= 1
        square = p.form.ew("mul", square, square) if left else square
    one = p.form.const(1, p.dtype(e.outputs[0]))
    if result is None:
        return one
    return p.form.ew("div", one, result) if n < 0 else result


def _square(p: Puller, e: Equation, at: Position, _: int) -> int:
    x = p.pull(e.operands[0], at)
    return p.form.ew("mul", x, x)


def _clamp(p: Puller, e: Equation, at: Position, _: int) -> int:
    low, x, high = (p.pull(v, _aligned(p, v, at)) for v in e.operands)
    return p.form.ew("min", p.form.ew("max", x, low), high)


def _round(p: Puller, e: Equation, at: Position, _: int) -> int:
    x = p.pull(e.operands[0], at)
    if int(e.settings["rounding_method"]) == 1:  # to nearest even
        return p.form.ew("round", x)
    half = p.form.const(0.5, p.dtype(e.outputs[0]))
    return p.form.ew("mul", p.form.ew("sign", x), p.form.ew("floor", p.form.ew("add", p.form.ew("abs", x), half)))


def _erfc(p: Puller, e: Equation, at: Position, _: int) -> int:
    one = p.form.const(1, p.dtype(e.outputs[0]))
    return p.form.ew("sub", one, p.form.ew("erf", p.pull(e.operands[0], at)))


def _select(p: Puller, e: Equation, at: Position, _: int) -> int:
    which = p.pull(e.operands[0], _aligned(p, e.operands[0], at))
    cases = [p.pull(v, _aligned(p, v, at)) for v in e.operands[1:]]
    if p.dtype(e.operands[0]) == "bool":
        return p.form.ew("select", which, cases[1], cases[0])
    result = cases[-1]
    for k in range(len(cases) - 2, -1, -1):
        here = p.form.ew("eq", which, p.form.const(k, p.form[which].dtype))
        result = p.form.ew("select", here, cases[k], result)
    return result


def _cast(p: Puller, e: Equation, at: Position, _: int) -> int:
    return p.form.add(Cast(p.pull(e.operands[0], at), str(np.dtype(e.settings["new_dtype"]))))


def _bits(p: Puller, e: Equation, at: Position, _: int) -> int:
    source, dtype = p.dtype(e.operands[0]), str(np.dtype(e.settings["new_dtype"]))
    if p.shape(e.operands[0]) != p.shape(e.outputs[0]):
        raise Cut(f"{source} read as {dtype}, which has another width")
    return p.form.add(Cast(p.pull(e.operands[0], at), dtype, bits=True))


def _logical_shift(p: Puller, e: Equation, at: Position, _: int) -> int:
    if np.dtype(p.dtype(e.outputs[0])).kind != "u":
        raise Cut("a logical shift of signed integers")
    x, n = (p.pull(v, _aligned(p, v, at)) for v in e.operands)
    return p.form.ew("shr", x, n)


def _same(p: Puller, e: Equation, at: Position, _: int) -> int:
    return p.pull(e.operands[0], at)


# Movement


def _broadcast(p: Puller, e: Equation, at: Position, _: int) -> int:
    shape, out = p.shape(e.operands[0]), p.shape(e.outputs[0])
    where = e.settings["broadcast_dimensions"]
    return p.pull(e.operands[0], tuple(ZERO if n == 1 != out[d] else at[d] for n, d in zip(shape, where, strict=True)))


def _reshape(p: Puller, e: Equation, at: Position, _: int) -> int:
    source, shape, out = e.operands[0], p.shape(e.operands[0]), p.shape(e.outputs[0])
    if e.settings.get("dimensions") is not None:
        raise Cut("a reshape that permutes")
    try:
        return p.pull(source, p.regroup(at, out, shape))
    except Cut:
        if source in p.input_of:  # no common axes, but memory is memory: another view of the parameter
            return p.load(p.input_of[source], out, at)
        raise


def _squeeze(p: Puller, e: Equation, at: Position, _: int) -> int:
    gone = {d % len(p.shape(e.operands[0])) for d in e.settings["dimensions"]}
    rest = iter(at)
    return p.pull(e.operands[0], tuple(ZERO if d in gone else next(rest) for d in range(len(p.shape(e.operands[0])))))


def _transpose(p: Puller, e: Equation, at: Position, _: int) -> int:
    source: list[Index] = [ZERO] * len(at)
    for d, s in enumerate(e.settings["permutation"]):
        source[s] = at[d]
    return p.pull(e.operands[0], tuple(source))


def _slice(p: Puller, e: Equation, at: Position, _: int) -> int:
    steps = e.settings["strides"] or (1,) * len(at)
    starts = e.settings["start_indices"]
    return p.pull(e.operands[0], tuple(p.scaled(i, k, s) for i, k, s in zip(at, steps, starts, strict=True)))


def _split(p: Puller, e: Equation, at: Position, output: int) -> int:
    d = e.settings["axis"]
    start = int(sum(e.settings["sizes"][:output]))
    return p.pull(e.operands[0], tuple(p.scaled(i, 1, start) if k == d else i for k, i in enumerate(at)))


def _rev(p: Puller, e: Equation, at: Position, _: int) -> int:
    shape = p.shape(e.operands[0])
    turned = e.settings["dimensions"]
    return p.pull(e.operands[0], tuple(p.scaled(i, -1, shape[d] - 1) if d in turned else i for d, i in enumerate(at)))


def _between(p: Puller, place: Index, apart: int) -> tuple[Index, int]:
    """The element at a place where elements lie `apart` from each other, and whether there is one."""
    zero = p.form.const(0, "int32")
    if place.gather is None:
        try:
            whole, part = p.decode(place.affine, apart)
            return Index(whole), p.form.ew("eq", p.form.add(Iota(part, "int32")), zero)
        except Cut:
            pass
    number, by = p.gathered(place), p.form.const(apart, "int32")
    return p.indexed(p.form.ew("div", number, by)), p.form.ew("eq", p.form.ew("rem", number, by), zero)


def _pad(p: Puller, e: Equation, at: Position, _: int) -> int:
    source, shape = e.operands[0], p.shape(e.operands[0])
    value, element = p.pull(e.operands[1], ()), p.form.const(True, "bool")
    position = []
    for i, n, (low, _high, interior) in zip(at, shape, e.settings["padding_config"], strict=True):
        index = p.scaled(i, 1, -low)
        if interior and n > 1:
            index, at_element = _between(p, index, interior + 1)
            element = p.form.ew("and", element, at_element)
        position.append(index)
    return p.form.ew("select", element, p.padded(source, tuple(position), value), value)


def _concatenate(p: Puller, e: Equation, at: Position, _: int) -> int:
    d = e.settings["dimension"]
    low, high = p.bounds(at[d])
    gathered = at[d].gather is not None
    result, start = None, 0
    place = p.gathered(at[d])
    for v in e.operands:
        n = p.shape(v)[d]
        if n and (gathered or (start <= high and low < start + n)):
            index = p.scaled(at[d], 1, -start)
            if gathered:
                index, _inside = p.confined(index, n)
            part = p.guarded(v, tuple(index if k == d else i for k, i in enumerate(at)))
            past = p.form.ew("ge", place, p.form.const(start, p.form[place].dtype))
            result = part if result is None else p.form.ew("select", past, part, result)
        start += n
    assert result is not None
    return result


def _iota(p: Puller, e: Equation, at: Position, _: int) -> int:
    i, dtype = at[e.settings["dimension"]], p.dtype(e.outputs[0])
    integral = np.issubdtype(np.dtype(dtype), np.integer)
    if i.gather is None and integral:
        return p.form.add(Iota(i.affine, dtype))
    return p.form.add(Cast(p.gathered(i), dtype))


# Reductions and contractions


def _reduce(op: str) -> Rule:
    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        rest, axes, inner = iter(at), list[str](), list[Index]()
        if any(p.shape(e.operands[0])[d] == 0 for d in e.settings["axes"]):
            return p.form.const(identity(op, p.dtype(e.outputs[0])), p.dtype(e.outputs[0]))
        for d, n in enumerate(p.shape(e.operands[0])):
            if d in e.settings["axes"]:
                new = p.axis(f"e{e.number}r{d}", n)
                axes += new.axes
                inner.append(Index(new))
            else:
                inner.append(next(rest))
        x = p.pull(e.operands[0], tuple(inner))
        return p.form.add(Reduce(op, x, tuple(sorted(axes)), p.dtype(e.outputs[0]))) if axes else x

    return rule


def _running(op: str) -> Rule:
    """cumsum and its kin: the reduction over all j up to i, by a triangular mask."""

    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        d, dtype = e.settings["axis"], p.dtype(e.outputs[0])
        new = p.axis(f"e{e.number}c", p.shape(e.operands[0])[d])
        x = p.pull(e.operands[0], tuple(Index(new) if k == d else i for k, i in enumerate(at)))
        if not new.axes:
            return x
        j, i = p.form.add(Iota(new, "int32")), p.gathered(at[d])
        kept = p.form.ew("ge" if e.settings["reverse"] else "le", j, i)
        masked = p.form.ew("select", kept, x, p.form.const(identity(op, dtype), dtype))
        return p.form.add(Reduce(op, masked, tuple(sorted(new.axes)), dtype))

    return rule


def _arg(op: str) -> Rule:
    """The smallest index whose element is the extreme one (or NaN, as jax and numpy have it)."""

    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        (d,), dtype = e.settings["axes"], p.dtype(e.outputs[0])
        n = p.shape(e.operands[0])[d]
        new = p.axis(f"e{e.number}a", n)
        x = p.pull(e.operands[0], (*at[:d], Index(new), *at[d:]))
        if not new.axes:
            return p.form.const(0, dtype)
        axes = tuple(sorted(new.axes))
        extreme = p.form.add(Reduce(op, x, axes, p.form[x].dtype))
        hit = p.form.ew("eq", x, extreme)
        if np.dtype(p.form[x].dtype).kind not in "iub":
            hit = p.form.ew("or", hit, p.form.ew("ne", x, x))
        place = p.form.ew("select", hit, p.form.add(Iota(new, dtype)), p.form.const(n, dtype))
        return p.form.add(Reduce("min", place, axes, dtype))

    return rule


def _dot(p: Puller, e: Equation, at: Position, _: int) -> int:
    (a_sum, b_sum), (a_batch, b_batch) = e.settings["dimension_numbers"]
    a, b = e.operands[:2]
    a_shape, b_shape = p.shape(a), p.shape(b)
    if any(a_shape[d] == 0 for d in a_sum):
        return p.form.const(0, p.dtype(e.outputs[0]))
    at_a: dict[int, Index] = {}
    at_b: dict[int, Index] = {}
    axes: list[str] = []
    for k, (d, f) in enumerate(zip(a_sum, b_sum, strict=True)):
        new = p.axis(f"e{e.number}k{k}", a_shape[d])
        axes += new.axes
        at_a[d] = at_b[f] = Index(new)
    rest = iter(at)
    for d, f in zip(a_batch, b_batch, strict=True):
        at_a[d] = at_b[f] = next(rest)
    for d in range(len(a_shape)):
        at_a[d] = at_a[d] if d in at_a else next(rest)
    for d in range(len(b_shape)):
        at_b[d] = at_b[d] if d in at_b else next(rest)
    x = p.pull(a, tuple(at_a[d] for d in range(len(a_shape))))
    y = p.pull(b, tuple(at_b[d] for d in range(len(b_shape))))
    return product(p, x, y, axes, p.dtype(e.outputs[0]))


_ELEMENTWISE = {
    "add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div", "rem": "rem", "max": "max", "min": "min",
    "pow": "pow", "atan2": "atan2", "neg": "neg", "abs": "abs", "sign": "sign", "floor": "floor", "ceil": "ceil",
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "cbrt": "cbrt", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf",
    "logistic": "logistic", "is_finite": "isfinite", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
    "and": "and", "or": "or", "xor": "xor", "not": "not", "shift_left": "shl", "shift_right_arithmetic": "shr",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{primitive: _elementwise(op) for primitive, op in _ELEMENTWISE.items()},
    "integer_pow": _power, "square": _square, "clamp": _clamp, "round": _round, "erfc": _erfc,
    "shift_right_logical": _logical_shift, "select_n": _select,
    "convert_element_type": _cast, "bitcast_convert_type": _bits,
    "copy": _same, "copy_p": _same, "stop_gradient": _same, "optimization_barrier": _same,
    "broadcast_in_dim": _broadcast, "reshape": _reshape, "squeeze": _squeeze, "transpose": _transpose, "slice": _slice,
    "split": _split, "rev": _rev, "pad": _pad, "concatenate": _concatenate, "iota": _iota, "gather": gather,
    "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice, "scatter": scatter("last"),
    "scatter-add": scatter("add"), "scatter_add": scatter("add"),
    "scatter_mul": scatter("mul"), "scatter-mul": scatter("mul"), "scatter_max": scatter("max"), "scatter-max": scatter("max"),
    "scatter_min": scatter("min"), "scatter-min": scatter("min"),
    "reduce_sum": _reduce("add"), "reduce_prod": _reduce("mul"), "reduce_max": _reduce("max"), "reduce_min": _reduce("min"),
    "reduce_and": _reduce("and"), "reduce_or": _reduce("or"), "reduce_window_sum": window("add"),
    "reduce_window_max": window("max"), "reduce_window_min": window("min"), "cumsum": _running("add"),
    "cumprod": _running("mul"), "cummax": _running("max"), "cummin": _running("min"), "argmax": _arg("max"),
    "argmin": _arg("min"), "sort": sort, "top_k": top_k, "dot_general": _dot, "conv_general_dilated": convolution,
}  # fmt: skip
