"""Writes NKI text: lines and loops, buffers with explicit shapes and views of them, and the record of their lives."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from porter.targets.trainium.bufferize import Buffer, Trace
from porter.targets.trainium.instructions import DTYPES
from porter.targets.trainium.layout import Layout
from porter.targets.trainium.signatures import problem
from porter.tile.affine import Affine
from porter.tile.program import Axis, Program
from porter.tile.target import CannotEmit

LINE = 120  # characters of a line of text
FREE_DIMENSIONS = 4  # of one access pattern, besides the partitions


@dataclass(frozen=True)
class Size:
    """A product of a number and of variables of the text; `most` is the largest it gets."""

    number: int = 1
    symbols: tuple[str, ...] = ()
    most: int = 1

    def __mul__(self, other: Size | int) -> Size:
        if isinstance(other, int):
            other = Size(other, (), other)
        return Size(self.number * other.number, (*self.symbols, *other.symbols), self.most * other.most)

    def __str__(self) -> str:
        factors = [*([str(self.number)] if self.number != 1 or not self.symbols else []), *self.symbols]
        return " * ".join(factors)

    @property
    def is_one(self) -> bool:
        return self.number == 1 and not self.symbols


@dataclass(frozen=True)
class View:
    """An operand: its text, and the buffers that it touches."""

    text: str
    buffers: tuple[Buffer, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Place:
    """Where a value lies: a buffer of [partitions, free elements], row `first` on, in a layout."""

    buffer: Buffer
    layout: Layout
    dtype: str
    rows: str = ""  # a slice of the partitions, where not all are meant
    bits: bool = False  # the buffer's bits, read as another type of the same width

    @property
    def text(self) -> str:
        text = f"{self.buffer.name}[{self.rows}, :]" if self.rows else self.buffer.name
        return f"{text}.view(nl.{DTYPES[self.dtype]})" if self.bits else text

    @property
    def psum(self) -> bool:
        return self.buffer.space == "psum"

    @property
    def view(self) -> View:
        return View(self.text, (self.buffer,))


Groups = tuple[tuple[str, ...], ...]


class Writer:
    """The text of one kernel."""

    def __init__(self, program: Program, bank_bytes: int) -> None:
        self.program, self.bank_bytes = program, bank_bytes
        self.axes: dict[str, Axis] = {a.name: a for a in program.axes}
        self.lines: list[str] = []
        self.indent = 1
        self.trace = Trace()
        self.taken = {p.name for p in program.params}
        self.taken |= {"nki", "nisa", "nl", "range", "min", "max", "float", "row", "offset"}
        self.taken |= {f"{a}{tail}" for a in self.axes for tail in ("_at", "_n", "_lo", "_hi", "_i")}

    # names and sizes

    def name(self, hint: str) -> str:
        """A fresh identifier that resembles the hint."""
        word = re.sub(r"\W", "_", hint) or "t"
        word = f"t{word}" if word[0].isdigit() or keyword.iskeyword(word) else word
        fresh, n = word, 1
        while fresh in self.taken:
            n += 1
            fresh = f"{word}_{n}"
        self.taken.add(fresh)
        return fresh

    def lanes(self, axis: str) -> Size:
        """How many coordinates of the axis this tile holds: a number, or the variable of a ragged axis."""
        a = self.axes[axis]
        most = min(a.tile, a.extent)
        return Size(1, (f"{axis}_n",), most) if a.ragged and a.tile < a.extent else Size(most, (), most)

    def size(self, axes: Iterable[str]) -> Size:
        return math.prod((self.lanes(a) for a in axes), start=Size())

    def start(self, axis: str) -> str | None:
        """The variable of the first coordinate of this tile; None where it is 0."""
        a = self.axes[axis]
        return None if a.tile >= a.extent and a.role == "resident" else f"{axis}_at"

    def affine(self, form: Affine, lane: Iterable[str] = ()) -> str:
        """The form at the first lane of the tile, at lane `<axis>_i` of the axes named."""
        terms: list[tuple[int, str]] = []
        for axis, k in form.terms:
            for variable in (self.start(axis), f"{axis}_i" if axis in lane else None):
                if variable is not None:
                    terms.append((k, variable if abs(k) == 1 else f"{abs(k)} * {variable}"))
        if form.const or not terms:
            terms.append((form.const, str(abs(form.const))))
        terms.sort(key=lambda t: t[0] < 0)  # what is added first
        first = ("-" if terms[0][0] < 0 else "") + terms[0][1]
        return first + "".join(f" {'-' if k < 0 else '+'} {text}" for k, text in terms[1:])

    # lines

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def comment(self, text: str) -> None:
        self.line(f"# {text}")

    @contextmanager
    def block(self, head: str, repeats: bool = False) -> Iterator[None]:
        """An indented block; a loop's body repeats."""
        self.line(head)
        self.indent += 1
        if repeats:
            with self.trace.repeat():
                yield
        else:
            yield
        self.indent -= 1

    @contextmanager
    def lane_loops(self, axes: Sequence[str]) -> Iterator[None]:
        """One loop over the lanes of each of these axes, `<axis>_i`."""
        if not axes:
            yield
            return
        with self.block(f"for {axes[0]}_i in range({self.lanes(axes[0])}):", repeats=True), self.lane_loops(axes[1:]):
            yield

    def call(self, function: str, **arguments: object) -> None:
        """nisa.function(...), held against the public signature."""
        wrong = problem(f"nisa.{function}", 0, arguments)
        assert wrong is None, wrong
        spelled = [f"{k}={literal(v)}" for k, v in arguments.items()]
        if 4 * self.indent + len(function) + len(", ".join(spelled)) > LINE - 7:
            self.line(f"nisa.{function}(")
            self.lines += ["    " * (self.indent + 1) + f"{x}," for x in spelled]
            self.line(")")
        else:
            self.line(f"nisa.{function}({', '.join(spelled)})")
        self.trace.use(*(b for v in arguments.values() if isinstance(v, View) for b in v.buffers))

    # buffers and views

    def buffer(self, hint: str, layout: Layout, dtype: str, space: str = "sbuf") -> Place:
        """Room for a value: [partitions, free elements]."""
        rows, width = self.size(layout.part), self.size(layout.free)
        return Place(self.room(hint, rows, width, dtype, space), layout, dtype)

    def room(self, hint: str, rows: Size, width: Size, dtype: str, space: str) -> Buffer:
        taken = width.most * np.dtype(DTYPES[dtype]).itemsize
        if space == "psum":
            taken = -(-taken // self.bank_bytes) * self.bank_bytes
        made = Buffer(self.name(hint), space, taken)
        where = "private_hbm" if space == "hbm" else space
        self.line(f"{made.name} = nl.ndarray(({rows}, {width}), dtype=nl.{DTYPES[dtype]}, buffer=nl.{where})")
        return made

    def groups(self, free: Sequence[str], places: Iterable[Place]) -> Groups:
        """The free axes of a result, neighbours merged where every operand has them side by side or lacks them."""
        orders = [p.layout.free for p in places if p.layout.free]
        merged: list[tuple[str, ...]] = []
        for axis in free:
            if merged and all(_joined(merged[-1][-1], axis, o) for o in orders):
                merged[-1] = (*merged[-1], axis)
            else:
                merged.append((axis,))
        if len(merged) > FREE_DIMENSIONS:
            raise CannotEmit(
                f"an instruction over {len(merged)} separate free axes; access patterns have {FREE_DIMENSIONS}"
            )
        return tuple(merged)

    def view(self, place: Place, groups: Groups) -> View:
        """The place as a tile of [partitions, one dimension per group]; repeated along groups that it lacks."""
        own = [g for g in groups if g[0] in place.layout.free]
        physical = sorted(own, key=lambda g: place.layout.free.index(g[0]))
        text = place.text
        if len(physical) > 1:
            text += f".reshape_dim(1, ({', '.join(str(self.size(g)) for g in physical)}))"
            if physical != own:
                text += f".permute((0, {', '.join(str(1 + physical.index(g)) for g in own)}))"
        spare = not own
        for i, g in enumerate(groups):
            if g in own:
                continue
            if not spare:
                text += f".expand_dim({i + 1})"
            spare = False
            text += f".broadcast({i + 1}, {self.size(g)})"
        return View(text, (place.buffer,))

    def evicted(self, place: Place) -> Place:
        """The place in SBUF: itself, or a copy out of PSUM."""
        if not place.psum:
            return place
        copy = self.buffer(place.buffer.name + "_sb", place.layout, place.dtype)
        self.call("tensor_copy", dst=copy.view, src=place.view)
        return copy

    def ordered(self, place: Place, free: tuple[str, ...]) -> Place:
        """The place with its free axes in this order: itself, or a copy."""
        if place.layout.free == free:
            return place
        copy = self.buffer(place.buffer.name + "_ordered", replace(place.layout, free=free), place.dtype)
        groups = self.groups(free, [place])
        self.call("tensor_copy", dst=self.view(copy, groups), src=self.view(place, groups))
        return copy


def _joined(x: str, y: str, order: Sequence[str]) -> bool:
    if x not in order and y not in order:
        return True
    return x in order and y in order and order.index(y) == order.index(x) + 1


def literal(value: object) -> str:
    """A value as it is spelled in NKI."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"-float('{abs(value)!s}')" if value < 0 else f"float('{value}')"
    return str(value)


def steps_of(axis: Axis) -> str:
    """The range of the axis's first coordinates."""
    return f"range({axis.extent})" if axis.tile == 1 else f"range(0, {axis.extent}, {axis.tile})"
