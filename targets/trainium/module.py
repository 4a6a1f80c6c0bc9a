"""The NKI module around a kernel's tile: what it is for, its imports, and the kernel that loops over the grid."""

from __future__ import annotations

from collections.abc import Sequence

from porter.targets.trainium.instructions import DTYPES
from porter.targets.trainium.layout import Part
from porter.targets.trainium.writer import steps_of
from porter.tile.program import Param, Program


def text(program: Program, home: Part, tile: Sequence[str]) -> str:
    """The module: `<name>_tile` with these lines as its body, and `<name>`, which calls it for every tile."""
    return "\n".join([*_head(program, home), *tile, *_kernel(program), ""])


def _head(p: Program, home: Part) -> list[str]:
    lines = [f'"""{p.name}: {p.note}' if p.note else f'"""{p.name}', ""]
    for x in p.params:
        stored = "" if DTYPES.get(x.dtype) == x.dtype else f", held as {DTYPES.get(x.dtype)}"
        lines.append(f"{'out' if x.out else 'in '} {x.name}: {x.dtype}{list(x.shape)}{stored}")
    for a in p.axes:
        lines.append(f"axis {a.name}: {a.extent}, {a.tile} at a time, {a.role}")
    lines += [
        f"across the partitions: {' x '.join(home) or 'nothing'}",
        '"""',
        "",
        "import nki",
        "import nki.isa as nisa",
        "import nki.language as nl",
        "",
        "",
    ]
    axes = [f"{a.name} from {a.name}_at" for a in p.grid]
    lines.append(f"def {p.name}_tile({', '.join(_arguments(p))}):")
    lines.append(f'    """One tile of the grid{": " + ", ".join(axes) if axes else ""}."""')
    lines += [
        f"    {a.name}_n = min({a.tile}, {a.extent} - {a.name}_at)" for a in p.grid if a.ragged and a.tile < a.extent
    ]
    return lines


def _kernel(p: Program) -> list[str]:
    lines = ["", "", "@nki.jit", f"def {p.name}({', '.join(x.name for x in p.inputs)}):"]
    lines += [
        f"    {x.name} = nl.ndarray({shape(x)}, dtype=nl.{DTYPES[x.dtype]}, buffer=nl.shared_hbm)" for x in p.outputs
    ]
    indent = "    "
    for a in p.grid:
        lines.append(f"{indent}for {a.name}_at in {steps_of(a)}:")
        indent += "    "
    lines.append(f"{indent}{p.name}_tile({', '.join(_arguments(p))})")
    lines.append(f"    return {', '.join(x.name for x in p.outputs)}")
    return lines


def _arguments(p: Program) -> list[str]:
    return [x.name for x in (*p.inputs, *p.outputs)] + [f"{a.name}_at" for a in p.grid]


def shape(x: Param) -> str:
    """A parameter's shape as a tuple; a scalar is one element, and so is what has none: nothing reads or writes it."""
    sizes = x.shape if x.shape and 0 not in x.shape else (1,)
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
