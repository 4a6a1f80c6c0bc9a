"""Matrix products in XLA programs: which precision they ask for, and what a matrix unit of bf16 passes makes of them.

On a TPU a float32 product takes one bf16 pass at precision DEFAULT, three at HIGH and six at HIGHEST; XLA's CPU and
Pallas' interpret mode multiply float32 exactly whatever is asked. So `dot_general` here stands in for theirs, with the parts
and terms of porter.formats.matmul, and `products` reads back what a program really asks for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from porter.errors import CheckFailed
from porter.formats.matmul import PRECISIONS

# XLA's precision: porter's name of the scheme, as TPUs and Neuron's bf16 casting run it.
SCHEME = {"DEFAULT": "bf16", "HIGH": "bf16x3", "HIGHEST": "bf16x6"}

_PRODUCT = re.compile(r'"?stablehlo\.(dot_general|convolution|dot)"?\(?')
_PRECISION = re.compile(r"precision\s*=\s*\[([^\]]*)\]|precision_config\s*=\s*\[([^\]]*)\]")
_TYPES = re.compile(r":\s*\(tensor<([^>]*)>,\s*tensor<([^>]*)>\)\s*->")


def dot_general(
    lhs: Any, rhs: Any, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None, **rest: Any
) -> Any:
    """lax.dot_general as a matrix unit of bf16 passes computes it; narrower operands are multiplied exactly in float32."""
    if not (jnp.issubdtype(lhs.dtype, jnp.floating) and jnp.issubdtype(rhs.dtype, jnp.floating)):
        return lax.dot_general(lhs, rhs, dimension_numbers, precision=precision,
                               preferred_element_type=preferred_element_type, **rest)  # fmt: skip
    result = preferred_element_type or jnp.result_type(lhs, rhs)
    both = lhs.dtype == rhs.dtype == jnp.float32
    name = str(precision[0] if isinstance(precision, tuple) else precision or "DEFAULT").rpartition(".")[2].upper()
    scheme = PRECISIONS[SCHEME[name] if both else "fp32"]
    left, right = _parts(lhs.astype(jnp.float32), scheme.parts, both), _parts(rhs.astype(jnp.float32), scheme.parts, both)
    total = None
    for i, j in scheme.terms:
        if total is not None and (i, j) == (0, 0):
            total = jnp.where(jnp.isnan(total), jnp.float32(0), total)  # Inf - Inf in the split is no NaN of the model
        product = lax.dot_general(left[i], right[j], dimension_numbers, precision=lax.Precision.HIGHEST,
                                  preferred_element_type=jnp.float32)  # fmt: skip
        total = product if total is None else total + product
    assert total is not None
    return total.astype(result)


def _parts(x: Any, count: int, cut: bool) -> list[Any]:
    """The bf16 values that add up to x, as float32. reduce_precision, since XLA drops a cast to bfloat16 and back."""
    if not cut:
        return [x]
    parts, rest = [], x
    for _ in range(count):
        parts.append(lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - parts[-1]
    return parts


def products(text: str) -> list[tuple[str, str, str]]:
    """(operation, operand type, scheme) of each product in StableHLO text; the scheme of float32 operands is that of
    their precision, else the operand type itself."""
    found = []
    for line in text.splitlines():
        match = _PRODUCT.search(line)
        if match is None:
            continue
        types = _TYPES.search(line)
        kinds = [t.split("x")[-1] for t in types.groups()] if types else ["f32"]
        asked = _PRECISION.search(line)
        words = re.findall(r"DEFAULT|HIGHEST|HIGH", (asked.group(1) or asked.group(2)) if asked else "") or ["DEFAULT"]
        lowest = min(words, key=["DEFAULT", "HIGH", "HIGHEST"].index)
        found.append((match.group(1), kinds[0], SCHEME[lowest] if "f32" in kinds else kinds[0]))
    return found


def require_products(where: str, found: Sequence[str], asked: Sequence[str]) -> None:
    """The schemes of float32 products that a program realizes must be the ones that were asked for.

    Raises CheckFailed naming both: a float32 port never multiplies in one bf16 pass unsaid.
    """
    if set(found) - set(asked):
        raise CheckFailed(where, expected=f"float32 products as {', '.join(sorted(set(asked))) or 'none'}",
                          found=', '.join(sorted(set(found) - set(asked))),
                          hint="set the product's precision to HIGHEST, or port with --precision bf16")  # fmt: skip


def enable_x64() -> None:
    """64-bit types in jax, which porter's arithmetic needs everywhere."""
    jax.config.update("jax_enable_x64", True)
