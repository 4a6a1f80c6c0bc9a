"""Plans the layout of every value of a kernel: products, sums and carries first, then demands from the end backward."""

from __future__ import annotations

from collections.abc import Mapping

from porter.targets.trainium.home import Chooser
from porter.targets.trainium.layout import (
    AffineMask,
    Layout,
    Part,
    Plan,
    blank,
    blocks_of,
    lying,
    sides,
    steps,
    summed_order,
)
from porter.tile.affine import Affine
from porter.tile.program import (
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
    Value,
    operands,
    walk,
)
from porter.tile.target import CannotEmit


def plan(
    program: Program,
    partitions: int,
    home: Part | None = None,
    tables: Mapping[str, tuple[str, str]] | None = None,
    large: int = 1 << 30,
    within: Mapping[str, str] | None = None,
) -> Plan:
    """The layout of every value. `large`: more elements of a partition than an operand of a reduction should take.
    `within`: see Plan.

    Raises CannotEmit where no choice of axes fits the partitions.
    """
    made = blank(program)
    made.tables, made.within = dict(tables or {}), dict(within or {})
    chooser = Chooser(made, partitions)
    made.home = chooser.ranked()[0] if home is None else home
    for dot in chooser.dots:
        made.stationary[dot.name] = chooser.side(dot, made.home)
    _chain(made, program.body)
    _Demands(made, partitions, large).run()
    return made


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
        self.demand(s.a, part, lying(p, s, s.a, batch, a))
        self.demand(s.b, part, lying(p, s, s.b, batch, b))
        for scale, side in zip(s.scales, (a, b), strict=False):
            self.demand(scale, blocks_of(p, s), (*batch, *side))
        if s.acc is not None and s.acc not in p.chains:
            self.demand(s.acc, self.fixed[s.name].part)
