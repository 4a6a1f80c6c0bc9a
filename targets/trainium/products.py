"""Products: which operand stands still, where the sum lies, and what the Vector engine multiplies instead.

A product reads SBUF with the summed axes across the partitions and writes PSUM with the stationary side's axes there.
Sums over loops stay in PSUM where nothing but products adds to them; everything else leaves PSUM at once, unless its
one reader can read it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from porter.targets.trainium import blocks, depth, transfer
from porter.targets.trainium.instructions import TABLE
from porter.targets.trainium.layout import Layout, Part, blocks_of, lying, sides, summed_order
from porter.targets.trainium.steps import ARITHMETIC
from porter.targets.trainium.writer import Place, View
from porter.tile.block_scales import name_of
from porter.tile.program import Dot, Elementwise
from porter.tile.target import CannotEmit

if TYPE_CHECKING:
    from porter.targets.trainium.emit import Emitter

#: the operand that stands still and the one that moves, and of products with block scales the scales of each
Places = tuple[tuple[Place, ...], tuple[Place, ...]]


def dot(e: Emitter, s: Dot, layout: Layout) -> None:
    """The product of a dot, where it belongs: in PSUM while loops add to it, else settled."""
    if s.precision != "fp32" and {e.plan.types[s.a].dtype, e.plan.types[s.b].dtype} == {"float32"}:
        raise CannotEmit(f"a float32 product as {s.precision}: the Tensor engine multiplies float32 as it is")
    if e.plan.stationary[s.name] == "vector":
        e.put(s.name, vector_dot(e, s, layout))
        return
    w, p = e.w, e.plan
    _, batch, a_axes, b_axes = sides(p, s)
    part = summed_order(p, s)
    a = operand(e, s.a, part, lying(p, s, s.a, batch, a_axes))
    b = operand(e, s.b, part, lying(p, s, s.b, batch, b_axes))
    held = [operand(e, x, blocks_of(p, s), (*batch, *y)) for x, y in zip(s.scales, (a_axes, b_axes), strict=False)]
    if s.scales:
        e.products.add(name_of(p.types, s))
    else:
        a, b = same_type(e, a, b)
        e.products.add("fp32" if a.dtype == "float32" else a.dtype)
    places: Places = ((a, b), tuple(held)) if p.stationary[s.name] == "a" else ((b, a), tuple(held[::-1]))
    root = p.chains.get(s.name)
    if root is not None:
        target = e.roots[root]
        since = e.loops[e.depth[root] :]
        flag = " + ".join(v for v, _ in since)
        matmul(e, s, target, places, layout, accumulate=f"{flag} > 0")
        e.put(s.name, target)
        return
    if batch:
        place = batched(e, s, layout, places, batch)
    else:
        place = sum_of(e, s.name, layout, s)
        matmul(e, s, place, places, layout, accumulate="False")
    if s.acc is not None:
        total = w.buffer(s.name, layout, s.type.dtype)
        acc = e.place(s.acc, layout.part)
        groups = w.groups(layout.free, [place, acc])
        acc = w.evicted(acc) if place.psum else acc
        w.call(
            "tensor_tensor",
            dst=w.view(total, groups),
            data1=w.view(place, groups),
            data2=w.view(acc, groups),
            op="nl.add",
        )
        place = total
    e.put(s.name, settled(e, s.name, s.type.dtype, place))


def operand(e: Emitter, name: str, part: Part, free: tuple[str, ...]) -> Place:
    found = e.w.evicted(e.place(name, part))
    if name in e.scalars:  # a constant: every lane of its axes
        found = e.select.copy(f"{name}_tile", Layout(part, free), found.dtype, e.scalars[name])
    missing = [a for a in free if a not in found.layout.free]
    if missing:
        found = e.select.copy(f"{name}_tile", Layout(part, free), found.dtype, found)
    return e.w.ordered(found, free)


def same_type(e: Emitter, a: Place, b: Place) -> tuple[Place, Place]:
    """Operands as the Tensor engine takes them: float32 on both sides or on neither, small integers as bfloat16."""

    def to(x: Place, dtype: str) -> Place:
        return x if x.dtype == dtype else e.select.copy(f"{x.buffer.name}_{dtype}", x.layout, dtype, x)

    def kind(x: Place) -> str:
        if np.dtype(x.dtype).kind not in "biu":
            return x.dtype
        if np.dtype(x.dtype).itemsize > 1:
            raise CannotEmit(
                f"a product of {x.dtype}: the Tensor engine takes floats, and integers of 8 bits as bfloat16"
            )
        return "bfloat16"

    a, b = to(a, kind(a)), to(b, kind(b))
    if "float32" in (a.dtype, b.dtype):
        return to(a, "float32"), to(b, "float32")
    return a, b


def sum_of(e: Emitter, hint: str, layout: Layout, dot: Dot) -> Place:
    """Room in PSUM for a product; nc_matmul_mx writes an even number of partitions, of which the last may be nothing."""
    rows = e.w.size(layout.part)
    wanted = blocks.even(rows) if dot.scales else rows
    made = e.w.room(hint, wanted, e.w.size(layout.free), "float32", "psum")
    return Place(made, layout, "float32", rows="" if wanted == rows else f"0:{rows}")


def matmul(e: Emitter, s: Dot, dst: Place, places: Places, layout: Layout, accumulate: str, at: str = "") -> None:
    """nc_matmul or nc_matmul_mx of a lane of the batch (`at`, where there are several), in pieces of one psum bank."""
    w, within = e.w, e.plan.within.get(s.name)
    sides = (w.size(layout.part), w.size(layout.free))  # of the operand that stands still, and of the one that moves
    inner = [blocks.codes_of(x) if s.scales else 1 if within is None else depth.ROWS for x in places[0]]
    slabs = [blocks.Slab(x, side * n, at) for x, side, n in zip(places[0], sides, inner, strict=True)]
    extra: dict[str, object] = {"accumulate": accumulate}
    call, skip = "nc_matmul", ""
    if s.scales:
        call = "nc_matmul_mx"
        held = [blocks.Slab(x, side, at) for x, side in zip(places[1], sides, strict=True)]
        views = [blocks.codes(e, x, side, i == 0) for i, (x, side) in enumerate(zip(slabs, sides, strict=True))]
        scales = [blocks.scales(e, x, side, i == 0) for i, (x, side) in enumerate(zip(held, sides, strict=True))]
        extra = {"stationary_scale": scales[0], "moving_scale": scales[1], **extra}
    elif within is not None:
        rows = [f"{x.text}.reshape_dim(1, ({depth.ROWS}, {side}))" for x, side in zip(slabs, sides, strict=True)]
        views = [View(text, (x.place.buffer,)) for text, x in zip(rows, slabs, strict=True)]
        extra["perf_mode"], skip = "nisa.matmul_perf_mode.double_row", ":, "
    else:
        views = [x.view for x in slabs]
    written = View(dst.buffer.name, (dst.buffer,))
    if sides[1].most <= e.chip.bank_bytes // 4:
        w.call(call, dst=written, stationary=views[0], moving=views[1], **extra)
        return
    step = e.chip.bank_bytes // 4
    column = w.name("column")
    with w.block(f"for {column} in range(0, {sides[1]}, {step}):", repeats=True):
        columns = f"{column}:min({column} + {step}, {sides[1]})"
        if "moving_scale" in extra:
            extra["moving_scale"] = View(f"{extra['moving_scale']}[:, {columns}]", scales[1].buffers)
        w.call(
            call,
            dst=View(f"{written}[:, {columns}]", (dst.buffer,)),
            stationary=views[0],
            moving=View(f"{views[1]}[:, {skip}{columns}]", views[1].buffers),
            **extra,
        )


def batched(e: Emitter, s: Dot, layout: Layout, places: Places, batch: tuple[str, ...]) -> Place:
    """One product per lane of the batch axes."""
    w = e.w
    made = w.buffer(s.name, layout, "float32")
    rest = tuple(a for a in layout.free if a not in batch)
    at = " + ".join(transfer._times(f"{a}_i", w.size(batch[i + 1 :])) for i, a in enumerate(batch))
    with w.lane_loops(batch):
        piece = sum_of(e, f"{s.name}_one", Layout(layout.part, rest), s)
        matmul(e, s, piece, places, Layout(layout.part, rest), "False", at)
        slab = blocks.Slab(made, w.size(rest), at)
        w.call("tensor_copy", dst=slab.view, src=piece.view)
    return made


def settled(e: Emitter, name: str, dtype: str, place: Place) -> Place:
    """Out of PSUM at once, unless the one thing that reads it can read it there."""
    reader = e.readers[name][0] if len(e.readers.get(name, [])) == 1 == e.plan.uses[name] else None
    turned = any((name, part) in e.plan.turned for part in e.plan.layouts[name])
    direct = isinstance(reader, Elementwise) and reader.op in (*ARITHMETIC, *TABLE) and not turned
    if not place.psum or (direct and dtype == "float32"):
        return place
    return e.select.copy(f"{place.buffer.name}_sb", place.layout, dtype, place)


def vector_dot(e: Emitter, s: Dot, layout: Layout) -> Place:
    """Products without a summed axis to lay across partitions (depthwise windows): multiply, sum, add."""
    w, p = e.w, e.plan
    summed = p.wide(p.program.ordered(set(s.axes)))
    a, b = e.place(s.a, layout.part), e.place(s.b, layout.part)
    acc = e.place(s.acc, layout.part) if s.acc is not None else None
    e.products.add("vector")
    if not summed:
        return multiply_add(e, s, layout, a, b, acc)
    wide = Layout(layout.part, (*layout.free, *summed))
    product = e.select.emit("mul", f"{s.name}_products", wide, "float32", [a, b])
    groups = tuple(w.groups((*layout.free, *summed), [product]))
    groups = tuple(g for g in (layout.free, summed) if g) if len(groups) == 1 else groups
    made = w.buffer(f"{s.name}_sum" if acc is not None else s.name, layout, s.type.dtype)
    w.call("tensor_reduce", dst=made.view, op="nl.add", data=w.view(product, groups), axis=len(groups))
    return made if acc is None else e.select.emit("add", s.name, layout, s.type.dtype, [made, acc])


def multiply_add(e: Emitter, s: Dot, layout: Layout, a: Place, b: Place, acc: Place | None) -> Place:
    w = e.w
    if not a.layout.free:
        a, b = b, a
    if acc is None or b.layout.free or b.dtype != "float32":
        product = e.select.emit("mul", s.name, layout, s.type.dtype, [a, b])
        return product if acc is None else e.select.emit("add", s.name, layout, s.type.dtype, [product, acc])
    made = w.buffer(s.name, layout, s.type.dtype)
    groups = w.groups(layout.free, [a, acc])
    w.call(
        "scalar_tensor_tensor",
        dst=w.view(made, groups),
        data=w.view(a, groups),
        op0="nl.multiply",
        operand0=b.view,
        op1="nl.add",
        operand1=w.view(acc, groups),
    )
    return made
