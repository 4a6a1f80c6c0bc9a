"""Number formats that NKI has no word for, and bits read as another type: the text against ml_dtypes and numpy."""

from __future__ import annotations

import jax
import ml_dtypes  # noqa: F401  (numpy learns the codes)
import numpy as np
import pytest
from trainium_support import device, lowered

from porter import formats
from porter.errors import PorterError
from porter.targets.trainium import target
from porter.targets.trainium.instructions import CODES, held
from porter.tile.interpret import run
from porter.tile.program import Program
from porter.tile.target import CannotEmit
from porter.tile.text import parse
from porter.tile.tiler import tile

KINDS = sorted(CODES)
FLOATS = [k for k in KINDS if formats.of(k).is_float and k != "float8_e8m0fnu"]


def ran(program: Program, *inputs: np.ndarray) -> np.ndarray:
    return target.execute(lowered(program), inputs, device())[0]


def through(function, x: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """What the text of a function of one array computes."""
    with jax.enable_x64(True):
        meaning = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return ran(tile(meaning, target.limits(device()), name="cast"), x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_decoded(kind: str) -> None:
    codes = formats.of(kind).codes()
    number = "float32" if formats.of(kind).is_float else "int32"
    np.testing.assert_array_equal(through(lambda c: c.astype(number), codes), codes.astype(number))


@pytest.mark.parametrize("kind", FLOATS)
def test_numbers_become_the_nearest_codes(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=2000) * 2.0 ** rng.integers(-20, 12, 2000)).astype(np.float32)
    x = np.concatenate([x, np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, 2.0**-130], np.float32)])
    got, wanted = through(lambda v: v.astype(kind), x), x.astype(kind)
    assert np.array_equal(got.astype(np.float32), wanted.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("kind", ["int4", "uint4", "int2", "uint2"])
def test_integers_keep_their_lowest_bits(kind: str) -> None:
    x = np.arange(-200, 200, dtype=np.int32)
    np.testing.assert_array_equal(
        through(lambda v: v.astype(kind), x).astype(np.int32), x.astype(kind).astype(np.int32)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_is_its_code(kind: str) -> None:
    codes = formats.of(kind).codes()
    numbers = [c for c in codes if not np.isnan(c.astype(np.float32))]
    assert [held(float(c), kind) for c in numbers] == [int(c.view(np.uint8)) for c in numbers]


@pytest.mark.parametrize("old, new", [("float32", "int32"), ("int32", "float32"), ("float32", "uint32"),
                                      ("bfloat16", "uint16"), ("uint8", "int8"), ("int64", "uint64")])  # fmt: skip
def test_bits_are_a_view(old: str, new: str) -> None:
    raw = np.random.default_rng(0).normal(size=(6, 20)) * 1000
    x = np.abs(raw).astype(old)
    got = through(lambda v: jax.lax.bitcast_convert_type(v, new), x)
    assert got.dtype == new and np.array_equal(got.view(old), x)


def test_float64_is_refused_with_its_name() -> None:
    with pytest.raises(CannotEmit, match="float64 is no element type of NKI"):
        through(lambda v: v * 2, np.zeros((4, 8)))


ELEMENTS = """
kernel gather_elements {
  in x: float32[7, 30]
  in i: int32[5, 30]
  out y: float32[5, 30]
  axis r: 5 by 5 resident
  axis c: 30 by 30 resident
  j: int32<r, c> = load i(5, 30)[r, c]
  v: float32<r, c> = load x(7, 30)[@j + 0, c]
  store y(5, 30)[r, c] = v
}
"""


def test_each_lane_of_a_gather_keeps_its_own_place() -> None:
    """The indices lie across the partitions along c as well, and row j is read at c: no partition reads column 0."""
    rng = np.random.default_rng(0)
    x, i = rng.normal(size=(7, 30)).astype(np.float32), rng.integers(0, 7, (5, 30)).astype(np.int32)
    np.testing.assert_array_equal(ran(parse(ELEMENTS), x, i), np.take_along_axis(x, i.astype(np.int64), 0))


def test_many_walked_axes_are_one_dimension_of_a_tile() -> None:
    """Weights of a transposed convolution: five axes walked or cut beside the partitions, of which a tile has four."""

    def stretched(x, w):  # type: ignore[no-untyped-def]
        return jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 3), (1, 3)], lhs_dilation=(3, 3), precision="highest")

    shapes = (2, 3, 4, 5), (3, 3, 3, 3)
    meaning = jax.make_jaxpr(stretched)(*(jax.ShapeDtypeStruct(s, np.dtype("float32")) for s in shapes))
    program = tile(meaning, target.limits(device()), name="stretched")
    x, w = (np.random.default_rng(0).normal(size=s).astype(np.float32) for s in shapes)
    np.testing.assert_allclose(ran(program, x, w), run(program, [x, w])[0], rtol=1e-6, atol=1e-6)


def test_an_output_without_elements_takes_no_part() -> None:
    def split(x):  # type: ignore[no-untyped-def]
        return x[:, :0], x + 1

    with jax.enable_x64(True):
        meaning = jax.make_jaxpr(split)(jax.ShapeDtypeStruct((4, 8), np.dtype("float32")))
    program = tile(meaning, target.limits(device()), name="split")
    x = np.ones((4, 8), np.float32)
    nothing, more = target.execute(lowered(program), [x], device())
    assert nothing.shape == (4, 0) and np.array_equal(more, x + 1)


def test_a_64_bit_integer_out_of_range_is_refused_at_the_border() -> None:
    with pytest.raises(PorterError, match="as 64-bit integers are there"):
        through(lambda v: v + 1, np.array([2**40, 1]))
