"""Kernels: their meaning as an axis form, their implementation as a tile program, and the way from one to the other."""

import ml_dtypes as _ml_dtypes  # noqa: F401  registers bfloat16 and the narrow floats with numpy
