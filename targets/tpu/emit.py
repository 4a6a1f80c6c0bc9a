"""From a tile program to the text of a Pallas kernel: refs and BlockSpecs, the body, the call.

Grid axes become the Pallas grid, in order and parallel. Loops stay in the kernel as fori_loop over slices of blocks
that hold the whole axis; where such blocks do not fit in VMEM, or the loop's last tile sticks out, the program's one
outer loop becomes the last, sequential grid dimension, and what it carries lives in VMEM scratch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from porter.targets.tpu import cost, instructions
from porter.targets.tpu.chip import Geometry
from porter.targets.tpu.kernel import Body
from porter.targets.tpu.naming import Names
from porter.targets.tpu.values import Stand, Value, shape
from porter.targets.tpu.views import Operand, Reference, Roles, bitcast, see
from porter.tile.program import Axis, Carry, For, Load, Param, Program, Statement, Store, walk
from porter.tile.target import CannotEmit

# XLA gives a kernel 16 MiB of VMEM unless it asks for more (libtpu's xla_tpu_scoped_vmem_limit_kib on v5e).
DEFAULT_VMEM = 16 << 20
_MIB = 1 << 20


@dataclass(frozen=True)
class Written:
    """A Pallas module, and what is known about it before Mosaic sees it."""

    text: str
    grid: tuple[int, ...]
    vmem: int  # bytes: double-buffered blocks, scratch, and the largest values of the body
    products: tuple[str, ...]
    relayouts: int  # bytes of operands whose view is no bitcast of the parameter in tiled memory


def pallas(program: Program, chip: Geometry) -> Written:
    """The program as a module. Raises CannotEmit with the reason where BlockSpec, Mosaic or VMEM cannot hold it."""
    reasons = []
    loop = _outer_loop(program)
    for streamed in (None, loop) if loop is not None else (None,):
        try:
            written = _Emitter(program, chip, streamed).write()
        except CannotEmit as reason:
            reasons.append(str(reason))
            continue
        if written.vmem <= chip.vmem:
            return written
        reasons.append(f"vmem of {chip.name} holds {chip.vmem} bytes; kernel {program.name} asks {written.vmem}")
    raise CannotEmit(reasons[-1])


def _outer_loop(program: Program) -> For | None:
    """The loop that may become a grid dimension: the only one at the top, with nothing stored before it."""
    loops = [s for s in program.body if isinstance(s, For)]
    if len(loops) != 1:
        return None
    before = program.body[: program.body.index(loops[0])]
    return None if any(isinstance(s, Store) for s in before) else loops[0]


@dataclass
class _Refs:
    """The operands of the call, each with its name in the kernel."""

    names: Names
    inputs: dict[Operand, str] = field(default_factory=dict)
    outputs: dict[str, tuple[Operand, str]] = field(default_factory=dict)

    def input(self, operand: Operand) -> str:
        if operand not in self.inputs:
            self.inputs[operand] = self.names.fresh(f"{operand.param}_ref")
        return self.inputs[operand]

    def output(self, operand: Operand) -> str:
        if operand.param not in self.outputs:
            self.outputs[operand.param] = (operand, self.names.fresh(f"{operand.param}_ref"))
        known, name = self.outputs[operand.param]
        if known != operand:
            raise CannotEmit(f"{operand.param} is stored through different blocks: {known.block} and {operand.block}")
        return name


class _Emitter:
    def __init__(self, program: Program, chip: Geometry, streamed: For | None) -> None:
        self.program, self.chip, self.streamed = program, chip, streamed
        self.grid: list[Axis] = list(program.grid)
        if streamed is not None:
            self.grid.append(program.axis(streamed.axis))

    def write(self) -> Written:
        stood: frozenset[str] = frozenset()
        while True:
            try:
                return self._write(stood)
            except Stand as more:
                stood |= more.vectors

    def _write(self, stood: frozenset[str]) -> Written:
        self.names = Names()
        self.function = self.names(self.program.name)
        axis_names = {a.name: self.names("axis " + a.name if a.name in _reserved(self.program) else a.name)
                      for a in self.program.axes}  # fmt: skip
        self.roles = Roles(self.program, tuple(a.name for a in self.grid), axis_names)
        self.arguments = [self.names(p.name) for p in self.program.inputs]
        refs = _Refs(self.names)

        def refer(name: str, s: Statement) -> tuple[str, Reference]:
            assert isinstance(s, Load | Store)
            reference = see(s.access, self.roles, self.chip, column=name in stood, store=isinstance(s, Store))
            return (refs.output if isinstance(s, Store) else refs.input)(reference.operand), reference

        for p in self.program.params:
            instructions.held(p.dtype)
        body = Body(self.roles, self.names, refer, stood, self.chip.fp8)
        scratch: list[tuple[str, tuple[int, ...], str]] = []
        if self.streamed is None:
            body.write(self.program.body)
        else:
            self._stream(body, self.streamed, scratch)
        if missing := [p.name for p in self.program.outputs if p.name not in refs.outputs]:
            raise CannotEmit(f"{', '.join(missing)} is never stored")
        return self._module(body, refs, scratch)

    def _stream(self, body: Body, loop: For, scratch: list[tuple[str, tuple[int, ...], str]]) -> None:
        """The loop as the last grid dimension: carried tiles in scratch, set in its first step, used up in its last."""
        at = self.program.body.index(loop)
        axis, index = self.program.axis(loop.axis), self.roles.names[loop.axis]
        body.write(self.program.body[:at])
        before = dict(body.values)
        prefix, body.lines = body.lines, []
        layouts = [body.first_layout(c.type) for c in loop.carries]
        layouts = body.settled(loop, layouts)
        names = [self.names.fresh(f"{c.inner}_ref") for c in loop.carries]
        for c, layout, name in zip(loop.carries, layouts, names, strict=True):
            scratch.append((name, shape(layout, self.program), instructions.held(c.type.dtype)))
        inner, body.lines = body.lines, prefix
        starts = [body.as_array(before[c.init], c.type, x) for c, x in zip(loop.carries, layouts, strict=True)]
        if starts:
            body.lines += ["", f"@pl.when({index} == 0)", "def start():"]
            body.lines += [f"    {n}[...] = {v}" for n, v in zip(names, starts, strict=True)]
            body.lines.append("")
        body.lines += [f"{self.names(c.inner)} = {n}[...]" for c, n in zip(loop.carries, names, strict=True)]
        body.lines += inner
        nexts = [body.as_array(body.values[c.next], c.type, x) for c, x in zip(loop.carries, layouts, strict=True)]
        body.lines += [f"{n}[...] = {v}" for n, v in zip(names, nexts, strict=True)]
        for c, layout, text in zip(loop.carries, layouts, nexts, strict=True):
            body.values[c.name] = Value(text, instructions.held(c.type.dtype), layout)
        kept, body.lines = body.lines, []
        body.write(self.program.body[at + 1 :])
        if body.lines:
            kept += ["", f"@pl.when({index} == {axis.steps - 1})", "def finish():", *["    " + x for x in body.lines]]
        body.lines = kept

    # The text

    def _module(self, body: Body, refs: _Refs, scratch: list[tuple[str, tuple[int, ...], str]]) -> Written:
        p = self.program
        grid = tuple(a.steps for a in self.grid) or (1,)
        dtypes = {q.name: instructions.held(q.dtype) for q in p.params}
        blocks = [*refs.inputs, *(o for o, _ in refs.outputs.values())]
        held = [(tuple(b or 1 for b in o.block), dtypes[o.param]) for o in blocks]
        vmem = sum(2 * self.chip.padded(s, d) for s, d in held) + sum(self.chip.padded(s, d) for _, s, d in scratch)
        largest = sorted((self.chip.padded(s, d) for s, d in body.largest), reverse=True)[:4]
        vmem += sum(largest)
        # a limit costs nothing, and what Mosaic makes of a reduction over rows and columns may take as much again (libtpu 0.0.51)
        limit = max(DEFAULT_VMEM, min(-(-(vmem * 2) // _MIB) * _MIB, self.chip.vmem))
        counts = cost.estimate(p)
        moved = sum(_fetched(o, self.grid) * _block_bytes(o, dtypes[o.param]) for o in blocks)
        kernel = self.names.fresh(f"{self.function}_kernel")
        parameters = [*refs.inputs.values(), *(n for _, n in refs.outputs.values()), *(n for n, _, _ in scratch)]
        lines = [_HEAD.format(name=p.name, note=_note(p))]
        lines.append(f"def {kernel}({', '.join(parameters)}):")
        text = "\n".join(body.lines)
        for i, a in enumerate(self.grid):
            if self._mentioned(self.roles.names[a.name], text):
                lines.append(f"    {self.roles.names[a.name]} = pl.program_id({i})")
        lines += [f"    {x}" if x else "" for x in body.lines]
        outs = [self.names.fresh(q.name) for q in p.outputs]
        lines += ["", "", f"def {self.function}({', '.join(self.arguments)}):", f'    """{_signature(p, dtypes)}"""']
        lines.append(f"    {', '.join(outs)}{',' if len(outs) == 1 else ''} = pl.pallas_call(")
        lines.append(f"        {kernel},")
        lines.append(f"        grid={grid},")
        lines.append("        in_specs=[")
        lines += [f"            {self._spec(o)},  # {n}" for o, n in refs.inputs.items()]
        lines += ["        ],", "        out_specs=["]
        ordered = [refs.outputs[q.name] for q in p.outputs]
        lines += [f"            {self._spec(o)},  # {n}" for o, n in ordered]
        lines += ["        ],", "        out_shape=["]
        lines += [f"            jax.ShapeDtypeStruct({o.shape}, jnp.{_jnp(dtypes[o.param])})," for o, _ in ordered]
        lines.append("        ],")
        if scratch:
            lines.append("        scratch_shapes=[")
            lines += [f"            pltpu.VMEM({s}, jnp.{_jnp(d)}),  # {n}" for n, s, d in scratch]
            lines.append("        ],")
        semantics = tuple(
            "arbitrary" if self.streamed and a.name == self.streamed.axis else "parallel" for a in self.grid
        )
        lines.append(f"        compiler_params=pltpu.CompilerParams(dimension_semantics={semantics or ('arbitrary',)}, "
                     f"vmem_limit_bytes={limit}),")  # fmt: skip
        work = f"flops={counts.flops}, transcendentals={counts.transcendentals}, bytes_accessed={moved}"
        lines.append(f"        cost_estimate=pl.CostEstimate({work}),")
        lines.append(f"        name={p.name!r},")
        calls = [self._argument(o) for o in refs.inputs]
        lines.append(f"    )({', '.join(calls)})")
        returned = [n if o.shape == p.param(o.param).shape else f"{n}.reshape({p.param(o.param).shape})"
                    for n, (o, _) in zip(outs, ordered, strict=True)]  # fmt: skip
        lines += [f"    return {', '.join(returned)}", ""]
        relayouts = sum(
            _bytes(p.param(o.param)) for o in blocks if not bitcast(p.param(o.param).shape, o.shape, self.chip)
        )
        return Written("\n".join(lines), grid, vmem, tuple(sorted(body.products)), relayouts)

    def _mentioned(self, name: str, text: str) -> bool:
        import re

        return re.search(rf"\b{re.escape(name)}\b", text) is not None

    def _spec(self, o: Operand) -> str:
        arguments = ", ".join(self.roles.names[a.name] for a in self.grid) or "_"
        index = ", ".join(self.roles.text(i) for i in o.index)
        return f"pl.BlockSpec({o.block}, lambda {arguments}: ({index}))"

    def _argument(self, o: Operand) -> str:
        p = self.program.param(o.param)
        name = self.names(o.param)
        return name if p.shape == o.shape else f"{name}.reshape({o.shape})"


_HEAD = '''"""{name}: a Pallas kernel for TPU.

{note}
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

DEFAULT = lax.Precision.DEFAULT
HIGHEST = lax.Precision.HIGHEST


'''


def _note(p: Program) -> str:
    axes = [f"    {a.name}: {a.extent} by {a.tile}, {a.role}" for a in p.axes]
    return "\n".join([*([p.note, ""] if p.note else []), "axes", *(axes or ["    none"])])


def _signature(p: Program, dtypes: dict[str, str]) -> str:
    def one(q: Param) -> str:
        return f"{q.name} {dtypes[q.name]}[{', '.join(map(str, q.shape))}]"

    return f"{', '.join(map(one, p.inputs))} -> {', '.join(map(one, p.outputs))}."


def _reserved(p: Program) -> set[str]:
    """Names of values and parameters, which axes must not take."""
    found = {q.name for q in p.params}
    for s in walk(p.body):
        if isinstance(s, For):
            found |= {n for c in s.carries for n in _carry_names(c)}
        elif not isinstance(s, Store):
            found.add(s.name)
    return found


def _carry_names(c: Carry) -> tuple[str, str]:
    return c.name, c.inner


def _jnp(dtype: str) -> str:
    return "bool_" if dtype == "bool" else dtype


def _bytes(p: Param) -> int:
    return _block_bytes(Operand(p.name, p.shape, p.shape, ()), instructions.held(p.dtype))


def _block_bytes(o: Operand, dtype: str) -> int:
    import numpy as np

    total = np.dtype(dtype).itemsize
    for b in o.block:
        total *= b or 1
    return total


def _fetched(o: Operand, grid: list[Axis]) -> int:
    """How many times a block comes in: once per change of its index, the grid running in order."""
    depends = {a for i in o.index for a in i.axes}
    times, waiting = 1, 1
    for a in grid:
        waiting *= a.steps
        if a.name in depends:
            times *= waiting
            waiting = 1
    return times
