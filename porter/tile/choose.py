"""Tile sizes and roles: the one place where a device's limits meet a kernel's axes.

Order of decisions: reduced axes whole where they fit; contracted axes up to the matrix unit's depth; the two sides of
each dot; output axes that something expensive does not have, whole; then whatever fills the budget, contiguous first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from porter.tile.block_scales import BYTE
from porter.tile.form import Dot, Form, Index, Load, Reduce, children
from porter.tile.limits import Limits
from porter.tile.program import Axis, Role


def choose(form: Form, limits: Limits) -> tuple[Axis, ...]:
    """The axes of a form with tile sizes and roles, outputs first, in the order of the outputs' dimensions."""
    return _Chooser(form, limits).axes()


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


class _Chooser:
    def __init__(self, form: Form, limits: Limits) -> None:
        self.form, self.limits = form, limits
        self.tile: dict[str, int] = {}
        self.bound = form.bound()
        self.outputs = [a for s in form.stores for a in _axes_in_order(s.index)]
        self.order = list(dict.fromkeys([*self.outputs, *self._by_contiguity(self.bound)]))
        self.multiple = self._multiples()
        self.nodes = form.reachable()
        self.dots = sorted((i for i in self.nodes if isinstance(form[i], Dot)), key=self._work, reverse=True)

    def axes(self) -> tuple[Axis, ...]:
        self._reductions()
        self._contractions()
        self._whole()
        self._sides()
        self._rest()
        self._shrink()
        self._share()
        return tuple(Axis(a, self.form.axes[a], self.tile[a], self._role(a)) for a in self.order)

    def _role(self, axis: str) -> Role:
        if self.tile[axis] >= self.form.axes[axis]:
            return "resident"
        everywhere = all(axis in self.form.store_axes(s) for s in self.form.stores)
        return "grid" if everywhere and axis not in self.bound else "loop"

    # Legal sizes

    def _multiples(self) -> dict[str, int]:
        """What a tile that is not the whole extent must be a multiple of, by the positions of its axis in accesses."""
        found: dict[str, int] = {}
        accesses = [(n.view, n.index, n.dtype) for i in self.form.reachable() if isinstance(n := self.form[i], Load)]
        accesses += [(s.view, s.index, self.form.params[s.out].dtype) for s in self.form.stores]
        for _view, index, dtype in accesses:
            for place, multiple in enumerate(self.limits.multiples):
                if place < len(index):
                    needed = multiple * (2 if place == 1 and dtype in ("bfloat16", "float16", "int16") else 1)
                    for axis in index[-1 - place].affine.axes:
                        found[axis] = max(found.get(axis, 1), needed)
        return found

    def _full(self, axis: str) -> int:
        return _power(self.form.axes[axis]) if self.limits.power_of_two else self.form.axes[axis]

    def _least(self, axis: str) -> int:
        return self._legal(axis, 1)

    def _legal(self, axis: str, wanted: int) -> int:
        """The largest legal tile of at most `wanted` elements, or the smallest legal one."""
        extent, multiple = self.form.axes[axis], self.multiple.get(axis, 1)
        if wanted >= extent or multiple >= extent:
            return self._full(axis)
        if self.limits.power_of_two:
            wanted = 1 << (max(wanted, 1).bit_length() - 1)
        tile = max(wanted // multiple, 1) * multiple
        if axis in self.bound and not self.limits.ragged_loops:
            divisors = [d for d in range(multiple, extent, multiple) if extent % d == 0]
            smaller = [d for d in divisors if d <= tile]
            return smaller[-1] if smaller else divisors[0] if divisors else self._full(axis)
        return tile

    def _set(self, axis: str, wanted: int) -> int:
        self.tile[axis] = self._legal(axis, wanted)
        return self.tile[axis]

    # Decisions

    def _reductions(self) -> None:
        """Axes that a reduction sums over: whole where they fit, else a loop."""
        matrix = min(self.limits.dot_n[1], self.limits.dot_k[1])
        room: dict[tuple[int, ...], int] = {}
        for axis in self._by_contiguity(self.bound):
            nodes = [i for i in self.bound[axis] if isinstance(self.form[i], Reduce)]
            if not nodes:
                continue
            group = tuple(nodes)
            dotted = len(nodes) < len(self.bound[axis])
            left = room.get(group, min(matrix, self.limits.resident) if dotted else self.limits.resident)
            tile = self._set(axis, left)
            room[group] = max(left // tile, 1) if tile >= self.form.axes[axis] else 1

    def _contractions(self) -> None:
        """Axes that only dots sum over: together as deep as the matrix unit, contiguous ones first; the rest loops."""
        for i in self.dots:
            n = self.form[i]
            assert isinstance(n, Dot)
            left = self._depth(n)
            blocks = frozenset[str]().union(*(self.form.axes_of(i) for i in n.scales))
            for axis in sorted(self._by_contiguity(n.axes), key=lambda a: a in blocks):  # what shares a scale is whole
                if axis not in self.tile:
                    self._set(axis, left)
                left = max(left // self.tile[axis], 1) if self.tile[axis] >= self.form.axes[axis] else 1

    def _depth(self, n: Dot) -> int:
        """How much of a dot's sum the matrix unit takes at once."""
        if n.scales:
            return self.limits.block_depth[{self.form[n.a].dtype, self.form[n.b].dtype} == {BYTE}]
        beside = [m for i in self.dots if isinstance(m := self.form[i], Dot) and set(m.axes) & set(n.axes)]
        # an axis has one tile for all that sum over it
        kinds = [self.form[x].dtype for m in beside for x in (m.a, m.b)]
        if self.limits.float8_depth and self.limits.float8.issuperset(kinds):
            return self.limits.float8_depth
        return self.limits.dot_k[1]

    def _whole(self) -> None:
        """Output axes that a dot (or, without dots, a reduction) lacks: whole, so that it is computed once."""
        heavy = self.dots or [i for i in self.nodes if isinstance(self.form[i], Reduce)]
        for axis in reversed(self.outputs):
            if axis in self.tile or self.form.axes[axis] > self.limits.whole:
                continue
            if any(axis not in self.form.axes_of(i) for i in heavy):
                self._set(axis, self.form.axes[axis])

    def _sides(self) -> None:
        """The two free sides of each dot, the largest dot first; batch axes stay thin."""
        for i in self.dots:
            n = self.form[i]
            assert isinstance(n, Dot)
            across, along = self._sides_of(n)
            for side, limit in ((along, self.limits.dot_n[1]), (across, self.limits.dot_m[1])):
                self._fill(side, limit)
            if n.scales:
                self._widen(across, self.limits.block_rows)
            thin = self.limits.partitions and not self._deep(n)
            both = (self.form.axes_of(n.a) & self.form.axes_of(n.b)) - set(n.axes)
            self._fill(both, self.limits.dot_m[1] if thin else 1)

    def _widen(self, axes: Iterable[str], rows: int) -> None:
        """Tiles past the extent, where the unit has no product of fewer rows."""
        ordered = self._by_contiguity(axes)
        have = math.prod(self.tile[a] for a in ordered)
        if ordered and have < rows:
            self.tile[ordered[-1]] *= rows // have

    def _sides_of(self, n: Dot) -> tuple[frozenset[str], frozenset[str]]:
        """The free axes of a dot's two sides: those across, and those along the output's contiguous axis."""
        a, b = self.form.axes_of(n.a) - set(n.axes), self.form.axes_of(n.b) - set(n.axes)
        return (b - a, a - b) if self.outputs and self.outputs[-1] in a - b else (a - b, b - a)

    def _deep(self, n: Dot) -> bool:
        return math.prod(self.form.axes[a] for a in n.axes) > 1 and bool(
            (self.form.axes_of(n.a) ^ self.form.axes_of(n.b)) - set(n.axes)
        )

    def _fill(self, axes: Iterable[str], limit: int) -> None:
        left = limit
        ordered = self._by_contiguity(axes)
        for axis in ordered:
            if axis in self.tile:
                left = max(left // self.tile[axis], 1)
        for axis in ordered:
            if axis not in self.tile:
                left = max(left // self._set(axis, left), 1)

    def _rest(self) -> None:
        """Axes without a decision: they fill the budget of an elementwise tile, contiguous axes of stores and loads first."""
        free = [a for a in self.order if a not in self.tile]
        fixed = math.prod(self.tile.values()) if self.tile else 1
        budget = 1 if self.dots else max(self.limits.elementwise // fixed, 1)
        if self.limits.partitions and not self.dots:
            self._partitioned(free)
            return
        ends = [a for a in dict.fromkeys(self._stride_one()) if a in free]
        if len(ends) > 1:  # a transpose: a square of the contiguous axes of both sides
            for axis in ends:
                self._set(axis, max(math.isqrt(budget), 1))
        self._fill(free, budget)

    def _partitioned(self, free: list[str]) -> None:
        """One element per partition and row: axes that no reduction has lie across partitions, contiguous ones along them."""
        last = self.outputs[-1] if self.outputs else None
        left = self.limits.partitions
        for axis in reversed(free):
            if axis != last:
                left = max(left // self._set(axis, left), 1)
        taken = math.prod(self.tile[a] for a in self.tile if a not in free)
        if last in free:
            self._set(last, max(self.limits.elementwise // max(taken, 1), 1))

    def _shrink(self) -> None:
        """Halve axes of tiles that exceed the budget: grid axes first, then loops, last what was whole."""
        whole = {a for a in self.tile if a in self.bound}
        while True:
            sizes = {self._lanes(axes): axes for axes in self._tiles()}
            size = max(sizes, default=0)
            if size <= self.limits.elements:
                return
            shrinkable = [a for a in sizes[size] if self._legal(a, self.tile[a] // 2) < self.tile[a]]
            if not shrinkable:
                return
            axis = max(shrinkable, key=lambda a: (a not in whole, self.tile[a]))
            self._set(axis, self.tile[axis] // 2)

    def _share(self) -> None:
        """Halve free output tiles, the largest first, until every core has an instance; dots keep the least that fills the unit."""
        least = dict.fromkeys(self.outputs, 1)
        least.update({a: max(self.limits.elementwise // 8, 1) for a in self.outputs[-1:]})  # rows long enough to stream
        for i in self.dots:
            n = self.form[i]
            assert isinstance(n, Dot)
            across, along = self._sides_of(n)
            rows = self.limits.block_rows if n.scales else self.limits.least[0]
            least.update({a: rows for a in across if a in least})
            least.update({a: self.limits.least[1] for a in along if a in least})
        kept = set(self.bound) | self._lacking()
        while True:
            grid = math.prod(-(-self.form.axes[a] // self.tile[a]) for a in self.outputs if a not in self.bound)
            halves = {
                a: self._legal(a, self.tile[a] // 2) for a in self.outputs if a not in kept and self.tile[a] > least[a]
            }
            free = [a for a, half in halves.items() if half < self.tile[a]]
            if grid >= self.limits.cores or not free:
                return
            axis = max(free, key=lambda a: (self.tile[a] / least[a], -self.outputs.index(a)))
            self.tile[axis] = halves[axis]

    def _lacking(self) -> set[str]:
        """Output axes that a dot or reduction lacks: each further tile of them computes it again."""
        heavy = [i for i in self.nodes if isinstance(self.form[i], Dot | Reduce)]
        return {a for a in self.outputs if any(a not in self.form.axes_of(i) for i in heavy)}

    def _tiles(self) -> list[frozenset[str]]:
        """The axes of every tile that the program will hold."""
        return [self.form.axes_of(i) for i in self.nodes]

    def _lanes(self, axes: Iterable[str]) -> int:
        return math.prod(self.tile[a] for a in axes)

    # Order

    def _work(self, node: int) -> int:
        n = self.form[node]
        below = frozenset().union(*(self.form.axes_of(c) for c in children(n)))
        return math.prod(self.form.axes[a] for a in below)

    def _stride_one(self) -> list[str]:
        """The axis along which each access is contiguous, stores first."""
        found = []
        for s in self.form.stores:
            found += _axes_in_order(s.index)[-1:]
        for i in self.form.reachable():
            n = self.form[i]
            if isinstance(n, Load) and len(n.index) and len(n.index[-1].affine.terms) == 1:
                found += n.index[-1].affine.axes
        return found

    def _by_contiguity(self, axes: Iterable[str]) -> list[str]:
        """These axes, smallest stride in any access first (stores count before loads)."""
        best: dict[str, tuple[int, int]] = {}
        loads = [(1, n.view, n.index) for i in self.form.reachable() if isinstance(n := self.form[i], Load)]
        for rank, view, index in [*((0, s.view, s.index) for s in self.form.stores), *loads]:
            stride = 1
            for size, i in zip(reversed(view), reversed(index), strict=True):
                for axis, k in i.affine.terms:
                    best[axis] = min(best.get(axis, (2, 0)), (rank, abs(k) * stride))
                stride *= size
        return sorted(axes, key=lambda a: (best.get(a, (2, 0)), a))


def _axes_in_order(index: tuple[Index, ...]) -> list[str]:
    """Axes of an access, outermost dimension first; within one, the larger coefficient first."""
    return [a for i in index for a, _ in sorted(i.affine.terms, key=lambda t: -abs(t[1]))]
