"""What fusions leave behind: the caches they computed per layer become one, constants are folded, the rest is
dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

from porter.graph import Model
from porter.passes.cleanup import shapes
from porter.passes.cleanup.constants import Constants
from porter.passes.cleanup.dead import Dead
from porter.passes.cleanup.duplicates import Duplicates
from porter.pipeline import Pass, Rules, exact
from porter.rewrite import Rewrite


@dataclass(frozen=True)
class Tidy(Pass):
    """Fold, merge and drop what the other fusions made."""

    contract = exact
    after: ClassVar[tuple[str, ...]] = ("attention", "gemm", "rope", "swiglu")

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        steps = (Rules(shapes.rules, exact), Constants(), Duplicates(), Dead())
        for number, record in enumerate(chain.from_iterable(step.run(model, device) for step in steps), 1):
            yield replace(record, number=number)
