"""Products of operands with block scales, where the matrix unit takes codes and scales as they lie.

    dot(cast(cast(codes) * cast(scale) to bfloat16), the same of the other)  ->  dot(codes, codes) scaled by (scale, scale)

A block is what the summed axes that a scale lacks span, the same axes on both sides. Codes of 8 bits are values of their
type; two of 4 bits lie in a byte, the halves of a block apart (quantization.packed): a unit adds the products of low codes and
of high codes alike, so their order within a block is nothing to it. Where one side has 8 bits and the other 4, that axis
stays: the side of 8 bits has it. Casts to bfloat16 are exact for MX (four significant bits
times a power of two); NVFP4's scale of the tensor moves behind the product.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from porter.formats import of
from porter.tile import program
from porter.tile.elementwise import ELEMENTWISE
from porter.tile.form import Cast, Const, Dot, Elementwise, Form, Iota, Node, children
from porter.tile.program import Tile

E8M0, E4M3, E2M1, BYTE = "float8_e8m0fnu", "float8_e4m3fn", "float4_e2m1fn", "uint8"
#: a product's name: what its codes lie in, its scales, how many of those share one
PRODUCTS = {"mxfp8": (E4M3, E8M0, 32), "mxfp4": (BYTE, E8M0, 16), "nvfp4": (BYTE, E4M3, 8)}
MIXED = "mxfp4a8"  # a side of MXFP8 by a side of MXFP4: the unit takes codes in the order of the bytes, low and high in turn
SHORTEST = 64  # bytes of the sum: what tcgen05's block-scaled kinds take at least in Triton 3.9 (measured)


def name_of(kinds: Mapping[str, Tile], s: program.Dot) -> str:
    """The name of a product with block scales."""
    lies = (kinds[s.a].dtype, kinds[s.scales[0]].dtype)
    if kinds[s.a].dtype != kinds[s.b].dtype:
        return MIXED
    return next(name for name, (codes, scales, _) in PRODUCTS.items() if (codes, scales) == lies)


def codes_in_byte(kinds: Mapping[str, Tile], s: program.Dot) -> int:
    """How many terms of a sum one lane of a product is: two, where both sides are bytes of two codes."""
    return 2 if s.scales and kinds[s.a].dtype == kinds[s.b].dtype == BYTE else 1


def place_of(kinds: Mapping[str, Tile], s: program.Dot) -> str | None:
    """Of a mixed product the summed axis that says which code of a byte is meant; the bytes have none of it."""
    if not s.scales or kinds[s.a].dtype == kinds[s.b].dtype:
        return None
    packed = kinds[s.a if kinds[s.a].dtype == BYTE else s.b]
    (place,) = (x for x in s.axes if x not in packed.axes)
    return place


def halves(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the low and of the high codes of bytes of E2M1, float32."""
    table = of(E2M1).codes().astype(np.float32)
    return table[packed & 15], table[packed >> 4]


@dataclass(frozen=True)
class _Side:
    codes: int
    scale: int
    block: frozenset[str]  # the summed axes within a block
    place: str = ""  # the summed axis that says which code of a byte is meant
    factor: int | None = None  # what has none of the summed axes


def scaled(form: Form, products: Collection[str]) -> Form:
    """The form with its dots of decoded blocks as products of codes, those that are among `products`."""

    def change(new: Form, node: Node) -> Node | int:
        if not isinstance(node, Dot) or node.scales:
            return node
        free = (new.axes_of(node.a) - new.axes_of(node.b), new.axes_of(node.b) - new.axes_of(node.a))
        for name in products:
            if name == MIXED:
                if all(free) and (made := _mixed(new, node)) is not None:
                    return made
                continue
            a, b = (_side(new, i, node.axes, *PRODUCTS[name]) for i in (node.a, node.b))
            if a is None or b is None or (a.block, a.place) != (b.block, b.place) or not all(free):
                continue
            axes = tuple(x for x in node.axes if x != a.place)
            if math.prod(new.axes[x] for x in axes) < SHORTEST:
                continue
            made = new.add(replace(node, a=a.codes, b=b.codes, axes=axes, scales=(a.scale, b.scale)))
            for factor in (a.factor, b.factor):
                made = made if factor is None else new.ew("mul", made, factor)
            return made
        return node

    return form.rebuild(change=change) if products else form


def _mixed(form: Form, node: Dot) -> int | None:
    """The product of E4M3 and bytes of E2M1, blocks of 32 on both sides; None where the operands are anything else."""
    for packed, other in ((node.a, node.b), (node.b, node.a)):
        four = _side(form, packed, node.axes, *PRODUCTS["mxfp4"])
        eight = _side(form, other, node.axes, *PRODUCTS["mxfp8"])
        if four is None or eight is None or eight.block != four.block | {four.place} or four.factor or eight.factor:
            continue
        a, b = (four, eight) if packed == node.a else (eight, four)
        return form.add(replace(node, a=a.codes, b=b.codes, scales=(a.scale, b.scale)))
    return None


def _side(form: Form, operand: int, summed: tuple[str, ...], codes: str, scales: str, block: int) -> _Side | None:
    """An operand as codes times a scale per block; None where it is anything else."""
    node = form[operand]
    while isinstance(node, Cast) and not node.bits and node.dtype in ("bfloat16", "float32"):
        operand, node = node.arg, form[node.arg]
    if not isinstance(node, Elementwise) or node.op != "mul":
        return None
    for number, scale in (node.args, node.args[::-1]):
        held, place = _codes(form, number, codes)
        found, factor = _scale(form, scale, scales, summed)
        if held is None or found is None or not set(summed) - {place} <= form.axes_of(held):
            continue
        inside = frozenset(summed) - form.axes_of(found) - {place}
        if math.prod(form.axes[a] for a in inside) == block:
            return _Side(held, found, inside, place, factor)
    return None


def _codes(form: Form, number: int, kind: str) -> tuple[int | None, str]:
    """What a number is decoded from, and for bytes the axis that chooses the code."""
    node = form[number]
    if kind != BYTE:
        fits = isinstance(node, Cast) and not node.bits and form[node.arg].dtype == kind
        return (node.arg if fits and isinstance(node, Cast) else None), ""
    every = np.arange(256, dtype=np.uint8)
    for held in [i for i in sorted(_arithmetic(form, number)) if form[i].dtype == BYTE]:
        leaves = [i for i in _arithmetic(form, number, held) if i == held or not _inner(form[i])]
        places = {a for i in leaves if isinstance(n := form[i], Iota) for a in n.affine.axes}
        if len(places) != 1 or any(i != held and not isinstance(form[i], Iota | Const) for i in leaves):
            continue
        (place,) = places
        if form.axes[place] != 2 or place in form.axes_of(held):
            continue
        # the arithmetic is a decoder if it decodes every byte
        if all(
            _evaluated(form, number, {held: every}, {place: v}).tobytes() == w.tobytes()
            for v, w in enumerate(halves(every))
        ):
            return held, place
    return None, ""


def _inner(node: Node) -> bool:
    return isinstance(node, Elementwise | Cast)


def _arithmetic(form: Form, top: int, stop: int = -1) -> set[int]:
    """The nodes that elementwise arithmetic computes a node from, itself among them; nothing below `stop`."""
    seen: set[int] = set()
    waiting = [top]
    while waiting:
        i = waiting.pop()
        if i not in seen:
            seen.add(i)
            waiting += children(form[i]) if _inner(form[i]) and i != stop else ()
    return seen


def _scale(form: Form, scale: int, kind: str, summed: tuple[str, ...]) -> tuple[int | None, int | None]:
    """The codes of a scale, and a factor of them without a summed axis."""
    node = form[scale]
    if isinstance(node, Cast) and not node.bits and form[node.arg].dtype == kind:
        return node.arg, None
    if isinstance(node, Elementwise) and node.op == "mul":
        for inner, factor in (node.args, node.args[::-1]):
            found, rest = _scale(form, inner, kind, summed)
            if found is not None and rest is None and not form.axes_of(factor) & set(summed):
                return found, factor
    return None, None


def _evaluated(form: Form, node: int, given: Mapping[int, np.ndarray], at: Mapping[str, int]) -> np.ndarray:
    """The value of elementwise arithmetic on given arrays where some axes have given values."""
    if node in given:
        return given[node]
    n = form[node]
    match n:
        case Const(value=value, dtype=dtype):
            return np.asarray(value).astype(dtype)
        case Iota(affine=affine, dtype=dtype):
            return np.asarray(sum(k * at[a] for a, k in affine.terms) + affine.const).astype(dtype)
        case Cast(arg=arg, dtype=dtype, bits=bits):
            x = _evaluated(form, arg, given, at)
            return x.view(dtype) if bits else x.astype(dtype)
        case Elementwise(op=op, args=args, dtype=dtype):
            with np.errstate(all="ignore"):
                return np.asarray(ELEMENTWISE[op][1](*(_evaluated(form, a, given, at) for a in args))).astype(dtype)
        case _:
            raise AssertionError(n)
