"""Whether two models mean the same: contracts, numeric and field methods, movement labels, verdicts.

    from porter import check
    result = check("a.onnx", "b.onnx")                    # equivalent, different or unknown
    verdict = check.compare(before, after, check.rounding)   # one step of a pipeline against its contract

Importing this package loads nothing heavy; the words below are imported when first used.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from porter.words import words

_WORDS = {
    "Contract": "contract",
    "Kind": "contract",
    "Budget": "contract",
    "exact": "contract",
    "algebraic": "contract",
    "rounding": "contract",
    "precision": "contract",
    "budgets": "contract",
    "described": "inputs",
    "draw": "inputs",
    "edges": "inputs",
    "Inputs": "inputs",
    "compare": "numeric",
    "compare_region": "region",
    "Verdict": "verdict",
    "Result": "result",
    "check": "result",
}

__all__ = list(_WORDS)

__getattr__ = words(__name__, _WORDS)


class _Check(ModuleType):
    """`porter.check(a, b)` is the command of that name: the package is callable."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.check(*args, **options)


sys.modules[__name__].__class__ = _Check
