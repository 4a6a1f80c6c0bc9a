"""Integers on engines that compute in float32: exact where every tile is 32 bits wide and in SBUF, then the lowest bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from porter.targets.trainium.instructions import ALU, DTYPES, held
from porter.targets.trainium.layout import Layout
from porter.targets.trainium.steps import Argument, Pending, Step
from porter.targets.trainium.writer import Place
from porter.tile.elementwise import COMPARISONS

if TYPE_CHECKING:
    from porter.targets.trainium.select import Selector


def emit(s: Selector, op: str, name: str, layout: Layout, dtype: str, args: Sequence[Argument]) -> Place | None:
    """The result of an operation on integers in a fresh tile; None for one that is none of theirs."""
    kind = np.dtype(dtype).kind
    places = [a for a in args if isinstance(a, Place)]
    wide = any(_int32(a.dtype) for a in places) and all(np.dtype(a.dtype).kind in "iu" for a in places)
    match op:
        case "and" | "or" | "xor" | "shl" | "shr" if kind in "biu":
            return _tensors(s, op, name, layout, dtype, args, DTYPES[dtype])
        case _ if op in COMPARISONS - {"isfinite"} and wide:  # the Vector engine would compare them as float32
            common = "uint32" if all(DTYPES[a.dtype] == "uint32" for a in places) else "int32"
            found = _tensors(s, op, f"{name}_wide", layout, common, args, common)
            return s.copy(name, layout, dtype, found)
        case _ if kind in "iu" and op in ALU and _int32(dtype):
            return _tensors(s, op, name, layout, dtype, args, DTYPES[dtype])
        case "add" | "sub" | "mul" | "neg" if kind in "iu" and not _int32(dtype):
            whole = s.emit(op, f"{name}_wide", layout, "int32", [_widened(s, a, name) for a in args])
            return wrapped(s, name, layout, dtype, whole)
        case "neg" if kind in "iu":
            return _tensors(s, "sub", name, layout, dtype, [0, args[0]], DTYPES[dtype])
        case _:
            return None


def wrapped(s: Selector, name: str, layout: Layout, dtype: str, x: Place) -> Place:
    """The lowest bits of integers as another integer type: a copy would hold them at the ends of its range."""
    kind = np.dtype(DTYPES[dtype])
    x = s.w.evicted(x)
    if np.dtype(DTYPES[x.dtype]).itemsize < max(kind.itemsize, 2):
        x = s.copy(f"{name}_wide", layout, "int32", x)
    if np.dtype(DTYPES[x.dtype]).itemsize == kind.itemsize:
        return replace(x, dtype=dtype, bits=True)
    low = Step("and", (1 << 8 * kind.itemsize) - 1)
    if kind.kind == "u":
        return s.scalar(name, layout, dtype, x, low)
    half = 1 << (8 * kind.itemsize - 1)  # ((x & 255) ^ 128) - 128
    turned = s.scalar(f"{name}_low", layout, x.dtype, Pending(x, (low,)), Step("xor", half))
    return s.scalar(name, layout, dtype, turned, Step("sub", half))


def _tensors(
    s: Selector, op: str, name: str, layout: Layout, dtype: str, args: Sequence[Argument], spelled: str
) -> Place:
    """tensor_tensor of tiles of one integer type."""
    part = layout.part
    tiles = []
    for i, a in enumerate(args):
        if not isinstance(a, Place):
            assert not isinstance(a, Pending)
            tiles.append(s.constant(held(a, dtype), part, f"{name}_{'ab'[i]}", dtype))
        elif DTYPES[a.dtype] != spelled:
            tiles.append(s.copy(f"{name}_cast", Layout(part, a.layout.free), dtype, a))
        else:
            tiles.append(s.w.evicted(a))
    out = s.w.buffer(name, layout, dtype)
    groups = s.w.groups(layout.free, tiles)
    first, second = (s.w.view(t, groups) for t in tiles)
    s.w.call("tensor_tensor", dst=s.w.view(out, groups), data1=first, data2=second, op=f"nl.{ALU[op]}")
    return out


def _widened(s: Selector, x: Argument, name: str) -> Argument:
    if not isinstance(x, Place):
        return x
    return s.copy(f"{name}_wide", Layout(x.layout.part, x.layout.free), "int32", x)


def _int32(dtype: str) -> bool:
    return DTYPES.get(dtype) in ("int32", "uint32")
