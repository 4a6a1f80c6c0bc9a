"""What a tile program must satisfy before anybody lowers it, each rule a sentence with the numbers."""

from __future__ import annotations

import math

import numpy as np

from porter.errors import CheckFailed
from porter.tile.elementwise import ELEMENTWISE
from porter.tile.program import (
    Access,
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
    Tile,
    operands,
)  # fmt: skip


def verify(program: Program) -> None:
    """Raises CheckFailed at the first broken rule.

    Values are defined once and before use, in a block that is still open; types list axes in the program's order and carry
    the axes of their operands; a loop axis is used only inside its loop; an access that can leave its tensor declares a pad
    value; parallel instances write disjoint elements: a store names every grid axis, and its address is injective in the
    axes it names.
    """
    _Verifier(program).block(program.body, {}, frozenset())


class _Verifier:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.axes = {a.name: a for a in program.axes}
        self.order = {a.name: i for i, a in enumerate(program.axes)}
        self.defined: set[str] = set()
        if len(self.axes) != len(program.axes):
            self._fail("axes", "distinct names", str([a.name for a in program.axes]))
        for a in program.axes:
            if a.role == "resident" and a.tile < a.extent:
                self._fail(f"axis {a.name}", f"a resident tile of at least {a.extent}", str(a.tile))

    def _fail(self, where: str, expected: str, found: str) -> None:
        raise CheckFailed(f"tile program {self.program.name}, {where}", expected=expected, found=found)

    def block(
        self, body: tuple[Statement, ...], visible: dict[str, Tile], open_loops: frozenset[str]
    ) -> dict[str, Tile]:
        visible = dict(visible)
        for s in body:
            where = s.name if not isinstance(s, For | Store) else type(s).__name__.lower()
            for name in operands(s):
                if name not in visible:
                    self._fail(where, "values defined in this block or around it", f"{name}")
            match s:
                case For():
                    self._loop(s, visible, open_loops)
                case Store():
                    self._store(s, visible, open_loops)
                case _:
                    self._define(s.name, s.type, open_loops)
                    self._type(s, visible)
                    visible[s.name] = s.type
            if isinstance(s, For):
                for c in s.carries:
                    visible[c.name] = c.type
        return visible

    def _define(self, name: str, t: Tile, open_loops: frozenset[str]) -> None:
        if name in self.defined:
            self._fail(name, "one definition", "a second one")
        self.defined.add(name)
        if unknown := [a for a in t.axes if a not in self.axes]:
            self._fail(name, f"axes among {list(self.axes)}", str(unknown))
        if list(t.axes) != sorted(t.axes, key=lambda a: self.order[a]):
            self._fail(name, "axes in the program's order", str(list(t.axes)))
        if closed := [a for a in t.axes if self.axes[a].role == "loop" and a not in open_loops]:
            self._fail(name, "loop axes only inside their loops", str(closed))

    def _loop(self, s: For, visible: dict[str, Tile], open_loops: frozenset[str]) -> None:
        if s.axis not in self.axes or self.axes[s.axis].role != "loop" or s.axis in open_loops:
            self._fail(f"for {s.axis}", "a loop axis that is not open yet", s.axis)
        inside = dict(visible)
        for c in s.carries:
            self._define(c.inner, c.type, open_loops)
            self._define(c.name, c.type, open_loops)
            # an initial value may be the same along axes of the carry
            if visible[c.init].dtype != c.type.dtype or not set(visible[c.init].axes) <= set(c.type.axes):
                self._fail(f"carry {c.name}", str(c.type), f"{c.init}: {visible[c.init]}")
            inside[c.inner] = c.type
        inside = self.block(s.body, inside, open_loops | {s.axis})
        for c in s.carries:
            if c.next not in inside or inside[c.next] != c.type:
                self._fail(f"carry {c.name}", f"next of type {c.type}", f"{c.next}: {inside.get(c.next)}")

    def _type(self, s: Statement, visible: dict[str, Tile]) -> None:
        assert not isinstance(s, For | Store)
        axes: set[str] = set()
        for name in operands(s):
            axes |= set(visible[name].axes)
        match s:
            case Load(access=access, type=t, pad=pad):
                self._access(s.name, access, t, pad is not None)
                axes |= {a for i in access.index for a in i.affine.axes}
                if self.program.param(access.param).dtype != t.dtype:
                    self._fail(s.name, f"dtype of {access.param}, {self.program.param(access.param).dtype}", t.dtype)
            case Iota(affine=affine):
                axes |= set(affine.axes)
            case Full():
                axes = set(s.type.axes)
            case Elementwise(op=op, args=args):
                if op not in ELEMENTWISE or ELEMENTWISE[op][0] != len(args):
                    self._fail(s.name, "an elementwise operation with its arguments", f"{op} of {len(args)}")
            case Mask(axis=axis):
                if axis not in axes:
                    self._fail(s.name, f"a mask over an axis of {s.arg}", axis)
            case Reduce(axes=over) | Dot(axes=over):
                if missing := [a for a in over if a not in axes]:
                    self._fail(s.name, "summed axes that an operand has", str(missing))
                axes -= set(over)
                if isinstance(s, Dot) and s.acc is not None and set(visible[s.acc].axes) - axes:
                    axes |= set(visible[s.acc].axes)
            case Cast(arg=arg, bits=True):
                wide, given = np.dtype(s.type.dtype).itemsize, np.dtype(visible[arg].dtype).itemsize
                if wide != given:
                    self._fail(s.name, f"a value of {wide} bytes to read as {s.type.dtype}", f"{given}")
        if set(s.type.axes) != axes:
            self._fail(s.name, f"axes {sorted(axes)}", str(sorted(s.type.axes)))

    def _access(self, where: str, access: Access, t: Tile, padded: bool) -> None:
        param = self.program.param(access.param)
        if math.prod(access.view) != math.prod(param.shape) or len(access.view) != len(access.index):
            self._fail(
                where, f"a view of {param.name}{list(param.shape)}", f"{list(access.view)}[{len(access.index)} indices]"
            )
        for size, index in zip(access.view, access.index, strict=True):
            low, high = index.affine.bounds(lambda a: self.axes[a].extent)  # lanes past an extent are masked
            if not padded and index.gather is None and (low < 0 or high >= size):
                self._fail(where, f"indices in 0 to {size - 1} or a pad value", f"{index} runs from {low} to {high}")

    def _store(self, s: Store, visible: dict[str, Tile], open_loops: frozenset[str]) -> None:
        where = f"store to {s.access.param}"
        if not self.program.param(s.access.param).out:
            self._fail(where, "an output", "an input")
        self._access(where, s.access, visible[s.value], padded=False)
        named = {a for i in s.access.index for a in i.affine.axes}
        gathered = any(i.gather is not None for i in s.access.index)
        extra = [a for a in visible[s.value].axes if a not in named]
        if extra and not gathered:
            self._fail(where, "an address that names every axis of the value", str(extra))
        if idle := [a.name for a in self.program.grid if a.steps > 1 and a.name not in named]:
            self._fail(
                where, "every grid axis in the address: parallel instances write disjoint elements", f"{idle} missing"
            )
        if closed := [a for a in named if self.axes[a].role == "loop" and a not in open_loops]:
            self._fail(where, "loop axes only inside their loops", str(closed))
        if not gathered and not self._injective(s.access):
            self._fail(where, "an address that is different for different coordinates", str(s.access))

    def _injective(self, access: Access) -> bool:
        """Mixed radix: sorted by stride, each stride exceeds what all smaller ones can add up to."""
        terms: list[tuple[int, str]] = []
        stride = 1
        for size, index in zip(reversed(access.view), reversed(access.index), strict=True):
            terms += [(abs(k) * stride, a) for a, k in index.affine.terms]
            stride *= size
        reach = 0
        for k, axis in sorted(terms):
            if k <= reach:
                return False
            reach += k * (self.axes[axis].extent - 1)
        return True
