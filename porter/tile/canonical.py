"""Axis forms brought to one spelling: shared axes unified, divisions hoisted, joined outputs unrolled, axes merged."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial

from porter.tile import scales
from porter.tile.affine import Affine
from porter.tile.form import Cast, Const, Dot, Elementwise, Form, Index, Iota, Load, Node, Reduce, Store, children
from porter.tile.halves import apart

NARROW = {"bfloat16", "float16", "float8_e4m3fn", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e5m2", "float8_e3m4"}
UNROLL = 4  # parts of a joined axis that become stores of their own


def canonical(form: Form, *, keep_last: int = 0, integer: Collection[str] = ()) -> Form:
    """The form as the tiler wants it. The last `keep_last` positions of an access are never merged with their neighbours;
    `integer`: the integers that the matrix unit multiplies."""
    form = apart(form)
    form = form.rebuild(change=scales.hoisted).rebuild(change=_narrow_operands)
    form = form.rebuild(change=partial(scales.joined, integer=integer))
    form = _without_units(form)
    form = unify(form)
    form = form.rebuild(change=_hoist_division)
    form = unroll(form)
    return named(coalesce(form, keep_last))


def named(form: Form) -> Form:
    """Axes by what they are: o0, o1, ... of outputs in their order, k0, ... that dots sum over, r0, ... only reduced."""
    outputs = [a for s in form.stores for i in s.index for a in i.affine.axes]
    bound = form.bound()
    new: dict[str, str] = {}
    for axis in dict.fromkeys([*outputs, *bound]):
        letter = "o" if axis in outputs else "k" if any(isinstance(form[n], Dot) for n in bound[axis]) else "r"
        new[axis] = f"{letter}{sum(name[0] == letter for name in new.values())}"
    axes = {name: form.axes[axis] for axis, name in new.items()}
    return form.rebuild({axis: Affine.of(name) for axis, name in new.items()}, axes=axes)


def _narrow_operands(form: Form, node: Node) -> Node | int:
    """dot(cast a, cast b) of two narrow operands is the matrix unit's own product: the casts go."""
    if isinstance(node, Dot):
        a, b = form[node.a], form[node.b]
        kinds = {form[x.arg].dtype for x in (a, b) if isinstance(x, Cast)}
        if isinstance(a, Cast) and isinstance(b, Cast) and len(kinds) == 1 and kinds <= NARROW:
            return replace(node, a=a.arg, b=b.arg)
    return node


def _without_units(form: Form) -> Form:
    """Views with one dimension per axis: without dimensions of length 1, and with one in mixed radix (4*h + d) taken apart.

    A view without dimensions is one element, an access without index.
    """

    def plain(view: tuple[int, ...], index: tuple[Index, ...]) -> tuple[tuple[int, ...], tuple[Index, ...]]:
        sizes: list[int] = []
        places: list[Index] = []
        for size, i in zip(view, index, strict=True):
            parts = _radix(form, size, i)
            if parts is not None:
                sizes += [form.axes[a] for a in parts]
                places += [Index(Affine.of(a)) for a in parts]
            elif size != 1 or i != Index(Affine()):
                sizes.append(size)
                places.append(i)
        return tuple(sizes), tuple(places)

    def change(_: Form, node: Node) -> Node:
        if isinstance(node, Load):
            view, index = plain(node.view, node.index)
            return replace(node, view=view, index=index)
        return node

    new = form.rebuild(change=change)
    for k, s in enumerate(new.stores):
        view, index = plain(s.view, s.index)
        new.stores[k] = replace(s, view=view, index=index)
    return new


def _radix(form: Form, size: int, index: Index) -> list[str] | None:
    """The axes of a dimension that counts through them, each whole, the last one fastest; None where it does not."""
    if index.gather is not None or index.affine.const or len(index.affine.terms) < 2:
        return None
    stride, axes = size, []
    for axis, k in sorted(index.affine.terms, key=lambda t: -t[1]):
        if k * form.axes[axis] != stride:
            return None
        stride = k
        axes.append(axis)
    return axes if stride == 1 else None


def _hoist_division(form: Form, node: Node) -> Node | int:
    """dot(e / z, v) = dot(e, v) / z where z has none of the summed axes: one division per result, and e can be streamed."""
    if not isinstance(node, Dot):
        return node
    for side in ("a", "b"):
        operand = form[getattr(node, side)]
        cast = operand.dtype if isinstance(operand, Cast) else None
        inner = form[operand.arg] if isinstance(operand, Cast) else operand
        if isinstance(inner, Elementwise) and inner.op == "div" and not form.axes_of(inner.args[1]) & set(node.axes):
            dividend, divisor = inner.args
            if not form.axes_of(dividend) & set(node.axes):
                continue
            whole = form.add(Cast(dividend, cast)) if cast else dividend
            product = form.add(replace(node, a=whole) if side == "a" else replace(node, b=whole))
            return form.ew("div", product, form.add(Cast(divisor, node.dtype)))
    return node


# Unification


def unify(form: Form) -> Form:
    """Give a summed axis the name of another that reads the same dimension of the same parameter.

    Then a row is loaded once for a reduction and for what uses its result, and reductions over the same data share a loop.
    """
    refused: set[tuple[str, str]] = set()
    while True:
        for summed, other in _alike(form):
            if (summed, other) not in refused:
                if _captures(form, summed, other):
                    refused.add((summed, other))
                    continue
                form = form.rebuild({summed: Affine.of(other)})
                break
        else:
            return form


def _alike(form: Form) -> Iterator[tuple[str, str]]:
    bound = form.bound()
    only_reduced = {a for a, nodes in bound.items() if all(isinstance(form[n], Reduce) for n in nodes)}
    outputs = {a for s in form.stores for a in form.store_axes(s)}
    places: dict[tuple[object, ...], list[Affine]] = {}
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Load):
            for d, index in enumerate(node.index):
                if index.affine.terms:
                    places.setdefault((node.param, node.view, d, index.gather), []).append(index.affine)
    for forms in places.values():
        distinct = list(dict.fromkeys(forms))
        for mine in distinct:
            for name in mine.axes:
                if name not in bound:
                    continue
                for theirs in distinct:
                    for other in theirs.axes:
                        if (
                            other == name
                            or form.axes[other] != form.axes[name]
                            or name in theirs.axes
                            or other in mine.axes
                        ):
                            continue
                        if other in outputs and name not in only_reduced:
                            continue
                        if other not in outputs and other not in bound:
                            continue
                        if mine.substitute({name: Affine.of(other)}) == theirs:
                            yield name, other


def _captures(form: Form, name: str, other: str) -> bool:
    """Whether some reduction over one of the two axes has both free below it, or a store runs over both: they are different."""
    # an axis of an output may be summed too, once another was given its name
    if any({name, other} <= form.store_axes(s) for s in form.stores):
        return True
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Reduce | Dot) and {name, other} & set(node.axes):
            below = frozenset().union(*(form.axes_of(c) for c in children(node)))
            if {name, other} <= below:
                return True
    return False


# Joined outputs


def unroll(form: Form) -> Form:
    """An output axis that is joined from equal parts becomes one store per part: no select, no load that is thrown away."""
    for axis in sorted({a for s in form.stores for a in form.store_axes(s)} - set(form.bound())):
        part = _part(form, axis)
        if part is None:
            continue
        form = _unrolled(form, axis, part)
    return form


def _part(form: Form, axis: str) -> int | None:
    """The size of the parts if every comparison with this axis is at a border of few equal parts."""
    extent, borders = form.axes[axis], set()
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Elementwise) and node.op == "ge":
            place, border = form[node.args[0]], form[node.args[1]]
            if isinstance(place, Iota) and axis in place.affine.axes:
                if place.affine != Affine.of(axis) or not isinstance(border, Const):
                    return None
                borders.add(int(border.value))
    if not borders:
        return None
    part = math.gcd(extent, *borders)
    return part if 1 < extent // part <= UNROLL else None


def _unrolled(form: Form, axis: str, part: int) -> Form:
    axes = {**form.axes, f"{axis}p": part}
    if part == 1:
        axes.pop(f"{axis}p")
    inner = Affine.of(f"{axis}p") if part > 1 else Affine()
    pieces = [form.rebuild({axis: inner + start}, axes=axes) for start in range(0, form.axes[axis], part)]
    merged = Form(form.params, {a: n for piece in pieces for a, n in piece.axes.items()})
    for piece in pieces:
        graft(piece, merged)
    return merged


def graft(source: Form, into: Form) -> None:
    """Add the stores of one form, and what they need, to another over the same parameters and axes."""
    ids: dict[int, int] = {}

    def index(i: Index) -> Index:
        return Index(i.affine, None if i.gather is None else ids[i.gather])

    for old in source.reachable():
        node = source[old]
        match node:
            case Load():
                node = replace(node, index=tuple(index(i) for i in node.index))
            case Elementwise(args=args):
                node = replace(node, args=tuple(ids[a] for a in args))
            case Cast(arg=arg) | Reduce(arg=arg):
                node = replace(node, arg=ids[arg])
            case Dot(a=a, b=b, scales=held):
                node = replace(node, a=ids[a], b=ids[b], scales=tuple(ids[s] for s in held))
        ids[old] = into.add(node)
    for s in source.stores:
        store = Store(s.out, s.view, tuple(index(i) for i in s.index), ids[s.value])
        if store not in into.stores:  # one that has none of the unrolled axes is the same in every part
            into.stores.append(store)


# Merging


def coalesce(form: Form, keep_last: int = 0) -> Form:
    """Merge two axes that lie next to each other, whole, in every access that has either: fewer axes, longer rows."""
    while True:
        pair = next(_mergeable(form, keep_last), None)
        if pair is None:
            return form
        form = _merge(form, *pair)


def _accesses(form: Form) -> Iterator[tuple[tuple[int, ...], tuple[Index, ...]]]:
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Load):
            yield node.view, node.index
    for s in form.stores:
        yield s.view, s.index


def _mergeable(form: Form, keep_last: int) -> Iterator[tuple[str, str]]:
    accesses = list(_accesses(form))
    tangled = {a for i in form.reachable() if isinstance(n := form[i], Iota) for a in n.affine.axes}
    tried: set[tuple[str, str]] = set()
    for view, index in accesses:
        for d in range(len(view) - 1):
            x, y = index[d].affine, index[d + 1].affine
            if len(x.terms) == 1 and len(y.terms) == 1 and (pair := (x.axes[0], y.axes[0])) not in tried:
                tried.add(pair)
                if pair[0] not in tangled and pair[1] not in tangled and _together(form, accesses, *pair, keep_last):
                    yield pair


def _together(
    form: Form, accesses: list[tuple[tuple[int, ...], tuple[Index, ...]]], x: str, y: str, keep_last: int
) -> bool:
    apart = not _only_contracted(form, x, y)  # what a dot sums over is one depth to the matrix unit, wherever it lies
    for view, index in accesses:
        used = [d for d, i in enumerate(index) if {x, y} & set(i.affine.axes)]
        if not used:
            continue
        if len(used) != 2 or used[1] != used[0] + 1 or (apart and used[1] >= len(view) - max(keep_last - 1, 0)):
            return False
        a, b = index[used[0]], index[used[1]]
        if a != Index(Affine.of(x)) or b != Index(Affine.of(y)):
            return False
        if (view[used[0]], view[used[1]]) != (form.axes[x], form.axes[y]):
            return False
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Reduce | Dot) and len({x, y} & set(node.axes)) == 1:
            return False
        if isinstance(node, Dot) and {x, y} & set(node.axes) == set():
            for child in (node.a, node.b):
                if len({x, y} & form.axes_of(child)) == 1:
                    return False
    return True


def _only_contracted(form: Form, x: str, y: str) -> bool:
    bound = form.bound()
    nodes = [form[i] for i in {*bound.get(x, ()), *bound.get(y, ())}]
    return bool(nodes) and all(isinstance(n, Dot) and {x, y} <= set(n.axes) for n in nodes)


def _merge(form: Form, x: str, y: str) -> Form:
    joined = f"{x}_{y}"

    def view_of(view: tuple[int, ...], index: tuple[Index, ...]) -> tuple[tuple[int, ...], tuple[Index, ...]]:
        for d in range(len(index) - 1):
            if index[d].affine == Affine.of(x) and index[d + 1].affine == Affine.of(y):
                merged = Index(Affine.of(joined))
                return (*view[:d], view[d] * view[d + 1], *view[d + 2 :]), (*index[:d], merged, *index[d + 2 :])
        return view, index

    def change(_: Form, node: Node) -> Node:
        if isinstance(node, Load):
            view, index = view_of(node.view, node.index)
            return replace(node, view=view, index=index)
        if isinstance(node, Reduce | Dot) and x in node.axes:
            return replace(node, axes=tuple(sorted({*node.axes, joined} - {x, y})))
        return node

    axes = {**form.axes, joined: form.axes[x] * form.axes[y]}
    new = form.rebuild(change=change, axes=axes)
    for k, s in enumerate(new.stores):
        view, index = view_of(s.view, s.index)
        new.stores[k] = replace(s, view=view, index=index)
    used = {a for s in new.stores for a in new.store_axes(s)} | set(new.bound())
    new.axes = {a: n for a, n in axes.items() if a in used}
    return new
