"""Number formats that a target's language lacks, computed by integer arithmetic on their codes.

A code lies in memory as a byte, and moves as one. Where it becomes a number, or a number becomes it, the cast is spelled
out: fields are shifted into a float32's place, or a float's bits are rounded to the format's. What the fields mean is said
once, in porter.formats.

    cast float8_e4m3fnuz -> float32      bits of ((code & 127) << 20) + (119 << 23), scaled for subnormals, NaN at 128
    cast float32 -> int4                 ((cast x to int32 & 15) ^ 8) - 8, as a byte
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from porter.formats import Format, of
from porter.tile.elementwise import COMPARISONS
from porter.tile.form import Cast, Cut, Dot, Elementwise, Form, Node, Reduce
from porter.tile.scales import clamped

BYTE = "uint8"
FRACTION = {"float32": 23, "float64": 52}  # fraction bits
INTEGER = {"float32": "int32", "float64": "int64"}  # as wide


def is_code(dtype: str) -> bool:
    """Whether numbers of this type are kept as codes of at most a byte: float8, float4, int4, int2 and their kin."""
    kind = np.dtype(dtype)
    return kind.itemsize == 1 and kind.kind not in "iub"


def spelled(form: Form, lacking: Collection[str], saturating: Collection[str] = ()) -> Form:
    """The form without casts from and to the `lacking` types, nor arithmetic on them.

    saturating: types that the target has, but casts to with another overflow than numpy's: spelled out too, unless what
    is cast was clamped before.
    """

    def change(new: Form, node: Node) -> Node | int:
        match node:
            case Cast(arg=arg, dtype=dtype, bits=False):
                source = new[arg].dtype
                if dtype in lacking or (dtype in saturating and not clamped(new.nodes.__getitem__, arg, of(dtype).max)):
                    return encoded(new, _number(new, arg, lacking), dtype)
                return new.add(Cast(decoded(new, arg), dtype)) if source in lacking else node
            case Cast(arg=arg, dtype=dtype) if dtype in lacking and not of(dtype).is_float and new[arg].dtype != BYTE:
                return encoded(
                    new, new.add(Cast(arg, BYTE, bits=True)), dtype
                )  # int4 as uint4: the other four bits change
            case Elementwise(op=op, args=args, dtype=dtype) if op != "select":
                if not any(new[a].dtype in lacking for a in args):
                    return node
                args = tuple(_number(new, a, lacking) for a in args)
                if op in COMPARISONS:
                    return replace(node, args=args)
                return encoded(new, new.add(Elementwise(op, args, new[args[-1]].dtype)), dtype)
            case Reduce(arg=arg, dtype=dtype) if dtype in lacking:
                number = decoded(new, arg)
                return encoded(new, new.add(replace(node, arg=number, dtype=new[number].dtype)), dtype)
            case Dot(a=a, b=b):
                return replace(node, a=_number(new, a, lacking), b=_number(new, b, lacking))
        return node

    return form.rebuild(change=change)


def _number(form: Form, node: int, lacking: Collection[str]) -> int:
    return decoded(form, node) if form[node].dtype in lacking else node


def decoded(form: Form, code: int) -> int:
    """The number that a code stands for: float32 of a float format, int32 of an integer one. Exact."""
    f = of(form[code].dtype)
    raw = form.add(Cast(form.add(Cast(code, BYTE, bits=True)), "int32"))
    if not f.is_float:
        return _integer(form, f, raw)
    nan = form.const(np.nan, "float32")
    if not f.has_subnormals:  # e8m0: an exponent alone; its least is a subnormal of float32
        least = form.ew("eq", raw, form.const(0, "int32"))
        bits = form.ew("select", least, form.const(1 << 22, "int32"), _with(form, "shl", raw, 23))
        return form.ew("select", _with(form, "eq", raw, 255), nan, form.add(Cast(bits, "float32", bits=True)))
    sign, shift = 1 << (f.bits - 1), FRACTION["float32"] - f.mantissa
    size = _with(form, "and", raw, sign - 1)
    bits = _with(form, "add", _with(form, "shl", size, shift), int(126 + f.min_exp) << FRACTION["float32"])
    small = _with(form, "mul", form.add(Cast(size, "float32")), f.smallest)
    subnormal = _with(form, "lt", size, 1 << f.mantissa)
    value = form.ew("select", subnormal, small, form.add(Cast(bits, "float32", bits=True)))
    if f.has_inf:
        value = form.ew("select", _with(form, "gt", size, _code(f, f.max)), form.const(np.inf, "float32"), value)
    negative = _with(form, "ge", raw, sign)
    value = form.ew("select", negative, _with(form, "mul", value, -1.0), value)  # keeps the sign of a zero
    if f.has_nan:
        last = _code(f, f.max) + (1 if f.has_inf else 0)
        lost = _with(form, "gt", size, last) if f.has_negative_zero else _with(form, "eq", raw, sign)
        value = form.ew("select", lost, nan, value)
    return value


def encoded(form: Form, number: int, dtype: str) -> int:
    """The code of a number: nearest, ties to even, beyond the range as numpy's cast has it (infinity, NaN or the largest);
    integers keep their lowest bits."""
    f = of(dtype)
    if not f.is_float:
        return _as_code(form, _integer(form, f, form.add(Cast(number, "int32"))), dtype)
    if not f.has_subnormals:
        raise Cut(f"a cast to {dtype} without a rule of rounding")
    if form[number].dtype not in FRACTION:
        number = form.add(Cast(number, "float32"))
    wide = form[number].dtype
    fraction, integer, bias = FRACTION[wide], INTEGER[wide], int(1 - of(wide).min_exp)
    size = form.ew("abs", number)
    bits = form.add(Cast(size, integer, bits=True))
    drop = fraction - f.mantissa
    odd = _with(form, "and", _with(form, "shr", bits, drop), 1)
    rounded = form.ew("add", _with(form, "add", bits, (1 << (drop - 1)) - 1), odd)
    normal = _with(form, "sub", _with(form, "shr", rounded, drop), int(bias + f.min_exp - 1) << f.mantissa)
    # a float is added to a power of two in steps of that one's last bit: here the format's smallest number
    step = f.smallest * 2.0**fraction
    summed = form.add(Cast(_with(form, "add", size, step), integer, bits=True))
    small = _with(form, "sub", summed, int(np.asarray(step, wide).view(integer)))
    code = form.add(Cast(form.ew("select", _with(form, "lt", size, f.tiny), small, normal), "int32"))
    largest, sign = _code(f, f.max), 1 << (f.bits - 1)
    nan = largest + (1 << (f.mantissa - 1)) + 1 if f.has_inf else sign - 1 if f.has_negative_zero else sign
    over = largest + 1 if f.has_inf else nan if f.has_nan else largest
    code = form.ew("select", _with(form, "gt", code, largest), form.const(over, "int32"), code)
    code = form.ew("select", form.ew("ne", number, number), form.const(nan if f.has_nan else sign, "int32"), code)
    negative = _with(form, "lt", form.add(Cast(number, integer, bits=True)), 0)
    if not f.has_negative_zero:
        negative = form.ew("and", negative, _with(form, "gt", code, 0))
    return _as_code(form, form.ew("select", negative, _with(form, "or", code, sign), code), dtype)


def _with(form: Form, op: str, node: int, number: float | int) -> int:
    """An operation of a node and a constant of its type."""
    return form.ew(op, node, form.const(number, form[node].dtype))


def _code(f: Format, value: float) -> int:
    """The bits of a number of the format."""
    assert f.dtype is not None
    return int(np.asarray(value, f.dtype).view(BYTE))


def _integer(form: Form, f: Format, raw: int) -> int:
    """The lowest bits of an int32 as the number that they are in an integer format."""
    low = _with(form, "and", raw, (1 << f.bits) - 1)
    half = 1 << (f.bits - 1)
    return low if f.kind == "unsigned" else _with(form, "sub", _with(form, "xor", low, half), half)


def _as_code(form: Form, raw: int, dtype: str) -> int:
    return form.add(Cast(form.add(Cast(raw, BYTE)), dtype, bits=True))
