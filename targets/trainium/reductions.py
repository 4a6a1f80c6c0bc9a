"""Reductions: the Vector engine sums along free axes; exactly for integers, in pieces where the operand is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from porter.targets.trainium import integers, transfer
from porter.targets.trainium.instructions import DTYPES, REDUCE, TABLE
from porter.targets.trainium.layout import Layout
from porter.targets.trainium.writer import Place, View
from porter.tile.program import Axis, Elementwise, For, Mask, Reduce, Statement, Store, Tile

if TYPE_CHECKING:
    from porter.targets.trainium.emit import Emitter


def reduce(e: Emitter, s: Reduce, layout: Layout) -> Place:
    """The reduction's result in this layout, none of whose partition axes is summed."""
    if layout.part in e.places.get(s.name, {}):
        return e.places[s.name][layout.part]  # summed as its operand was made
    if s.name in e.plan.staged:
        return _staged(e, s, layout, e.plan.staged[s.name])
    return _whole(e, s, layout, e.place(s.arg, layout.part), s.name)


def on_the_way(e: Emitter) -> dict[str, str]:
    """Results of table functions whose sum the Scalar engine leaves with them, and that sum's name."""
    found: dict[str, str] = {}
    p = e.plan
    for block in _blocks(e.program.body):
        inside = {s.name: s for s in block if not isinstance(s, For | Store)}
        for s in inside.values():
            if not isinstance(s, Reduce) or s.op != "add" or s.type.dtype != "float32" or s.name not in p.layouts:
                continue
            source = inside.get(s.arg)
            while isinstance(source, Mask):
                source = inside.get(source.arg)
            if not isinstance(source, Elementwise) or source.type.dtype != "float32" or source.name in found:
                continue
            if (source.op not in TABLE and source.name not in p.tables) or source.name in p.masks:
                continue
            made, total = p.natural(source.name), p.natural(s.name)
            if made.part == total.part and not total.free and set(made.free) == set(p.wide(s.axes)):
                found[source.name] = s.name
    return found


def _blocks(body: Sequence[Statement]) -> Iterator[Sequence[Statement]]:
    yield body
    for s in body:
        if isinstance(s, For):
            yield from _blocks(s.body)


def _whole(e: Emitter, s: Reduce, layout: Layout, arg: Place, name: str) -> Place:
    w, p = e.w, e.plan
    summed = p.wide(p.program.ordered(set(s.axes)))
    if not summed:
        return arg
    dtype = s.type.dtype
    if DTYPES[dtype] in ("int32", "uint32"):
        return _integers(e, s, layout, arg, summed)
    if np.dtype(dtype).kind in "iu" and s.op in ("add", "mul"):
        wide = e.select.copy(f"{s.name}_wide", arg.layout, "int32", arg)
        total = _integers(e, replace(s, type=Tile("int32", s.type.axes)), layout, wide, summed)
        return integers.wrapped(e.select, s.name, layout, dtype, total)
    groups = w.groups((*layout.free, *summed), [arg])
    if any(set(g) & set(summed) and set(g) & set(layout.free) for g in groups):
        groups = tuple((a,) for a in (*layout.free, *summed))
    kept = [g for g in groups if g[0] not in summed]
    made = w.buffer(name, layout, dtype)
    op = REDUCE[s.op] if dtype == "bool" or s.op not in ("and", "or") else f"bitwise_{s.op}"
    axes = tuple(range(1 + len(kept), 1 + len(groups)))
    axis = axes if len(axes) > 1 else axes[0]
    w.call("tensor_reduce", dst=made.view, op=f"nl.{op}", data=w.view(arg, groups), axis=axis)
    return made


def _staged(e: Emitter, s: Reduce, layout: Layout, axis: str) -> Place:
    """128 lanes of `axis` at a time across the partitions, each piece's result turned into its part of the whole."""
    w = e.w
    made = w.buffer(s.name, layout, s.type.dtype)
    whole = w.axes[axis]
    lanes = min(whole.tile, whole.extent)
    piece = Axis(axis, lanes, min(lanes, e.chip.partitions), "loop")
    variable = f"{axis}_at"
    w.axes[axis] = piece
    with w.block(f"for {variable} in range(0, {piece.extent}, {piece.tile}):", repeats=True), e.looping(variable, axis):
        if piece.ragged and piece.tile < piece.extent:
            w.line(f"{axis}_n = min({piece.tile}, {piece.extent} - {variable})")
        part = _whole(e, s, Layout((axis,), layout.part), e.place(s.arg, (axis,)), f"{s.name}_piece")
        turned = transfer.turn(w, e.plan, part, layout, f"{s.name}_piece")
        span = View(f"{made.text}[:, {variable}:{variable} + {w.lanes(axis)}]", (made.buffer,))
        w.call("tensor_copy", dst=span, src=turned.view)
    w.axes[axis] = whole
    return made


def _integers(e: Emitter, s: Reduce, layout: Layout, arg: Place, summed: tuple[str, ...]) -> Place:
    """Halves added to halves: tensor_reduce would sum 32-bit integers in float32."""
    w = e.w
    op = {"and": "bitwise_and", "or": "bitwise_or"}.get(s.op, REDUCE[s.op])
    work = e.select.copy(f"{s.name}_work", Layout(layout.part, (*summed, *layout.free)), s.type.dtype, arg)
    name, row, size = work.buffer.name, w.size(layout.free), w.size(summed)
    left, half = f"{name}_left", f"{name}_half"
    w.line(f"{left} = {size}")
    with w.block(f"for {name}_step in range({max(size.most - 1, 1).bit_length()}):", repeats=True):
        w.line(f"{half} = {left} // 2")
        with w.block(f"if {half} > 0:"):
            low = View(f"{name}[:, 0:{half} * {row}]", (work.buffer,))
            high = View(f"{name}[:, ({left} - {half}) * {row}:{left} * {row}]", (work.buffer,))
            w.call("tensor_tensor", dst=low, data1=low, data2=high, op=f"nl.{op}")
        w.line(f"{left} = {left} - {half}")
    made = w.buffer(s.name, layout, s.type.dtype)
    w.call("tensor_copy", dst=made.view, src=View(f"{name}[:, 0:{row}]", (work.buffer,)))
    return made
