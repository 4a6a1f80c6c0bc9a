"""What TPUs and Trainium share: whole models and kernels as StableHLO and HLO, run on XLA's CPU.

Importing this package loads no jax; the words below are imported when first used.
"""

from __future__ import annotations

from porter.words import words

_WORDS = {
    "whole": "whole_model", "Whole": "whole_model", "stablehlo": "hlo", "hlo_proto": "hlo", "run_text": "hlo",
    "run_proto": "hlo", "call": "hlo",
}  # fmt: skip

__all__ = list(_WORDS)

__getattr__ = words(__name__, _WORDS)
