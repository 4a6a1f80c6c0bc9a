"""Chooses the home of a kernel: the axes across the partitions that cost the engines least and make fewest detours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from porter.targets.trainium.layout import Part, Plan, blank, contiguous, sides, steps
from porter.tile.program import (
    Cast,
    Dot,
    Elementwise,
    Load,
    Program,
    Reduce,
    Store,
    walk,
)


def homes(program: Program, partitions: int) -> tuple[Part, ...]:
    """The homes that fit the partitions, the one with the fewest detours first."""
    return Chooser(blank(program), partitions).ranked()


class Chooser:
    """Chooses the home: the layout with the fewest detours."""

    def __init__(self, p: Plan, partitions: int) -> None:
        self.p, self.partitions = p, partitions
        statements = list(walk(p.program.body))
        self.dots = [s for s in statements if isinstance(s, Dot)]
        self.reduces = [s for s in statements if isinstance(s, Reduce)]
        self.stores = [s for s in statements if isinstance(s, Store)]
        self.gathers = [s for s in statements if isinstance(s, Load) and any(i.gather for i in s.access.index)]

    def ranked(self) -> tuple[Part, ...]:
        candidates = dict.fromkeys(tuple(c) for c in self._candidates() if self.p.count(c) <= self.partitions)
        return tuple(sorted(candidates, key=self._cost))

    def _candidates(self) -> Iterable[Part]:
        p = self.p
        everything = p.wide(a.name for a in p.program.axes)
        reduced = {a for r in self.reduces for a in r.axes}
        for dot in self.dots:
            _, batch, a, b = sides(p, dot)
            yield from (a, b, batch)
        kept = [a for a in everything if a not in reduced and not any(a in d.axes for d in self.dots)]
        for n in range(min(len(kept), 3), 0, -1):
            yield from itertools.combinations(kept, n)
        yield from ((a,) for a in everything)
        yield ()

    def side(self, dot: Dot, home: Part) -> str:
        """Which operand is stationary. Its own axes become the partitions of the result."""
        p = self.p
        summed, batch, a, b = sides(p, dot)
        if (batch and (not summed or not a or not b)) or (not a and not b):
            return "vector"  # a product per partition: the matrix unit would run one row of itself
        fits = [(s, axes, other) for s, axes, other in (("a", a, b), ("b", b, a)) if p.count(axes) <= self.partitions]
        if not fits:
            return "vector"
        last = {contiguous(p, s.access) for s in self.stores}
        return min(fits, key=lambda f: (f[1] != home, bool(last & set(f[1])), p.count(f[2])))[0]

    def _cost(self, home: Part) -> tuple[float, ...]:
        p, cost = self.p, 0.0
        for r in self.reduces:
            if set(p.wide(r.axes)) & set(home):
                cost += 1000
        for dot in self.dots:
            side = self.side(dot, home)
            summed, _, a, b = sides(p, dot)
            if side == "vector":
                cost += 2000 if set(summed) & set(home) else 0
                cost += 100 * (p.count(summed) > 16)
            else:
                cost += 200 * ((a if side == "a" else b) != home)
                cost += 5 * (p.count(b if side == "a" else a) / 512)
        for s in self.stores:
            last = contiguous(p, s.access)
            cost += 20 * (last in home and p.count(p.wide(steps(s.access))) > p.lanes[last]) if last else 0
        for g in self.gathers:
            axes = {a for i in g.access.index if i.gather for a in p.types[i.gather].axes}
            cost += 50 * (set(p.wide(axes)) != set(home))
        return (cost + 12 * math.log2(self._width(home)), len(home))

    def _width(self, home: Part) -> float:
        """Elements of a partition that the engines walk through, all operations together: an engine's time."""
        p, total = self.p, 1.0
        for s in walk(p.program.body):
            match s:
                case Elementwise() | Cast():
                    total += p.count(a for a in s.type.axes if a not in home)
                case Reduce(arg=arg):
                    total += p.count(a for a in p.types[arg].axes if a not in home)
                case Store(value=value):
                    total += p.count(a for a in p.types[value].axes if a not in home)
                case _:
                    pass
        return total
