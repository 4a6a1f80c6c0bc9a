"""Products of operands with block scales, where the matrix unit takes codes and scales as they lie.

    dot(cast(cast(codes) * cast(scale) to bfloat16), the same of the other)  ->  dot(codes, codes) scaled by (scale, scale)

A block is what the summed axes that a scale lacks span: 32 codes of MX, of the same axes on both sides. The cast to bfloat16
is exact there (four significant bits times a power of two), so that both sides mean the same sum.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from porter.tile.form import Cast, Dot, Elementwise, Form, Node

#: a product's name: its codes, its scales, how many codes share one
PRODUCTS = {"mxfp8": ("float8_e4m3fn", "float8_e8m0fnu", 32)}
SHORTEST = 64  # codes of the sum: tcgen05's block-scaled kinds take two blocks at least (measured with Triton 3.9)


@dataclass(frozen=True)
class _Side:
    codes: int
    scale: int
    block: frozenset[str]  # the summed axes within a block


def scaled(form: Form, products: Collection[str]) -> Form:
    """The form with its dots of decoded blocks as products of codes, those that are among `products`."""

    def change(new: Form, node: Node) -> Node:
        if not isinstance(node, Dot) or node.scales or math.prod(new.axes[a] for a in node.axes) < SHORTEST:
            return node
        free = (new.axes_of(node.a) - new.axes_of(node.b), new.axes_of(node.b) - new.axes_of(node.a))
        for name in products:
            sides = [_side(new, i, node.axes, *PRODUCTS[name]) for i in (node.a, node.b)]
            a, b = sides
            if a is not None and b is not None and a.block == b.block and all(free):
                return replace(node, a=a.codes, b=b.codes, scales=(a.scale, b.scale))
        return node

    return form.rebuild(change=change) if products else form


def _side(form: Form, operand: int, summed: tuple[str, ...], codes: str, scales: str, block: int) -> _Side | None:
    """An operand as codes times a scale per block; None where it is anything else."""
    narrow = form[operand]
    product = form[narrow.arg] if isinstance(narrow, Cast) and narrow.dtype == "bfloat16" else narrow
    if not isinstance(product, Elementwise) or product.op != "mul":
        return None
    held = {form[n.arg].dtype: n.arg for i in product.args if isinstance(n := form[i], Cast) and n.dtype == "float32"}
    if set(held) != {codes, scales}:
        return None
    inside = frozenset(summed) - form.axes_of(held[scales])
    if math.prod(form.axes[a] for a in inside) != block or not set(summed) <= form.axes_of(held[codes]):
        return None
    return _Side(held[codes], held[scales], inside)
