"""What TPUs and Trainium share: whole models and kernels as StableHLO and HLO, run on XLA's CPU.

Importing this package loads no jax; the words below are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WORDS = {
    "whole": "whole_model", "Whole": "whole_model", "stablehlo": "hlo", "hlo_proto": "hlo", "run_text": "hlo",
    "run_proto": "hlo", "call": "hlo",
}  # fmt: skip

__all__ = list(_WORDS)


def __getattr__(name: str) -> Any:
    if name not in _WORDS:
        raise AttributeError(f"module 'porter.xla' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(f"porter.xla.{_WORDS[name]}"), name)
    return value
