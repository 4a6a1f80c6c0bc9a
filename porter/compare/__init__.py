"""One model on many devices, side by side: what runs, how fast, at what price, and how far from the original."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_WORDS = {"compare": "porter.compare.comparing", "Comparison": "porter.compare.comparing"}

__all__ = ["Comparison", "compare"]


def __getattr__(name: str) -> Any:
    if name in _WORDS:
        return getattr(import_module(_WORDS[name]), name)
    raise AttributeError(f"module 'porter.compare' has no attribute '{name}'")


class _Compare(ModuleType):
    """`porter.compare(model, targets=...)` is the command of that name: the package is callable."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.compare(*args, **options)


sys.modules[__name__].__class__ = _Compare
