"""From axis form and tile sizes to the tile program: every value at the outermost place that has its axes.

Emission is demand-driven. A frame is a point in the loop nest, with the loop axes bound there; a value goes to the
outermost frame that binds the loop axes it has. Reductions over looped axes that do not depend on each other share one
loop. A softmax's maximum and what sums its exponentials share one loop too, with rescaling (the online rule).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from porter.tile import form as F
from porter.tile import program as P
from porter.tile.codes import BYTE, is_code
from porter.tile.elementwise import ELEMENTWISE, identity


@dataclass
class _Frame:
    """A block under construction. `local`: values that stand for something else in this block (the running maximum)."""

    bound: frozenset[str]
    statements: list[P.Statement] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    local: dict[int, str] = field(default_factory=dict)
    masks: dict[tuple[str, str, P.Scalar], str] = field(default_factory=dict)


def schedule(form: F.Form, axes: tuple[P.Axis, ...], name: str, *, product: str = "fp32", note: str = "") -> P.Program:
    """The tile program that computes `form` with these tile sizes and roles. product: how float32 dots are multiplied."""
    return _Scheduler(form, axes, product).program(name, note)


class _Scheduler:
    def __init__(self, form: F.Form, axes: tuple[P.Axis, ...], product: str) -> None:
        self.form, self.product = form, product
        self.axes = {a.name: a for a in axes}
        self.looped = frozenset(a.name for a in axes if a.role == "loop")
        self.ragged = frozenset(a.name for a in axes if a.ragged)
        self.frames = [_Frame(frozenset())]
        self.types: dict[str, P.Tile] = {}
        self.beyond: dict[tuple[str, str], P.Scalar] = {}  # (value, axis): what lanes past the axis' extent hold
        self.count = 0
        self.reachable = form.reachable()
        self._deps: dict[int, frozenset[int]] = {}

    def program(self, name: str, note: str) -> P.Program:
        waiting = list(self.form.stores)
        while waiting:
            loops = self.form.store_axes(waiting[0]) & self.looped
            group = [s for s in waiting if self.form.store_axes(s) & self.looped == loops]
            waiting = [s for s in waiting if s not in group]
            self._stores(group, [a for a in self.axes if a in loops])
        return P.Program(name, self.form.params, tuple(self.axes.values()), tuple(self.frames[0].statements), note)

    def _stores(self, group: list[F.Store], loops: list[str]) -> None:
        if loops:
            self.frames.append(_Frame(self.frames[-1].bound | {loops[0]}))
            self._stores(group, loops[1:])
            done = self.frames.pop()
            self.frames[-1].statements.append(P.For(loops[0], (), tuple(done.statements)))
            return
        for s in group:
            value = self._along(self.value(s.value), self.form.store_axes(s))
            index = tuple(P.Index(i.affine, None if i.gather is None else self.value(i.gather)) for i in s.index)
            self.frames[-1].statements.append(P.Store(P.Access(self.form.params[s.out].name, s.view, index), value))

    def _along(self, name: str, axes: frozenset[str]) -> str:
        """The value with every axis that it is stored along: targets store tiles, and do not spread them."""
        t = self.types[name]
        if axes <= set(t.axes):
            return name
        if is_code(t.dtype):  # no arithmetic on codes, but on the bytes that they lie in
            byte = self._emit(P.Cast, P.Tile(BYTE, t.axes), name, True)
            return self._emit(P.Cast, self._type(t.dtype, axes | set(t.axes)), self._along(byte, axes), True)
        nothing: P.Scalar = 0
        if t.dtype == "bool":
            nothing = False
        elif np.dtype(t.dtype).kind not in "iu":
            nothing = -0.0  # x + -0.0 is x for every x
        wide = self._type(t.dtype, axes | set(t.axes))
        blank = self._emit(P.Full, wide, nothing)
        return self._emit(P.Elementwise, wide, "or" if t.dtype == "bool" else "add", (name, blank))

    # Values

    def value(self, node: int) -> str:
        """The name of a value, computed in the right frame if it is not there yet."""
        for frame in reversed(self.frames):
            if node in frame.local:
                return frame.local[node]
            if node in frame.names:
                return frame.names[node]
        depth = self._depth(node)
        inner, self.frames = self.frames[depth + 1 :], self.frames[: depth + 1]
        try:
            n = self.form[node]
            if isinstance(n, F.Reduce | F.Dot) and set(n.axes) & self.looped:
                while node not in self.frames[-1].names:
                    self._loop(node)
            else:
                self.frames[-1].names[node] = self._compute(node)
            return self.frames[-1].names[node]
        finally:
            self.frames += inner

    def _depth(self, node: int) -> int:
        """The outermost frame that binds the value's loop axes and holds the local values it depends on."""
        needed = self.form.axes_of(node) & self.looped
        depth = next(k for k, f in enumerate(self.frames) if needed <= f.bound)
        for k, frame in enumerate(self.frames):
            if any(stand_in in self._depends(node) for stand_in in frame.local):
                depth = max(depth, k)
        return depth

    def _depends(self, node: int) -> frozenset[int]:
        """The nodes that a node is computed from."""
        if node not in self._deps:
            below = F.children(self.form[node])
            self._deps[node] = frozenset(below).union(*(self._depends(c) for c in below)) if below else frozenset()
        return self._deps[node]

    def _type(self, dtype: str, axes: frozenset[str] | set[str]) -> P.Tile:
        return P.Tile(dtype, tuple(a for a in self.axes if a in axes))

    def _emit(self, make: type, t: P.Tile, *fields: object, **named: object) -> str:
        name = f"v{self.count}"
        self.count += 1
        self.types[name] = t
        self.frames[-1].statements.append(make(name, t, *fields, **named))
        return name

    def _compute(self, node: int) -> str:
        n, axes = self.form[node], self.form.axes_of(node)
        match n:
            case F.Load(param=param, view=view, index=index, pad=pad, dtype=dtype):
                at = tuple(P.Index(i.affine, None if i.gather is None else self.value(i.gather)) for i in index)
                if pad is None and axes & self.ragged:
                    pad = False if dtype == "bool" else 1 if dtype == "float8_e8m0fnu" else 0  # scales hold no 0
                name = self._emit(
                    P.Load, self._type(dtype, axes), P.Access(self.form.params[param].name, view, at), pad
                )
                for a in axes & self.ragged:
                    assert pad is not None
                    self.beyond[name, a] = pad
                return name
            case F.Const(value=value, dtype=dtype):
                return self._emit(P.Full, P.Tile(dtype), value)
            case F.Iota(affine=affine, dtype=dtype):
                return self._emit(P.Iota, self._type(dtype, axes), affine)
            case F.Cast(arg=arg, dtype=dtype, bits=bits):
                source = self.value(arg)
                name = self._emit(P.Cast, self._type(dtype, axes), source, bits)
                for a in axes & self.ragged:
                    held = self.beyond.get((source, a))
                    # what an integer makes of NaN or infinity is any number: such lanes are not known
                    whole = np.issubdtype(np.dtype(dtype), np.integer)
                    if held is not None and not bits and (np.isfinite(held) or not whole):
                        self.beyond[name, a] = np.asarray(held).astype(dtype).item()
                return name
            case F.Elementwise(op=op, args=args, dtype=dtype):
                names = tuple(self.value(a) for a in args)
                name = self._emit(P.Elementwise, self._type(dtype, axes), op, names)
                self._beyond(name, op, args, names, dtype, axes & self.ragged)
                return name
            case F.Reduce(op=op, arg=arg, axes=over, dtype=dtype):
                return self._emit(
                    P.Reduce, self._type(dtype, axes), op, self._masked(arg, over, identity(op, dtype)), over
                )
            case F.Dot():
                return self._dot(n, axes, None)
        raise AssertionError(n)

    def _beyond(
        self, name: str, op: str, args: tuple[int, ...], names: tuple[str, ...], dtype: str, axes: frozenset[str]
    ) -> None:
        """What lanes past an extent hold, where every argument's are known."""
        for a in axes:
            known: list[P.Scalar] = []
            for arg, arg_name in zip(args, names, strict=True):
                n = self.form[arg]
                if isinstance(n, F.Const):
                    known.append(n.value)
                elif (arg_name, a) in self.beyond:
                    known.append(self.beyond[arg_name, a])
            if len(known) == len(args):
                with np.errstate(all="ignore"):
                    values = [np.asarray(v, self.form[g].dtype) for v, g in zip(known, args, strict=True)]
                    if not any(v.dtype.kind == "V" for v in values):
                        result = np.asarray(ELEMENTWISE[op][1](*values)).astype(dtype)
                        self.beyond[name, a] = result.item()

    def _masked(self, node: int, over: tuple[str, ...], neutral: P.Scalar) -> str:
        """A value whose lanes past the extents of `over` hold the neutral element."""
        name = self.value(node)
        for a in over:
            if a in self.ragged and a in self.form.axes_of(node):
                held = self.beyond.get((name, a))
                if held is None or held != neutral:
                    t, key = self.types[name], (name, a, neutral)
                    if (known := self._kept(key)) is not None:
                        name = known
                        continue
                    masked = self.frames[-1].masks[key] = self._emit(P.Mask, t, name, a, neutral)
                    for b in t.axes:
                        if b == a or self.beyond.get((name, b)) == neutral:
                            self.beyond[masked, b] = neutral
                    name = masked
        return name

    def _dot(self, n: F.Dot, axes: frozenset[str], acc: str | None) -> str:
        zero = 0
        a, b = self._masked(n.a, n.axes, zero), self._masked(n.b, n.axes, zero)
        precision = self.product if self.form[n.a].dtype == "float32" and self.form[n.b].dtype == "float32" else "fp32"
        scales = tuple(self.value(s) for s in n.scales)
        return self._emit(P.Dot, self._type(n.dtype, axes), a, b, n.axes, acc, precision, scales)

    def _kept(self, key: tuple[str, str, P.Scalar]) -> str | None:
        """The mask that some enclosing block has already made."""
        return next((f.masks[key] for f in self.frames if key in f.masks), None)

    # Loops

    def _loop(self, node: int) -> None:
        """One loop for this reduction and its siblings; what they need from other loops comes first."""
        loops = self._loops(node)
        level = self._level(node)
        siblings = [
            i for i in self.reachable
            if isinstance(self.form[i], F.Reduce | F.Dot) and self._loops(i) == loops and self._level(i) == level
            and i not in self.frames[-1].names and self._here(i)
        ]  # fmt: skip
        first = [i for i in siblings if not self._depends(i) & set(siblings)]
        for maximum in first:
            n = self.form[maximum]
            if isinstance(n, F.Reduce) and n.op == "max":
                followers = [i for i in siblings if maximum in self._depends(i) and self._follows(i, maximum, siblings)]
                if followers:
                    self._emit_loop(loops, [maximum, *followers], maximum)
                    return
        self._emit_loop(loops, first, None)

    def _loops(self, node: int) -> tuple[str, ...]:
        n = self.form[node]
        assert isinstance(n, F.Reduce | F.Dot)
        return tuple(a for a in self.axes if a in n.axes and a in self.looped)

    def _level(self, node: int) -> frozenset[str]:
        return self.form.axes_of(node) & self.looped

    def _here(self, node: int) -> bool:
        """Whether the node belongs to the current frame and not to one further out."""
        return self._depth(node) == len(self.frames) - 1 if self._level(node) <= self.frames[-1].bound else False

    def _follows(self, node: int, maximum: int, siblings: list[int]) -> bool:
        """Whether the reduction is linear in exp(x - maximum), and depends on no other sibling."""
        n = self.form[node]
        if self._depends(node) & (set(siblings) - {maximum}) or not self.form.axes_of(maximum) <= self.form.axes_of(
            node
        ):
            return False
        if isinstance(n, F.Reduce):
            return n.op == "add" and self._linear(n.arg, maximum)
        assert isinstance(n, F.Dot)
        a, b = maximum in self._depends(n.a), maximum in self._depends(n.b)
        return a != b and self._linear(n.a if a else n.b, maximum)

    def _linear(self, node: int, maximum: int) -> bool:
        n = self.form[node]

        def free(i: int) -> bool:
            return i != maximum and maximum not in self._depends(i)

        match n:
            case F.Elementwise(op="exp", args=(arg,)):
                inner = self.form[arg]
                if isinstance(inner, F.Elementwise) and inner.op == "sub":
                    return inner.args[1] == maximum and free(inner.args[0])
            case F.Cast(arg=arg):
                return self._linear(arg, maximum)
            case F.Elementwise(op="mul", args=(x, y)):
                return (free(x) and self._linear(y, maximum)) or (free(y) and self._linear(x, maximum))
            case F.Elementwise(op="div", args=(x, y)):
                return free(y) and self._linear(x, maximum)
            case F.Elementwise(op="select", args=(c, x, y)):
                zero = self.form[y]
                return free(c) and isinstance(zero, F.Const) and zero.value == 0 and self._linear(x, maximum)
        return False

    def _emit_loop(self, loops: tuple[str, ...], nodes: list[int], maximum: int | None) -> None:
        outer = self.frames[-1]
        starts = []
        for i in nodes:
            n = self.form[i]
            op = n.op if isinstance(n, F.Reduce) else "add"
            starts.append(self._emit(P.Full, self._type(n.dtype, self.form.axes_of(i)), identity(op, n.dtype)))
        names = self._nest(loops, nodes, starts, maximum)
        for i, name in zip(nodes, names, strict=True):
            outer.names[i] = name

    def _nest(self, loops: tuple[str, ...], nodes: list[int], starts: list[str], maximum: int | None) -> list[str]:
        frame = _Frame(self.frames[-1].bound | {loops[0]})
        self.frames.append(frame)
        inner: list[str] = []
        results: list[str] = []
        for start in starts:
            for made in (inner, results):
                made.append(f"v{self.count}")
                self.types[made[-1]] = self.types[start]
                self.count += 1
        nexts = self._nest(loops[1:], nodes, inner, maximum) if loops[1:] else self._steps(nodes, inner, maximum)
        self.frames.pop()
        carries = tuple(
            P.Carry(r, self.types[s], i, s, x) for r, s, i, x in zip(results, starts, inner, nexts, strict=True)
        )
        self.frames[-1].statements.append(P.For(loops[0], carries, tuple(frame.statements)))
        return results

    def _steps(self, nodes: list[int], before: list[str], maximum: int | None) -> list[str]:
        """One step of each reduction on the current tile."""
        frame, after = self.frames[-1], []
        rescale = None
        for i, acc in zip(nodes, before, strict=True):
            n, t = self.form[i], self.types[acc]
            if i == maximum:
                assert isinstance(n, F.Reduce)
                part = self._emit(P.Reduce, t, "max", self._masked(n.arg, n.axes, identity("max", n.dtype)), n.axes)
                new = self._emit(P.Elementwise, t, "max", (acc, part))
                low = self._emit(P.Full, P.Tile(n.dtype), -math.inf)
                empty = self._emit(P.Elementwise, P.Tile("bool", t.axes), "eq", (new, low))
                zero = self._emit(P.Full, P.Tile(n.dtype), 0)
                safe = self._emit(P.Elementwise, t, "select", (empty, zero, new))  # -inf - -inf would be NaN
                frame.local[i] = safe
                rescale = self._emit(P.Elementwise, t, "exp", (self._emit(P.Elementwise, t, "sub", (acc, safe)),))
                after.append(new)
                continue
            kept = acc if rescale is None else self._emit(P.Elementwise, t, "mul", (acc, rescale))
            if isinstance(n, F.Dot):
                after.append(self._dot(n, self.form.axes_of(i), kept))
            else:
                assert isinstance(n, F.Reduce)
                part = self._emit(P.Reduce, t, n.op, self._masked(n.arg, n.axes, identity(n.op, n.dtype)), n.axes)
                after.append(self._emit(P.Elementwise, t, n.op, (kept, part)))
        return after
