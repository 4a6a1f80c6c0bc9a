"""The axis form: a kernel's meaning as a graph of loads, elementwise operations, reductions and dots over named axes.

A value has a set of axes, no shape and no order; transposes, broadcasts, reshapes, slices, pads, concatenations, windows
and gathers are gone into the indices of loads. Nodes are interned: equal computations are one node.

    layernorm [B,S,D]:  x<b,s,d> = load p0[b, s, d];  m<b,s> = reduce add over d (x) ;  out0[b, s, d] = (x - m/D) * ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from porter.tile.affine import Affine
from porter.tile.elementwise import COMPARISONS, ELEMENTWISE
from porter.tile.program import Param, Scalar


class Cut(Exception):
    """This computation is no single affine loop nest; str() says what stands in the way. Partition cuts the kernel there."""


@dataclass(frozen=True, slots=True)
class Index:
    """An affine form, plus the integer value of a node where the dimension is gathered."""

    affine: Affine
    gather: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    param: int
    view: tuple[int, ...]
    index: tuple[Index, ...]
    pad: Scalar | None
    dtype: str


@dataclass(frozen=True, slots=True)
class Const:
    value: Scalar
    dtype: str


@dataclass(frozen=True, slots=True)
class Iota:
    affine: Affine
    dtype: str


@dataclass(frozen=True, slots=True)
class Elementwise:
    op: str
    args: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Cast:
    """In another dtype: the nearest number there, or (`bits`) what the same bits mean there."""

    arg: int
    dtype: str
    bits: bool = False


@dataclass(frozen=True, slots=True)
class Reduce:
    op: str
    arg: int
    axes: tuple[str, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Dot:
    """scales: what each side's codes are multiplied by, constant within blocks of the sum; none for plain operands."""

    a: int
    b: int
    axes: tuple[str, ...]
    dtype: str
    scales: tuple[int, ...] = ()


Node = Load | Const | Iota | Elementwise | Cast | Reduce | Dot


@dataclass(frozen=True, slots=True)
class Store:
    """out[index] = value, out seen as an array of shape `view`."""

    out: int
    view: tuple[int, ...]
    index: tuple[Index, ...]
    value: int


@dataclass
class Form:
    """params: inputs first, then outputs; axes: name to extent; stores: what the kernel computes."""

    params: tuple[Param, ...]
    axes: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    _ids: dict[Node, int] = field(default_factory=dict)
    _axes: dict[int, frozenset[str]] = field(default_factory=dict)

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    def add(self, node: Node) -> int:
        """The id of this node, simplified where that is exact."""
        simpler = _simplify(self, node)
        if isinstance(simpler, int):
            return simpler
        if simpler not in self._ids:
            self._ids[simpler] = len(self.nodes)
            self.nodes.append(simpler)
        return self._ids[simpler]

    def const(self, value: Scalar, dtype: str) -> int:
        return self.add(Const(_python(np.asarray(value).astype(dtype)), dtype))

    def ew(self, op: str, *args: int) -> int:
        """An elementwise operation; comparisons give bool, the rest the dtype of the last argument."""
        dtype = "bool" if op in COMPARISONS else self.nodes[args[-1]].dtype
        return self.add(Elementwise(op, args, dtype))

    def size(self, axis: str) -> int:
        return self.axes[axis]

    def axes_of(self, node: int) -> frozenset[str]:
        """The free axes of a value."""
        if node not in self._axes:
            n = self.nodes[node]
            found: set[str] = set()
            for child in children(n):
                found |= self.axes_of(child)
            match n:
                case Load(index=index):
                    found.update(a for i in index for a in i.affine.axes)
                case Iota(affine=affine):
                    found.update(affine.axes)
                case Reduce(axes=axes) | Dot(axes=axes):
                    found -= set(axes)
            self._axes[node] = frozenset(found)
        return self._axes[node]

    def store_axes(self, store: Store) -> frozenset[str]:
        return frozenset(a for i in store.index for a in i.affine.axes)

    def reachable(self) -> list[int]:
        """Ids of the nodes that stores need, operands first."""
        order: list[int] = []
        seen: set[int] = set()

        def visit(node: int) -> None:
            if node not in seen:
                seen.add(node)
                for child in children(self.nodes[node]):
                    visit(child)
                order.append(node)

        for s in self.stores:
            visit(s.value)
            for i in s.index:
                if i.gather is not None:
                    visit(i.gather)
        return order

    def bound(self) -> dict[str, list[int]]:
        """For each axis that a reduction or dot sums over: those nodes."""
        found: dict[str, list[int]] = {}
        for i in self.reachable():
            node = self.nodes[i]
            if isinstance(node, Reduce | Dot):
                for a in node.axes:
                    found.setdefault(a, []).append(i)
        return found

    def rebuild(
        self, rename: Mapping[str, Affine] | None = None, change: Callable[[Form, Node], Node | int] | None = None,
        axes: Mapping[str, int] | None = None,
    ) -> Form:  # fmt: skip
        """A copy, with axes replaced by affine forms (a summed axis by plain axes) and each node passed through `change`."""
        rename = rename or {}
        new = Form(self.params, dict(self.axes if axes is None else axes))
        ids: dict[int, int] = {}

        def index(i: Index) -> Index:
            return Index(i.affine.substitute(rename), None if i.gather is None else ids[i.gather])

        def summed(names: tuple[str, ...]) -> tuple[str, ...]:
            out: list[str] = []
            for name in names:
                out += rename[name].axes if name in rename else (name,)
            return tuple(sorted(set(out)))

        for old in self.reachable():
            node = self.nodes[old]
            match node:
                case Load():
                    node = replace(node, index=tuple(index(i) for i in node.index))
                case Iota(affine=affine):
                    node = replace(node, affine=affine.substitute(rename))
                case Elementwise(args=args):
                    node = replace(node, args=tuple(ids[a] for a in args))
                case Cast(arg=arg):
                    node = replace(node, arg=ids[arg])
                case Reduce(arg=arg, axes=names):
                    node = replace(node, arg=ids[arg], axes=summed(names))
                case Dot(a=a, b=b, axes=names, scales=scales):
                    held = tuple(ids[s] for s in scales)
                    node = replace(node, a=ids[a], b=ids[b], axes=summed(names), scales=held)
            changed = change(new, node) if change else node
            ids[old] = changed if isinstance(changed, int) else new.add(changed)
        for s in self.stores:
            new.stores.append(Store(s.out, s.view, tuple(index(i) for i in s.index), ids[s.value]))
        used = {a for s in new.stores for a in new.store_axes(s)} | set(new.bound())
        new.axes = {a: n for a, n in new.axes.items() if a in used}
        return new

    def key(self) -> tuple[object, ...]:
        """Equal for forms that differ only in the names of axes and of parameters: kernels with equal keys are one kernel."""
        names: dict[str, str] = {}
        for i in self.reachable():
            for a in _mentioned(self.nodes[i]):
                names.setdefault(a, f"x{len(names)}")
        for s in self.stores:
            for a in sorted(self.store_axes(s)):
                names.setdefault(a, f"x{len(names)}")
        plain = self.rebuild(
            {a: Affine.of(n) for a, n in names.items()}, axes={names[a]: e for a, e in self.axes.items()}
        )
        order = {old: new for new, old in enumerate(plain.reachable())}
        nodes = tuple(_renumber(plain.nodes[i], order) for i in plain.reachable())
        stores = tuple((s.out, s.view, s.index, order[s.value]) for s in plain.stores)
        shapes = tuple((p.shape, p.dtype, p.out) for p in self.params)
        return (shapes, tuple(sorted(plain.axes.items())), nodes, stores)


def children(node: Node) -> tuple[int, ...]:
    match node:
        case Load(index=index):
            return tuple(i.gather for i in index if i.gather is not None)
        case Elementwise(args=args):
            return args
        case Cast(arg=arg) | Reduce(arg=arg):
            return (arg,)
        case Dot(a=a, b=b, scales=scales):
            return (a, b, *scales)
        case _:
            return ()


def _mentioned(node: Node) -> Iterator[str]:
    match node:
        case Load(index=index):
            for i in index:
                yield from i.affine.axes
        case Iota(affine=affine):
            yield from affine.axes
        case Reduce(axes=axes) | Dot(axes=axes):
            yield from axes


def _renumber(node: Node, order: Mapping[int, int]) -> Node:
    match node:
        case Load(index=index):
            return replace(
                node, index=tuple(Index(i.affine, None if i.gather is None else order[i.gather]) for i in index)
            )
        case Elementwise(args=args):
            return replace(node, args=tuple(order[a] for a in args))
        case Cast(arg=arg) | Reduce(arg=arg):
            return replace(node, arg=order[arg])
        case Dot(a=a, b=b, scales=scales):
            return replace(node, a=order[a], b=order[b], scales=tuple(order[s] for s in scales))
        case _:
            return node


def _python(value: np.ndarray) -> Scalar:
    if value.dtype == bool:
        return bool(value)
    return int(value) if np.issubdtype(value.dtype, np.integer) else float(value)


def _is_int(dtype: str) -> bool:
    return dtype != "bool" and np.issubdtype(np.dtype(dtype), np.integer)


def _simplify(form: Form, node: Node) -> Node | int:
    """Exact simplifications: constants, index arithmetic, neutral elements."""
    match node:
        case Iota(affine=affine, dtype=dtype) if not affine.terms:
            return Const(affine.const, dtype)
        case Cast(arg=arg, dtype=dtype, bits=bits):
            inner = form[arg]
            if inner.dtype == dtype:
                return arg
            if bits:
                if isinstance(inner, Cast) and inner.bits:
                    return form.add(Cast(inner.arg, dtype, bits=True))
                if isinstance(inner, Const):
                    return Const(_python(np.asarray(inner.value).astype(inner.dtype).view(dtype)), dtype)
                return node
            if isinstance(inner, Const):
                with np.errstate(all="ignore"):
                    return Const(_python(np.asarray(inner.value, inner.dtype).astype(dtype)), dtype)
            if isinstance(inner, Iota) and _is_int(dtype):
                return Iota(inner.affine, dtype)
        case Elementwise(op=op, args=args, dtype=dtype):
            return _simplify_elementwise(form, node, op, [form[a] for a in args], dtype)
        case Reduce(op=op, arg=arg, axes=axes, dtype=dtype):
            idle = [a for a in axes if a not in form.axes_of(arg)]
            if idle:
                rest = tuple(a for a in axes if a not in idle)
                inner_id = form.add(Reduce(op, arg, rest, dtype)) if rest else arg
                times = math.prod(form.size(a) for a in idle)
                if op == "add":
                    return Elementwise("mul", (inner_id, form.const(times, dtype)), dtype)
                if op in ("max", "min", "and", "or"):
                    return inner_id
                raise Cut("a product over an axis along which the value is the same")
    return node


def _simplify_elementwise(form: Form, node: Elementwise, op: str, args: list[Node], dtype: str) -> Node | int:
    constants = [a for a in args if isinstance(a, Const)]
    if len(constants) == len(args):
        values = [np.asarray(c.value, c.dtype) for c in constants]
        if not any(v.dtype.kind == "V" for v in values):
            with np.errstate(all="ignore"):
                return Const(_python(np.asarray(ELEMENTWISE[op][1](*values)).astype(dtype)), dtype)
    if op == "select":
        if isinstance(args[0], Const):
            return node.args[1] if args[0].value else node.args[2]
        return node.args[1] if node.args[1] == node.args[2] else node
    if len(args) == 2:
        a, b = args
        left, right = _affine(a), _affine(b)
        if left is not None and right is not None:
            folded = _index_arithmetic(form, op, left, right, dtype)
            if folded is not None:
                return folded
        if isinstance(a, Const) and not isinstance(b, Const) and op in ("add", "mul", "max", "min", "and", "or"):
            same = _neutral(op, node.args[1], a)
            return Elementwise(op, (node.args[1], node.args[0]), dtype) if same is None else same
        if isinstance(b, Const):
            same = _neutral(op, node.args[0], b)
            return node if same is None else same
    if op == "not" and isinstance(args[0], Elementwise) and args[0].op == "not" and dtype == "bool":
        return args[0].args[0]
    return node


def _affine(node: Node) -> Affine | None:
    """The node as an affine form, if it is an integer one."""
    match node:
        case Iota(affine=affine):
            return affine
        case Const(value=value, dtype=dtype) if _is_int(dtype):
            return Affine((), int(value))
    return None


def _index_arithmetic(form: Form, op: str, a: Affine, b: Affine, dtype: str) -> Node | None:
    match op:
        case "add":
            return Iota(a + b, dtype) if (a + b).terms else Const((a + b).const, dtype)
        case "sub":
            return Iota(a - b, dtype) if (a - b).terms else Const((a - b).const, dtype)
        case "mul" if not a.terms or not b.terms:
            product = a * b.const if not b.terms else b * a.const
            return Iota(product, dtype) if product.terms else Const(product.const, dtype)
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
            low, high = (a - b).bounds(form.size)
            always = {"lt": high < 0, "le": high <= 0, "gt": low > 0, "ge": low >= 0,
                      "eq": low == high == 0, "ne": low > 0 or high < 0}[op]  # fmt: skip
            never = {"lt": low >= 0, "le": low > 0, "gt": high <= 0, "ge": high < 0,
                     "eq": low > 0 or high < 0, "ne": low == high == 0}[op]  # fmt: skip
            return Const(True, "bool") if always else Const(False, "bool") if never else None
        case "max":
            low, high = (a - b).bounds(form.size)
            chosen = a if low >= 0 else b if high <= 0 else None
        case "min":
            low, high = (a - b).bounds(form.size)
            chosen = a if high <= 0 else b if low >= 0 else None
        case _:
            return None
    if chosen is None:
        return None
    return Iota(chosen, dtype) if chosen.terms else Const(chosen.const, dtype)


def _neutral(op: str, other: int, constant: Const) -> int | None:
    """The other argument where the constant changes nothing. x + 0.0 is kept: it turns -0.0 into 0.0."""
    value, floating = constant.value, not _is_int(constant.dtype) and constant.dtype != "bool"
    match op:
        case "mul" | "div" | "pow" if value == 1 and value is not True:
            return other
        case "add" | "sub" | "shl" | "shr" if not floating and value == 0:
            return other
        case "max" if value == -math.inf:
            return other
        case "min" if value == math.inf:
            return other
        case "and" if value is True:
            return other
        case "or" if value is False:
            return other
    return None
