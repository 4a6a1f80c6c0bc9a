"""Products of codes in XLA's text: the operands it asks for, and that moved scales change nothing but the rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from porter.xla import hlo, narrow, products

NUMBERS = ("NCHW", "OIHW", "NCHW")


def codes(shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    drawn = np.random.default_rng(seed).integers(-100, 100, shape)
    return jnp.asarray(drawn, jnp.float32).astype(dtype)


def wide(x: Any, scale: Any) -> Any:
    return x.astype(jnp.float32) * scale


def conv(x: Any, w: Any, groups: int = 1) -> Any:
    return lax.conv_general_dilated(
        x, w, (2, 2), ((0, 1), (1, 1)), dimension_numbers=NUMBERS, feature_group_count=groups
    )


#: what is computed of (codes, scale, codes, scale), their shapes, and whether the scales have no axis of the sum
CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...], bool]] = {
    "a convolution": (
        lambda x, s, w, t: conv(wide(x, s), wide(w, t)), ((2, 4, 8, 8), (), (6, 4, 3, 3), (6, 1, 1, 1)), True),
    "one of groups": (
        lambda x, s, w, t: conv(wide(x, s), wide(w, t), 2), ((2, 4, 8, 8), (2, 1, 1, 1), (6, 2, 3, 3), (6, 1, 1, 1)), True),
    "tokens and channels": (lambda x, s, w, t: wide(x, s) @ wide(w, t), ((3, 5, 16), (3, 5, 1), (16, 7), (1, 7)), True),
    "a weight transposed": (lambda x, s, w, t: wide(x, s) @ wide(w, t).T, ((5, 16), (5, 1), (7, 16), (7, 1)), True),
    "a batch": (
        lambda x, s, w, t: jnp.matmul(wide(x, s), wide(w, t)), ((3, 5, 16), (3, 5, 1), (3, 16, 7), (3, 1, 7)), True),
    "a scale per term": (lambda x, s, w, t: wide(x, s) @ wide(w, t), ((5, 16), (1, 16), (16, 7), (1, 7)), False),
    "a scale per pixel": (
        lambda x, s, w, t: conv(wide(x, s), wide(w, t)), ((2, 4, 8, 8), (2, 1, 8, 8), (6, 4, 3, 3), ()), False),
}  # fmt: skip


@pytest.mark.parametrize("kinds, units, asked", [
    (("int8", "int8"), ("int8",), "i8"), (("int8", "int8"), (), "bf16"), (("float8_e4m3fn", "int8"), ("int8",), "bf16"),
    (("float8_e4m3fn", "float8_e4m3fn"), ("float8_e4m3fn",), "f8E4M3FN"), (("float8_e5m2", "float8_e4m3fn"), (), "bf16"),
    (("bfloat16", "int8"), ("int8",), "bf16"),
])  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_codes_meet_as_the_unit_takes_them_and_scales_are_behind(
    case: str, kinds: tuple[str, str], units: tuple[str, ...], asked: str
) -> None:
    compute, (xs, ss, ws, ts), free = CASES[case]
    x, w = codes(xs, kinds[0], 0), codes(ws, kinds[1], 1)
    random = np.random.default_rng(2)
    s, t = (jnp.asarray(random.uniform(0.5, 2, shape), jnp.float32) for shape in (ss, ts))
    closed = jax.make_jaxpr(compute)(x, s, w, t)
    slim = narrow.narrowed(closed, lax.Precision.HIGHEST, units)
    text = hlo.stablehlo(slim, closed.in_avals, "tpu", "product")
    (found,) = products.products(text)
    scaled = kinds[0] == "bfloat16"  # scales of what is no code stay with it
    assert found[1] == (asked if free and not scaled else "f32")
    (got,) = slim(x, s, w, t)
    want = np.asarray(compute(x, s, w, t))  # XLA's CPU multiplies float32 as it is
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=2.0**-20 * np.abs(want).max())
