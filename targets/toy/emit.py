"""Tile program in, Toy source out: one call per statement, every destination explicit."""

from __future__ import annotations

import math
from collections.abc import Iterator

from porter.tile.affine import Affine
from porter.tile.buffer import Buffers, bufferize
from porter.tile.program import (
    Access,
    Cast,
    Dot,
    Elementwise,
    For,
    Full,
    Index,
    Iota,
    Load,
    Mask,
    Program,
    Reduce,
    Statement,
    Store,
)  # fmt: skip


def space(name: str, s: Statement) -> str:
    """Results of the matrix unit, and the accumulators that it adds to, lie in acc; all else in vmem."""
    if isinstance(s, Dot):
        return "acc"
    if isinstance(s, For):
        dots = {d.acc for d in s.body if isinstance(d, Dot)} | {d.name for d in s.body if isinstance(d, Dot)}
        return "acc" if any(name == c.inner and {c.inner, c.next} & dots for c in s.carries) else "vmem"
    return "vmem"


def emit(program: Program) -> tuple[str, Buffers]:
    """The source text of a kernel, and where its values lie."""
    buffers = bufferize(program, space)
    lines = [f'"""{program.name}: {", ".join(f"{p.dtype}{list(p.shape)} {p.name}" for p in program.params)}"""', "", ""]
    lines.append(f"def {program.name}(toy, {', '.join(p.name for p in program.params)}):")
    for a in program.axes:
        lines.append(f"    {a.name} = toy.axis({a.name!r}, extent={a.extent}, tile={a.tile})")
    for name, b in buffers.of.items():
        lines.append(f"    {name} = toy.{b.space}({b.offset}, {b.type.dtype!r}, [{', '.join(b.type.axes)}])")
    grid = [a.name for a in program.grid]
    lines.append(f"    for _ in toy.grid([{', '.join(grid)}]):")
    lines += _block(program.body, "        ")
    return "\n".join([*lines, ""]), buffers


def _affine(affine: Affine) -> str:
    return " + ".join(
        [
            *(a if k == 1 else f"{k} * {a}" for a, k in affine.terms),
            *([str(affine.const)] if affine.const or not affine.terms else []),
        ]
    )


def _index(i: Index) -> str:
    return _affine(i.affine) if i.gather is None else f"toy.gathered({i.gather}, {_affine(i.affine)})"


def _at(access: Access) -> str:
    return f"{access.param}, {access.view!r}, [{', '.join(map(_index, access.index))}]"


def _number(value: float | int | bool) -> str:
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)


def _block(body: tuple[Statement, ...], pad: str) -> Iterator[str]:
    for s in body:
        match s:
            case Load(name=n, access=access, pad=fill):
                yield f"{pad}toy.load({n}, {_at(access)}, pad={None if fill is None else _number(fill)})"
            case Store(access=access, value=v):
                yield f"{pad}toy.store({_at(access)}, {v})"
            case Full(name=n, value=v):
                yield f"{pad}toy.fill({n}, {_number(v)})"
            case Iota(name=n, affine=affine):
                yield f"{pad}toy.iota({n}, {_affine(affine)})"
            case Elementwise(name=n, op=op, args=args):
                yield f"{pad}toy.vector({op!r}, {n}, {', '.join(args)})"
            case Cast(name=n, arg=arg, bits=bits):
                yield f"{pad}toy.{'bits' if bits else 'move'}({n}, {arg})"
            case Mask(name=n, arg=arg, axis=axis, identity=v):
                yield f"{pad}toy.mask({n}, {arg}, {axis}, {_number(v)})"
            case Reduce(name=n, op=op, arg=arg, axes=axes):
                yield f"{pad}toy.reduce({op!r}, {n}, {arg}, [{', '.join(axes)}])"
            case Dot(name=n, a=a, b=b, axes=axes, acc=acc, precision=precision):
                yield f"{pad}toy.move({n}, {acc})" if acc else f"{pad}toy.fill({n}, 0)"
                yield f"{pad}toy.mma({n}, {a}, {b}, [{', '.join(axes)}], {precision!r})"
            case For(axis=axis, carries=carries, body=inner):
                for c in carries:
                    yield f"{pad}toy.move({c.inner}, {c.init})"
                yield f"{pad}for _ in toy.loop({axis}):"
                yield from _block(inner, pad + "    ")
                for c in carries:
                    yield f"{pad}    toy.move({c.inner}, {c.next})"
