"""The tile program: loops over tiles, as SSA values over named axes.

A program computes its outputs tile by tile. Every axis has an extent, a tile size and a role: `grid` (one program
instance per tile), `loop` (a sequential loop inside an instance) or `resident` (the whole extent lies in one tile).
A tile is a set of lanes, one per combination of its axes' coordinates; it has no memory order. The coordinate of a lane
on an axis is tile_index * tile + lane; lanes past the extent hold poison unless the statement that made them says
otherwise (a load's pad, a mask's identity).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from porter.tile.affine import Affine

Role = Literal["grid", "loop", "resident"]
Scalar = float | int | bool


@dataclass(frozen=True, slots=True)
class Axis:
    """A named dimension of the computation: `extent` coordinates, `tile` of them at a time."""

    name: str
    extent: int
    tile: int
    role: Role

    @property
    def steps(self) -> int:
        """How many tiles cover the extent."""
        return -(-self.extent // self.tile)

    @property
    def ragged(self) -> bool:
        """Whether the last tile has lanes past the extent."""
        return self.extent % self.tile != 0


@dataclass(frozen=True, slots=True)
class Param:
    """A tensor in device memory, row-major. dtype is numpy's name (ml_dtypes' for bfloat16 and narrower)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    out: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """The type of a value: its element type and its axes, in the program's order of axes."""

    dtype: str
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """One dimension of an access: an affine form, plus the (integer) value of a tile where it is gathered."""

    affine: Affine
    gather: str | None = None

    def __str__(self) -> str:
        return str(self.affine) if self.gather is None else f"@{self.gather} + {self.affine}"


@dataclass(frozen=True, slots=True)
class Access:
    """Elements of a parameter seen as an array of shape `view` (same elements, row-major), one index per dimension."""

    param: str
    view: tuple[int, ...]
    index: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """name = param[index]; lanes past an extent, and indices outside the view, read `pad` (None: they are poison)."""

    name: str
    type: Tile
    access: Access
    pad: Scalar | None = None


@dataclass(frozen=True, slots=True)
class Full:
    """name = value in every lane."""

    name: str
    type: Tile
    value: Scalar


@dataclass(frozen=True, slots=True)
class Iota:
    """name = an affine form of the lanes' coordinates."""

    name: str
    type: Tile
    affine: Affine


@dataclass(frozen=True, slots=True)
class Elementwise:
    """name = op(args), lane by lane; an argument without one of the axes is the same along it."""

    name: str
    type: Tile
    op: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """name = arg in another dtype, rounded to nearest even; float to integer truncates. bits: the same bits, read as that
    dtype, which is as wide (a code of fewer than eight bits lies in a byte)."""

    name: str
    type: Tile
    arg: str
    bits: bool = False


@dataclass(frozen=True, slots=True)
class Mask:
    """name = arg, with lanes past the extent of `axis` set to `identity`."""

    name: str
    type: Tile
    arg: str
    axis: str
    identity: Scalar


@dataclass(frozen=True, slots=True)
class Reduce:
    """name = op over all lanes of `axes` (of this tile; a loop carries on from tile to tile). op: add, mul, max, min, and, or."""

    name: str
    type: Tile
    op: str
    arg: str
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    """name = sum over `axes` of a * b (+ acc), products and sums in the type's dtype.

    Axes of both operands that are not summed are batch axes. float32 operands are multiplied as `precision` says
    (see porter.formats.matmul); narrower operands are multiplied exactly as they are. With `scales`, one value for each
    side, constant within blocks of the sum, codes are first multiplied by them.
    """

    name: str
    type: Tile
    a: str
    b: str
    axes: tuple[str, ...]
    acc: str | None = None
    precision: str = "fp32"
    scales: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that a loop carries: `inner` inside, starting at `init`, becoming `next` after each step; `name` after the loop."""

    name: str
    type: Tile
    inner: str
    init: str
    next: str


@dataclass(frozen=True, slots=True)
class For:
    """The body once per tile of `axis`, in order; nothing but the carries crosses from step to step."""

    axis: str
    carries: tuple[Carry, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Store:
    """param[index] = value, for the lanes inside every extent."""

    access: Access
    value: str


Value = Load | Full | Iota | Elementwise | Cast | Mask | Reduce | Dot
Statement = Value | For | Store


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel's implementation. The order of `axes` is the order in which tiles list theirs: outermost first."""

    name: str
    params: tuple[Param, ...]
    axes: tuple[Axis, ...]
    body: tuple[Statement, ...]
    note: str = field(default="", compare=False)

    def axis(self, name: str) -> Axis:
        return next(a for a in self.axes if a.name == name)

    def param(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)

    @property
    def inputs(self) -> tuple[Param, ...]:
        return tuple(p for p in self.params if not p.out)

    @property
    def outputs(self) -> tuple[Param, ...]:
        return tuple(p for p in self.params if p.out)

    @property
    def grid(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.role == "grid")

    def ordered(self, axes: set[str] | frozenset[str]) -> tuple[str, ...]:
        """These axes in the program's order."""
        return tuple(a.name for a in self.axes if a.name in axes)


def rebuilt(thing: Any, change: Callable[[Any], Any]) -> Any:
    """A program, or any part of one, with `change` applied to every part of it, innermost first, to itself last."""
    if isinstance(thing, tuple):
        return tuple(rebuilt(x, change) for x in thing)
    if not is_dataclass(thing) or isinstance(thing, type):
        return thing
    return change(replace(thing, **{f.name: rebuilt(getattr(thing, f.name), change) for f in fields(thing)}))


def walk(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement, a loop before its body."""
    for s in body:
        yield s
        if isinstance(s, For):
            yield from walk(s.body)


def operands(s: Statement) -> tuple[str, ...]:
    """The values that a statement reads (a loop: its initial values)."""
    match s:
        case Load(access=a):
            return tuple(i.gather for i in a.index if i.gather is not None)
        case Elementwise(args=args):
            return args
        case Cast(arg=arg) | Mask(arg=arg) | Reduce(arg=arg):
            return (arg,)
        case Dot(a=a, b=b, acc=acc, scales=scales):
            return (a, b, *scales) if acc is None else (a, b, acc, *scales)
        case For(carries=carries):
            return tuple(c.init for c in carries)
        case Store(access=a, value=v):
            return (v, *(i.gather for i in a.index if i.gather is not None))
        case _:
            return ()


def types(program: Program) -> dict[str, Tile]:
    """The type of every value, carried ones included."""
    found: dict[str, Tile] = {}
    for s in walk(program.body):
        if isinstance(s, For):
            for c in s.carries:
                found[c.name] = found[c.inner] = c.type
        elif not isinstance(s, Store):
            found[s.name] = s.type
    return found
