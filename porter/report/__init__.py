"""Everything that a command found out, as one HTML page: self-contained, light and dark, readable on paper.

of_comparison(result)    a `porter.compare` Comparison
of_port(document)        the document of `porter port --json`
of_check(document)       the document of `porter check --json`
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["of_check", "of_comparison", "of_port"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("porter.report.page"), name)
    raise AttributeError(f"module 'porter.report' has no attribute '{name}'")
