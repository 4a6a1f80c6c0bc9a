"""Contractions: which side of `tl.dot` each axis goes to, and what stands in where the matrix unit does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from porter.tile.block_scales import BYTE, E4M3, E8M0, name_of, place_of
from porter.tile.program import Dot, Tile
from porter.tile.target import CannotEmit
from porter.triton.elementwise import NARROW, kind, word
from porter.triton.scope import Plan, Scope, Value

# Shortest contraction that tl.dot takes, by bits of an operand (Triton 3.9, backends/nvidia/compiler.py: min_dot_size).
SHORTEST = {8: 32, 16: 16, 32: 8, 64: 4}
PROMOTED = 128  # terms of 8-bit floats added in the unit, before their sum is added in float32 (DeepSeek-V3, 3.3.2)
SPREAD = 1 << 15  # lanes of the products of a short contraction without the matrix unit, before its sum

# How tl.dot is asked for a product of float32, by the precision of a tile program; the two below narrow the operands.
INPUT_PRECISION = {"fp32": "ieee", "tf32": "tf32", "tf32x3": "tf32x3", "bf16x3": "bf16x3", "bf16x6": "bf16x6"}
# How tl.dot_scaled names operands, by their codes and scales.
SCALED = {(E4M3, E8M0): "e4m3", (BYTE, E8M0): "e2m1", (BYTE, E4M3): "e2m1"}
NARROWED = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Product:
    """One `tl.dot` of the text, as it runs each time: [batch, m, k] times [batch, k, n]."""

    precision: str  # of float32 operands (porter.formats.matmul), else the operands' dtype
    batch: int
    m: int
    n: int
    k: int

    @property
    def passes(self) -> int:
        """Multiplications of parts: 6 for bf16x6."""
        from porter.formats.matmul import PRECISIONS

        return len(PRECISIONS[self.precision].terms) if self.precision in PRECISIONS else 1


def plan(scope: Scope, s: Dot, types: Mapping[str, Tile]) -> Plan:
    """Sides as the program has them, or exchanged where the result then comes in the program's order."""
    a, b = set(types[s.a].axes), set(types[s.b].axes)
    summed = scope.lanes(s.axes)
    free = set(s.type.axes) - set(s.axes)
    batch = scope.lanes(free & a & b)
    rows, columns = scope.lanes(free & a - b), scope.lanes(free & b - a)
    natural = scope.lanes(free)
    swapped = (*batch, *rows, *columns) != natural and (*batch, *columns, *rows) == natural
    return Plan(batch, columns, rows, summed, True) if swapped else Plan(batch, rows, columns, summed, False)


def operand_dtype(s: Dot, types: Mapping[str, Tile]) -> tuple[str, str]:
    """The dtype in which both operands are multiplied, and the product's name."""
    a, b = types[s.a].dtype, types[s.b].dtype
    if s.scales:
        return a, name_of(types, s)
    if a == b:
        dtype = a
    else:
        floats = kind(a) == kind(b) == "float" and "float64" not in (a, b)
        dtype = "float32" if floats else s.type.dtype
    if dtype == "float32" and s.precision in NARROWED:
        return NARROWED[s.precision], s.precision
    return dtype, s.precision if dtype == "float32" else dtype


def on_unit(scope: Scope, s: Dot, types: Mapping[str, Tile]) -> bool:
    """Whether tl.dot says it: a dtype of the matrix unit, rows and columns, and a sum worth the unit's shortest."""
    p, (dtype, _) = plan(scope, s, types), operand_dtype(s, types)
    if s.scales:
        return True
    if dtype not in (*NARROW, "float32", "float64", "int8") or not p.rows or not p.columns:
        return False
    k = scope.count(p.summed)
    return k >= SHORTEST[_bits(dtype)] or (k > 1 and scope.count((*p.result, *p.summed)) > SPREAD)


def _bits(dtype: str) -> int:
    return 16 if dtype == "bfloat16" else 8 * np.dtype(dtype).itemsize if not dtype.startswith("float8") else 8


def to_matrix(scope: Scope, p: Plan, text: str) -> str:
    """A tensor of the result's axes, in the program's order, as the matrix that tl.dot yields."""
    return _shaped(scope, text, scope.lanes(p.result), (p.batch, p.rows, p.columns))


def is_matrix(scope: Scope, p: Plan) -> bool:
    """Whether the result, in the program's order, already is the matrix that tl.dot yields."""
    return p.result == scope.lanes(p.result) and len(p.rows) == len(p.columns) == 1 and len(p.batch) <= 1


def from_matrix(scope: Scope, p: Plan, text: str) -> str:
    """The inverse of to_matrix."""
    natural = scope.lanes(p.result)
    if len(p.rows) != 1 or len(p.columns) != 1 or len(p.batch) > 1:
        text = f"tl.reshape({text}, {scope.shape(p.result)})"
    return text if p.result == natural else _permuted(text, p.result, natural)


def _permuted(text: str, have: tuple[str, ...], want: tuple[str, ...]) -> str:
    if have == want:
        return text
    if len(have) == 2:
        return f"tl.trans({text})"
    return f"tl.permute({text}, {[have.index(a) for a in want]})"


def _shaped(scope: Scope, text: str, have: tuple[str, ...], groups: tuple[tuple[str, ...], ...]) -> str:
    """A tensor with its axes gathered into one dimension per group; an empty first group (no batch) has none."""
    text = _permuted(text, have, tuple(a for g in groups for a in g))
    kept = groups if groups[0] else groups[1:]
    if all(len(g) == 1 for g in kept):
        return text
    return f"tl.reshape({text}, [{', '.join(str(scope.count(g)) for g in kept)}])"


def emit(scope: Scope, s: Dot, types: Mapping[str, Tile]) -> Product | None:
    """Write one contraction. Returns the product that the matrix unit is asked for, None where it is not used."""
    p = plan(scope, s, types)
    a, b = scope.values[s.a], scope.values[s.b]
    if p.swapped:
        a, b = b, a
    if not on_unit(scope, s, types):
        _spread(scope, s, p, a, b)
        return None
    if s.scales:
        return _scaled(scope, s, p, types)
    (dtype, precision), k = operand_dtype(s, types), scope.count(p.summed)
    shortest = SHORTEST[_bits(dtype)]
    left = _operand(scope, a, dtype, (p.batch, p.rows, p.summed))
    right = _operand(scope, b, dtype, (p.batch, p.summed, p.columns))
    while k < shortest:  # zeros between the terms of the sum: the unit takes no shorter one
        left, right = _doubled(scope, p, s.name, left, right, k, dtype)
        k *= 2
    out = "int32" if dtype == "int8" else "float64" if dtype == "float64" else "float32"
    arguments = [left, right]
    acc = None if s.acc is None else scope.values[s.acc]
    later = acc is not None and out != s.type.dtype
    if acc is not None and not later and acc.literal != 0:
        natural = scope.lanes(p.result)
        arguments.append(acc.text if acc.matrix is not None else to_matrix(scope, p, scope.tensor(acc, natural)))
    if dtype == "float32":
        if precision not in INPUT_PRECISION:
            raise CannotEmit(f"tl.dot has no product of float32 as {precision}")
        arguments.append(f'input_precision="{INPUT_PRECISION[precision]}"')
    if dtype.startswith("float8"):  # Hopper's unit keeps about 14 bits of a sum: partial sums of 128 go to float32
        arguments.append(f"max_num_imprecise_acc={min(k, PROMOTED)}")
    if out == "float64":
        arguments.append("out_dtype=tl.float64")
    text = f"tl.dot({', '.join(arguments)})"
    keep = acc is not None and acc.matrix is not None
    if out != s.type.dtype:
        text = f"{text}.to({word(s.type.dtype)})"
    if not keep:
        text = from_matrix(scope, p, text)
    if later:
        assert acc is not None
        text = f"{scope.operand(acc, scope.lanes(p.result))} + {text}"
    scope.bind(s.name, text, scope.lanes(p.result), s.type.dtype, p if keep else None)
    return Product(precision, scope.count(p.batch), scope.count(p.rows), scope.count(p.columns), k)


def _scaled(scope: Scope, s: Dot, p: Plan, types: Mapping[str, Tile]) -> Product:
    """`tl.dot_scaled`: codes with each block's side by side along the sum, scales as [rows or columns, blocks] of codes."""
    blocks, place = tuple(x for x in p.summed if x in types[s.scales[0]].axes), place_of(types, s)
    summed = (
        *blocks,
        *(x for x in p.summed if x not in blocks and x != place),
        *scope.lanes(() if place is None else (place,)),
    )
    names = ((s.b, s.scales[1]), (s.a, s.scales[0])) if p.swapped else ((s.a, s.scales[0]), (s.b, s.scales[1]))
    (a, sa), (b, sb) = (tuple(scope.values[n] for n in pair) for pair in names)
    left, right = (tuple(y for y in summed if y != place or x.dtype != BYTE) for x in (a, b))  # bytes hold both codes
    arguments = [
        _operand(scope, a, a.dtype, (p.batch, p.rows, left)), _operand(scope, sa, sa.dtype, (p.batch, p.rows, blocks)),
        f'"{SCALED[a.dtype, sa.dtype]}"',
        _operand(scope, b, b.dtype, (p.batch, right, p.columns)), _operand(scope, sb, sb.dtype, (p.batch, p.columns, blocks)),
        f'"{SCALED[b.dtype, sb.dtype]}"',
    ]  # fmt: skip
    acc = None if s.acc is None else scope.values[s.acc]
    keep = acc is not None and acc.matrix is not None
    if acc is not None and acc.literal != 0:
        natural = scope.lanes(p.result)
        arguments.append(acc.text if keep else to_matrix(scope, p, scope.tensor(acc, natural)))
    text = f"tl.dot_scaled({', '.join(arguments)})"
    if not keep:
        text = from_matrix(scope, p, text)
    scope.bind(s.name, text, scope.lanes(p.result), s.type.dtype, p if keep else None)
    name = operand_dtype(s, types)[1]
    return Product(name, scope.count(p.batch), scope.count(p.rows), scope.count(p.columns), scope.count(left))


def _operand(scope: Scope, value: Value, dtype: str, groups: tuple[tuple[str, ...], ...]) -> str:
    have = scope.lanes(a for g in groups for a in g)
    text = scope.tensor(value, have)
    if value.dtype != dtype:
        text = f"{text}.to({word(dtype)})"
    return _shaped(scope, text, have, groups)


def _doubled(scope: Scope, p: Plan, name: str, left: str, right: str, k: int, dtype: str) -> tuple[str, str]:
    """Both operands with a zero after each term of the sum."""
    batch = [str(scope.count(p.batch))] if p.batch else []
    m, n = scope.count(p.rows), scope.count(p.columns)
    swap = [0, 2, 1] if p.batch else [1, 0]
    a, b = scope.fresh(f"{name}_left"), scope.fresh(f"{name}_right")
    for known, text, rows in ((a, left, m), (b, f"tl.permute({right}, {swap})", n)):
        shape = ", ".join([*batch, str(rows), str(k)])
        wide = ", ".join([*batch, str(rows), str(2 * k)])
        scope.write(f"{known} = tl.reshape(tl.join({text}, tl.full([{shape}], 0.0, {word(dtype)})), [{wide}])")
    return a, f"tl.permute({b}, {swap})"


def _spread(scope: Scope, s: Dot, p: Plan, a: Value, b: Value) -> None:
    """Multiply and reduce, in the result's dtype: a side without rows or columns, or a sum too short for the unit."""
    axes = scope.lanes((*p.result, *p.summed))
    wide = []
    for value in (a, b):
        text = scope.operand(value, axes)
        needs = value.dtype != s.type.dtype and value.literal is None
        wide.append(f"{text}.to({word(s.type.dtype)})" if needs else text)
    text = f"{wide[0]} * {wide[1]}"
    if p.summed:
        have = {x for v in (a, b) for x in v.axes}
        if set(axes) != have:
            text = f"tl.broadcast_to({text}, {scope.shape(axes)})"
        for i in sorted((axes.index(x) for x in p.summed), reverse=True):
            text = f"tl.sum({text}, axis={i})"
        if s.type.dtype in ("int8", "int16", "bool", "uint8", "uint16"):
            text = f"{text}.to({word(s.type.dtype)})"
    if s.acc is not None and scope.values[s.acc].literal != 0:
        text = f"{scope.operand(scope.values[s.acc], scope.lanes(p.result))} + {text}"
    scope.bind(s.name, text, scope.lanes(p.result), s.type.dtype)
