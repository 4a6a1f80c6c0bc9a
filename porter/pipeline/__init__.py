"""Pipelines of passes: what a pass is, how a pipeline is written, and the run that watches every step.

    from porter import pipeline
    result = pipeline.run(model, "cleanup, fusion, layout{channels_last=1}")
    result.model, result.steps

Importing this package loads nothing heavy; the words below are imported when first used.
"""

from __future__ import annotations

from porter.words import words

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

__getattr__ = words(__name__, _WORDS)
