"""A jaxpr without sub-jaxprs: calls inlined, short scans unrolled, branches turned into choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.tile.form import Cut

DEEP = 64  # products summed in a turn of a scan, beyond which it is launched turn by turn
UNROLLED = 64  # turns of a scan that a kernel may hold one after another


@dataclass(frozen=True)
class Equation:
    """One primitive application, sub-jaxprs inlined: operands are variable numbers or constants."""

    primitive: str
    operands: tuple[Any, ...]
    outputs: tuple[int, ...]
    settings: dict[str, Any]
    number: int


@dataclass
class Flat:
    """A jaxpr without sub-jaxprs. Variables are integers; avals give shape and dtype."""

    inputs: list[int]
    outputs: list[Any]
    equations: list[Equation]
    avals: dict[int, Any]


@dataclass(frozen=True)
class _Type:
    """Shape and dtype of a variable that flattening made."""

    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant operand."""

    value: np.ndarray


_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "remat": "jaxpr",
            "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip


def flatten(closed: Any) -> Flat:
    """The jaxpr with every call inlined, each use of an inner jaxpr with fresh variables."""
    flat = Flat([], [], [], {})

    def fresh(aval: Any) -> int:
        flat.avals[len(flat.avals)] = aval
        return len(flat.avals) - 1

    def inline(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        names: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        names.update(zip(jaxpr.constvars, (Literal(np.asarray(c)) for c in consts), strict=True))

        def read(v: Any) -> Any:
            return Literal(np.asarray(v.val, v.aval.dtype)) if hasattr(v, "val") else names[v]

        for eqn in jaxpr.eqns:
            operands = tuple(read(v) for v in eqn.invars)
            if eqn.primitive.name in _INLINED:
                inner = eqn.params[_INLINED[eqn.primitive.name]]
                body, inner_consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
                results = inline(body, inner_consts, operands)
                names.update(zip(eqn.outvars, results, strict=True))
                continue
            if eqn.primitive.name == "scan":
                names.update(zip(eqn.outvars, unrolled(eqn, operands), strict=True))
                continue
            if eqn.primitive.name == "cond":
                ways = [inline(b.jaxpr, b.consts, operands[1:]) for b in eqn.params["branches"]]
                for v, choices in zip(eqn.outvars, zip(*ways, strict=True), strict=True):
                    names[v] = emit("select_n", (operands[0], *choices), v.aval, {})
                continue
            outputs = tuple(fresh(v.aval) for v in eqn.outvars)
            names.update(zip(eqn.outvars, outputs, strict=True))
            settings = dict(eqn.params)
            flat.equations.append(Equation(eqn.primitive.name, operands, outputs, settings, len(flat.equations)))
        return [read(v) for v in jaxpr.outvars]

    def emit(primitive: str, operands: tuple[Any, ...], aval: Any, settings: dict[str, Any]) -> int:
        output = fresh(aval)
        flat.equations.append(Equation(primitive, operands, (output,), settings, len(flat.equations)))
        return output

    def unrolled(eqn: Any, operands: tuple[Any, ...]) -> list[Any]:
        """A scan, turn after turn: rows are slices of what it runs over, and its rows are joined."""
        s = eqn.params
        body, consts, carried = s["jaxpr"], s["num_consts"], s["num_carry"]
        if s["length"] > UNROLLED or s["length"] == 0 or _deep(body.jaxpr):
            raise Cut(f"a scan of {s['length']} turns")
        carry, rows = list(operands[consts : consts + carried]), operands[consts + carried :]
        made: list[list[Any]] = [[None] * s["length"] for _ in eqn.outvars[carried:]]
        for t in reversed(range(s["length"])) if s["reverse"] else range(s["length"]):
            here = [_row(emit, x, v.aval, t) for x, v in zip(rows, eqn.invars[consts + carried :], strict=True)]
            results = inline(body.jaxpr, body.consts, (*operands[:consts], *carry, *here))
            carry = results[:carried]
            for column, value in zip(made, results[carried:], strict=True):
                column[t] = value
        joined = [_joined(emit, column, v.aval) for column, v in zip(made, eqn.outvars[carried:], strict=True)]
        return [*carry, *joined]

    flat.inputs = [fresh(v.aval) for v in closed.jaxpr.invars]
    flat.outputs = inline(closed.jaxpr, closed.consts, flat.inputs)
    return flat


def _deep(jaxpr: Any) -> bool:
    """Whether a body sums products over more than one tile: nested in each other such sums would be computed again and again."""
    for eqn in jaxpr.eqns:
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if inner is not None and _deep(getattr(inner, "jaxpr", inner)):
            return True
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            if math.prod(eqn.invars[0].aval.shape[d] for d in summed) > DEEP:
                return True
    return False


def _row(emit: Any, x: Any, aval: Any, t: int) -> Any:
    """Row t of an array."""
    if isinstance(x, Literal):
        return Literal(x.value[t])
    rest, kind = tuple(aval.shape[1:]), aval.dtype
    start, limit = (t, *(0 for _ in rest)), (t + 1, *rest)
    part = emit(
        "slice", (x,), _Type((1, *rest), kind), {"start_indices": start, "limit_indices": limit, "strides": None}
    )
    return emit("squeeze", (part,), _Type(rest, kind), {"dimensions": (0,)})


def _joined(emit: Any, rows: list[Any], aval: Any) -> Any:
    """Rows as one array."""
    rest, kind = tuple(aval.shape[1:]), aval.dtype
    where = {"shape": (1, *rest), "broadcast_dimensions": tuple(range(1, len(rest) + 1))}
    parts = tuple(emit("broadcast_in_dim", (row,), _Type((1, *rest), kind), where) for row in rows)
    return emit("concatenate", parts, aval, {"dimension": 0})
