"""How gathers, scatters, sorts and slices at computed places are pulled.

A gather is an index that is a value. A scatter is seen from the element that it writes: which updates have it as their
place? That is a masked reduction over the updates, which a position that is an iota solves without one. A sort counts for
each element how many come before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.tile.affine import Affine
from porter.tile.elementwise import identity
from porter.tile.flat import Equation
from porter.tile.form import Cast, Cut, Index, Iota, Reduce
from porter.tile.pull import Position, Puller

ZERO = Index(Affine())
PAIRS = 1 << 32  # (update, output element) pairs that a scatter may compare


def clipped(p: Puller, start: int, last: int) -> int:
    """A start index held in [0, last]."""
    kind = p.form[start].dtype
    return p.form.ew("min", p.form.ew("max", start, p.form.const(0, kind)), p.form.const(last, kind))


def picked(p: Puller, hit: int, value: int, axes: tuple[str, ...]) -> int:
    """The value of the one place along `axes` where `hit` holds; zero where none does. A NaN elsewhere does no harm."""
    dtype = p.form[value].dtype
    if dtype == "bool":
        return p.form.add(Reduce("or", p.form.ew("and", hit, value), axes, dtype))
    kind = np.dtype(dtype)
    wide = "float32" if kind.kind == "V" and kind.itemsize < 2 else dtype  # codes have no sums; float32 holds them all
    value = p.form.add(Cast(value, wide))
    found = p.form.add(Reduce("add", p.form.ew("select", hit, value, p.form.const(0, wide)), axes, wide))
    return p.form.add(Cast(found, dtype))


# Gathers


def gather(p: Puller, e: Equation, at: Position, _: int) -> int:
    operand, indices = e.operands[0], e.operands[1]
    numbers, sizes = e.settings["dimension_numbers"], e.settings["slice_sizes"]
    shape = p.shape(operand)
    batch = [i for d, i in enumerate(at) if d not in numbers.offset_dims]
    offsets = iter([at[d] for d in numbers.offset_dims])
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    within = {d: next(offsets) for d in range(len(shape)) if d not in gone}
    mode = str(e.settings["mode"]).upper()
    position: list[Index] = []
    for d, n in enumerate(shape):
        index = within.get(d, ZERO)
        if d in numbers.operand_batching_dims:
            which = numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(d)]
            index = batch[which]
        elif d in numbers.start_index_map:
            k = numbers.start_index_map.index(d)
            coordinate = Index(Affine((), k)) if p.shape(indices)[-1] > 1 else ZERO
            start = p.pull(indices, (*batch, coordinate))
            if "CLIP" in mode or mode == "1":
                start = clipped(p, start, n - sizes[d])
            elif "PROMISE" not in mode and mode != "0":
                raise Cut("a gather that fills what is out of range")
            index = p.plus(index, p.indexed(start))
        position.append(index)
    return p.pull(operand, tuple(position))


def dynamic_slice(p: Puller, e: Equation, at: Position, _: int) -> int:
    operand, starts = e.operands[0], e.operands[1:]
    position = []
    for i, v, n, size in zip(at, starts, p.shape(operand), e.settings["slice_sizes"], strict=True):
        position.append(p.plus(i, p.indexed(clipped(p, p.pull(v, ()), n - size))))
    return p.pull(operand, tuple(position))


def dynamic_update_slice(p: Puller, e: Equation, at: Position, _: int) -> int:
    operand, update, *starts = e.operands
    inside, position = p.form.const(True, "bool"), []
    for i, v, n, size in zip(at, starts, p.shape(operand), p.shape(update), strict=True):
        index, held = _in_window(p, i, clipped(p, p.pull(v, ()), n - size), n, size)
        inside = p.form.ew("and", inside, held)
        position.append(index)
    return p.form.ew("select", inside, p.guarded(update, tuple(position)), p.pull(operand, at))


def _in_window(p: Puller, at: Index, start: int, extent: int, size: int) -> tuple[Index, int]:
    """The place in a window of `size` elements that begins at `start`, of element `at`; and whether it lies in the window."""
    if size == extent:
        return at, p.form.const(True, "bool")
    place = p.form.ew("sub", p.gathered(at), p.form.add(Cast(start, "int32")))
    inside = p.form.ew(
        "and", p.form.ew("ge", place, p.form.const(0, "int32")), p.form.ew("lt", place, p.form.const(size, "int32"))
    )
    if size == 1:
        return ZERO, inside
    index = p.indexed(place)
    return (index if index.gather is None else p.indexed(clipped(p, place, size - 1))), inside


# Scatters


def scatter(op: str) -> Any:
    """op: 'last' where the last of the updates of one place stays, else how they and the operand are combined."""

    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        operand, _, updates = e.operands
        hit, position, axes, order = _written(p, e, at)
        before = p.pull(operand, at)
        update = p.guarded(updates, position)
        dtype = p.form[before].dtype
        if op != "last":
            masked = p.form.ew("select", hit, update, p.form.const(identity(op, dtype), dtype))
            if axes:
                masked = p.form.add(Reduce(op, masked, axes, dtype))
            return p.form.ew(op, before, masked)
        if not axes:
            return p.form.ew("select", hit, update, before)
        none = p.form.const(-1, "int32")
        last = p.form.add(Reduce("max", p.form.ew("select", hit, order, none), axes, "int32"))
        value = picked(p, p.form.ew("eq", p.form.ew("select", hit, order, none), last), update, axes)
        return p.form.ew("select", p.form.ew("ge", last, p.form.const(0, "int32")), value, before)

    return rule


def _written(p: Puller, e: Equation, at: Position) -> tuple[int, Position, tuple[str, ...], int]:
    """Which updates write element `at`: the condition, their position, the axes it runs over, their place in the order."""
    operand, indices, updates = e.operands
    numbers, mode = e.settings["dimension_numbers"], str(e.settings["mode"]).upper()
    shape, sizes = p.shape(operand), p.shape(updates)
    window = numbers.update_window_dims
    batched = tuple(getattr(numbers, "operand_batching_dims", ()))
    kept = [d for d in range(len(shape)) if d not in numbers.inserted_window_dims and d not in batched]
    extent = {d: sizes[w] for d, w in zip(kept, window, strict=True)}  # of the window along a dimension of the operand
    free = [w for w in range(len(sizes)) if w not in window]
    place: list[Index] = []  # of an update, along its free dimensions: those of the indices
    own: dict[str, int] = {}
    for s, w in enumerate(free):
        lead = tuple(getattr(numbers, "scatter_indices_batching_dims", ()))
        if s in lead:
            place.append(at[batched[lead.index(s)]])
            continue
        new = p.axis(f"e{e.number}s{s}", sizes[w])
        if len(new.axes) == 1 and new == Affine.of(new.axes[0]):
            own[new.axes[0]] = s
        place.append(Index(new))
    mapped = numbers.scatter_dims_to_operand_dims
    inside = p.form.const(True, "bool")

    def start(k: int) -> int:
        return p.guarded(indices, (*place, Index(Affine((), k)) if len(mapped) > 1 else ZERO))

    solved: set[int] = set()
    for k, d in enumerate(mapped):  # an index that is its own place says which update it is
        node = p.form[start(k)]
        if isinstance(node, Iota) and len(node.affine.axes) == 1 and node.affine == Affine.of(node.affine.axes[0]):
            mine = own.get(node.affine.axes[0])
            if mine is None or d in extent or not (at[d].gather is None or sizes[free[mine]] >= shape[d]):
                continue
            place[mine] = at[d]
            del own[node.affine.axes[0]]
            count = sizes[free[mine]]
            if count < shape[d]:
                inside = p.form.ew("and", inside, p.form.ew("lt", p.gathered(at[d]), p.form.const(count, "int32")))
            solved.add(k)
    within = {d: at[d] for d in kept}
    for k, d in enumerate(mapped):
        if k in solved:
            continue
        size = extent.get(d, 1)
        begin = start(k)
        if "CLIP" in mode or mode == "1":
            begin = clipped(p, begin, shape[d] - size)
        elif "PROMISE" not in mode and mode != "0":
            kind = p.form[begin].dtype
            low = p.form.ew("ge", begin, p.form.const(0, kind))
            fits = p.form.ew("and", low, p.form.ew("le", begin, p.form.const(shape[d] - size, kind)))
            inside = p.form.ew("and", inside, fits)
        index, held = _in_window(p, at[d], begin, shape[d], size)
        within[d] = index
        inside = p.form.ew("and", inside, held)
    for d in kept:
        if d not in mapped and extent[d] < shape[d]:
            inside = p.form.ew("and", inside, p.form.ew("lt", p.gathered(at[d]), p.form.const(extent[d], "int32")))
    position: list[Index] = [ZERO] * len(sizes)
    for s, w in enumerate(free):
        position[w] = place[s]
    for d, w in zip(kept, window, strict=True):
        position[w] = within[d]
    axes = tuple(sorted(a for s, i in enumerate(place) for a in i.affine.axes if a.startswith(f"e{e.number}s{s}")))
    order, elements = Affine(), int(np.prod(shape))
    for s, w in enumerate(free):
        order = order * sizes[w] + (place[s].affine if any(a in axes for a in place[s].affine.axes) else Affine())
    if elements * int(np.prod([p.form.size(a) for a in axes], dtype=np.int64)) > PAIRS:
        raise Cut("a scatter of many updates into many elements")
    return inside, tuple(position), axes, p.form.add(Iota(order, "int32"))


# Sorts


def _before(p: Puller, other: int, mine: int, descending: bool) -> tuple[int, int]:
    """Whether one key comes before another, and whether neither does. NaN is above all numbers, and equal to itself."""
    first = p.form.ew("gt" if descending else "lt", other, mine)
    same = p.form.ew("eq", other, mine)
    if np.dtype(p.form[mine].dtype).kind in "iub":
        return first, same
    nan, other_nan = p.form.ew("ne", mine, mine), p.form.ew("ne", other, other)
    above, below = (other_nan, nan) if descending else (nan, other_nan)
    first = p.form.ew("or", first, p.form.ew("and", above, p.form.ew("not", below)))
    return first, p.form.ew("or", same, p.form.ew("and", nan, other_nan))


def _ranked(p: Puller, e: Equation, at: Position, output: int, d: int, descending: bool, keys: int = 1) -> int:
    """Sort, stably: element i goes to the place that counts the elements before it; output k picks the one that goes to k."""
    n = p.shape(e.operands[0])[d]
    i, j = p.axis(f"e{e.number}i", n), p.axis(f"e{e.number}j", n)
    if not i.axes:
        return p.form.const(0, p.dtype(e.outputs[output])) if descending and output else p.pull(e.operands[output], at)

    def element(v: Any, axis: Affine) -> int:
        return p.pull(v, (*at[:d], Index(axis), *at[d + 1 :]))

    tie = p.form.ew("lt", p.form.add(Iota(j, "int32")), p.form.add(Iota(i, "int32")))
    for key in reversed(e.operands[:keys]):
        first, same = _before(p, element(key, j), element(key, i), descending)
        tie = p.form.ew("or", first, p.form.ew("and", same, tie))
    rank = p.form.add(Reduce("add", p.form.add(Cast(tie, "int32")), tuple(sorted(j.axes)), "int32"))
    if descending and output == 1:  # top_k: the index itself
        payload = p.form.add(Iota(i, p.dtype(e.outputs[1])))
    else:
        payload = element(e.operands[0 if descending else output], i)
    return picked(p, p.form.ew("eq", rank, p.gathered(at[d])), payload, tuple(sorted(i.axes)))


def sort(p: Puller, e: Equation, at: Position, output: int) -> int:
    return _ranked(p, e, at, output, e.settings["dimension"], descending=False, keys=e.settings["num_keys"])


def top_k(p: Puller, e: Equation, at: Position, output: int) -> int:
    axis = e.settings.get("axis", len(at) - 1)
    return _ranked(p, e, at, output, axis % len(at), descending=True)
