"""Emits NKI: one function for a tile of the grid, with explicit destinations, and the kernel that loops over the grid.

Loops are static and unrolled by NKI; a tile at an edge has its exact size, so the masks of the tile program vanish.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from porter.errors import CheckFailed

from porter.targets.trainium import transfer
from porter.targets.trainium.expand import expand
from porter.targets.trainium.instructions import ALU, DTYPES, REDUCE, TABLE
from porter.targets.trainium.layout import Layout, Part, Plan, homes, plan, sides, summed_order
from porter.targets.trainium.retile import smaller
from porter.targets.trainium.rows import rows
from porter.targets.trainium.select import ARITHMETIC, Argument, Pending, Selector, Step
from porter.targets.trainium.writer import Place, View, Writer, steps_of
from porter.targets.trainium.bufferize import check_capacity
from porter.tile.program import (
    Cast, Dot, Elementwise, For, Full, Iota, Load, Mask, Program, Reduce, Scalar, Statement, Store, Value, operands, walk,
)  # fmt: skip
from porter.tile.target import CannotEmit
from porter.tile.text import _block as _show
from porter.targets.trainium.simulator.memory import Chip


TRIED = 6  # homes, before a kernel is given up


def emit(program: Program, chip: Chip) -> Emitter:
    """The text of a kernel for one chip: in the first home whose tiles fit its memories, with smaller tiles where none does.

    `source` of the result is the program with the tiles that were taken. Raises CannotEmit with the reason, or CheckFailed
    where a memory is exceeded whatever is tried.
    """
    first: CannotEmit | CheckFailed | None = None
    for tiled in (program, *smaller(program, chip.partitions)):
        ready = rows(expand(tiled))
        for home in homes(ready, chip.partitions)[:TRIED]:
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

    def __init__(self, source: Program, program: Program, chip: Chip, home: Part | None = None) -> None:
        self.source, self.program, self.chip = source, program, chip
        self.plan: Plan = plan(program, chip.partitions, home)
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

    def write(self) -> None:
        """The module. Raises CannotEmit, or CheckFailed where a memory is exceeded."""
        self._block(self.program.body)
        where = f"kernel {self.source.name} on {self.chip.name}"
        limits = {"sbuf": self.chip.sbuf_bytes, "psum": self.chip.psum_bytes}
        self.memory = check_capacity(self.w.trace, limits, where, "bytes of a partition")
        self.text = "\n".join([*self._head(), *self.w.lines, *self._kernel(), ""])

    # around the tile

    def _head(self) -> list[str]:
        p = self.source
        arguments = [x.name for x in (*p.inputs, *p.outputs)] + [f"{a.name}_at" for a in p.grid]
        lines = [f'"""{p.name}: {p.note}' if p.note else f'"""{p.name}', ""]
        for x in p.params:
            stored = "" if DTYPES.get(x.dtype) == x.dtype else f", held as {DTYPES.get(x.dtype)}"
            lines.append(f"{'out' if x.out else 'in '} {x.name}: {x.dtype}{list(x.shape)}{stored}")
        for a in p.axes:
            lines.append(f"axis {a.name}: {a.extent}, {a.tile} at a time, {a.role}")
        home = " x ".join(self.plan.home) or "none"
        lines += [f"across the partitions: {home}", '"""', "", "import nki", "import nki.isa as nisa",
                  "import nki.language as nl", "", ""]  # fmt: skip
        lines.append(f"def {p.name}_tile({', '.join(arguments)}):")
        axes = [f"{a.name} from {a.name}_at" for a in p.grid]
        lines.append(f'    """One tile of the grid{": " + ", ".join(axes) if axes else ""}."""')
        for a in p.grid:
            if a.ragged and a.tile < a.extent:
                lines.append(f"    {a.name}_n = min({a.tile}, {a.extent} - {a.name}_at)")
        return lines

    def _kernel(self) -> list[str]:
        p = self.source
        lines = ["", "", "@nki.jit", f"def {p.name}({', '.join(x.name for x in p.inputs)}):"]
        for x in p.outputs:
            shape = f"({', '.join(map(str, x.shape or (1,)))}{',' if len(x.shape or (1,)) == 1 else ''})"
            lines.append(f"    {x.name} = nl.ndarray({shape}, dtype=nl.{DTYPES[x.dtype]}, buffer=nl.shared_hbm)")
        indent = "    "
        for a in p.grid:
            lines.append(f"{indent}for {a.name}_at in {steps_of(a)}:")
            indent += "    "
        arguments = [x.name for x in (*p.inputs, *p.outputs)] + [f"{a.name}_at" for a in p.grid]
        lines.append(f"{indent}{p.name}_tile({', '.join(arguments)})")
        lines.append(f"    return {', '.join(x.name for x in p.outputs)}")
        return lines

    # values

    def _put(self, name: str, place: Place) -> None:
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
        # Wanted across an axis of a loop that was not open where the value was met: it is made here, for this loop only.
        if (name, part) in self.plan.turned:
            self._turn(name, part)
        else:
            self._make(self.definitions[name], self.plan.layouts[name][part])
        if self.late:
            self.late[-1].append((name, part))
        return self.places[name][part]

    def _ready(self, part: Part) -> bool:
        """Whether every loop that walks one of these axes is open."""
        return all(self.w.axes[a].role != "loop" or any(a == axis for _, axis in self.loops) for a in part)

    def argument(self, name: str, part: Part) -> Argument:
        if name in self.scalars:
            return self.scalars[name]
        return self.pending.pop(name) if name in self.pending else self.place(name, part)

    def _turns(self, name: str) -> None:
        """The other layouts that are wanted of a value that was made in one."""
        for part in self.plan.layouts.get(name, {}):
            if (name, part) in self.plan.turned and self._ready(part):
                self._turn(name, part)

    def _turn(self, name: str, part: Part) -> None:
        made = next(iter(self.places[name].values()))
        self.places[name][part] = transfer.turn(self.w, self.plan, made, self.plan.layouts[name][part], made.buffer.name)

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
        self.w.comment(next(iter(_show((s,), ""))))

    def _value(self, s: Value) -> None:
        if isinstance(s, Full):
            self.scalars[s.name] = s.value
            return
        if isinstance(s, Cast) and s.arg in self.scalars:
            value = np.asarray(self.scalars[s.arg]).astype(np.dtype(s.type.dtype))
            self.scalars[s.name] = bool(value) if s.type.dtype == "bool" else value.astype(np.float64).item() \
                if value.dtype.kind not in "iu" else int(value)  # fmt: skip
            return
        self._say(s)
        for part, layout in self.plan.layouts[s.name].items():
            if (s.name, part) not in self.plan.turned and self._ready(part):
                self._make(s, layout)
        self._turns(s.name)

    def _make(self, s: Value, layout: Layout) -> None:
        """The value in a layout of its own making."""
        match s:
            case Load():
                gathers = [i.gather for i in s.access.index if i.gather]
                index = self.place(gathers[0], layout.part) if gathers else None
                self._put(s.name, transfer.load(self.w, self.plan, s, layout, index))
            case Iota():
                self._put(s.name, self._iota(s, layout))
            case Mask(arg=arg):
                self._put(s.name, self.place(arg, layout.part))  # tiles have their exact size
            case Cast():
                self._cast(s, layout)
            case Elementwise():
                self._elementwise(s, layout)
            case Reduce():
                self._put(s.name, self._reduce(s, layout))
            case Dot():
                self._dot(s, layout)
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

    def _cast(self, s: Cast, layout: Layout) -> None:
        w, old, new = self.w, self.plan.types[s.arg].dtype, s.type.dtype
        arg = self.place(s.arg, layout.part)
        floats = np.dtype(old).kind not in "biu"
        if DTYPES.get(old) == DTYPES.get(new) and "bool" not in (old, new):
            self._put(s.name, arg)
        elif new == "bool":
            self._put(s.name, self.select.emit("ne", s.name, layout, new, [arg, 0.0 if floats else 0]))
        elif floats and np.dtype(new).kind in "iu":
            whole = self.select._language("trunc", f"{s.name}_whole", Layout(layout.part, arg.layout.free), "float32", arg)
            self._put(s.name, self.select.copy(s.name, layout, new, whole))
        else:
            self._put(s.name, self.select.copy(s.name, Layout(layout.part, arg.layout.free), new, arg))

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
        w.call("affine_select", dst=made.view, pattern=f"[{', '.join(pairs)}]", channel_multiplier=step, on_true_tile=tile.view,
               on_false_value=mask.value, cmp_op=f"nl.{ALU[mask.op]}", offset=w.affine(mask.form))  # fmt: skip
        return made

    def _elementwise(self, s: Elementwise, layout: Layout) -> None:
        if s.name in self.plan.masks:
            self._put(s.name, self._masked(s, layout))
            return
        args = [self.argument(a, layout.part) for a in s.args]
        step = self._waits(s, args, layout)
        if step is not None:
            self.pending[s.name] = step
            return
        if all(not isinstance(a, Place | Pending) for a in args):
            args = [self.place(s.args[0], layout.part), *args[1:]]
        self._put(s.name, self.select.emit(s.op, s.name, layout, s.type.dtype, args))

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
        tiles = [i for i, a in enumerate(args) if isinstance(a, Pending) or (
            isinstance(a, Place) and (a.layout.free or not layout.free))]  # fmt: skip
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

    def _reduce(self, s: Reduce, layout: Layout) -> Place:
        w, p = self.w, self.plan
        arg = self.place(s.arg, layout.part)
        summed = p.wide(p.program.ordered(set(s.axes)))
        if not summed:
            return arg
        dtype = s.type.dtype
        groups = w.groups((*layout.free, *summed), [arg])
        kept = [g for g in groups if g[0] not in summed]
        if any(set(g) & set(summed) and set(g) & set(layout.free) for g in groups):
            groups = tuple((a,) for a in (*layout.free, *summed))
            kept = [(a,) for a in layout.free]
        if DTYPES[dtype] in ("int32", "uint32"):
            return self._reduce_integers(s, layout, arg, summed)
        made = w.buffer(s.name, layout, dtype)
        op = REDUCE[s.op] if dtype == "bool" or s.op not in ("and", "or") else f"bitwise_{s.op}"
        axes = tuple(range(1 + len(kept), 1 + len(groups)))
        w.call("tensor_reduce", dst=made.view, op=f"nl.{op}", data=w.view(arg, groups),
               axis=axes if len(axes) > 1 else axes[0])  # fmt: skip
        return made

    def _reduce_integers(self, s: Reduce, layout: Layout, arg: Place, summed: tuple[str, ...]) -> Place:
        """Halves added to halves: tensor_reduce would sum 32-bit integers in float32."""
        w = self.w
        op = {"and": "bitwise_and", "or": "bitwise_or"}.get(s.op, REDUCE[s.op])
        work = self.select.copy(f"{s.name}_work", Layout(layout.part, (*summed, *layout.free)), s.type.dtype, arg)
        row, left = w.size(layout.free), f"{work.buffer.name}_n"
        w.line(f"{left} = {w.size(summed)}")
        with w.block(f"while {left} > 1:", repeats=True):
            half = f"({left} // 2)"
            low = View(f"{work.buffer.name}[:, 0:{half} * {row}]", (work.buffer,))
            high = View(f"{work.buffer.name}[:, ({left} - {half}) * {row}:{left} * {row}]", (work.buffer,))
            w.call("tensor_tensor", dst=low, data1=low, data2=high, op=f"nl.{op}")
            w.line(f"{left} = {left} - {half}")
        made = w.buffer(s.name, layout, s.type.dtype)
        w.call("tensor_copy", dst=made.view, src=View(f"{work.buffer.name}[:, 0:{row}]", (work.buffer,)))
        return made

    # products

    def _dot(self, s: Dot, layout: Layout) -> None:
        if self.plan.stationary[s.name] == "vector":
            self._put(s.name, self._vector_dot(s, layout))
            return
        w, p = self.w, self.plan
        summed, batch, a_axes, b_axes = sides(p, s)
        part = summed_order(p, s)
        a = self._operand(s, s.a, part, (*batch, *a_axes))
        b = self._operand(s, s.b, part, (*batch, *b_axes))
        a, b = self._same_type(a, b)
        still, moving = (a, b) if p.stationary[s.name] == "a" else (b, a)
        self.products.add("fp32" if a.dtype == "float32" else a.dtype)
        root = p.chains.get(s.name)
        if root is not None:
            target = self.roots[root]
            since = self.loops[self.depth[root] :]
            flag = " + ".join(v for v, _ in since)
            self._matmul(target, still, moving, layout, accumulate=f"{flag} > 0")
            self._put(s.name, target)
            return
        if batch:
            place = self._batched(s, layout, still, moving, batch)
        else:
            place = w.buffer(s.name, layout, "float32", "psum")
            self._matmul(place, still, moving, layout, accumulate="False")
        if s.acc is not None:
            total = w.buffer(s.name, layout, s.type.dtype)
            acc = self.place(s.acc, layout.part)
            groups = w.groups(layout.free, [place, acc])
            acc = w.evicted(acc) if place.psum else acc
            w.call("tensor_tensor", dst=w.view(total, groups), data1=w.view(place, groups), data2=w.view(acc, groups),
                   op="nl.add")  # fmt: skip
            place = total
        self._put(s.name, self._settled(s.name, s.type.dtype, place))

    def _operand(self, s: Dot, name: str, part: Part, free: tuple[str, ...]) -> Place:
        found = self.w.evicted(self.place(name, part))
        if name in self.scalars:  # a constant: every lane of its axes
            found = self.select.copy(f"{name}_tile", Layout(part, free), found.dtype, self.scalars[name])
        missing = [a for a in free if a not in found.layout.free]
        if missing:
            found = self.select.copy(f"{name}_tile", Layout(part, free), found.dtype, found)
        return self.w.ordered(found, free)

    def _same_type(self, a: Place, b: Place) -> tuple[Place, Place]:
        """Operands as the Tensor engine takes them: float32 on both sides or on neither, small integers as bfloat16."""

        def to(x: Place, dtype: str) -> Place:
            return x if x.dtype == dtype else self.select.copy(f"{x.buffer.name}_{dtype}", x.layout, dtype, x)

        def kind(x: Place) -> str:
            if np.dtype(x.dtype).kind not in "biu":
                return x.dtype
            if np.dtype(x.dtype).itemsize > 1:
                raise CannotEmit(f"a product of {x.dtype}: the Tensor engine takes floats, and integers of 8 bits as bfloat16")
            return "bfloat16"

        a, b = to(a, kind(a)), to(b, kind(b))
        if "float32" in (a.dtype, b.dtype):
            return to(a, "float32"), to(b, "float32")
        return a, b

    def _matmul(self, dst: Place, still: Place, moving: Place, layout: Layout, accumulate: str,
                slabs: tuple[str, str, str] = ("", "", "")) -> None:  # fmt: skip
        """nc_matmul, in pieces of one psum bank."""
        w = self.w
        width = w.size(moving.layout.free) if not slabs[2] else w.size(layout.free)
        stationary = View(f"{still.text}{slabs[0]}", (still.buffer,))
        if width.most <= self.chip.bank_bytes // 4:
            right = View(f"{moving.text}{slabs[1]}", (moving.buffer,))
            w.call("nc_matmul", dst=View(f"{dst.text}", (dst.buffer,)), stationary=stationary, moving=right,
                   accumulate=accumulate)  # fmt: skip
            return
        step = self.chip.bank_bytes // 4
        at = w.name("column")
        with w.block(f"for {at} in range(0, {width}, {step}):", repeats=True):
            span = f"[:, {at}:min({at} + {step}, {width})]"
            w.call("nc_matmul", dst=View(f"{dst.text}{span}", (dst.buffer,)), stationary=stationary,
                   moving=View(f"{moving.text}{slabs[1]}{span}", (moving.buffer,)), accumulate=accumulate)  # fmt: skip

    def _batched(self, s: Dot, layout: Layout, still: Place, moving: Place, batch: tuple[str, ...]) -> Place:
        """One product per lane of the batch axes."""
        w = self.w
        made = w.buffer(s.name, layout, "float32")
        rest = tuple(a for a in layout.free if a not in batch)

        def slab(place: Place) -> str:
            row = w.size(a for a in place.layout.free if a not in batch)
            at = " + ".join(transfer._times(f"{a}_i", w.size(batch[i + 1 :])) for i, a in enumerate(batch))
            return f"[:, ({at}) * ({row}):({at} + 1) * ({row})]"

        with w.lane_loops(batch):
            piece = w.buffer(f"{s.name}_one", Layout(layout.part, rest), "float32", "psum")
            self._matmul(piece, still, moving, Layout(layout.part, rest), "False", (slab(still), slab(moving), "batch"))
            w.call("tensor_copy", dst=View(f"{made.text}{slab(made)}", (made.buffer,)), src=piece.view)
        return made

    def _settled(self, name: str, dtype: str, place: Place) -> Place:
        """Out of PSUM at once, unless the one thing that reads it can read it there."""
        readers = self.readers.get(name, [])
        direct = len(readers) == 1 == self.plan.uses[name] and isinstance(readers[0], Elementwise)
        direct = direct and readers[0].op in (*ARITHMETIC, *TABLE) and not any(
            (name, part) in self.plan.turned for part in self.plan.layouts[name])  # fmt: skip
        if not place.psum or (direct and dtype == "float32"):
            return place
        return self.select.copy(f"{place.buffer.name}_sb", place.layout, dtype, place)

    def _vector_dot(self, s: Dot, layout: Layout) -> Place:
        """Products without a summed axis to lay across partitions (depthwise windows): multiply, sum, add."""
        w, p = self.w, self.plan
        summed = p.wide(p.program.ordered(set(s.axes)))
        a, b = self.place(s.a, layout.part), self.place(s.b, layout.part)
        acc = self.place(s.acc, layout.part) if s.acc is not None else None
        self.products.add("vector")
        if not summed:
            return self._multiply_add(s, layout, a, b, acc)
        wide = Layout(layout.part, (*layout.free, *summed))
        product = self.select.emit("mul", f"{s.name}_products", wide, "float32", [a, b])
        groups = tuple(w.groups((*layout.free, *summed), [product]))
        groups = tuple(g for g in (layout.free, summed) if g) if len(groups) == 1 else groups
        made = w.buffer(f"{s.name}_sum" if acc is not None else s.name, layout, s.type.dtype)
        w.call("tensor_reduce", dst=made.view, op="nl.add", data=w.view(product, groups), axis=len(groups))
        return made if acc is None else self.select.emit("add", s.name, layout, s.type.dtype, [made, acc])

    def _multiply_add(self, s: Dot, layout: Layout, a: Place, b: Place, acc: Place | None) -> Place:
        w = self.w
        if not a.layout.free:
            a, b = b, a
        if acc is None or b.layout.free or b.dtype != "float32":
            product = self.select.emit("mul", s.name, layout, s.type.dtype, [a, b])
            return product if acc is None else self.select.emit("add", s.name, layout, s.type.dtype, [product, acc])
        made = w.buffer(s.name, layout, s.type.dtype)
        groups = w.groups(layout.free, [a, acc])
        w.call("scalar_tensor_tensor", dst=w.view(made, groups), data=w.view(a, groups), op0="nl.multiply",
               operand0=b.view, op1="nl.add", operand1=w.view(acc, groups))  # fmt: skip
        return made

    # loops

    def _loop(self, s: For) -> None:
        w, p = self.w, self.plan
        axis = w.axes[s.axis]
        held: list[tuple[object, Place]] = []
        for c in s.carries:
            if c.inner in p.chains:
                root = p.chains[c.inner]
                if root not in self.roots:
                    self.roots[root] = w.buffer(root, p.natural(c.inner), "float32", "psum")
                    self.depth[root] = len(self.loops)
                self._put(c.inner, self.roots[root])
                continue
            layout = p.natural(c.inner)
            place = w.buffer(c.inner, layout, c.type.dtype)
            start = self.scalars[c.init] if c.init in self.scalars else self.place(c.init, layout.part)
            self.select.fill(place, start)
            self._put(c.inner, place)
            held.append((c, place))
        variable = f"{s.axis}_at"
        with ExitStack() as stack:
            stack.enter_context(w.block(f"for {variable} in {steps_of(axis)}:", repeats=True))
            if axis.ragged and axis.tile < axis.extent:
                w.line(f"{s.axis}_n = min({axis.tile}, {axis.extent} - {variable})")
            self.loops.append((variable, s.axis))
            self.late.append([])
            outer, self.select.negatives = self.select.negatives, dict(self.select.negatives)
            for c in s.carries:
                self._turns(c.inner)
            self._block(s.body)
            self._carry_on(held)
            self.select.negatives = outer
            self.loops.pop()
            for name, part in self.late.pop():
                self.places[name].pop(part, None)
        for c in s.carries:
            if c.inner in p.chains:
                root = p.chains[c.inner]
                place = self.roots[root]
                self._put(c.name, self._settled(c.name, c.type.dtype, place) if c.name == root else place)
            else:
                self._put(c.name, next(place for other, place in held if other is c))
            self._turns(c.name)

    def _carry_on(self, held: list) -> None:
        """The carried tiles take their next values; one that would be overwritten before it is read goes by a copy."""
        moves: list[tuple[Place, Argument]] = []
        buffers = {place.buffer for _, place in held}
        for c, place in held:
            after = self.scalars[c.next] if c.next in self.scalars else self.place(c.next, place.layout.part)
            if isinstance(after, Place) and after.buffer is place.buffer:
                continue
            if isinstance(after, Place) and after.buffer in buffers:
                after = self.select.copy(f"{after.buffer.name}_kept", after.layout, after.dtype, after)
            moves.append((place, after))
        for place, after in moves:
            assert not isinstance(after, Pending)
            self.select.fill(place, after)


