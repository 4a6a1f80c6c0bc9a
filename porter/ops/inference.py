"""Types and shapes of every value, from the definitions themselves: nothing says twice what an operator returns."""

from __future__ import annotations

from porter.ops.evaluation import evaluate

__all__ = ["evaluate"]
