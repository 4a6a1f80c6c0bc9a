"""What Toy can do: each instruction with its meaning, the memories its operands may lie in, and its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from porter.formats import matmul
from porter.tile.elementwise import ELEMENTWISE, REDUCTIONS

ANY = frozenset({"vmem", "acc"})
VMEM, ACC = frozenset({"vmem"}), frozenset({"acc"})


@dataclass(frozen=True)
class Instruction:
    """run: what it computes on numpy arrays whose dimensions are the kernel's axes. to, operands: where they may lie."""

    run: Callable[..., np.ndarray]
    to: frozenset[str] = ANY
    operands: frozenset[str] = ANY
    cycles_per_row: float = 1.0  # one row is 128 lanes

    def problem(self, name: str, to: str, spaces: list[str]) -> str | None:
        """The rule that this use breaks, as a sentence; None where it is legal."""
        if to not in self.to:
            return f"toy.{name} writes {' or '.join(sorted(self.to))}, not {to}"
        wrong = [s for s in spaces if s not in self.operands]
        return f"toy.{name} reads {' or '.join(sorted(self.operands))}, not {wrong[0]}" if wrong else None


def _mma(acc: np.ndarray, a: np.ndarray, b: np.ndarray, precision: str) -> np.ndarray:
    """acc + a @ b: float32 as it is, bfloat16 exactly, sums in float32."""
    wide = np.float32 if a.dtype.kind not in "iu" else acc.dtype
    a, b = a.astype(wide), b.astype(wide)
    return acc + (matmul.dot(a, b, precision=precision) if wide is np.float32 else np.matmul(a, b))


MMA = Instruction(_mma, to=ACC, operands=VMEM, cycles_per_row=1.0)
MOVE = Instruction(lambda x: x)
VECTOR = {op: Instruction(run) for op, (_, run) in ELEMENTWISE.items()}
REDUCE = {f"reduce_{op}": Instruction(run) for op, (_, run) in REDUCTIONS.items()}
