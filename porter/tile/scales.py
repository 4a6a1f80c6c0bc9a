"""Quantized operands of a dot: scales without a summed axis move behind it, and the codes meet as the unit takes them.

    dot(cast(codes) * scale, x)              ->  dot(cast(codes), x) * scale
    select(inside, cast(code(v)) * scale, 0) ->  cast(code(select(inside, v, 0))) * scale   the border of a convolution
    dot(cast(bfloat16), cast(codes))         ->  dot(bfloat16, cast(codes to bfloat16))     every code is exact there
    dot(cast(int8), cast(int8))              ->  cast(dot(int8, int8) in int32)             where the unit has that product
    dot(cast(int8), cast(int4))              ->  cast(dot(int8, cast(int4 to int8)) in int32)

A scale per block of the sum stays where it is: it belongs to the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from porter.tile import program
from porter.tile.form import Cast, Const, Dot, Elementwise, Form, Node

FLOAT_CODES = {
    "float8_e4m3fn", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e5m2", "float8_e3m4", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float4_e2m1fn",
}  # fmt: skip
#: at most 8 significant bits: exact in bfloat16
CODES = FLOAT_CODES | {"int8", "uint8", "int4", "uint4", "int2", "uint2"}


def hoisted(form: Form, node: Node) -> Node | int:
    """The dot of the bare codes, times the scales that have none of the summed axes."""
    if not isinstance(node, Dot):
        return node
    factors: list[int] = []
    operands = []
    for operand in (node.a, node.b):
        core, mine = _unscaled(form, operand, node.axes)
        operands.append(core)
        factors += mine
    if not factors:
        return node
    product = form.add(replace(node, a=operands[0], b=operands[1]))
    for factor in factors:
        product = form.ew("mul", product, factor)
    return product


def _unscaled(form: Form, operand: int, summed: tuple[str, ...]) -> tuple[int, list[int]]:
    """The cast of codes below scales, and those scales; the operand itself where it is anything else."""
    factors: list[int] = []
    core = operand
    padded = form[operand]
    if isinstance(padded, Elementwise) and padded.op == "select" and form[padded.args[2]] == Const(0.0, "float32"):
        core, factors = _unscaled(form, padded.args[1], summed)
        bordered = _bordered(form, padded, core) if factors else None
        return (bordered, factors) if bordered is not None else (operand, [])
    while isinstance(inner := form[core], Elementwise) and inner.op == "mul":
        free = [i for i in inner.args if not form.axes_of(i) & set(summed)]
        held = [i for i in inner.args if i not in free]
        if len(free) != 1 or len(held) != 1:
            break
        factors.append(free[0])
        core = held[0]
    return (core, factors) if _codes(form, core) else (operand, [])


def _bordered(form: Form, select: Elementwise, core: int) -> int | None:
    """Codes that are made in the form, of what is selected before; None for others, whose dtype may have no select."""
    cast = form[core]
    made = form[cast.arg] if isinstance(cast, Cast) else None
    if not isinstance(made, Cast) or made.bits or made.dtype not in CODES:
        return None
    if (kind := form[made.arg].dtype) not in ("float32", "int32"):
        return None
    chosen = form.ew("select", select.args[0], made.arg, form.const(0, kind))
    return form.add(Cast(form.add(Cast(chosen, made.dtype)), "float32"))


def _codes(form: Form, node: int) -> str:
    """The dtype of the codes that a float32 value is: cast from them, 'shifted' for a difference from a zero point; else ''."""
    cast = form[node]
    if not isinstance(cast, Cast) or cast.dtype != "float32":
        return ""
    inner = form[cast.arg]
    if isinstance(inner, Elementwise) and inner.op == "sub" and inner.dtype == "int32":
        sides = [form[s.arg].dtype for a in inner.args if isinstance(s := form[a], Cast)]
        return "shifted" if len(sides) == 2 and set(sides) <= CODES - FLOAT_CODES else ""
    return inner.dtype if inner.dtype in CODES else ""


def joined(form: Form, node: Node, *, integer: Collection[str] = ()) -> Node | int:
    """Codes in the format that the unit multiplies: by bfloat16 as bfloat16; integers as the widest of them that it has
    a product of (`integer`), else as bfloat16, of which every product is exact in float32."""
    if not isinstance(node, Dot):
        return node
    a, b = form[node.a], form[node.b]
    if not (isinstance(a, Cast) and isinstance(b, Cast)):
        return node
    if node.dtype == "int32":
        whole = form[a.arg].dtype == form[b.arg].dtype == "int8"
        return replace(node, a=a.arg, b=b.arg) if whole and "int8" in integer else node
    if node.dtype != "float32":
        return node
    kinds = [c if (c := _codes(form, i)) else form[form[i].arg].dtype for i in (node.a, node.b)]  # type: ignore[union-attr]
    unit = next((u for u in ("int4", "int8") if u in integer and {*kinds} <= {"int4", u}), None)
    if unit is not None:
        codes = [c.arg if k == unit else form.add(Cast(c.arg, unit)) for c, k in zip((a, b), kinds, strict=True)]
        return form.add(Cast(form.add(replace(node, a=codes[0], b=codes[1], dtype="int32")), "float32"))
    if not set(kinds) <= CODES | {"bfloat16"} or (kinds[0] == kinds[1] and kinds[0] in FLOAT_CODES | {"bfloat16"}):
        return node
    operands = [
        c.arg if k == "bfloat16" else form.add(Cast(c.arg, "bfloat16")) for c, k in zip((a, b), kinds, strict=True)
    ]
    return replace(node, a=operands[0], b=operands[1])


def _within(made: Callable[[Any], Any], value: Any, limit: float) -> bool:
    d = made(value)
    return isinstance(d, Const | program.Full) and abs(float(d.value)) <= limit


def clamped(made: Callable[[Any], Any], value: Any, limit: float) -> bool:
    """Whether every number of a value lies within +-limit (or is NaN): min(max(x, -limit), limit), perhaps beside a NaN
    that a select lets through. `made` is what defines a value: a node of a form, a statement of a tile program."""

    def bound(arg: Any, sign: int) -> bool:
        d = made(arg)
        return isinstance(d, Const | program.Full) and sign * float(d.value) <= limit

    d = made(value)
    if not isinstance(d, Elementwise | program.Elementwise):
        return False
    if d.op == "select":
        test = made(d.args[0])
        if all(clamped(made, a, limit) or _within(made, a, limit) for a in d.args[1:]):
            return True
        if not isinstance(test, Elementwise | program.Elementwise) or test.op != "ne" or test.args[0] != test.args[1]:
            return False
        return test.args[0] in d.args[1:] and any(clamped(made, a, limit) for a in d.args[1:])
    if d.op in ("min", "max"):
        sign = 1 if d.op == "min" else -1
        bounds = [a for a in d.args if bound(a, sign)]
        rest = [a for a in d.args if a not in bounds]
        other = "max" if d.op == "min" else "min"
        inner = made(rest[0]) if len(rest) == 1 else None
        return (
            bool(bounds)
            and isinstance(inner, Elementwise | program.Elementwise)
            and inner.op == other
            and any(bound(a, -sign) for a in inner.args)
        )
    return False
