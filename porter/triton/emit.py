"""Tile program to Triton: a module that stands alone, one `@triton.jit` kernel on a flat grid.

A tile becomes a tensor over those of its axes whose tile is more than one, in the program's order; the other axes are
scalars. The kernel's instance t computes the grid point t, row-major over the grid's axes. Beside the kernel the module
defines GRID, SIGNATURE and OPTIONS, all that a launch needs; buffers are row-major and begin at multiples of 16 bytes.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from porter.formats import of
from porter.tile.elementwise import COMPARISONS
from porter.tile.program import (
    Carry,
    Cast,
    Dot,
    Elementwise,
    For,
    Full,
    Iota,
    Load,
    Mask,
    Program,
    Reduce,
    Statement,
    Store,
    operands,
    types,
    walk,
)  # fmt: skip
from porter.tile.scales import clamped
from porter.tile.target import CannotEmit
from porter.tile.wide import fits
from porter.triton import dots
from porter.triton.access import address, affine
from porter.triton.dots import Product
from porter.triton.elementwise import CODES, NARROW, SATURATING, TYPES, expression, fold, library, literal, word
from porter.triton.scope import Plan, Scope, Value

SHORT = ("bool", "int8", "int16", "uint8", "uint16")
DEFAULT = {"num_warps": 4, "num_stages": 3}
ALIGNMENT = 16  # bytes: promised to the compiler for every buffer, so that it may use wide loads


@dataclass(frozen=True)
class Source:
    """The text of a module, how many instances its kernel has, and the products that it asks of the matrix unit."""

    text: str
    grid: int
    products: tuple[Product, ...]


def emit(program: Program, *, options: Mapping[str, int] | None = None, heading: Sequence[str] = ()) -> Source:
    """The program in Triton. `options`: num_warps and num_stages for the launch. `heading`: lines for the docstring.

    Raises CannotEmit for what Triton cannot say: a type, or an operation, that it lacks.
    """
    scope = Scope(program)
    writer = _Writer(scope)
    head = writer.coordinates()
    writer.block(program.body)
    body = _used(head, scope.lines, scope.depth)
    grid = math.prod(a.steps for a in program.grid)
    parts = [
        _docstring(program, heading),
        "import triton\nimport triton.language as tl",
        "\n".join(
            [
                f"GRID = ({grid},)",
                f"SIGNATURE = {json.dumps({scope.params[p.name]: _pointer(p.dtype) for p in program.params})}",
                f"OPTIONS = {json.dumps(dict(options or DEFAULT))}",
            ]
        ),
    ]
    parts += ["\n" + f for f in library(scope.functions)]
    signature = f"def {scope.program.name}({', '.join(scope.params.values())}):"
    parts.append("\n" + "\n".join(["@triton.jit", signature, *body]))
    return Source("\n\n".join(parts) + "\n", grid, tuple(writer.products))


def _pointer(dtype: str) -> str:
    word(dtype)
    return "*" + TYPES[dtype][1]


def _docstring(program: Program, heading: Sequence[str]) -> str:
    lines = [line for part in heading for line in textwrap.wrap(part, 100)] or [program.name]
    lines += ["", "Buffers, row-major:"]
    for p in program.params:
        lines.append(f"    {'out' if p.out else 'in '} {p.name}: {p.dtype}[{', '.join(map(str, p.shape))}]")
    lines += ["Axes:"]
    for a in program.axes:
        tiles = f"{a.steps} tile{'s' if a.steps > 1 else ''}"
        how = {"grid": f"{tiles} over the grid", "loop": f"{tiles} in turn", "resident": "whole"}[a.role]
        lines.append(f"    {a.name}: {a.extent} by {a.tile}, {how}")
    return '"""' + "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''") + '\n"""'


def _used(head: list[tuple[str, str]], lines: list[str], depth: int) -> list[str]:
    """The lines, before them those definitions of the head that something after them names."""
    kept: list[str] = []
    text = "\n".join(lines)
    for name, line in reversed(head):
        if re.search(rf"\b{name}\b", text):
            kept.append("    " * depth + line)
            text = line + "\n" + text
    return [*reversed(kept), *lines]


def _reads(s: Statement) -> set[str]:
    """What a statement reads, a loop with all of its body."""
    found = set(operands(s))
    if isinstance(s, For):
        found |= {c.next for c in s.carries}.union(*(_reads(inner) for inner in s.body))
    return found


class _Writer:
    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.program = scope.program
        self.types = types(self.program)
        self.products: list[Product] = []

    def coordinates(self) -> list[tuple[str, str]]:
        """(name, definition) of the grid's and the resident axes' coordinates, and of the masks of ragged ones."""
        scope, head = self.scope, []
        grid = [a for a in self.program.grid if a.steps > 1]
        instance = scope.fresh("instance")
        head.append((instance, f"{instance} = tl.program_id(0)"))
        inner = math.prod(a.steps for a in grid)
        decoded: dict[str, str] = {}
        for i, a in enumerate(grid):
            inner //= a.steps
            text = instance if inner == 1 else f"{instance} // {inner}"
            if i:
                text = f"({text}) % {a.steps}" if inner > 1 else f"{text} % {a.steps}"
            decoded[a.name] = text
        for a in self.program.axes:
            name = scope.coordinate[a.name]
            if a.role == "loop":
                continue
            base = decoded.get(a.name, "")
            if a.tile == 1:
                head.append((name, f"{name} = {base or '0'}"))
            else:
                plus = "" if not base else f"({base}) * {a.tile} + " if " " in base else f"{base} * {a.tile} + "
                head.append((name, f"{name} = {plus}tl.arange(0, {a.tile})"))
            if a.name in scope.inside:
                head.append((scope.inside[a.name], f"{scope.inside[a.name]} = {name} < {a.extent}"))
        return head

    def block(self, body: Sequence[Statement]) -> None:
        for s in body:
            match s:
                case Load():
                    self._load(s)
                case Store():
                    self._store(s)
                case For():
                    self._loop(s)
                case Full(name, t, value):
                    word(t.dtype)
                    self.scope.values[name] = Value("", (), t.dtype, value)
                case Iota(name, t, form):
                    axes = self.scope.lanes(form.axes)
                    ends = form.bounds(lambda a: self.program.axis(a).steps * self.program.axis(a).tile)
                    text = affine(self.scope, form, axes, wide=not all(fits(end, "int32", 32) for end in ends))
                    self.scope.bind(name, f"tl.cast({text}, {word(t.dtype)})", axes, t.dtype)
                case Elementwise():
                    self._elementwise(s)
                case Cast():
                    self._cast(s)
                case Mask():
                    self._mask(s)
                case Reduce():
                    self._reduce(s)
                case Dot():
                    product = dots.emit(self.scope, s, self.types)
                    self.products += [product] if product else []

    def _load(self, s: Load) -> None:
        scope = self.scope
        at = address(scope, s.access, s.name, padded=s.pad is not None)
        boolean = s.type.dtype == "bool"
        text, other = at.pointer, ""
        if at.mask is not None:
            other = f", mask={at.mask}"
            if s.pad is not None:
                pad = ("1" if s.pad else "0") if boolean else literal(s.pad, s.type.dtype)
                other += f", other={pad if pad is not None else '0.0'}"
        text = f"tl.load({text}{other})" + (" != 0" if boolean else "")
        axes = at.axes
        idle = [a for a in scope.lanes(s.type.axes) if a in scope.inside and a not in axes]
        if idle and s.pad is not None:  # the pad also shows past the extent of an axis that the address does not have
            axes = scope.lanes((*axes, *idle))
            inside = " & ".join(scope.aligned(scope.inside[a], (a,), axes) for a in idle)
            pad = scope.operand(Value("", (), s.type.dtype, s.pad), axes)
            text = f"tl.where({inside}, {scope.aligned(text, at.axes, axes)}, {pad})"
        word(s.type.dtype)
        scope.bind(s.name, text, axes, s.type.dtype)

    def _store(self, s: Store) -> None:
        scope = self.scope
        at = address(scope, s.access, s.access.param, store=True)
        value = scope.tensor(scope.values[s.value], at.axes)
        if self.types[s.value].dtype == "bool":
            value = f"({value}).to(tl.int8)"
        mask = f", mask={at.mask}" if at.mask is not None else ""
        scope.write(f"tl.store({at.pointer}, {value}{mask})")

    def _elementwise(self, s: Elementwise) -> None:
        scope = self.scope
        values = [scope.values[a] for a in s.args]
        axes = scope.lanes(x for v in values for x in v.axes)
        dtype = self.types[s.args[-1]].dtype
        wide = dtype in NARROW and s.op != "select"
        args = []
        literals_only = all(v.literal is not None for v in (values[1:] if s.op == "select" else values))
        for i, v in enumerate(values):
            last, condition = i == len(values) - 1, s.op == "select" and i == 0
            force = (literals_only and last) or len(values) == 1 or s.op in ("pow", "atan2") or condition
            text = scope.tensor(v, ()) if v.literal is not None and force else scope.operand(v, axes)
            widen = wide and (v.literal is None or force) and v.dtype in NARROW
            args.append(f"{text}.to(tl.float32)" if widen else text)
        text, function = expression(s.op, args, "float32" if wide else dtype)
        if function:
            scope.functions.add(function)
        result = "bool" if s.op in COMPARISONS else "float32" if wide else dtype
        if result != s.type.dtype:
            text = f"({text}).to({word(s.type.dtype)})"
        scope.bind(s.name, text, axes, s.type.dtype)

    def _cast(self, s: Cast) -> None:
        scope, value = self.scope, self.scope.values[s.arg]
        if value.literal is not None:
            value = Value(scope.tensor(value, ()), (), value.dtype)
        if s.bits:
            if word(s.type.dtype) == word(value.dtype):
                scope.values[s.name] = replace(value, dtype=s.type.dtype)
            else:
                scope.bind(s.name, f"{value.text}.to({word(s.type.dtype)}, bitcast=True)", value.axes, s.type.dtype)
            return
        if lacking := CODES & {s.type.dtype, value.dtype}:
            raise CannotEmit(f"Triton has no type {min(lacking)}")
        if s.type.dtype in SATURATING and value.dtype not in SATURATING and not self._saturated(s):
            raise CannotEmit(f"Triton's conversion to {s.type.dtype} saturates where the cast overflows")
        if s.type.dtype == value.dtype:
            scope.values[s.name] = value
        elif s.type.dtype == "bool":
            text = f"{value.text}.to(tl.float32)" if value.dtype in NARROW else value.text
            scope.bind(s.name, f"{text} != 0", value.axes, "bool")
        else:
            scope.bind(s.name, f"{value.text}.to({word(s.type.dtype)})", value.axes, s.type.dtype)

    def _saturated(self, s: Cast) -> bool:
        """Whether what is cast was clamped to the format's range before, as QuantizeLinear does: then both conversions agree."""
        made = {d.name: d for d in walk(self.program.body) if isinstance(d, Elementwise | Full)}
        return clamped(made.get, s.arg, of(s.type.dtype).max)

    def _mask(self, s: Mask) -> None:
        scope, value = self.scope, self.scope.values[s.arg]
        if s.axis not in scope.inside:
            scope.values[s.name] = value
            return
        axes = scope.lanes((*value.axes, s.axis))
        identity = Value("", (), s.type.dtype, s.identity)
        inside = scope.aligned(scope.inside[s.axis], (s.axis,), axes)
        kept = scope.operand(value, axes) if value.literal is None else scope.tensor(value, ())
        scope.bind(s.name, f"tl.where({inside}, {kept}, {scope.operand(identity, axes)})", axes, s.type.dtype)

    def _reduce(self, s: Reduce) -> None:
        scope, value = self.scope, self.scope.values[s.arg]
        reduced = scope.lanes(s.axes)
        if not reduced:
            scope.values[s.name] = value
            return
        have = scope.lanes((*value.axes, *reduced))
        text = scope.tensor(value, have)
        dtype = value.dtype
        # Sums of short integers and of narrow floats are taken wide and rounded once, as in the tile program's meaning.
        wide = "float32" if dtype in NARROW else "int32" if dtype in SHORT else dtype
        if wide != dtype:
            text = f"({text}).to({word(wide)})"
        for i in sorted((have.index(a) for a in reduced), reverse=True):
            if s.op == "add":
                text = f"tl.sum({text}, axis={i})"
            else:
                scope.functions.add(fold(s.op))
                text = f"tl.reduce({text}, {i}, {fold(s.op)})"
        if wide != s.type.dtype:
            text = f"{text} != 0" if s.type.dtype == "bool" else f"({text}).to({word(s.type.dtype)})"
        scope.bind(s.name, text, tuple(a for a in have if a not in reduced), s.type.dtype)

    def _loop(self, loop: For) -> None:
        """`for` over the tiles of an axis. A carried accumulator of tl.dot keeps its matrix shape to the end."""
        scope, axis = self.scope, self.program.axis(loop.axis)
        name = scope.coordinate[axis.name]
        kept: list[tuple[Carry, Value]] = []
        for c in loop.carries:
            init, axes = scope.values[c.init], scope.lanes(c.type.axes)
            plan = init.matrix if init.matrix is not None else self._accumulates(loop, c)
            if plan is not None and init.matrix is None:
                text = (self._zeros(c, plan) if init.literal is not None
                        else dots.to_matrix(scope, plan, scope.tensor(init, axes)))  # fmt: skip
            else:
                text = init.text if plan is not None else scope.tensor(init, axes)
            if init.literal is None and text == init.text and self._sole(text):
                scope.values[c.inner] = scope.values.pop(c.init)  # nobody else reads it: the loop goes on with it
            else:
                scope.bind(c.inner, text, axes, c.type.dtype, plan)
            inner = scope.values[c.inner]
            kept.append((c, inner))
            if self._dies(loop, c):
                scope.variable[c.next] = inner
        start = scope.fresh(f"{axis.name}_from") if axis.tile > 1 else name
        scope.write(f"for {start} in range(0, {axis.steps * axis.tile}, {axis.tile}):")
        scope.depth += 1
        outer, scope.lines = scope.lines, []
        self.block(loop.body)
        self._next(kept)
        head = [] if axis.tile == 1 else [(name, f"{name} = {start} + tl.arange(0, {axis.tile})")]
        if axis.name in scope.inside:
            head.append((scope.inside[axis.name], f"{scope.inside[axis.name]} = {name} < {axis.extent}"))
        scope.lines = [*outer, *_used(head, scope.lines, scope.depth)]
        scope.depth -= 1
        for c, inner in kept:
            scope.values[c.name] = inner
            if inner.matrix is not None and not self._carried(c.name):
                scope.bind(c.name, dots.from_matrix(scope, inner.matrix, inner.text), inner.axes, inner.dtype)

    def _zeros(self, c: Carry, plan: Plan) -> str:
        sizes = [self.scope.count(g) for g in (plan.batch, plan.rows, plan.columns) if g or g is not plan.batch]
        value = self.scope.values[c.init]
        start = literal(value.literal, c.type.dtype) if value.literal is not None else "0"
        return f"tl.full({sizes}, {start}, {word(c.type.dtype)})"

    def _next(self, kept: list[tuple[Carry, Value]]) -> None:
        """Assign the carried names. A value that is itself a carried name is saved before it is overwritten."""
        scope = self.scope
        names = {inner.text for _, inner in kept}
        pairs = []
        for c, inner in kept:
            value = scope.values[c.next]
            text = value.text if inner.matrix is not None else scope.tensor(value, inner.axes)
            if text in names and text != inner.text:
                text = scope.bind(f"{c.inner}_next", text, inner.axes, inner.dtype).text
            pairs.append((inner.text, text))
        for target, text in pairs:
            if target != text:
                scope.write(f"{target} = {text}")

    def _sole(self, text: str) -> bool:
        """Whether the values that this variable stands for are read once in all."""
        return sum(self._uses(name) for name, v in self.scope.values.items() if v.text == text) == 1

    def _dies(self, loop: For, c: Carry) -> bool:
        """Whether no statement reads a carried value once its next one is there, and no other carry takes it."""
        defined = [i for i, s in enumerate(loop.body) if not isinstance(s, Store | For) and s.name == c.next]
        if not defined or self._uses(c.next) != 1 or any(other.next == c.inner for other in loop.carries):
            return False
        return not any(c.inner in _reads(s) for s in loop.body[defined[0] + 1 :])

    def _uses(self, name: str) -> int:
        """How often a value is read anywhere in the program, by a statement or as a loop's next."""
        count = 0

        def visit(body: Sequence[Statement]) -> None:
            nonlocal count
            for s in body:
                count += operands(s).count(name)
                if isinstance(s, For):
                    count += sum(c.next == name for c in s.carries)
                    visit(s.body)

        visit(self.program.body)
        return count

    def _accumulates(self, loop: For, c: Carry) -> Plan | None:
        """The plan of the product that alone adds to a carried value, where its matrix has another shape than it."""
        if self._uses(c.inner) != 1 or self._uses(c.next) != 1:
            return None
        for s in loop.body:
            if isinstance(s, Dot) and s.acc == c.inner and s.name == c.next:
                plan = dots.plan(self.scope, s, self.types)
                sums = dots.on_unit(self.scope, s, self.types) and s.type.dtype in ("float32", "int32", "float64")
                return plan if sums and not dots.is_matrix(self.scope, plan) else None
            if isinstance(s, For):
                for inner in s.carries:
                    if inner.init == c.inner and inner.name == c.next:
                        return self._accumulates(s, inner)
        return None

    def _carried(self, name: str) -> bool:
        """Whether a value's one reader is the next step of a loop that keeps it as a matrix."""

        def visit(body: Sequence[Statement]) -> bool:
            for s in body:
                if isinstance(s, For):
                    if any(c.next == name and self._accumulates(s, c) is not None for c in s.carries):
                        return True
                    if visit(s.body):
                        return True
            return False

        return visit(self.program.body)
