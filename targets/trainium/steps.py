"""What an instruction is given: a tile, a number, or a tile with steps that wait to be taken along."""

from __future__ import annotations

from dataclasses import dataclass

from porter.targets.trainium.writer import Place
from porter.tile.program import Scalar


@dataclass(frozen=True)
class Step:
    """data op operand, or operand op data where `flip`; op is a tile program's."""

    op: str
    operand: Place | Scalar
    flip: bool = False


@dataclass(frozen=True)
class Pending:
    """data, then steps that wait for the instruction that takes them along."""

    data: Place
    steps: tuple[Step, ...] = ()


Argument = Place | Pending | Scalar
ARITHMETIC = frozenset({"add", "sub", "mul", "max", "min"})
