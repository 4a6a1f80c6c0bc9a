"""Which axes of each value lie across the partitions: the pass between a tile program and NKI.

A tile on chip has partitions (at most 128) and free elements in each. Every axis of a value lies on one side or the
other; several axes may share the partitions, the outermost varying slowest. One set of axes, the home, holds for the
whole kernel: elementwise values, carries and reductions lie there, repeated along axes that they lack. A product wants
the summed axes of both operands across partitions and leaves its result with the stationary side's axes there.

A demand for a layout travels backward: what is made of loads alone is made again where it is wanted; what depends on a
product, a reduction or a loop is made once and turned. Axes of one lane vanish: they only move offsets.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from porter.tile.affine import Affine
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
    Value,
    operands,
    types,
    walk,
)
from porter.tile.target import CannotEmit

Part = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """part: axes across the partitions, slowest first; a value is repeated along those it lacks. free: the others."""

    part: Part
    free: tuple[str, ...]


@dataclass(frozen=True)
class AffineMask:
    """select(form op 0, tile, value) with a form in coordinates: one affine_select, no predicate in memory."""

    form: Affine
    op: str
    tile: str
    value: float


@dataclass
class Plan:
    """What the emitter needs to know of every value.

    layouts     per value, its layouts by part, the one it is made in first
    turned      which of them come from another layout of the same value
    stationary  per dot 'a', 'b', or 'vector' where no matrix unit is used
    chains      the carries, by the name of the value inside the loop, that live in one psum tile, and that tile's name
    masks       selects whose predicate compares coordinates
    tables      values that are one table function of another
    staged      reductions of operands too large for a partition, and the axis along which they go piece by piece
    chunked     layouts that exist only within such a piece
    """

    program: Program
    home: Part
    lanes: dict[str, int]
    types: dict[str, Tile]
    uses: Counter[str]
    layouts: dict[str, dict[Part, Layout]] = field(default_factory=dict)
    turned: set[tuple[str, Part]] = field(default_factory=set)
    stationary: dict[str, str] = field(default_factory=dict)
    chains: dict[str, str] = field(default_factory=dict)
    masks: dict[str, AffineMask] = field(default_factory=dict)
    tables: dict[str, tuple[str, str]] = field(default_factory=dict)
    staged: dict[str, str] = field(default_factory=dict)
    chunked: set[tuple[str, Part]] = field(default_factory=set)

    def wide(self, axes: Iterable[str]) -> tuple[str, ...]:
        """The axes of more than one lane, in the program's order."""
        return tuple(a for a in axes if self.lanes[a] > 1)

    def count(self, axes: Iterable[str]) -> int:
        return math.prod(self.lanes[a] for a in axes)

    def natural(self, name: str) -> Layout:
        """The layout that the value is made in."""
        return next(iter(self.layouts[name].values()))


def homes(program: Program, partitions: int) -> tuple[Part, ...]:
    """The homes that fit the partitions, the one with the fewest detours first."""
    return _Chooser(_blank(program), partitions).ranked()


def plan(
    program: Program,
    partitions: int,
    home: Part | None = None,
    tables: Mapping[str, tuple[str, str]] | None = None,
    large: int = 1 << 30,
) -> Plan:
    """The layout of every value. `large`: more elements of a partition than an operand of a reduction should take.

    Raises CannotEmit where no choice of axes fits the partitions.
    """
    made = _blank(program)
    made.tables = dict(tables or {})
    chooser = _Chooser(made, partitions)
    made.home = chooser.ranked()[0] if home is None else home
    for dot in chooser.dots:
        made.stationary[dot.name] = chooser.side(dot, made.home)
    _chain(made, program.body)
    _Demands(made, partitions, large).run()
    return made


def _blank(program: Program) -> Plan:
    uses: Counter[str] = Counter()
    for s in walk(program.body):
        uses.update(operands(s))
        if isinstance(s, For):
            uses.update(c.next for c in s.carries)
    lanes = {a.name: min(a.tile, a.extent) for a in program.axes}
    return Plan(program, (), lanes, types(program), uses)


def sides(p: Plan, dot: Dot) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Wide axes of a dot: summed, batch, only in a, only in b."""
    a, b = set(p.types[dot.a].axes), set(p.types[dot.b].axes)
    order = p.program.ordered
    return (
        p.wide(order(set(dot.axes))),
        p.wide(order((a & b) - set(dot.axes))),
        p.wide(order(a - b - set(dot.axes))),
        p.wide(order(b - a - set(dot.axes))),
    )


def summed_order(p: Plan, dot: Dot) -> tuple[str, ...]:
    """The order of summed axes across partitions: those that share an index with another axis (windows) outermost, for
    a padded window is loaded one coordinate at a time into neighbouring partitions."""
    windows: set[str] = set()
    for s in walk(p.program.body):
        if isinstance(s, Load):
            for i in s.access.index:
                if len(p.wide(i.affine.axes)) > 1 and can_leave(p.program, s.access, s.access.index.index(i)):
                    windows.update(i.affine.axes)
    summed = sides(p, dot)[0]
    return tuple(sorted(summed, key=lambda x: x not in windows))


def can_leave(program: Program, access: Access, dimension: int) -> bool:
    """Whether an index, its axes inside their extents, can leave the view."""
    low, high = access.index[dimension].affine.bounds(lambda a: program.axis(a).extent)
    return low < 0 or high >= access.view[dimension]


def strides(access: Access) -> tuple[int, ...]:
    return tuple(math.prod(access.view[i + 1 :]) for i in range(len(access.view)))


def steps(access: Access) -> dict[str, int]:
    """How far one step along each axis moves the flat address."""
    total: Counter[str] = Counter()
    for i, stride in zip(access.index, strides(access), strict=True):
        for axis, k in i.affine.terms:
            total[axis] += k * stride
    return dict(total)


def contiguous(p: Plan, access: Access) -> str | None:
    """The wide axis along which neighbouring lanes are neighbours in memory."""
    found = [a for a, k in steps(access).items() if k == 1 and p.lanes[a] > 1]
    return found[0] if found else None


OPPOSITE = {"ge": "lt", "lt": "ge", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def _coordinates(s: Statement | None) -> Affine | None:
    """What an integer value says of coordinates: an iota's form, a constant, a cast of either."""
    match s:
        case Iota(affine=affine):
            return affine
        case Full(value=value) if isinstance(value, int):
            return Affine((), int(value))
        case _:
            return None


class _Chooser:
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


def _chain(p: Plan, body: tuple[Statement, ...]) -> None:
    """Carries that start at 0 and that only dots write: they are one psum tile, summed by the matrix unit."""
    zeros = {s.name for s in body if isinstance(s, Full) and s.value == 0}
    for s in body:
        if isinstance(s, For):
            for c in s.carries:
                if (
                    c.init in zeros
                    and (dot := _accumulates(p, s, c.inner, c.next))
                    and p.types[c.name].dtype == "float32"
                ):
                    _, batch, _, _ = sides(p, dot)
                    if p.stationary[dot.name] != "vector" and not batch:
                        _mark(p, s, c.inner, c.next, c.name)
            _chain(p, s.body)


def _accumulates(p: Plan, loop: For, inner: str, after: str) -> Dot | None:
    """The dot at the bottom of a nest of loops that does nothing but add to this carry."""
    if p.uses[inner] != 1 or p.uses[after] != 1:
        return None
    for s in loop.body:
        if isinstance(s, Dot) and s.name == after:
            return s if s.acc == inner else None
        if isinstance(s, For):
            for c in s.carries:
                if c.name == after:
                    return _accumulates(p, s, c.inner, c.next) if c.init == inner else None
    return None


def _mark(p: Plan, loop: For, inner: str, after: str, root: str) -> None:
    p.chains[inner] = root
    for s in loop.body:
        if isinstance(s, For):
            for c in s.carries:
                if c.name == after:
                    p.chains[c.name] = root
                    _mark(p, s, c.inner, c.next, root)
        elif isinstance(s, Dot) and s.name == after:
            p.chains[s.name] = root
    p.chains[root] = root


class _Demands:
    """Walks the program from its end, so that every use of a value has spoken before its definition is met."""

    def __init__(self, p: Plan, partitions: int, large: int) -> None:
        self.p, self.partitions, self.large = p, partitions, large
        self.fixed: dict[str, Layout] = {}  # values that are made in one layout only
        self.made = {s.name: s for s in walk(p.program.body) if not isinstance(s, For | Store)}
        self._fix(p.program.body)

    def run(self) -> None:
        self._block(self.p.program.body)

    def _free(self, name: str, part: Part) -> tuple[str, ...]:
        return tuple(a for a in self.p.wide(self.p.types[name].axes) if a not in part)

    def _home(self, name: str) -> Layout:
        return Layout(self.p.home, self._free(name, self.p.home))

    def _fix(self, body: tuple[Statement, ...]) -> None:
        p = self.p
        for s in body:
            match s:
                case For():
                    for c in s.carries:
                        self.fixed[c.inner] = self._home(c.inner)
                    self._fix(s.body)
                    for c in s.carries:
                        chained = p.chains.get(c.name)
                        layout = self.fixed.get(c.next) if chained or self._keeps(s, c.next) else None
                        self.fixed[c.inner] = self.fixed[c.name] = layout or self._home(c.name)
                case Dot():
                    _, batch, a, b = sides(p, s)
                    side = p.stationary[s.name]
                    if side == "vector":
                        self.fixed[s.name] = self._home(s.name)
                    else:
                        part, free = (a, b) if side == "a" else (b, a)
                        self.fixed[s.name] = Layout(part, (*batch, *free))
                case Reduce():
                    part = tuple(a for a in p.home if a not in s.axes)
                    layout = self.fixed[s.name] = Layout(part, self._free(s.name, part))
                    lying = self._free(s.arg, part)
                    pure = s.arg not in self.fixed and set(part) <= set(p.types[s.arg].axes)
                    if pure and len(layout.free) == 1 and layout.free[0] in lying and p.count(lying) > self.large:
                        p.staged[s.name] = layout.free[0]
                case Load() if any(i.gather for i in s.access.index):
                    part = self._gathered(s)
                    self.fixed[s.name] = Layout(part, self._free(s.name, part))
                case Elementwise() | Cast() | Mask():
                    if any(a in self.fixed for a in operands(s)):
                        self.fixed[s.name] = self._home(s.name)
                case _:
                    pass

    def _keeps(self, loop: For, name: str) -> bool:
        """A dot adds to this carry after it was scaled: the carry lies as the product does."""
        return any(isinstance(s, Dot) and s.name == name and self.p.stationary[s.name] != "vector" for s in loop.body)

    def _gathered(self, s: Load) -> Part:
        """Axes of the indices that fit across the partitions, innermost first."""
        axes = {a for i in s.access.index if i.gather for a in self.p.types[i.gather].axes}
        part: list[str] = []
        for axis in reversed(self.p.wide(self.p.program.ordered(axes))):
            if self.p.count(part) * self.p.lanes[axis] <= self.partitions:
                part.insert(0, axis)
        return tuple(part)

    def demand(self, name: str, part: Part, free: tuple[str, ...] | None = None, chunked: bool = False) -> None:
        """`name` is wanted with these axes across the partitions, within a piece of the first of them if `chunked`."""
        if chunked:
            self.p.chunked.add((name, part))
        elif self.p.count(part) > self.partitions:
            raise CannotEmit(
                f"{' x '.join(part)} is {self.p.count(part)} lanes; a tile has {self.partitions} partitions"
            )
        table = self.p.layouts.setdefault(name, {})
        fixed = self.fixed.get(name)
        if fixed is not None and not table:
            table[fixed.part] = fixed
        if part not in table:
            table[part] = Layout(part, self._free(name, part) if free is None else free)
            if fixed is not None:
                self.p.turned.add((name, part))

    def _block(self, body: tuple[Statement, ...]) -> None:
        p = self.p
        for s in reversed(body):
            match s:
                case Store(access=access, value=value):
                    axes = set(p.wide(steps(access)))
                    self.demand(value, tuple(a for a in p.home if a in axes and a in p.types[value].axes))
                    for i in access.index:
                        if i.gather:
                            raise CannotEmit("a store to gathered places: NKI's scatter is not emitted")
                case For():
                    for c in s.carries:
                        layout = self.fixed[c.inner]
                        self.demand(c.name, layout.part)
                        self.demand(c.inner, layout.part)
                        if c.inner not in p.chains:
                            self.demand(c.next, layout.part)
                        else:
                            self.demand(c.next, self.fixed[c.next].part)
                    self._block(s.body)
                    for c in s.carries:
                        if c.inner not in p.chains:
                            self.demand(c.init, self.fixed[c.inner].part)
                case Dot():
                    self._dot(s)
                case _ if s.name in p.layouts:
                    self._value(s)
                case _:
                    pass

    def _value(self, s: Value) -> None:
        p = self.p
        if isinstance(s, Elementwise) and (mask := self._mask(s)) is not None:
            p.masks[s.name] = mask
        for part in [k for k in p.layouts[s.name] if (s.name, k) not in p.turned]:
            piece = (s.name, part) in p.chunked
            if s.name in p.tables:
                self.demand(p.tables[s.name][1], part, chunked=piece)
            elif s.name in p.masks:
                self.demand(p.masks[s.name].tile, part, chunked=piece)
            elif s.name in p.staged:
                self.demand(operands(s)[0], (p.staged[s.name],), chunked=True)
            else:
                for a in operands(s):
                    self.demand(a, part, chunked=piece)

    def _mask(self, s: Elementwise) -> AffineMask | None:
        """select(x >= y, tile, number) where x and y count coordinates, and partitions count along one axis at most."""
        if s.op != "select" or s.type.dtype != "float32":
            return None
        condition, yes, no = (self.made.get(a) for a in s.args)
        if not isinstance(condition, Elementwise) or condition.op not in OPPOSITE:
            return None
        forms = [_coordinates(self.made.get(a)) for a in condition.args]
        if forms[0] is None or forms[1] is None or not (forms[0] - forms[1]).terms:
            return None
        if isinstance(no, Full) and not isinstance(yes, Full):
            op, tile, value = condition.op, s.args[1], float(no.value)
        elif isinstance(yes, Full) and not isinstance(no, Full):
            op, tile, value = OPPOSITE[condition.op], s.args[2], float(yes.value)
        else:
            return None
        form = forms[0] - forms[1]
        uneven = any(len(part) > 1 and any(form.coefficient(a) for a in part) for part in self.p.layouts[s.name])
        whole = set(self.p.wide(self.p.types[tile].axes)) == set(self.p.wide(s.type.axes))
        return None if uneven or not whole else AffineMask(form, op, tile, value)

    def _dot(self, s: Dot) -> None:
        p = self.p
        p.layouts.setdefault(s.name, {})
        if not p.layouts[s.name]:
            p.layouts[s.name][self.fixed[s.name].part] = self.fixed[s.name]
        _, batch, a, b = sides(p, s)
        if p.stationary[s.name] == "vector":
            for operand in (s.a, s.b, s.acc):
                if operand is not None:
                    self.demand(operand, p.home)
            return
        part = summed_order(p, s)
        self.demand(s.a, part, (*batch, *a))
        self.demand(s.b, part, (*batch, *b))
        if s.acc is not None and s.acc not in p.chains:
            self.demand(s.acc, self.fixed[s.name].part)
