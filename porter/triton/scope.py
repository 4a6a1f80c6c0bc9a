"""What an emitter knows while it writes a kernel: names, values with their axes, coordinates, lines."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from porter.tile.program import Dot, Program, Reduce, Scalar, walk
from porter.triton.elementwise import library_names, literal, word

RESERVED = ("tl", "triton", "float", "range", "GRID", "SIGNATURE", "OPTIONS")
WIDTH = 110  # characters in a line, as near as a break can be found


@dataclass(frozen=True)
class Plan:
    """A product's axes by side of `tl.dot`; `swapped`: the left operand is the program's b."""

    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    summed: tuple[str, ...]
    swapped: bool

    @property
    def result(self) -> tuple[str, ...]:
        return (*self.batch, *self.rows, *self.columns)


@dataclass(frozen=True)
class Value:
    """A tile as Triton holds it: an expression (a name, mostly), the axes it has there, in the program's order.

    `axes` may lack axes of the tile's type along which it is the same. `literal`: a constant not yet made a tensor.
    `matrix`: the product in whose matrix shape the tensor is kept, None for its own shape.
    """

    text: str
    axes: tuple[str, ...]
    dtype: str
    literal: Scalar | None = None
    matrix: Plan | None = None


@dataclass
class Scope:
    """The state of one emission."""

    program: Program
    lines: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)  # of library.py
    variable: dict[str, Value] = field(default_factory=dict)  # where the next of a carried value may be written at once
    depth: int = 1

    def __post_init__(self) -> None:
        self.size = {a.name: a.tile for a in self.program.axes}
        self.taken = {*RESERVED, self.program.name, *library_names()}
        self.params = {p.name: self.fresh(p.name) for p in self.program.params}
        self.coordinate = {a.name: self.fresh(a.name) for a in self.program.axes}
        self.summed = {x for s in walk(self.program.body) if isinstance(s, Reduce | Dot) for x in s.axes}
        self.inside = {a.name: self.fresh(f"{a.name}_in") for a in self.program.axes if a.ragged}

    def fresh(self, wanted: str) -> str:
        """A name nobody else has, like the wanted one."""
        stem = re.sub(r"\W", "_", wanted).strip("_") or "v"
        stem = f"v{stem}" if stem[0].isdigit() else stem
        stem = f"{stem}_" if keyword.iskeyword(stem) else stem
        name, n = stem, 2
        while name in self.taken:
            name, n = f"{stem}_{n}", n + 1
        self.taken.add(name)
        return name

    def lanes(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Those of the axes that are dimensions of a tensor: tiles of more than one, in the program's order."""
        chosen = set(axes)
        return tuple(a.name for a in self.program.axes if a.name in chosen and a.tile > 1)

    def shape(self, axes: Sequence[str]) -> str:
        return "[" + ", ".join(str(self.size[a]) for a in axes) + "]"

    def count(self, axes: Sequence[str]) -> int:
        return math.prod(self.size[a] for a in axes)

    def write(self, line: str) -> None:
        self.lines += wrap("    " * self.depth + line)

    def bind(self, name: str, text: str, axes: tuple[str, ...], dtype: str, matrix: Plan | None = None) -> Value:
        """Write `name = text` and remember the value. A value that is a carried one's next takes its variable."""
        carried = self.variable.pop(name, None)
        known = carried.text if carried is not None and carried.axes == axes else self.fresh(name)
        self.write(f"{known} = {text}")
        self.values[name] = Value(known, axes, dtype, None, matrix)
        return self.values[name]

    def aligned(self, text: str, have: Sequence[str], want: Sequence[str]) -> str:
        """The expression with a dimension of 1 for each wanted axis that it lacks; scalars stay scalars."""
        if not have or tuple(have) == tuple(want):
            return text
        if not re.fullmatch(r"[\w.]+", text):
            text = f"({text})"
        return f"{text}[{', '.join(':' if a in have else 'None' for a in want)}]"

    def operand(self, value: Value, want: Sequence[str]) -> str:
        """A value to be broadcast against others along the wanted axes."""
        if value.literal is not None:
            written = literal(value.literal, value.dtype)
            return written if written is not None else self.tensor(value, ())
        return self.aligned(value.text, value.axes, want)

    def tensor(self, value: Value, want: Sequence[str]) -> str:
        """A value as a tensor that has exactly the wanted axes."""
        if value.literal is not None:
            written = literal(value.literal, value.dtype) or repr(float(value.literal))
            return f"tl.full({self.shape(want)}, {written}, {word(value.dtype)})"
        if tuple(value.axes) == tuple(want):
            return value.text
        if not value.axes:
            return f"tl.broadcast_to({value.text}, {self.shape(want)})"
        return f"tl.broadcast_to({self.aligned(value.text, value.axes, want)}, {self.shape(want)})"


def wrap(line: str) -> list[str]:
    """A long line broken at the commas of its outermost call."""
    if len(line) <= WIDTH or "(" not in line:
        return [line]
    start, depth, parts, begin = line.index("(") + 1, 0, [], line.index("(") + 1
    for i in range(start, len(line)):
        depth += line[i] in "([{"
        depth -= line[i] in ")]}"
        if depth < 0:
            parts.append(line[begin:i])
            end = i
            break
        if depth == 0 and line[i] == ",":
            parts.append(line[begin:i])
            begin = i + 1
    else:
        return [line]
    if len(parts) < 2:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return [line[:start], *(f"{indent}{p.strip()}," for p in parts), indent[4:] + line[end:]]
