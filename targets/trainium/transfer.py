"""Loads and stores as DMA: an affine access is an access pattern, the edge of a tensor is a clipped one.

A pattern `[[step, count], ...]` over the flat tensor says exactly what an affine access says, one pair per axis. There
are no masks: tiles have their exact size, and a load that can leave its tensor sets the tile to the pad value and
copies the part inside, one lane at a time along axes that share an index with another (windows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from porter.targets.trainium.instructions import held
from porter.targets.trainium.layout import Layout, Plan, can_leave, contiguous, steps
from porter.targets.trainium.writer import FREE_DIMENSIONS, Place, Size, View, Writer
from porter.tile.affine import Affine
from porter.tile.program import Access, Load, Store

LONG = 50  # characters: a longer offset has a line of its own
MANY = 8  # lanes: fewer are not worth turning a tile for
TURNED_TYPES = ("float32", "bfloat16", "float16")


@dataclass
class _Box:
    """The part of a tile that one DMA moves: axes walked lane by lane, and axes cut to a range."""

    looped: list[str]
    cut: dict[str, tuple[str, str]]  # lowest lane, lane past the highest
    conditions: list[str]  # of indices that the loops decide


def load(w: Writer, p: Plan, s: Load, layout: Layout, index: Place | None = None) -> Place:
    """The loaded tile in this layout. `index` is where the gathered row indices lie."""
    across = _thin(p, s, layout) if index is None else None
    if across is not None:
        rest = tuple(a for a in (*layout.free, *layout.part) if a != across and a not in layout.part)
        lying = load(w, p, s, Layout((across,), (*rest, *layout.part)))
        return turn(w, p, lying, layout, s.name)
    tile = w.buffer(s.name, layout, s.type.dtype)
    box = _box(w, p, s.access, layout)
    if s.pad is not None and (box.cut or box.conditions):
        w.call("memset", dst=tile.view, value=held(s.pad, s.type.dtype))
    _move(w, p, s.access, tile, box, index, into=True)
    return tile


def store(w: Writer, p: Plan, s: Store, place: Place) -> None:
    """The tile to its place in the tensor."""
    lying = w.evicted(place)
    _move(w, p, s.access, lying, _box(w, p, s.access, lying.layout), None, into=False)


def _thin(p: Plan, s: Load, layout: Layout) -> str | None:
    """The axis to put across partitions instead, where the wanted layout would fetch element by element."""
    if len(layout.part) != 1 or layout.part[0] != contiguous(p, s.access) or s.type.dtype not in TURNED_TYPES:
        return None
    if p.lanes[layout.part[0]] < MANY:
        return None
    step = steps(s.access)
    fits = [a for a in layout.free if step.get(a) and MANY <= p.lanes[a] <= 128]
    return max(fits, key=lambda a: p.lanes[a], default=None)


def _box(w: Writer, p: Plan, access: Access, layout: Layout) -> _Box:
    looped: list[str] = []
    cutting: dict[str, list[int]] = {}
    dimensions = [d for d, i in enumerate(access.index) if i.gather is None and can_leave(w.program, access, d)]
    for d in dimensions:
        wide = p.wide(access.index[d].affine.axes)
        if wide:
            longest = max(wide, key=lambda a: p.lanes[a])
            cutting.setdefault(longest, []).append(d)
            looped += [a for a in wide if a != longest and a not in looped]
    # Partitions are a range: whatever lies outside an axis that is walked or cut is walked too.
    touched = [i for i, a in enumerate(layout.part) if a in looped or a in cutting]
    looped += [a for a in layout.part[: touched[-1] if touched else 0] if a not in looped]
    order = (*layout.part, *layout.free)
    step = steps(access)

    def dimensions_left() -> int:
        free = [a for a in layout.free if a not in looped]
        return sum(
            not (i and a not in cutting and free[i - 1] not in cutting and _merges(w, step, free[i - 1], a))
            for i, a in enumerate(free)
        )

    while dimensions_left() > FREE_DIMENSIONS - (len(layout.part) > 1) * (len(layout.part) - 1):
        looped.append(next(a for a in layout.free if a not in looped))
    looped.sort(key=order.index)
    conditions, cut = [], {}
    for axis, ds in cutting.items():
        if axis in looped:
            conditions += [c for d in ds for c in _inside(w, access, d, looped)]
            continue
        lows, highs = ["0"], [str(w.lanes(axis))]
        for d in ds:
            low, high = _range(w, access, d, axis, looped)
            lows += low
            highs += high
        cut[axis] = (
            lows[0] if len(lows) == 1 else f"max({', '.join(lows)})",
            highs[0] if len(highs) == 1 else f"min({', '.join(highs)})",
        )
    for d in dimensions:
        if not p.wide(access.index[d].affine.axes):
            conditions += _inside(w, access, d, looped)
    return _Box(looped, cut, conditions)


def _inside(w: Writer, access: Access, d: int, looped: Sequence[str]) -> list[str]:
    form = access.index[d].affine
    low, high = form.bounds(lambda a: w.program.axis(a).extent)
    text = w.affine(form, looped)
    return ([f"0 <= {text}"] if low < 0 else []) + ([f"{text} < {access.view[d]}"] if high >= access.view[d] else [])


def _range(w: Writer, access: Access, d: int, axis: str, looped: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lower and upper bounds on the lane of `axis` that keep dimension d inside the view."""
    form, size = access.index[d].affine, access.view[d]
    low, high = form.bounds(lambda a: w.program.axis(a).extent)
    k = form.coefficient(axis)
    base = w.affine(form, looped)
    below, above = w.affine(form * -1, looped), w.affine(form * -1 + (size - 1), looped)  # -base, size - 1 - base
    if k < 0:  # counts down: the ends change sides
        lows = [f"-(({above}) // {-k})"] if high >= size else []
        highs = [f"({base}) // {-k} + 1"] if low < 0 else []
        return lows, highs
    if k == 1:
        return ([below] if low < 0 else []), ([w.affine(form * -1 + size, looped)] if high >= size else [])
    return ([f"-(({base}) // {k})"] if low < 0 else []), ([f"({above}) // {k} + 1"] if high >= size else [])


def _merges(w: Writer, step: dict[str, int], outer: str, inner: str) -> bool:
    lanes = w.lanes(inner)
    return not lanes.symbols and step.get(outer, 0) == step.get(inner, 0) * lanes.number


def _move(w: Writer, p: Plan, access: Access, tile: Place, box: _Box, index: Place | None, into: bool) -> None:
    """One dma_copy inside the loops and conditions that the box needs."""
    walked_index = [] if index is None else [a for a in index.layout.free if p.lanes[a] > 1]
    looped = [*box.looped, *(a for a in walked_index if a not in box.looped)]
    with ExitStack() as stack:
        stack.enter_context(w.lane_loops(looped))
        conditions = list(box.conditions)
        for axis, (low, high) in box.cut.items():
            w.line(f"{axis}_lo = {low}")
            w.line(f"{axis}_hi = {high}")
            conditions.append(f"{axis}_lo < {axis}_hi")
        if conditions:
            stack.enter_context(w.block(f"if {' and '.join(conditions)}:"))
        chip = _region(w, tile, looped, box.cut)
        device = _pattern(w, access, tile.layout, looped, box.cut, index)
        w.call("dma_copy", dst=chip if into else device, src=device if into else chip)


def _region(w: Writer, tile: Place, looped: Sequence[str], cut: dict[str, tuple[str, str]]) -> View:
    """The box within the tile."""
    part, free = tile.layout.part, tile.layout.free
    moved = [a for a in part if a in looped or a in cut]
    rows = ":"
    if moved:
        last = part.index(moved[-1])
        inner = w.size(part[last + 1 :])
        terms = [_times(f"{a}_i", w.size(part[i + 1 :])) for i, a in enumerate(part) if a in looped]
        if len(terms) > 1:
            w.line(f"row = {' + '.join(terms)}")
            terms = ["row"]
        if part[last] in cut:
            first = [*terms, _times(f"{part[last]}_lo", inner)]
            end = [*terms, _times(f"{part[last]}_hi", inner)]
        else:
            first, end = terms, [*terms, str(inner)]
        rows = f"{' + '.join(first)}:{' + '.join(end)}"
    runs: list[list[str]] = []
    for a in free:
        if runs and a not in cut and runs[-1][-1] not in cut and (a in looped) == (runs[-1][-1] in looped):
            runs[-1].append(a)
        else:
            runs.append([a])
    columns = []
    for run in runs:
        a = run[0]
        lane = " + ".join(_times(f"{x}_i", w.size(run[i + 1 :])) for i, x in enumerate(run))
        columns.append(f"{a}_lo:{a}_hi" if a in cut else lane if a in looped else ":")
    text = tile.text
    if len(runs) > 1:
        text += f".reshape_dim(1, ({', '.join(str(w.size(r)) for r in runs)}))"
    if rows != ":" or any(c != ":" for c in columns):
        text += f"[{', '.join([rows, *(columns or [':'])])}]"
    return View(text, (tile.buffer,))


def _times(variable: str, size: object) -> str:
    return variable if str(size) == "1" else f"{variable} * ({size})" if "+" in str(size) else f"{variable} * {size}"


def _pattern(
    w: Writer,
    access: Access,
    layout: Layout,
    looped: Sequence[str],
    cut: dict[str, tuple[str, str]],
    index: Place | None,
) -> View:
    """The same box in the tensor."""
    step = steps(access)
    param = w.program.param(access.param)
    total = Affine()
    for i, stride in zip(access.index, _strides(access), strict=True):
        total = total + i.affine * stride
    offset = w.affine(total, looped)
    for a in cut:
        if step.get(a):
            offset += f" + {a}_lo" if step[a] == 1 else f" + {step[a]} * {a}_lo"
    offset = offset.removeprefix("0 + ")
    if len(offset) > LONG:
        w.line(f"offset = {offset}")
        offset = "offset"
    pairs: list[tuple[int, Size | str]] = []
    previous: str | None = None
    for a in (*layout.part, *layout.free):
        if a in looped or (index is not None and a in layout.part):
            continue
        before = pairs[-1][1] if pairs else ""
        alike = previous is not None and a not in cut and (previous in layout.part) == (a in layout.part)
        if previous is not None and alike and isinstance(before, Size) and _merges(w, step, previous, a):
            pairs[-1] = (step.get(a, 0), before * w.lanes(a))
        else:
            pairs.append((step.get(a, 0), f"{a}_hi - {a}_lo" if a in cut else w.lanes(a)))
        previous = a
    if index is not None:
        assert not any(step.get(a) for a in layout.part), "a partition has one row and no place in it: see rows.py"
        row = math.prod(access.view[1:])
        pairs.insert(0, (row, w.size(layout.part)))
        base = f"{param.name}.reshape({(access.view[0], row)})" if param.shape != (access.view[0], row) else param.name
        column = ""
        if index.layout.free:
            at = [_times(f"{a}_i", w.size(index.layout.free[i + 1 :])) for i, a in enumerate(index.layout.free)]
            column = f"[:, {' + '.join(at)}:{' + '.join(at)} + 1]"
        text = ", ".join(f"[{s}, {n}]" for s, n in (pairs if len(pairs) > 1 else [*pairs, (1, "1")]))
        return View(
            f"{base}.ap(pattern=[{text}], offset={offset}, vector_offset={index.text}{column}, indirect_dim=0)",
            (index.buffer,),
        )
    if not any(a not in looped for a in layout.part):
        pairs.insert(0, (1, "1"))
    if len(pairs) == 1:
        pairs.append((1, "1"))
    text = ", ".join(f"[{s}, {n}]" for s, n in pairs)
    return View(f"{param.name}.ap(pattern=[{text}], offset={offset})")


def _strides(access: Access) -> list[int]:
    return [math.prod(access.view[i + 1 :]) for i in range(len(access.view))]


def turn(w: Writer, p: Plan, place: Place, layout: Layout, hint: str) -> Place:
    """The value in another layout: by the Tensor engine where two axes change sides, else through device memory."""
    old = place.layout
    if layout.part == old.part:
        return w.ordered(place, layout.free)
    axes = {*layout.free, *(a for a in layout.part if a in old.part or a in old.free)}
    foreign = [a for a in old.part if a not in axes]
    kept = tuple(a for a in old.part if a not in foreign)
    if kept == layout.part and old.part[: len(foreign)] == tuple(foreign) and not place.psum:
        rows = f"0:{w.size(kept)}"
        return replace(place, layout=Layout(kept, old.free), rows=rows)  # the first of equal rows
    crosses = not foreign and set(layout.part) <= set(old.free) and place.dtype in TURNED_TYPES
    if crosses and p.count(layout.part) <= 128:
        return _transpose(w, place, layout, hint)
    return _through_memory(w, place, layout, hint)


def _transpose(w: Writer, place: Place, layout: Layout, hint: str) -> Place:
    """nc_transpose of [partitions, the new partitions], once per lane of the other free axes."""
    source = w.evicted(place)
    old = source.layout
    made = w.buffer(f"{hint}_t", layout, source.dtype)
    others = [a for a in old.free if a not in layout.part]
    with w.lane_loops(others):
        turned = w.buffer(f"{hint}_turned", Layout(layout.part, old.part), source.dtype, "psum")
        w.call("nc_transpose", dst=turned.view, data=_slab(w, source, others, layout.part))
        w.call("tensor_copy", dst=_slab(w, made, others, old.part), src=turned.view)
    return made


def _slab(w: Writer, place: Place, fixed: Sequence[str], order: tuple[str, ...]) -> View:
    """A place at one lane of the axes that are walked, its other free axes in this order."""
    free = place.layout.free
    if not fixed and free == order:
        return place.view
    text = place.text
    if len(free) > 1:
        text += f".reshape_dim(1, ({', '.join(str(w.lanes(a)) for a in free)}))"
    rest = [a for a in free if a not in fixed]
    if fixed:
        text += f"[:, {', '.join(f'{a}_i' if a in fixed else ':' for a in free)}]"
    if tuple(rest) != order:
        text += f".permute((0, {', '.join(str(1 + rest.index(a)) for a in order)}))"
    return View(text, (place.buffer,))


def _through_memory(w: Writer, place: Place, layout: Layout, hint: str) -> Place:
    """Out to a scratch tensor and back with other steps: any layout, two DMAs."""
    source = w.evicted(place)
    old = source.layout
    order = (*old.part, *old.free)
    scratch = w.room(f"{hint}_scratch", w.size(old.part), w.size(old.free), source.dtype, "hbm")
    w.call("dma_copy", dst=View(scratch.name, (scratch,)), src=source.view)
    made = w.buffer(f"{hint}_relaid", layout, source.dtype)
    pairs = []
    for side in (layout.part, layout.free):
        for a in side:
            step = str(w.size(order[order.index(a) + 1 :])) if a in order else "0"
            pairs.append(f"[{step}, {w.lanes(a)}]")
        if not side:
            pairs.append("[1, 1]")
    if len(pairs) > FREE_DIMENSIONS + 1:
        walked = list(layout.free)[: len(pairs) - FREE_DIMENSIONS - 1]
        _back_by_lanes(w, made, scratch.name, order, walked)
        return made
    back = View(f"{scratch.name}.ap(pattern=[{', '.join(pairs)}], offset=0)", (scratch,))
    w.call("dma_copy", dst=made.view, src=back)
    return made


def _back_by_lanes(w: Writer, made: Place, scratch: str, order: tuple[str, ...], walked: Sequence[str]) -> None:
    """Read a scratch tensor back, one lane of the outer free axes at a time: patterns have few dimensions."""
    with w.lane_loops(walked):
        rest = tuple(a for a in made.layout.free if a not in walked)
        pairs = []
        for a in (*made.layout.part, *rest):
            step = str(w.size(order[order.index(a) + 1 :])) if a in order else "0"
            pairs.append(f"[{step}, {w.lanes(a)}]")
        at = " + ".join(_times(f"{a}_i", w.size(order[order.index(a) + 1 :])) for a in walked if a in order) or "0"
        back = View(f"{scratch}.ap(pattern=[{', '.join(pairs)}], offset={at})")
        w.call("dma_copy", dst=_slab(w, made, walked, rest), src=back)
