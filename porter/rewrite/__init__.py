"""Rewrites by pattern: `@fusion` and `@rewrite`, their application one change at a time, and the reasons for refusals.

from porter.rewrite import fusion, rewrite, apply, why
"""

from __future__ import annotations

from porter.words import words

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

__getattr__ = words(__name__, _WORDS)
