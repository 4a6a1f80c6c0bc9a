"""Products of codes in XLA's text: what a widened operand was before, and its scales behind the product.

    dot(float32(codes) * scale, float32(other))  ->  dot(codes, other) * scale     where the scale is the same all along the sum

Codes meet as they lie where the unit multiplies them so, else as bfloat16, where every code of eight bits is exact. A kernel's
meaning is in float32, so without this a convolution of codes would be six passes over their float32 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

#: eight bits, exact in bfloat16
CODES = ("int8", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class Stood:
    """A float32 value as a narrow array times factors, each of the array's rank with sizes of 1, or of rank 0."""

    array: Any
    factors: tuple[Any, ...] = ()

    def moved(self, primitive: Any, rest: list[Any], params: dict[str, Any]) -> Stood | None:
        """The value after its elements were moved; None where a factor does not move as simply."""
        factors = []
        for factor in self.factors:
            if factor.ndim and primitive.name != "transpose":
                return None
            factors.append(primitive.bind(factor, **params) if factor.ndim else factor)
        return Stood(primitive.bind(self.array, *rest, **params), tuple(factors))

    def scaled(self, factor: Any) -> Stood | None:
        """The value times a factor, where the value is codes and the factor has fewer elements."""
        if self.array.dtype.name not in CODES or factor.ndim not in (0, self.array.ndim):
            return None
        if factor.size > 1 and not any(n == 1 < m for n, m in zip(factor.shape, self.array.shape, strict=True)):
            return None
        return Stood(self.array, (*self.factors, factor))


def widened(before: Any, after: Any) -> Stood | None:
    """What a cast to float32 widened: a bfloat16 array, or codes."""
    narrow = before.dtype == jnp.bfloat16 or before.dtype.name in CODES
    return Stood(before) if narrow and after.dtype == jnp.float32 else None


def product(
    bind: Callable[[list[Any], dict[str, Any]], Any],
    sides: tuple[Stood, Stood],
    params: dict[str, Any],
    units: Collection[str],
) -> Any | None:
    """The float32 product of two such values, by dot_general or a convolution; None where a scale changes along the sum.

    units   codes that the matrix unit multiplies as they lie: int8 into int32, float8 into float32
    """
    arrays = [s.array for s in sides]
    places = [_free(params, side, [a.ndim for a in arrays]) for side in (0, 1)]
    behind = [_placed(f, *place) for s, place in zip(sides, places, strict=True) for f in s.factors]
    if any(f is None for f in behind):
        return None
    kinds = {a.dtype.name for a in arrays}
    if len(kinds) > 1 or not kinds <= {"bfloat16", *units}:
        arrays = [a.astype(jnp.bfloat16) for a in arrays]
    whole = kinds == {"int8"} and "int8" in units
    out = bind(arrays, params | {"preferred_element_type": np.dtype(np.int32 if whole else np.float32)})
    out = out.astype(jnp.float32)
    for factor in behind:
        out = out * factor
    return out


def _free(params: dict[str, Any], side: int, ranks: list[int]) -> tuple[list[int], list[int], int]:
    """The dimensions of an operand that the result has, where they lie in it, and the result's rank."""
    numbers = params["dimension_numbers"]
    if "window_strides" in params:  # a convolution: the batch of one operand, the features of the other
        mine = (numbers.lhs_spec[0], numbers.rhs_spec[0])[side]
        whole = params["batch_group_count"] == 1
        return ([mine] if whole else []), ([numbers.out_spec[side]] if whole else []), ranks[0]
    summed, batch = numbers
    own = [[d for d in range(ranks[i]) if d not in (*summed[i], *batch[i])] for i in (0, 1)]
    start = len(batch[0]) + (len(own[0]) if side else 0)
    places = [*range(len(batch[0])), *range(start, start + len(own[side]))]
    return [*batch[side], *own[side]], places, len(batch[0]) + len(own[0]) + len(own[1])


def _placed(factor: Any, held: list[int], places: list[int], rank: int) -> Any | None:
    """A factor of an operand as one of the result; None where it has a dimension that the result has not."""
    if factor.ndim == 0:
        return factor
    if any(n > 1 for d, n in enumerate(factor.shape) if d not in held):
        return None
    kept = jnp.transpose(factor, [*held, *(d for d in range(factor.ndim) if d not in held)])
    shape = [1] * rank
    for d, place in zip(held, places, strict=True):
        shape[place] = factor.shape[d]
    return kept.reshape(shape)
