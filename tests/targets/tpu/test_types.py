"""Types that Mosaic has no vectors of: float64 stays float64, codes and bits are StableHLO's, and nothing narrows unsaid."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import ml_dtypes  # noqa: F401  (numpy learns the codes)
import numpy as np
import pytest

from porter.errors import PorterError
from porter.targets.tpu import target, xla
from porter.tile.target import CannotEmit, Emitted, Kernel
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from tpu_support import V6E


def emitted(function, *inputs: np.ndarray) -> Emitted:  # type: ignore[no-untyped-def]
    with jax.enable_x64(True):
        meaning = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs))
    return target.lower(Kernel("k", tile(meaning, target.limits(V6E), name="k"), meaning), V6E)


def through(function, *inputs: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    return target.execute(emitted(function, *inputs), inputs, V6E)[0]


def test_float64_is_computed_in_float64_and_the_report_says_how_the_chip_does() -> None:
    x = np.array([[1.0, 1e-12, 3.0, 1 / 3]] * 4)
    e = emitted(lambda v: v + 1.0, x)
    assert e.language == "stablehlo" and "f64" in e.text and "pairs of float32" in e.why
    assert np.array_equal(target.execute(e, [x], V6E)[0], x + 1.0)


def test_float64_within_a_kernel_does_not_narrow() -> None:
    x = np.full((4, 8), 1 / 3, np.float32)

    def wide(v):  # type: ignore[no-untyped-def]
        return (v.astype("float64") + 1e-9 - v.astype("float64")).astype("float32")

    assert (through(wide, x) > 0.9e-9).all()  # in float32 the sum would be the number itself, and this 0


def test_a_float64_beyond_a_pair_of_float32_is_refused_at_the_border() -> None:
    with pytest.raises(PorterError, match="within the range of float32"):
        through(lambda v: v + 1.0, np.array([[1e200, 1.0]]))


@pytest.mark.parametrize("kind", ["int4", "uint2", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn", "float16"])
def test_every_code_goes_through_stablehlo(kind: str) -> None:
    x = (
        np.arange(16, dtype=np.uint8).reshape(2, 8).view(kind)
        if np.dtype(kind).itemsize == 1
        else np.ones((2, 8), kind)
    )
    got = through(lambda v: v.astype("float32") * 2, x)
    assert np.array_equal(got, x.astype(np.float32) * 2, equal_nan=True)


def test_bits_of_64_bit_integers_are_refused_and_those_of_32_bits_are_a_view() -> None:
    with pytest.raises(CannotEmit, match="64-bit integers are 32-bit ones"):
        emitted(lambda v: jax.lax.bitcast_convert_type(v, "int64"), np.zeros((2, 4)))
    x = np.array([[1.5, -2.0]], np.float32)
    assert np.array_equal(through(lambda v: jax.lax.bitcast_convert_type(v, "int32"), x), x.view(np.int32))


def test_a_product_of_float16_is_asked_for_in_six_passes() -> None:
    a, b = (np.ones((16, 64), "float16"), np.ones((64, 32), "float16"))
    e = emitted(lambda x, y: (x.astype("float32") @ y.astype("float32")).astype("float16"), a, b)
    assert xla.asked(e.kernel.program) == ("bf16x6",)
    assert (target.execute(e, [a, b], V6E)[0] == 64).all()
