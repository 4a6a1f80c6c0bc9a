"""Products as bf16 passes: in jax and in text they are the one emulation, and what is asked is read back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from porter.errors import CheckFailed
from porter.formats import matmul
from porter.xla import hlo, products

PRECISIONS = [lax.Precision.DEFAULT, lax.Precision.HIGH, lax.Precision.HIGHEST]


def operands(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((17, 65)).astype(np.float32), rng.standard_normal((65, 9)).astype(np.float32)


def text_of(precision: lax.Precision, function=None, shapes=((17, 65), (65, 9))) -> str:  # type: ignore[no-untyped-def]
    function = function or (lambda a, b: lax.dot(a, b, precision=precision))
    return hlo.stablehlo(function, [jax.ShapeDtypeStruct(s, "float32") for s in shapes], "tpu")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_forms_are_the_one_emulation(precision: lax.Precision) -> None:
    a, b = operands()
    scheme = products.SCHEME[precision.name]
    wanted = matmul.dot(a, b, precision=scheme)
    # the same products, summed in another order: k roundings of the sum of magnitudes
    allowed = 65 * 2.0**-24 * (np.abs(a) @ np.abs(b))
    in_jax = products.dot_general(jnp.asarray(a), jnp.asarray(b), (((1,), (0,)), ((), ())), precision=precision)
    in_text = hlo.run_text(text_of(precision), [a, b], passes=True)[0]
    assert (np.abs(in_jax - wanted) <= allowed).all() and (np.abs(in_text - wanted) <= allowed).all()


def test_no_precision_is_one_pass() -> None:
    a, b = operands()
    once = products.dot_general(jnp.asarray(a), jnp.asarray(b), (((1,), (0,)), ((), ())))
    assert np.abs(np.asarray(once) - a @ b).max() > 1e-3


def test_without_passes_the_cpu_multiplies_float32_as_it_is() -> None:
    a, b = operands()
    assert np.allclose(hlo.run_text(text_of(lax.Precision.DEFAULT), [a, b])[0], a @ b, atol=1e-5)
    assert not np.allclose(hlo.run_text(text_of(lax.Precision.DEFAULT), [a, b], passes=True)[0], a @ b, atol=1e-3)


def test_infinities_stay_infinite() -> None:
    a, b = operands()
    a[0, 0], b[0, :] = np.inf, 1.0
    for found in (products.dot_general(jnp.asarray(a), jnp.asarray(b), (((1,), (0,)), ((), ())), lax.Precision.HIGHEST),
                  hlo.run_text(text_of(lax.Precision.HIGHEST), [a, b], passes=True)[0]):  # fmt: skip
        assert np.isposinf(np.asarray(found)[0]).all() and np.isfinite(np.asarray(found)[1:]).all()


def test_convolutions_are_split_too() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 3, 9, 9)).astype(np.float32), rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    conv = lambda p: lambda a, b: lax.conv_general_dilated(a, b, (2, 2), "SAME", precision=p)
    exact = np.asarray(conv(lax.Precision.HIGHEST)(x, w))
    errors = [
        np.abs(hlo.run_text(text_of(p, conv(p), (x.shape, w.shape)), [x, w], passes=True)[0] - exact).max()
        for p in PRECISIONS
    ]
    assert errors[0] > 1e-3 > errors[1] > 1e-6 > 0 and errors[2] < 1e-5


def test_narrow_operands_are_left_alone() -> None:
    types = [jax.ShapeDtypeStruct((4, 8), jnp.bfloat16), jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)]
    text = hlo.stablehlo(lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32), types, "tpu")
    assert products.products(text) == [("dot_general", "bf16", "bf16")] and products.by_passes(text) == text


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_asked_is_read_back(precision: lax.Precision) -> None:
    assert products.products(text_of(precision)) == [("dot_general", "f32", products.SCHEME[precision.name])]


def test_the_lower_precision_of_two_operands_counts() -> None:
    text = text_of(lax.Precision.HIGHEST).replace("[HIGHEST, HIGHEST]", "[HIGHEST, DEFAULT]")
    assert products.products(text) == [("dot_general", "f32", "bf16")]


def test_one_pass_is_refused_where_six_were_asked() -> None:
    products.require_products("kernel k", ["bf16x6"], ["bf16x6"])
    with pytest.raises(CheckFailed) as error:
        products.require_products("kernel k", ["bf16", "bf16x6"], ["bf16x6"])
    assert str(error.value).splitlines() == [
        "kernel k", "  expected float32 products as bf16x6", "  found bf16",
        "  try  set the product's precision to HIGHEST, or port with --precision bf16"]  # fmt: skip
