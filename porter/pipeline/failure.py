"""A step that broke its contract: the message, and the three files that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porter import graph
from porter.check import Verdict
from porter.errors import CheckFailed
from porter.graph import Model
from porter.rewrite import Rewrite


@dataclass(frozen=True)
class Evidence:
    """What shows a failure: two models over the same inputs, and the inputs."""

    before: Model
    after: Model
    inputs: Mapping[str, np.ndarray]

    def keep(self, folder: Path) -> Path:
        """Writes before.onnx, after.onnx and inputs.npz into the first free `fail-NNN` of the folder."""
        number = 1
        while (place := folder / f"fail-{number:03d}").exists():
            number += 1
        place.mkdir(parents=True)
        graph.save(self.before, place / "before.onnx")
        graph.save(self.after, place / "after.onnx")
        arrays: dict[str, Any] = {name: _plain(array) for name, array in self.inputs.items()}
        np.savez(place / "inputs.npz", **arrays)
        return place


class StepFailed(CheckFailed):
    """A pass broke its contract. The message names the output, the amount, the rewrite, the source layer and the
    evidence.
    """

    def __init__(
        self, step: str, verdict: Verdict, *, rewrite: Rewrite | None, kept: Path | None, stage: str, contract: str
    ) -> None:
        self.step, self.verdict, self.rewrite, self.kept, self.contract = step, verdict, rewrite, kept, contract
        worst = verdict.worst
        output = worst.tensor if worst is not None else "?"
        self.lines = [
            f"{step} changed output '{output}'"
            if rewrite is None or rewrite.before is None
            else f"{step} changed node '{rewrite.place}'"
        ]
        if worst is not None:
            self.lines.append(f"  {worst.text()} ({contract})")
        if rewrite is not None:
            self.lines.append(
                f"  first wrong rewrite is number {rewrite.number}, {rewrite.rule} at node {rewrite.place}"
            )
        elif verdict.first_divergence is not None:
            self.lines.append(f"  first at node {verdict.first_divergence.node}: {verdict.first_divergence.text()}")
        if kept is not None:
            self.lines.append(f"  kept {kept}: before.onnx, after.onnx, inputs.npz")
            limit = f" --limit {1 if rewrite.before is not None else rewrite.number}" if rewrite is not None else ""
            self.lines.append(f"  try  porter opt {kept}/before.onnx --passes '{stage}'{limit} --check")
        super().__init__(self.lines[0], found="\n".join(self.lines[1:]))

    def __str__(self) -> str:
        return "\n".join(self.lines)


def _plain(array: np.ndarray) -> np.ndarray:
    """npz knows numpy's own types only; narrow formats are kept as float32, which holds them exactly."""
    return array if array.dtype.kind in "biufSUO" and array.dtype.isbuiltin == 1 else array.astype(np.float32)
