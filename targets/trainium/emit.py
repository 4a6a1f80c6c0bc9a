"""Emits NKI: one function for a tile of the grid, with explicit destinations, and the kernel that loops over the grid.

Loops are static and unrolled by NKI; a tile at an edge has its exact size, so the masks of the tile program vanish.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from porter.errors import CheckFailed
from porter.targets.trainium import casts, module, products, reductions, tables, transfer
from porter.targets.trainium.bufferize import check_capacity
from porter.targets.trainium.demands import plan
from porter.targets.trainium.depth import Deep, deepened
from porter.targets.trainium.expand import expand
from porter.targets.trainium.home import homes
from porter.targets.trainium.instructions import ALU, DTYPES, TABLE
from porter.targets.trainium.layout import Layout, Part, Plan
from porter.targets.trainium.retile import smaller
from porter.targets.trainium.rows import rows
from porter.targets.trainium.select import Selector
from porter.targets.trainium.simulator.memory import Chip
from porter.targets.trainium.steps import ARITHMETIC, Argument, Pending, Step
from porter.targets.trainium.writer import Place, Writer, steps_of
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
    Scalar,
    Statement,
    Store,
    Value,
    operands,
    types,
    walk,
)
from porter.tile.target import CannotEmit
from porter.tile.text import show

TRIED = 6  # homes, before a kernel is given up


def emit(program: Program, chip: Chip) -> Emitter:
    """The text of a kernel for one chip: in the first home whose tiles fit, with smaller tiles where none does.

    `source` of the result is the program with the tiles that were taken. Raises CannotEmit with the reason, or
    CheckFailed where a memory is exceeded whatever is tried.
    """
    for dtype in sorted({p.dtype for p in program.params} | {t.dtype for t in types(program).values()}):
        if dtype not in DTYPES:
            raise CannotEmit(f"{dtype} is no element type of NKI")
    first: CannotEmit | CheckFailed | None = None
    for tiled in (program, *smaller(program, chip.partitions)):
        deep = deepened(tiled, chip)
        ready = replace(deep, program=rows(expand(deep.program)))
        for home in homes(ready.program, chip.partitions)[:TRIED]:
            try:
                emitter = Emitter(tiled, ready, chip, home)
                emitter.write()
                return emitter
            except (CannotEmit, CheckFailed) as e:
                first = first or e
    assert first is not None
    raise first


class Emitter:
    """The text of one kernel for one chip in one home; `text`, `memory` and `products` are known after `write`.

    source: the program as it came; program: the same in terms of what the engines have.
    """

    def __init__(self, source: Program, deep: Deep, chip: Chip, home: Part | None = None) -> None:
        self.source, self.program, self.chip = source, deep.program, chip
        self.plan: Plan = plan(
            self.program, chip.partitions, home, tables.find(source), chip.sbuf_bytes // 16, deep.within
        )
        self.w = Writer(self.program, chip.bank_bytes)
        self.select = Selector(self.w, chip.generation)
        self.places: dict[str, dict[Part, Place]] = {}
        self.scalars: dict[str, Scalar] = {}
        self.pending: dict[str, Pending] = {}
        self.roots: dict[str, Place] = {}  # psum tiles that loops sum into
        self.loops: list[tuple[str, str]] = []  # variable and axis of the loops around us
        self.depth: dict[str, int] = {}  # how many loops were open where a psum tile was made
        self.products: set[str] = set()
        self.memory: dict[str, int] = {}
        self.text = ""
        self.readers: dict[str, list[Statement]] = {}
        self.definitions: dict[str, Value] = {}
        self.late: list[list[tuple[str, Part]]] = []  # per open loop: what was made in it for it alone
        for s in walk(self.program.body):
            if not isinstance(s, For | Store):
                self.definitions[s.name] = s
            for name in operands(s):
                self.readers.setdefault(name, []).append(s)

        self.sums = reductions.on_the_way(self)

    def write(self) -> None:
        """The module. Raises CannotEmit, or CheckFailed where a memory is exceeded."""
        self._block(self.program.body)
        where = f"kernel {self.source.name} on {self.chip.name}"
        limits = {"sbuf": self.chip.sbuf_bytes, "psum": self.chip.psum_bytes}
        self.memory = check_capacity(self.w.trace, limits, where, "bytes of a partition")
        self.text = module.text(self.source, self.plan.home, self.w.lines)

    # values

    def put(self, name: str, place: Place) -> None:
        self.places.setdefault(name, {})[place.layout.part] = place

    def place(self, name: str, part: Part) -> Place:
        """The value in a layout with these axes across the partitions; a constant becomes a tile."""
        found = self.places.get(name, {})
        if part in found:
            return found[part]
        if name in self.scalars:
            t = self.plan.types[name]
            made = self.select.copy(name, Layout(part, ()), t.dtype, self.scalars[name])
            return made
        # Wanted across an axis of a loop that was not open where the value was met: made here, for this loop only.
        if (name, part) in self.plan.turned:
            self._turn(name, part)
        else:
            self._make(self.definitions[name], self.plan.layouts[name][part])
        if self.late:
            self.late[-1].append((name, part))
        return self.places[name][part]

    def ready(self, name: str, part: Part) -> bool:
        """Whether every loop that walks one of these axes is open."""
        opened = {axis for _, axis in self.loops}
        return all(self.w.axes[a].role != "loop" or a in opened for a in part) and (name, part) not in self.plan.chunked

    @contextmanager
    def looping(self, variable: str, axis: str) -> Iterator[None]:
        """The body of a loop over an axis: what is made in it for it alone is forgotten after it."""
        self.loops.append((variable, axis))
        self.late.append([])
        outer, self.select.negatives = self.select.negatives, dict(self.select.negatives)
        yield
        self.select.negatives = outer
        self.loops.pop()
        for name, part in self.late.pop():
            self.places[name].pop(part, None)

    def argument(self, name: str, part: Part) -> Argument:
        if name in self.scalars:
            return self.scalars[name]
        return self.pending.pop(name) if name in self.pending else self.place(name, part)

    def _turns(self, name: str) -> None:
        """The other layouts that are wanted of a value that was made in one."""
        for part in self.plan.layouts.get(name, {}):
            if (name, part) in self.plan.turned and self.ready(name, part):
                self._turn(name, part)

    def _turn(self, name: str, part: Part) -> None:
        if not self.places.get(name):
            raise CannotEmit(f"{name} lies across the axis of a loop that is not open there")
        made = next(iter(self.places[name].values()))
        self.places[name][part] = transfer.turn(
            self.w, self.plan, made, self.plan.layouts[name][part], made.buffer.name
        )

    # statements

    def _block(self, body: tuple[Statement, ...]) -> None:
        for s in body:
            if isinstance(s, Store):
                self._say(s)
                access = set(self.plan.wide(transfer.steps(s.access)))
                part = tuple(a for a in self.plan.home if a in access and a in self.plan.types[s.value].axes)
                transfer.store(self.w, self.plan, s, self.place(s.value, part))
            elif isinstance(s, For):
                self._loop(s)
            elif s.name in self.plan.layouts or isinstance(s, Full):
                self._value(s)

    def _say(self, s: Statement) -> None:
        self.w.comment(show(Program("k", (), (), (s,))).splitlines()[1].strip())

    def _value(self, s: Value) -> None:
        if isinstance(s, Full):
            self.scalars[s.name] = s.value
            return
        if isinstance(s, Cast) and s.arg in self.scalars:
            value = np.asarray(self.scalars[s.arg]).astype(np.dtype(self.plan.types[s.arg].dtype))
            value = value.view(np.dtype(s.type.dtype)) if s.bits else value.astype(np.dtype(s.type.dtype))
            self.scalars[s.name] = (
                bool(value)
                if s.type.dtype == "bool"
                else value.astype(np.float64).item()
                if value.dtype.kind not in "iu"
                else int(value)
            )
            return
        self._say(s)
        for part, layout in self.plan.layouts[s.name].items():
            if (s.name, part) not in self.plan.turned and self.ready(s.name, part):
                self._make(s, layout)
        self._turns(s.name)

    def _make(self, s: Value, layout: Layout) -> None:
        """The value in a layout of its own making."""
        if s.name in self.sums:
            total = self.sums[s.name]
            self.select.totals[s.name] = self.w.buffer(total, Layout(layout.part, ()), "float32")
            self.put(total, self.select.totals[s.name])
        if s.name in self.plan.tables:
            function, source = self.plan.tables[s.name]
            self.w.comment(f"that is {function} of {source}")
            data = self.argument(source, layout.part)
            self.put(s.name, self.select.activation(function, s.name, layout, s.type.dtype, data))
            return
        match s:
            case Load():
                gathers = [i.gather for i in s.access.index if i.gather]
                index = self.place(gathers[0], layout.part) if gathers else None
                self.put(s.name, transfer.load(self.w, self.plan, s, layout, index))
            case Iota():
                self.put(s.name, self._iota(s, layout))
            case Mask(arg=arg):
                self.put(s.name, self.place(arg, layout.part))  # tiles have their exact size
            case Cast():
                self.put(s.name, casts.cast(self, s, layout))
            case Elementwise():
                self._elementwise(s, layout)
            case Reduce():
                self.put(s.name, reductions.reduce(self, s, layout))
            case Dot():
                products.dot(self, s, layout)
            case _:
                raise AssertionError(s)

    def _iota(self, s: Iota, layout: Layout) -> Place:
        """One iota where the partitions step evenly; else made on one partition and spread."""
        w = self.w
        k = {a: s.affine.coefficient(a) for a in (*layout.part, *layout.free)}
        steps = [k[a] for a in layout.part]
        inner = [w.size(layout.part[i + 1 :]) for i in range(len(layout.part))]
        even = all(not n.symbols and steps[i] == steps[-1] * n.number for i, n in enumerate(inner))
        if layout.part and not even:
            flat = Layout((), (*(a for a in layout.part if k[a]), *layout.free))
            return transfer._through_memory(w, self._iota(s, flat), layout, s.name)
        made = w.buffer(s.name, layout, s.type.dtype)
        pairs = [f"[{k[a]}, {w.lanes(a)}]" for a in layout.free] or ["[0, 1]"]
        if len(pairs) > 4:
            raise CannotEmit(f"iota over {len(pairs)} free axes; a pattern has 4")
        arguments: dict[str, object] = dict(dst=made.view, pattern=f"[{', '.join(pairs)}]", offset=w.affine(s.affine))
        if steps and steps[-1]:
            arguments["channel_multiplier"] = steps[-1]
        w.call("iota", **arguments)
        return made

    def _masked(self, s: Elementwise, layout: Layout) -> Place:
        """affine_select: the GpSimd engine counts coordinates itself."""
        w, mask = self.w, self.plan.masks[s.name]
        tile = self.argument(mask.tile, layout.part)
        tile = self.select.settle(tile, layout, s.name) if isinstance(tile, Pending) else tile
        assert isinstance(tile, Place)
        tile = w.ordered(w.evicted(tile), layout.free)
        made = w.buffer(s.name, layout, s.type.dtype)
        pairs = [f"[{mask.form.coefficient(a)}, {w.lanes(a)}]" for a in layout.free] or ["[0, 1]"]
        step = mask.form.coefficient(layout.part[0]) if len(layout.part) == 1 else 0
        w.call(
            "affine_select",
            dst=made.view,
            pattern=f"[{', '.join(pairs)}]",
            channel_multiplier=step,
            on_true_tile=tile.view,
            on_false_value=mask.value,
            cmp_op=f"nl.{ALU[mask.op]}",
            offset=w.affine(mask.form),
        )
        return made

    def _elementwise(self, s: Elementwise, layout: Layout) -> None:
        if s.name in self.plan.masks:
            self.put(s.name, self._masked(s, layout))
            return
        args = [self.argument(a, layout.part) for a in s.args]
        step = self._waits(s, args, layout)
        if step is not None:
            self.pending[s.name] = step
            return
        if all(not isinstance(a, Place | Pending) for a in args):
            args = [self.place(s.args[0], layout.part), *args[1:]]
        self.put(s.name, self.select.emit(s.op, s.name, layout, s.type.dtype, args))

    def _waits(self, s: Elementwise, args: list[Argument], layout: Layout) -> Pending | None:
        """The step this operation is, where its only reader takes it along."""
        readers = self.readers.get(s.name, [])
        if s.op not in ARITHMETIC or s.type.dtype != "float32" or len(self.plan.layouts[s.name]) != 1:
            return None
        if self.plan.uses[s.name] != 1 or len(readers) != 1 or not isinstance(readers[0], Elementwise):
            return None
        reader = readers[0]
        if reader.op not in TABLE and reader.op not in ARITHMETIC and reader.op != "rsqrt":
            return None
        if set(self.plan.layouts.get(reader.name, ())) != {layout.part} or reader.type.dtype != "float32":
            return None
        if set(self.plan.wide(reader.type.axes)) != set(self.plan.wide(s.type.axes)):
            return None
        tiles = [
            i
            for i, a in enumerate(args)
            if isinstance(a, Pending) or (isinstance(a, Place) and (a.layout.free or not layout.free))
        ]
        if not tiles or len(args) != 2:
            return None
        data, other = args[tiles[0]], args[1 - tiles[0]]
        if isinstance(other, Pending) or (isinstance(other, Place) and (other.layout.free or other.dtype != "float32")):
            return None
        assert isinstance(data, Place | Pending)
        before = data if isinstance(data, Pending) else Pending(data)
        if set(before.data.layout.free) != set(layout.free) or before.data.dtype != "float32":
            return None
        step = Step(s.op, other, tiles[0] == 1 and s.op == "sub")
        if not self.select.takes("exp" if reader.op in TABLE else "add", before, step, ()):
            return None
        if reader.op == "rsqrt" and (before.steps or step.flip):
            return None
        return Pending(before.data, (*before.steps, step))

    # loops

    def _loop(self, s: For) -> None:
        w, p = self.w, self.plan
        axis = w.axes[s.axis]
        held: list[tuple[Carry, Place]] = []
        for c in s.carries:
            if c.inner in p.chains:
                root = p.chains[c.inner]
                if root not in self.roots:
                    self.roots[root] = products.sum_of(self, root, p.natural(c.inner), self._adding(root))
                    self.depth[root] = len(self.loops)
                self.put(c.inner, self.roots[root])
                continue
            layout = p.natural(c.inner)
            place = w.buffer(c.inner, layout, c.type.dtype)
            start = self.scalars[c.init] if c.init in self.scalars else self.place(c.init, layout.part)
            self.select.fill(place, start)
            self.put(c.inner, place)
            held.append((c, place))
        variable = f"{s.axis}_at"
        with ExitStack() as stack:
            stack.enter_context(w.block(f"for {variable} in {steps_of(axis)}:", repeats=True))
            if axis.ragged and axis.tile < axis.extent:
                w.line(f"{s.axis}_n = min({axis.tile}, {axis.extent} - {variable})")
            stack.enter_context(self.looping(variable, s.axis))
            for c in s.carries:
                self._turns(c.inner)
            self._block(s.body)
            self._carry_on(held)
        for c in s.carries:
            if c.inner in p.chains:
                root = p.chains[c.inner]
                place = self.roots[root]
                self.put(c.name, products.settled(self, c.name, c.type.dtype, place) if c.name == root else place)
            else:
                self.put(c.name, next(place for other, place in held if other is c))
            self._turns(c.name)

    def _adding(self, root: str) -> Dot:
        """The product that sums into a psum tile."""
        found = (s for s in self.definitions.values() if isinstance(s, Dot))
        return next(s for s in found if self.plan.chains.get(s.name) == root)

    def _carry_on(self, held: list[tuple[Carry, Place]]) -> None:
        """The carried tiles take their next values; one that would be overwritten before it is read goes by a copy."""
        moves: list[tuple[Place, Place | Scalar]] = []
        buffers = {place.buffer for _, place in held}
        for c, place in held:
            after: Place | Scalar = (
                self.scalars[c.next] if c.next in self.scalars else self.place(c.next, place.layout.part)
            )
            if isinstance(after, Place) and after.buffer is place.buffer:
                continue
            if isinstance(after, Place) and after.buffer in buffers:
                after = self.select.copy(f"{after.buffer.name}_kept", after.layout, after.dtype, after)
            moves.append((place, after))
        for place, after in moves:
            self.select.fill(place, after)
