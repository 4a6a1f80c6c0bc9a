"""Pipelines of passes: what a pass is, how a pipeline is written, and the run that watches every step.

    from porter import pipeline
    result = pipeline.run(model, "cleanup, fusion, layout{channels_last=1}")
    result.model, result.steps

Importing this package loads nothing heavy; the words below are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WORDS = {
    "Pass": "passes",
    "Rules": "passes",
    "exact": "passes",
    "algebraic": "passes",
    "rounding": "passes",
    "precision": "passes",
    "Entry": "discovery",
    "discover": "discovery",
    "rules": "discovery",
    "Stage": "text",
    "parse": "text",
    "show": "text",
    "Result": "running",
    "Step": "running",
    "run": "running",
    "why": "running",
    "Instrument": "instruments",
    "Check": "instruments",
    "Save": "instruments",
    "StepFailed": "failure",
    "Cache": "cache",
}

__all__ = list(_WORDS)


def __getattr__(name: str) -> Any:
    if name not in _WORDS:
        raise AttributeError(f"module 'porter.pipeline' has no attribute '{name}'")
    module = import_module(f"porter.pipeline.{_WORDS[name]}")
    # importing the submodule 'run' binds the module under the function's name; the function is what is meant
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
