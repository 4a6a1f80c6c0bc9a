"""The emulated matrix unit: exact where it must be, wrong by what its format says, and not by more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import formats
from porter.errors import PorterError
from porter.formats.matmul import PRECISIONS, dot, error_bound, split

NAMES = list(PRECISIONS)


def operands(seed, m=17, k=63, n=9, batch=()):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((*batch, *shape)).astype(np.float32) for shape in ((m, k), (k, n)))


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_values_of_the_operand_format(name):
    a, _ = operands(0)
    for part in split(a, name):
        assert np.array_equal(formats.of(PRECISIONS[name].format).round(part), part)


@pytest.mark.parametrize("name", ["bf16x6", "fp32"])
@given(x=st.floats(2.0**-80, 2.0**120, width=32))
def test_full_schemes_hold_every_bit(name, x):
    value = np.array([x], np.float32)
    assert sum(np.float64(p) for p in split(value, name)) == value.astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 300))
def test_the_error_stays_within_its_derived_bound(name, seed, k):
    a, b = operands(seed, 5, k, 4)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    size = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    bound = error_bound(name, k)
    assert (np.abs(dot(a, b, precision=name) - exact) <= bound.worst * size).all()
    only_format = dot(a, b, precision=name, accumulator="float64")
    assert (np.abs(only_format - exact) <= (bound.operand + error_bound(name, k, "float64").accumulation) * size).all()


@pytest.mark.parametrize("name", ["tf32", "bf16", "fp16", "bf16x3", "tf32x3"])
def test_the_error_is_really_there(name):
    """A unit that were emulated too well would hide the faults it exists to show."""
    a, b = operands(1, 64, 256, 64)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    rms = np.sqrt(np.mean((dot(a, b, precision=name, accumulator="float64") - exact) ** 2)) / np.sqrt(256)
    assert error_bound(name, 256).operand / 40 < rms < error_bound(name, 256).operand


def test_three_tf32_products_are_nearly_fp32_and_one_is_not():
    a, b = operands(2, 64, 512, 64)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = {name: np.abs(dot(a, b, precision=name) - exact).max() for name in NAMES}
    assert error["tf32x3"] < 4 * error["fp32"] and error["bf16x6"] < 4 * error["fp32"]
    assert error["tf32"] > 100 * error["fp32"] and error["bf16"] > error["tf32"] > error["bf16x3"]


@pytest.mark.parametrize("name", NAMES)
def test_products_of_small_integers_are_exact(name):
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((7, 50), (50, 6)))
    assert np.array_equal(dot(a, b, precision=name), a @ b)


@pytest.mark.parametrize("name", NAMES)
def test_infinity_stays_infinity_and_nan_stays_nan(name):
    a = np.array([[np.inf, 1], [np.nan, 1], [1, 2]], np.float32)
    b = np.ones((2, 1), np.float32)
    got = dot(a, b, precision=name)
    assert np.isposinf(got[0, 0]) and np.isnan(got[1, 0]) and got[2, 0] == 3


def test_batches_broadcast_as_in_numpy():
    a, b = operands(4, batch=(3, 1))[0], operands(5, batch=(2,))[1]
    whole = dot(a, b, precision="bf16")
    assert whole.shape == (3, 2, 17, 9)
    assert np.allclose(whole[2, 1], dot(a[2, 0], b[1], precision="bf16"), rtol=1e-5, atol=1e-5)


def test_a_narrow_accumulator_rounds_the_sum():
    a, b = operands(6)
    assert np.array_equal(
        dot(a, b, precision="fp16", accumulator="float16"),
        dot(a, b, precision="fp16").astype(np.float16).astype(np.float32),
    )


def test_wrong_operands_say_what_was_expected():
    a, b = operands(7)
    for call, words in (
        (lambda: dot(a, b, precision="fp8"), "matrix precision 'fp8'"),
        (lambda: dot(a.astype(np.float64), b, precision="bf16"), "expected float32"),
        (lambda: dot(a, a, precision="bf16"), "[..., M, K] times [..., K, N]"),
    ):
        with pytest.raises(PorterError, match="(?s)" + words.replace("[", r"\[").replace("]", r"\]")):
            call()
