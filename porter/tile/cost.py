"""What a tile program does, counted: multiply-adds by product, elementwise lanes by operation, bytes moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.tile.block_scales import codes_in_byte, name_of
from porter.tile.program import Cast, Dot, Elementwise, For, Load, Program, Reduce, Statement, Store, Tile, types, walk

#: bits of elements that lie several to a byte in the memory of a device whose language has them (`Limits.subbyte`); for the
#: others `quantization.packed` has made bytes of them. numpy keeps each in a byte.
SUBBYTE = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4}


def size(elements: int, dtype: str) -> int:
    """Bytes of so many elements in a device's memory."""
    return -(-elements * SUBBYTE[dtype] // 8) if dtype in SUBBYTE else elements * np.dtype(dtype).itemsize


@dataclass
class Counts:
    """Totals over the whole grid, padding lanes included: what the device executes, not what the model needs.

    products: multiply-adds by product ('bfloat16', 'bf16x6', 'fp32', 'int8', ...); elementwise: lanes by operation;
    loaded, stored: bytes between device memory and tiles if nothing is cached; touched: bytes of what is read or written
    of each parameter, once (of a table that is gathered from, at most a row for each index).
    """

    products: Counter[str] = field(default_factory=Counter)
    elementwise: Counter[str] = field(default_factory=Counter)
    loaded: int = 0
    stored: int = 0
    touched: int = 0
    instances: int = 1

    @property
    def flops(self) -> int:
        return 2 * sum(self.products.values()) + sum(self.elementwise.values())


def operands(s: Dot, kinds: Mapping[str, Tile]) -> str:
    """A product by what its operands are: their format, of float32 the scheme, of blocks with scales its name."""
    if s.scales:
        return name_of(kinds, s)
    return kinds[s.a].dtype if kinds[s.a].dtype != "float32" else s.precision


def count(program: Program, product: Callable[[Dot, Mapping[str, Tile]], str] = operands) -> Counts:
    """The counts of one launch; `product` names a dot."""
    found = Counts(instances=math.prod(a.steps for a in program.grid))
    kinds = types(program)
    _block(program, program.body, found.instances, kinds, found, product)
    found.touched = _touched(program, kinds)
    return found


def _touched(program: Program, kinds: dict[str, Tile]) -> int:
    """Bytes of the distinct elements that loads and stores reach, no parameter counted beyond its size."""
    reached: Counter[str] = Counter()
    for s in walk(program.body):
        if isinstance(s, Load | Store):
            axes = {a for i in s.access.index for a in (*i.affine.axes, *(kinds[i.gather].axes if i.gather else ()))}
            reached[s.access.param] += math.prod(program.axis(a).extent for a in axes)
    return sum(size(min(math.prod(p.shape), reached[p.name]), p.dtype) for p in program.params)


def _block(
    program: Program, body: tuple[Statement, ...], times: int, kinds: dict[str, Tile], found: Counts,
    product: Callable[[Dot, Mapping[str, Tile]], str],
) -> None:  # fmt: skip
    def lanes(axes: set[str] | tuple[str, ...]) -> int:
        return math.prod(program.axis(a).tile for a in axes)

    for s in body:
        match s:
            case For(axis=axis, body=inner):
                _block(program, inner, times * program.axis(axis).steps, kinds, found, product)
            case Load(type=t):
                found.loaded += times * lanes(t.axes) * np.dtype(t.dtype).itemsize
            case Store(value=value, access=access):
                axes = {a for i in access.index for a in i.affine.axes}
                found.stored += times * lanes(axes) * np.dtype(kinds[value].dtype).itemsize
            case Dot(a=a, b=b):
                work = times * lanes({*kinds[a].axes, *kinds[b].axes})
                found.products[product(s, kinds)] += work * codes_in_byte(kinds, s)
            case Elementwise(op=op, type=t):
                found.elementwise[op] += times * lanes(t.axes)
            case Reduce(op=op, arg=arg):
                found.elementwise[op] += times * lanes(kinds[arg].axes)
            case Cast(type=t):
                found.elementwise["cast"] += times * lanes(t.axes)
            case _:
                pass
