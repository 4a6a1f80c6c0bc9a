"""Regions alone: a rewrite against what it replaced, and a kernel under its unit's arithmetic against its function."""

import numpy as np
import pytest

from porter import check
from porter.errors import PorterError
from porter.formats.matmul import dot
from porter.ops import ShapeDtype

X, W = ShapeDtype((48, 192), np.dtype(np.float32)), ShapeDtype((192, 40), np.dtype(np.float32))


@pytest.fixture
def product(model):
    return model("g (float[48,192] x, float[192,40] w) => (float[48,40] y) { y = MatMul (x, w) }")


def on(precision):
    return lambda arrays: [dot(*arrays, precision=precision)]


@pytest.mark.parametrize(
    "precision, contract, ok",
    [
        ("fp32", check.rounding, True),
        ("bf16x6", check.rounding, True),
        ("tf32x3", check.rounding, True),
        ("tf32", check.rounding, False),
        ("bf16", check.rounding, False),
        ("bf16", check.precision("sqnr", db=40, arithmetic="bf16"), True),
        ("tf32", check.precision("sqnr", db=40, arithmetic="bf16"), True),
        ("bf16", check.precision("sqnr", db=60, arithmetic="bf16"), False),
    ],
)
def test_a_unit_passes_where_its_products_are_good_enough(product, precision, contract, ok):
    verdict = check.compare_region(product.graph, on(precision), [X, W], contract, model=product)
    assert verdict.ok is ok, verdict.message
    assert ok or verdict.message.startswith("output 'y' changed")


def test_two_functions_are_compared_on_the_same_random_inputs(model, product):
    doubled = model("g (float[48,192] x, float[192,40] w) => (float[48,40] y) { t = MatMul (x, w)  y = Add (t, t) }")
    assert check.compare_region(product.graph, product.graph, [X, W], check.exact, model=product).ok
    verdict = check.compare_region(product.graph, doubled.graph, [X, W], check.algebraic, model=product, subject="fold")
    assert not verdict.ok and verdict.message.startswith("fold changed output 'y'\n  1920 of 1920 elements moved")


def test_a_callable_has_no_algebra(product):
    with pytest.raises(PorterError, match="two functions"):
        check.compare_region(product.graph, on("fp32"), [X, W], check.algebraic, model=product)


def test_given_arrays_are_used_as_they_are(product):
    x, w = np.eye(48, 192, dtype=np.float32), np.ones((192, 40), np.float32)
    seen = []
    check.compare_region(
        product.graph, lambda a: seen.extend(a) or [a[0] @ a[1]], [x, w], check.rounding, model=product
    )
    assert seen[0] is x and seen[1] is w
