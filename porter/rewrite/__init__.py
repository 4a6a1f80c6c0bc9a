"""Rewrites by pattern: `@fusion` and `@rewrite`, their application one change at a time, and the reasons for refusals.

from porter.rewrite import fusion, rewrite, apply, why
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WORDS = {
    "fusion": "rule",
    "rewrite": "rule",
    "Rule": "rule",
    "Match": "rule",
    "Miss": "match",
    "with_defaults": "match",
    "Given": "build",
    "Rewrite": "driver",
    "apply": "driver",
    "note": "driver",
    "forget": "driver",
    "fuse": "joining",
    "join": "joining",
    "all_graphs": "driver",
    "region": "regions",
    "content": "regions",
    "why": "reasons",
    "Answer": "reasons",
    "find": "reasons",
}

__all__ = list(_WORDS)


def __getattr__(name: str) -> Any:
    if name not in _WORDS:
        raise AttributeError(f"module 'porter.rewrite' has no attribute '{name}'")
    module = import_module(f"porter.rewrite.{_WORDS[name]}")
    # importing the submodule 'apply' binds the module under the function's name; the function is what is meant
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
