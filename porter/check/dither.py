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

from collections.abc import Iterable
from typing import Any

import numpy as np

from porter import formats
from porter.formats.matmul import error_bound
from porter.ops.arrays import Numpy
from porter.ops.namespace import is_float
from porter.ops.residues import hashed

FEW = 16  # elements up to which a constant is no weight: 1 in 1 - x is not rounded


def stored_anew(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A weight as it would be had it been computed and rounded to its format: anywhere within half an ulp."""
    wide = np.asarray(x, np.float64)
    return np.asarray(wide + (rng.random(wide.shape) - 0.5) * formats.of(x.dtype.name).ulp(wide) * (wide != 0))


class Dithered(Numpy):
    """float64 in which each result is a value of its declared format, rounded at random; `operands` is the format
    that contractions take their operands in and keep their results in, to nearest (None: as they are).

    With `given`, the inputs of the run, weights are rounded at random too: for a model that is held against one with
    weights of its own, which were computed from these and stored. Numbers and short lists stay what they are.
    """

    def __init__(self, seed: int, operands: str | None = None, given: Iterable[np.ndarray] | None = None) -> None:
        stored = "" if given is None else ", weights too"
        super().__init__(f"dithered {seed} {operands or ''}{stored}", double=True)  # what it does follows from that
        self.rng = np.random.default_rng(seed)
        self.operands = None if operands is None else formats.of(operands)
        self.given = None if given is None else {id(x) for x in given}

    def settle(self, x: Any, dtype: np.dtype | None) -> np.ndarray:
        if dtype is None:  # weights and inputs come without a declared type, and are what they are
            moved = self.given is not None and id(x) not in self.given and np.size(x) > FEW
            return stored_anew(x, self.rng) if moved and is_float(x.dtype) else super().settle(x, dtype)
        x = super().settle(x, dtype)
        return x if x.dtype != np.float64 else self.rounded(x, np.dtype(dtype))

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
            up = self._random(x) < steps - low
            return np.where(np.isfinite(x), np.clip((low + up) * quantum, -target.max, target.max), x)

    def _random(self, x: np.ndarray) -> np.ndarray:
        """Uniform numbers below 1, the same where x is the same: on an input of ones every place rounds alike, and what
        is summed over places does not average the error away."""
        bits = np.ascontiguousarray(x.astype(np.float32)).view(np.uint32)
        key = int(self.rng.integers(1 << 63))
        return (hashed(key, bits.reshape(x.shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53

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
            exact = product(a, b)
            away = np.sqrt(-2 * np.log1p(-self._random(exact))) * np.cos(2 * np.pi * self._random(exact))  # normal
            result = exact + noise * size * away
            return result if self.operands is None else np.asarray(self.operands.round(result))
