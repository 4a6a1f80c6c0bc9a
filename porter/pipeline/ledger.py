"""Keeps the models that the error ledger is made of, while a pipeline runs.

keep = Steps()
result = pipeline.run(model, "cleanup, fusion, quantization.bf16", instruments=[keep])
print(keep.ledger(model, inputs).text())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.check import Kind
from porter.check.ledger import Ledger, Taken, ledger
from porter.graph import Model
from porter.pipeline.instruments import Instrument
from porter.pipeline.text import Stage
from porter.rewrite import Rewrite


@dataclass
class Steps(Instrument):
    """The model after each step that changed it; steps of one word of the pipeline are one entry, by their last."""

    taken: list[Taken] = field(default_factory=list)

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> None:
        if not rewrites:
            return
        name, narrow = stage.group or stage.name, stage.work.contract.kind is Kind.PRECISION
        if self.taken and self.taken[-1].name == name:
            narrow = narrow or self.taken.pop().precision
        self.taken.append(Taken(name, after, narrow))

    def ledger(self, model: Model, inputs: Mapping[str, np.ndarray], seed: int = 0) -> Ledger:
        """The error of the pipeline's result on one sample, by step. `model` is what the pipeline was given."""
        return ledger(model, self.taken, inputs, seed)
