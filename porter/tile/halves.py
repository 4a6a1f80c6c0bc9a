"""Codes that share a byte: an axis that only says which bits of it are meant goes, and each place of the bits is a term.

    dot over (h, k) of x[h, k], (bytes[k] >> 4 h) & 15   ->   dot over k of x[0, k], bytes[k] & 15
                                                               + dot over k of x[1, k], bytes[k] >> 4
    out[h, n] = (bytes[n] >> 4 h) & 15                   ->   one store per h

Bytes are loaded once for both, every load stays as wide as memory, and no tile has an axis of two lanes.
"""

from __future__ import annotations

from dataclasses import replace

from porter.tile.affine import Affine
from porter.tile.form import Cast, Const, Dot, Elementwise, Form, Index, Iota, Load, Node, Reduce, Store

PLACES = 4  # codes in a byte, at most


def apart(form: Form) -> Form:
    """The form without axes that shift bits."""
    chosen = _shifting(form)
    if not chosen:
        return form
    bound = form.bound()
    summed = [a for a in chosen if a in bound]
    form = form.rebuild(change=lambda new, node: _terms(new, node, summed))
    for axis in chosen:
        if axis not in bound and all(axis in form.store_axes(s) for s in form.stores):
            form.stores = [_store(form, s, axis, v) for s in form.stores for v in range(form.axes[axis])]
    return form.rebuild()


def _shifting(form: Form) -> list[str]:
    """Axes of up to four places by which bits are shifted, summed by nothing but dots."""
    found: dict[str, None] = {}
    for i in form.reachable():
        node = form[i]
        if isinstance(node, Elementwise) and node.op == "shr":
            amount = form[node.args[1]]
            while isinstance(amount, Cast):
                amount = form[amount.arg]
            if isinstance(amount, Iota):
                found.update(dict.fromkeys(a for a in amount.affine.axes if form.axes[a] <= PLACES))
    bound = form.bound()
    nodes = {a: [form[n] for n in bound.get(a, ())] for a in found}
    return [a for a, summed in nodes.items() if all(isinstance(n, Dot) and len(n.axes) > 1 for n in summed)]


def _terms(form: Form, node: Node, axes: list[str]) -> Node | int:
    """A dot over one of the axes as a sum of dots, one per place."""
    mine = [a for a in axes if isinstance(node, Dot) and a in node.axes]
    if not mine or not isinstance(node, Dot):
        return node
    axis, rest = mine[0], tuple(a for a in node.axes if a != mine[0])
    total: int | None = None
    for value in range(form.axes[axis]):
        memo: dict[int, int] = {}
        term = _terms(form, replace(node, a=_at(form, node.a, axis, value, memo),
                                    b=_at(form, node.b, axis, value, memo), axes=rest), mine[1:])  # fmt: skip
        made = term if isinstance(term, int) else form.add(term)
        total = made if total is None else form.ew("add", total, made)
    assert total is not None
    return total


def _store(form: Form, store: Store, axis: str, value: int) -> Store:
    memo: dict[int, int] = {}
    index = tuple(_index(form, i, axis, value, memo) for i in store.index)
    return replace(store, index=index, value=_at(form, store.value, axis, value, memo))


def _index(form: Form, index: Index, axis: str, value: int, memo: dict[int, int]) -> Index:
    gather = None if index.gather is None else _at(form, index.gather, axis, value, memo)
    return Index(index.affine.substitute({axis: Affine((), value)}), gather)


def _at(form: Form, node: int, axis: str, value: int, memo: dict[int, int]) -> int:
    """The node where an axis has one value."""
    if axis not in form.axes_of(node):
        return node
    if node not in memo:
        n = form[node]
        match n:
            case Load(index=index):
                n = replace(n, index=tuple(_index(form, i, axis, value, memo) for i in index))
            case Iota(affine=affine):
                n = replace(n, affine=affine.substitute({axis: Affine((), value)}))
            case Elementwise(args=args):
                n = replace(n, args=tuple(_at(form, a, axis, value, memo) for a in args))
            case Cast(arg=arg) | Reduce(arg=arg):
                n = replace(n, arg=_at(form, arg, axis, value, memo))
            case Dot(a=a, b=b, scales=scales):
                held = tuple(_at(form, s, axis, value, memo) for s in scales)
                n = replace(n, a=_at(form, a, axis, value, memo), b=_at(form, b, axis, value, memo), scales=held)
            case Const():
                pass
        memo[node] = form.add(n)
    return memo[node]
