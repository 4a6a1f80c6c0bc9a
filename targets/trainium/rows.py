"""Brings gathered loads to the one form that the DMA takes: an index per partition of the outermost dimension.

    p(8, 50)[i, @j + 1]          r = 50*i + j + 1;  p(400)[@r]
    p(8, 50)[@j<x>, x]           r = 50*j + x;  p(400)[@r]: each lane of x has a row and a place of its own
    p(8, 50) pad 0 [.., @j]      j is clamped, and the pad selected where it had to be

Indices are 32-bit integers there.
"""

from __future__ import annotations

import math
from dataclasses import replace

from porter.tile.affine import Affine
from porter.tile.program import (
    Access,
    Cast,
    Elementwise,
    For,
    Full,
    Index,
    Iota,
    Load,
    Program,
    Scalar,
    Statement,
    Tile,
    types,
)


def rows(program: Program) -> Program:
    """The program with every gathered load reading rows of its tensor by one index."""
    maker = _Maker(program)
    return replace(program, body=maker.block(program.body))


class _Maker:
    def __init__(self, program: Program) -> None:
        self.program, self.types = program, types(program)
        self.out: list[Statement] = []
        self.base, self.count = "", 0

    def block(self, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        outer, self.out = self.out, []
        for s in body:
            if isinstance(s, For):
                self.out.append(replace(s, body=self.block(s.body)))
            elif isinstance(s, Load) and any(i.gather for i in s.access.index):
                self.base = s.name
                self._load(s)
            else:
                self.out.append(s)
        result, self.out = tuple(self.out), outer
        return result

    def _load(self, s: Load) -> None:
        access = s.access
        own = {a for i in access.index if i.gather for a in self.types[i.gather].axes}
        last = max(d for d, i in enumerate(access.index) if i.gather or own & set(i.affine.axes))
        size = math.prod(access.view[: last + 1])
        terms, inside = [], []
        for d, i in enumerate(access.index[: last + 1]):
            stride = math.prod(access.view[d + 1 : last + 1])
            term = self._term(i)
            if s.pad is not None:
                inside += [self._op("ge", term, self._full(0)), self._op("lt", term, self._full(access.view[d]))]
            terms.append(term if stride == 1 else self._op("mul", term, self._full(stride)))
        row = terms[0]
        for t in terms[1:]:
            row = self._op("add", row, t)
        if s.pad is not None:
            row = self._op("min", self._op("max", row, self._full(0)), self._full(size - 1))
        view = (size, *access.view[last + 1 :])
        index = (Index(Affine(), row), *access.index[last + 1 :])
        if s.pad is None:
            self.out.append(replace(s, access=Access(access.param, view, index)))
            return
        ok = inside[0]
        for t in inside[1:]:
            ok = self._op("and", ok, t)
        loaded = self._name()
        self.out.append(Load(loaded, s.type, Access(access.param, view, index), s.pad))
        self.types[loaded] = s.type
        pad = self._full(s.pad, s.type.dtype)
        self.out.append(Elementwise(s.name, s.type, "select", (ok, loaded, pad)))

    def _term(self, i: Index) -> str:
        """An index as a 32-bit integer value."""
        parts = []
        if i.gather is not None:
            parts.append(i.gather if self.types[i.gather].dtype in ("int32", "int64") else self._cast(i.gather))
        if i.affine.terms:
            t = Tile("int32", self.program.ordered(frozenset(i.affine.axes)))
            parts.append(self._add(lambda n: Iota(n, t, i.affine), t))
        elif i.affine.const or not parts:
            parts.append(self._full(i.affine.const))
        return parts[0] if len(parts) == 1 else self._op("add", *parts)

    def _name(self) -> str:
        self.count += 1
        return f"{self.base}_row{self.count}"

    def _add(self, make: object, t: Tile) -> str:
        name = self._name()
        self.out.append(make(name))  # type: ignore[operator]
        self.types[name] = t
        return name

    def _op(self, op: str, *args: str) -> str:
        axes = frozenset(a for x in args for a in self.types[x].axes)
        t = Tile("bool" if op in ("ge", "lt", "and") else "int32", self.program.ordered(axes))
        return self._add(lambda n: Elementwise(n, t, op, args), t)

    def _cast(self, name: str) -> str:
        t = Tile("int32", self.types[name].axes)
        return self._add(lambda n: Cast(n, t, name), t)

    def _full(self, value: Scalar, dtype: str = "int32") -> str:
        t = Tile(dtype)
        return self._add(lambda n: Full(n, t, value), t)
