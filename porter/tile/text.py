"""The text form of tile programs: what `show` prints, `parse` reads back to an equal program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from porter.errors import PorterError
from porter.tile.affine import Affine
from porter.tile.program import (
    Access,
    Axis,
    Carry,
    Cast,
    Dot,
    Elementwise,
    For,
    Full,
    Index,
    Iota,
    Load,
    Mask,
    Param,
    Program,
    Reduce,
    Role,
    Scalar,
    Statement,
    Store,
    Tile,
)  # fmt: skip


def show(program: Program) -> str:
    """The program as text, one statement a line."""
    lines = [f"kernel {program.name} {{"]
    for p in program.params:
        lines.append(f"  {'out' if p.out else 'in'} {p.name}: {p.dtype}[{', '.join(map(str, p.shape))}]")
    for a in program.axes:
        lines.append(f"  axis {a.name}: {a.extent} by {a.tile} {a.role}")
    lines += _block(program.body, "  ")
    return "\n".join([*lines, "}", ""])


def _type(t: Tile) -> str:
    return f"{t.dtype}<{', '.join(t.axes)}>"


def _access(a: Access) -> str:
    return f"{a.param}({', '.join(map(str, a.view))})[{', '.join(map(str, a.index))}]"


def _scalar(value: Scalar) -> str:
    return repr(value)


def _block(body: tuple[Statement, ...], indent: str) -> Iterator[str]:
    for s in body:
        match s:
            case Load(name, t, access, pad):
                yield f"{indent}{name}: {_type(t)} = load {_access(access)}{'' if pad is None else ' pad ' + _scalar(pad)}"
            case Full(name, t, value):
                yield f"{indent}{name}: {_type(t)} = full {_scalar(value)}"
            case Iota(name, t, affine):
                yield f"{indent}{name}: {_type(t)} = iota {affine}"
            case Elementwise(name, t, op, args):
                yield f"{indent}{name}: {_type(t)} = {op} {', '.join(args)}"
            case Cast(name, t, arg, bits):
                yield f"{indent}{name}: {_type(t)} = cast {'bits ' if bits else ''}{arg}"
            case Mask(name, t, arg, axis, identity):
                yield f"{indent}{name}: {_type(t)} = mask {arg} on {axis} to {_scalar(identity)}"
            case Reduce(name, t, op, arg, axes):
                yield f"{indent}{name}: {_type(t)} = reduce {op} {arg} over {', '.join(axes)}"
            case Dot(name, t, a, b, axes, acc, precision, scales):
                tail = f" scaled by {', '.join(scales)}" if scales else ""
                tail += "" if acc is None else f" plus {acc}"
                yield f"{indent}{name}: {_type(t)} = dot {a}, {b} over {', '.join(axes)}{tail} as {precision}"
            case Store(access, value):
                yield f"{indent}store {_access(access)} = {value}"
            case For(axis, carries, inner):
                yield f"{indent}for {axis} {{"
                for c in carries:
                    yield f"{indent}  carry {c.name}: {_type(c.type)} = {c.inner} from {c.init} next {c.next}"
                yield from _block(inner, indent + "  ")
                yield f"{indent}}}"


_TYPE = r"(?P<name>\S+): (?P<dtype>\w+)<(?P<axes>[^>]*)>"
_ACCESS = r"(?P<param>\w+)\((?P<view>[^)]*)\)\[(?P<index>[^\]]*)\]"
_FORMS = {
    "in": r"(?P<dir>in|out) (?P<name>\w+): (?P<dtype>\w+)\[(?P<shape>[^\]]*)\]",
    "axis": r"axis (?P<name>\w+): (?P<extent>\d+) by (?P<tile>\d+) (?P<role>grid|loop|resident)",
    "for": r"for (?P<axis>\w+) \{",
    "carry": rf"carry {_TYPE} = (?P<inner>\S+) from (?P<init>\S+) next (?P<next>\S+)",
    "store": rf"store {_ACCESS} = (?P<value>\S+)",
    "load": rf"{_TYPE} = load {_ACCESS}( pad (?P<pad>\S+))?",
    "full": rf"{_TYPE} = full (?P<value>\S+)",
    "iota": rf"{_TYPE} = iota (?P<affine>.+)",
    "cast": rf"{_TYPE} = cast (?P<bits>bits )?(?P<arg>\S+)",
    "mask": rf"{_TYPE} = mask (?P<arg>\S+) on (?P<axis>\w+) to (?P<identity>\S+)",
    "reduce": rf"{_TYPE} = reduce (?P<op>\w+) (?P<arg>\S+) over (?P<over>.+)",
    "dot": rf"{_TYPE} = dot (?P<a>[^\s,]+), (?P<b>\S+) over (?P<over>.+?)( scaled by (?P<scales>[^\s,]+, \S+))?"
    r"( plus (?P<acc>\S+))? as (?P<precision>\w+)",
    "elementwise": rf"{_TYPE} = (?P<op>\w+) (?P<args>.+)",
}
_PATTERNS = {kind: re.compile(form) for kind, form in _FORMS.items()}


def parse(text: str) -> Program:
    """The program that `show` printed. Raises PorterError naming the line."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    head = re.fullmatch(r"kernel (\S+) \{", lines[0][1]) if lines else None
    if head is None:
        raise PorterError("tile program, line 1", expected="kernel NAME {", found=lines[0][1] if lines else "nothing")
    params: list[Param] = []
    axes: list[Axis] = []
    body, rest = _parse_block(lines[1:], params, axes, [])
    if rest:
        raise PorterError(f"tile program, line {rest[0][0]}", expected="the end", found=rest[0][1])
    return Program(head[1], tuple(params), tuple(axes), body)


def _names(text: str) -> tuple[str, ...]:
    return tuple(t.strip() for t in text.split(",") if t.strip())


def _number(text: str) -> Scalar:
    if text in ("True", "False"):
        return text == "True"
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


def _index(text: str) -> Index:
    if text.startswith("@"):
        gathered, _, affine = text[1:].partition(" + ")
        return Index(Affine.parse(affine), gathered)
    return Index(Affine.parse(text))


def _parse_block(
    lines: list[tuple[int, str]], params: list[Param], axes: list[Axis], carries: list[Carry]
) -> tuple[tuple[Statement, ...], list[tuple[int, str]]]:
    body: list[Statement] = []
    while lines:
        (number, line), lines = lines[0], lines[1:]
        if line == "}":
            return tuple(body), lines
        matches = ((k, m) for k, pattern in _PATTERNS.items() if (m := pattern.fullmatch(line)))
        kind, m = next(matches, ("", None))
        if m is None:
            raise PorterError(f"tile program, line {number}", expected="a statement", found=line)
        g = m.groupdict()
        if kind == "for":
            inner_carries: list[Carry] = []
            inner, lines = _parse_block(lines, params, axes, inner_carries)
            body.append(For(g["axis"], tuple(inner_carries), inner))
            continue
        if kind == "in":
            params.append(Param(g["name"], tuple(map(int, _names(g["shape"]))), g["dtype"], g["dir"] == "out"))
            continue
        if kind == "axis":
            axes.append(Axis(g["name"], int(g["extent"]), int(g["tile"]), cast(Role, g["role"])))
            continue
        t = Tile(g["dtype"], _names(g["axes"])) if "axes" in g else Tile("")
        access = Access("", (), ())
        if "param" in g:
            index = tuple(_index(i) for i in _names(g["index"]))
            access = Access(g["param"], tuple(map(int, _names(g["view"]))), index)
        match kind:
            case "carry":
                carries.append(Carry(g["name"], t, g["inner"], g["init"], g["next"]))
            case "store":
                body.append(Store(access, g["value"]))
            case "load":
                body.append(Load(g["name"], t, access, None if g["pad"] is None else _number(g["pad"])))
            case "full":
                body.append(Full(g["name"], t, _number(g["value"])))
            case "iota":
                body.append(Iota(g["name"], t, Affine.parse(g["affine"])))
            case "cast":
                body.append(Cast(g["name"], t, g["arg"], g["bits"] is not None))
            case "mask":
                body.append(Mask(g["name"], t, g["arg"], g["axis"], _number(g["identity"])))
            case "reduce":
                body.append(Reduce(g["name"], t, g["op"], g["arg"], _names(g["over"])))
            case "dot":
                scales = _names(g["scales"] or "")
                body.append(Dot(g["name"], t, g["a"], g["b"], _names(g["over"]), g["acc"], g["precision"], scales))
            case _:
                body.append(Elementwise(g["name"], t, g["op"], _names(g["args"])))
    return tuple(body), lines
