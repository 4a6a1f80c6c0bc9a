"""E4M3 by the chip's own name: cores before v4 multiply float8_e4m3, which ends at 240, and know no float8_e4m3fn.

A graph holds float8_e4m3fn, ONNX's one E4M3. Codes up to 240 are the same bits in both, and porter's passes keep codes
there (porter.precision.audit.flavours holds it), so that only the name changes. Beyond 240 the bits read as Inf or NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from porter.targets.trainium.simulator.memory import Chip
from porter.tile.program import Dot, Param, Program, Tile, rebuilt, walk

OCP, LEGACY = "float8_e4m3fn", "float8_e4m3"
FIRST_WITH_OCP = 4  # the generation of the core that multiplies float8_e4m3fn


def flavoured(program: Program, chip: Chip) -> Program:
    """The program with E4M3 as the chip's matrix unit has it; without a product there is no such unit to please."""
    if chip.generation >= FIRST_WITH_OCP or not any(isinstance(s, Dot) for s in walk(program.body)):
        return program
    renamed: Program = rebuilt(program, _renamed)
    return renamed


def _renamed(part: Any) -> Any:
    return replace(part, dtype=LEGACY) if isinstance(part, Param | Tile) and part.dtype == OCP else part
