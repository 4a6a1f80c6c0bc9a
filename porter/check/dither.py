"""The error that an arithmetic must have: float64 with every result rounded stochastically to its declared format.

Monte Carlo arithmetic (Parker, UCLA CSD-970002): rounding up or down at random, with the distance as the chance, makes
each operator's error independent, so that the spread of the outputs is the error that any evaluation in these formats
has, however lucky one evaluation was. Movement costs nothing, since what is a value of the format already stays.
Contractions add the error of summing in float32 (`formats.matmul.error_bound`) and, where an operand format is given,
round the operands to it first.

One stochastic rounding has twice the variance of rounding to nearest (1/6 against 1/12 of an ulp squared, on average),
so callers take an error measured here over sqrt(2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porter import formats
from porter.formats.matmul import error_bound
from porter.ops.arrays import Numpy
from porter.ops.namespace import is_float


class Dithered(Numpy):
    """float64 in which each result is a value of its declared format, rounded at random; `operands` is the format
    that contractions take their operands in and keep their results in, to nearest (None: as they are)."""

    def __init__(self, seed: int, operands: str | None = None) -> None:
        super().__init__("dithered", double=True)
        self.rng = np.random.default_rng(seed)
        self.operands = None if operands is None else formats.of(operands)

    def settle(self, x: Any, dtype: np.dtype | None) -> np.ndarray:
        x = super().settle(x, dtype)
        # weights and inputs come without a declared type, and are what they are
        return x if dtype is None or x.dtype != np.float64 else self.rounded(x, np.dtype(dtype))

    def cast(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        y = super().cast(x, dtype)
        return self.rounded(y, np.dtype(dtype)) if y.dtype == np.float64 else y

    def rounded(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        if not is_float(dtype) or dtype == np.float64:
            return x
        target = formats.of(dtype.name)
        with np.errstate(invalid="ignore", over="ignore"):
            quantum = target.ulp(x)
            steps = x / quantum
            low = np.floor(steps)
            up = self.rng.random(x.shape) < steps - low
            return np.where(np.isfinite(x), np.clip((low + up) * quantum, -target.max, target.max), x)

    # contractions

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._contract(np.matmul, a.shape[-1] if a.ndim else 1, a, b)

    def einsum(self, equation: str, *operands: np.ndarray) -> np.ndarray:
        if len(operands) != 2:
            return super().einsum(equation, *operands)
        terms, _, out = equation.replace(" ", "").replace("...", "").partition("->")
        summed = {
            letter: extent
            for term, x in zip(terms.split(","), operands, strict=True)
            for letter, extent in zip(reversed(term), reversed(x.shape), strict=False)
            if letter not in out
        }
        k = int(np.prod(list(summed.values()), dtype=np.int64))
        return self._contract(lambda x, y: super(Dithered, self).einsum(equation, x, y), k, *operands)

    def conv(self, x: np.ndarray, w: np.ndarray, **options: Any) -> np.ndarray:
        k = int(np.prod(w.shape[1:], dtype=np.int64))
        return self._contract(lambda a, b: super(Dithered, self).conv(a, b, **options), k, x, w)

    def _contract(self, product: Any, k: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype != np.float64 or b.dtype != np.float64:
            return product(a, b)
        if self.operands is not None:
            a, b = np.asarray(self.operands.round(a)), np.asarray(self.operands.round(b))
        # the roundings of a sum of k terms, relative to the root of the sum of their squares
        noise = error_bound("fp32", k).rms(k)
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.sqrt(np.maximum(product(a * a, b * b), 0.0))
            result = product(a, b) + noise * size * self.rng.standard_normal(size.shape)
            return result if self.operands is None else np.asarray(self.operands.round(result))
