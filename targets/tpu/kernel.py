"""The body of a Pallas kernel: a tile program's statements, one line of Python each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np

from porter.targets.tpu import instructions, values
from porter.targets.tpu.naming import Names
from porter.targets.tpu.product import product
from porter.targets.tpu.values import Stand, Value, axes, fits, merge, shape, turned
from porter.targets.tpu.views import Layout, Reference, Roles
from porter.tile.elementwise import COMPARISONS
from porter.tile.program import (
    Cast,
    Dot,
    Elementwise,
    For,
    Full,
    Iota,
    Load,
    Mask,
    Reduce,
    Statement,
    Store,
    Tile,
)  # fmt: skip
from porter.tile.target import CannotEmit


class Body:
    """Writes statements as Python lines; `refer` gives the ref of an access and the reference it was planned as."""

    def __init__(self, roles: Roles, names: Names, refer: Callable[[str, Statement], tuple[str, Reference]],
                 stood: frozenset[str], fp8: tuple[str, ...] = ()) -> None:  # fmt: skip
        self.fp8 = fp8  # 8-bit floats that the unit multiplies as they are
        self.roles, self.program, self.names, self.refer, self.stood = roles, roles.program, names, refer, stood
        self.order = [a.name for a in self.program.axes]
        self.lines: list[str] = []
        self.values: dict[str, Value] = {}
        self.largest: list[tuple[tuple[int, ...], str]] = []  # what the kernel holds, for the VMEM estimate
        self.products: set[str] = set()

    # statements

    def write(self, body: Sequence[Statement]) -> None:
        for s in body:
            match s:
                case For():
                    self.loop(s)
                case Store():
                    self.store(s)
                case _:
                    self.values[s.name] = self.value(s)

    def bind(
        self, name: str, text: str, dtype: str, layout: Layout | None, vectors: frozenset[str] = frozenset()
    ) -> Value:
        """One line `name = text`, with the tile's axes as its comment."""
        variable = self.names(name)
        note = "" if layout is None else f"  # {dtype} [{', '.join(a or '1' for a in layout)}]"
        self.lines.append(f"{variable} = {text}{note}")
        if layout is not None:
            self.largest.append((shape(layout, self.program), dtype))
        return Value(variable, dtype, layout, vectors=vectors)

    def value(self, s: Statement) -> Value:
        match s:
            case Load():
                return self.load(s)
            case Full(type=t, value=value):
                return _constant(value, t.dtype)
            case Iota(name=name, type=t, affine=affine):
                dtype = instructions.held(t.dtype)
                start = self.roles.start(affine)
                if not any(self.roles.wide(a) for a in affine.axes):
                    if not start.terms:
                        return _constant(start.const, t.dtype)
                    return self.bind(name, f"({self.roles.text(start)}).astype(jnp.{dtype})", dtype, None)
                return Value(self.names(name), dtype, None, iota=affine)
            case Elementwise():
                return self.elementwise(s)
            case Cast(bits=True):
                raise CannotEmit(f"{s.name} reads the bits of {s.arg} as {s.type.dtype}")
            case Cast(name=name, type=t, arg=arg):
                dtype = instructions.held(t.dtype)
                x = self.laid(self.values[arg])
                if x.number is not None:
                    return _constant(np.asarray(x.number).astype(dtype).item(), dtype)
                return self.bind(name, f"{x.text}.astype(jnp.{_jnp(dtype)})", dtype, x.layout, x.vectors)
            case Mask(name=name, arg=arg, axis=axis, identity=identity):
                return self.mask(name, self.values[arg], axis, identity)
            case Reduce():
                return self.reduce(s)
            case Dot():
                return product(self, s)
        raise AssertionError(s)

    def load(self, s: Load) -> Value:
        ref, reference = self.refer(s.name, s)
        dtype = instructions.held(s.type.dtype)
        text = f"{ref}[{', '.join(reference.subscript) if not reference.whole else '...'}]"
        if reference.pads:
            if s.pad is None:
                raise CannotEmit(f"{s.name} reads outside {s.access.param} without a pad value")
            text = f"jnp.pad({text}, {reference.pads}, constant_values={instructions.literal(s.pad, dtype)})"
        if reference.held is not None:
            text += f".reshape{shape(reference.layout, self.program)}"
        vector = frozenset({s.name}) if len(axes(reference.layout)) == 1 and len(reference.layout) == 2 else frozenset()
        ragged = [a for a in axes(reference.layout) if self.program.axis(a).ragged]
        if s.pad is None or not ragged:
            return self.bind(s.name, text, dtype, reference.layout, vector)
        raw = Value(text, dtype, reference.layout, vectors=vector)
        inside = " & ".join(self.inside(a, reference.layout) for a in ragged)
        pad = instructions.literal(s.pad, dtype)
        return self.bind(s.name, self.choose(inside, raw.text, pad, dtype), dtype, reference.layout, vector)

    def store(self, s: Store) -> None:
        ref, reference = self.refer("", s)
        value = self.values[s.value]
        target = shape(reference.layout, self.program)
        if value.number is not None:
            text = f"jnp.full({target}, {value.text}, jnp.{_jnp(value.dtype)})"
        else:
            value = self.laid(value, reference.layout)
            text = value.text if value.layout is None else self.turn(value, reference.layout)
            have = () if value.layout is None else axes(value.layout)
            if set(have) != set(axes(reference.layout)) or value.layout is None:
                text = f"jnp.broadcast_to({text}, {target})"
        if reference.held is not None:
            text = f"({text}).reshape{reference.held}"
        self.lines.append(f"{ref}[{', '.join(reference.subscript) if not reference.whole else '...'}] = {text}")

    def loop(self, s: For) -> None:
        """`lax.fori_loop` over the tiles of an axis."""
        axis = self.program.axis(s.axis)
        index = self.roles.names[s.axis]
        outer, before = self.lines, dict(self.values)
        layouts = self.settled(s, [self.first_layout(c.type) for c in s.carries])
        inner, self.lines = self.lines, outer
        starts = [self.as_array(before[c.init], c.type, layout) for c, layout in zip(s.carries, layouts, strict=True)]
        nexts = [
            self.as_array(self.values[c.next], c.type, layout) for c, layout in zip(s.carries, layouts, strict=True)
        ]
        step = self.names(f"step {index}")
        self.lines.append(f"def {step}({index}, carry):")
        if s.carries:
            self.lines.append(f"    {_tuple([self.names(c.inner) for c in s.carries])} = carry")
        self.lines += ["    " + line for line in inner]
        self.lines.append(f"    return {_tuple(nexts) if s.carries else 'carry'}")
        call = f"lax.fori_loop(0, {axis.steps}, {step}, {_tuple(starts) if s.carries else 'None'})"
        if not s.carries:
            self.lines.append(call)
            return
        self.lines.append(f"{_tuple([self.names(c.name) for c in s.carries])} = {call}")
        for c, layout in zip(s.carries, layouts, strict=True):
            self.values[c.name] = Value(self.names(c.name), instructions.held(c.type.dtype), layout)

    def settled(self, s: For, layouts: list[Layout]) -> list[Layout]:
        """Writes a loop's body (alone, into `lines`), again and again until what it carries keeps its layout."""
        saved = (dict(self.values), list(self.largest))
        for _ in range(4):
            self.lines, self.values, self.largest = [], dict(saved[0]), list(saved[1])
            for c, layout in zip(s.carries, layouts, strict=True):
                self.values[c.inner] = Value(self.names(c.inner), instructions.held(c.type.dtype), layout)
            self.write(s.body)
            ends = [self.laid(self.values[c.next]) for c in s.carries]
            found = [self._settle(layout, v, c.type) for layout, v, c in zip(layouts, ends, s.carries, strict=True)]
            if found == layouts:
                return layouts
            layouts = found
        raise CannotEmit(f"the carried tiles of loop {s.axis} take no steady layout")

    def first_layout(self, t: Tile) -> Layout:
        """A guess for a carried tile: two axes as the program orders them, one axis as a column (what a row's
        reduction leaves)."""
        wide = [a for a in self.order if a in t.axes and self.roles.wide(a)]
        return (wide[0], None) if len(wide) == 1 else values.of(wide)

    def _settle(self, layout: Layout, end: Value, t: Tile) -> Layout:
        if end.layout is None or fits(end.layout, layout):
            return layout
        wide = {a for a in t.axes if self.roles.wide(a)}
        return end.layout if set(axes(end.layout)) == wide else layout

    # expressions

    def laid(self, v: Value, layout: Layout | None = None) -> Value:
        """The value with coordinates written out, in the wanted layout where one is given."""
        if v.iota is None:
            return v
        wide = [a for a in self.order if a in v.iota.axes and self.roles.wide(a)]
        target = values.of(wide) if layout is None else tuple(a if a in wide else None for a in layout)
        size = shape(target, self.program)
        parts = []
        for a in wide:
            k = v.iota.coefficient(a)
            lane = f"lax.broadcasted_iota(jnp.int32, {size}, {target.index(a)})"
            parts.append(lane if k == 1 else f"{lane} * {k}")
        start = self.roles.start(v.iota)
        if start.terms or start.const:
            parts.append(f"({self.roles.text(start)})" if start.terms else str(start.const))
        text = " + ".join(parts)
        if v.dtype != "int32":
            text = f"({text}).astype(jnp.{v.dtype})"
        return Value(f"({text})", v.dtype, target)

    def turn(self, v: Value, target: Layout) -> str:
        """The value as it broadcasts against the target; asks vector loads to stand where that saves the turning."""
        if v.layout is None:
            return v.text
        if not fits(v.layout, target) and v.vectors and not (v.vectors & self.stood) and len(target) == 2:
            raise Stand(v.vectors)
        return turned(v, target, self.program)

    def as_array(self, v: Value, t: Tile, layout: Layout) -> str:
        """The value at the full shape of a layout: what a loop carries, or a scratch buffer takes."""
        v = self.laid(v, layout)
        size = shape(layout, self.program)
        if v.number is not None:
            return f"jnp.full({size}, {v.text}, jnp.{_jnp(instructions.held(t.dtype))})"
        text = self.turn(v, layout)
        if v.layout is not None and set(axes(v.layout)) == set(axes(layout)):
            return text
        return f"jnp.broadcast_to({text}, {size})"

    def inside(self, axis: str, layout: Layout) -> str:
        """Whether lanes of a (ragged) axis lie inside its extent."""
        a = self.program.axis(axis)
        lane = f"lax.broadcasted_iota(jnp.int32, {shape(layout, self.program)}, {layout.index(axis)})"
        start = f" + {self.roles.names[axis]} * {a.tile}" if a.steps > 1 else ""
        return f"({lane}{start} < {a.extent})"

    def choose(self, condition: str, yes: str, no: str, dtype: str) -> str:
        if dtype == "bool":
            return instructions.SELECT_OF_PREDICATES.format(f"({condition})", f"({yes})", f"({no})")
        if instructions.is_narrow_float(dtype) or dtype not in ("float32", "int32"):
            no = f"jnp.{dtype}({no})"
        return f"jnp.where({condition}, {yes}, {no})"

    def mask(self, name: str, v: Value, axis: str, identity: float | int | bool) -> Value:
        a = self.program.axis(axis)
        v = self.laid(v)
        if not a.ragged:
            return v
        layout = v.layout if v.layout is not None else values.of([axis])
        if axis not in axes(layout):
            layout = values.of([x for x in self.order if x in {*axes(layout), axis}])
        text = v.text if v.layout is None else self.turn(v, layout)
        chosen = self.choose(self.inside(axis, layout), text, instructions.literal(identity, v.dtype), v.dtype)
        return self.bind(name, chosen, v.dtype, layout)

    def elementwise(self, s: Elementwise) -> Value:
        result = instructions.held(s.type.dtype)
        args = [self.values[a] for a in s.args]
        operand = args[1].dtype if s.op == "select" else args[0].dtype
        laid = [v.layout for v in args if v.layout is not None]
        wide = {a for x in laid for a in axes(x)}
        wide |= {a for v in args if v.iota is not None for a in v.iota.axes if self.roles.wide(a)}
        layout = merge(laid, frozenset(wide), self.order) if wide or laid else None
        args = [self.laid(v, layout) for v in args]
        spelling = instructions.elementwise(s.op, operand, result)
        widen = instructions.is_narrow_float(operand) and s.op != "select"  # computed in float32, rounded once
        texts = []
        for v in args:
            text = v.text if layout is None or v.layout is None else self.turn(v, layout)
            if v.number is not None and all(w.number is not None or w.dtype != v.dtype for w in args):
                text = f"jnp.{_jnp(v.dtype)}({text})"
            elif v.number is not None and instructions.is_narrow_float(v.dtype) and not widen:
                text = f"jnp.{v.dtype}({text})"
            if widen and v.number is None:
                text = f"{text}.astype(jnp.float32)"
            texts.append(text)
        line = spelling.format(*texts)
        if widen and s.op not in COMPARISONS:
            line = f"({line}).astype(jnp.{result})"
        arrays = [v for v in args if v.layout is not None]
        vectors = frozenset(x for v in arrays for x in v.vectors)
        rooted = (
            layout is not None and len(axes(layout)) == 1 and all(v.vectors or not axes(v.layout or ()) for v in arrays)
        )
        return self.bind(s.name, line, result, layout, vectors if rooted else frozenset())

    def reduce(self, s: Reduce) -> Value:
        v = self.laid(self.values[s.arg])
        dtype = instructions.held(s.type.dtype)
        over = [a for a in s.axes if self.roles.wide(a)]
        if not over:
            return v
        layout = v.layout if v.layout is not None else values.of([])
        if missing := [a for a in over if a not in axes(layout)]:
            layout = values.of([a for a in self.order if a in {*axes(layout), *missing}])
            full = self.as_array(v, Tile(dtype, axes(layout)), layout)
            v = Value(full, dtype, layout)
        spelling = instructions.reduction(s.op, v.dtype)
        positions = tuple(i for i, a in enumerate(layout) if a in over)
        after = tuple(None if a in over else a for a in layout)
        widen = instructions.is_narrow_float(v.dtype)
        text = f"{v.text}.astype(jnp.float32)" if widen else v.text
        line = f"{spelling}({text}, axis={positions[0] if len(positions) == 1 else positions}, keepdims=True)"
        if widen:
            line = f"{line}.astype(jnp.{dtype})"
        while len(after) > 2 and after[0] is None:  # leading ones go
            line, after = f"{line}[0]", after[1:]
        return self.bind(s.name, line, dtype, after)


def _jnp(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype


def _constant(value: float | int | bool, dtype: str) -> Value:
    dtype = instructions.held(dtype)
    return Value(instructions.literal(value, dtype), dtype, None, number=value)


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
