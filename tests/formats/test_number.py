"""Formats against ml_dtypes: every code, every midpoint between neighbours, and what lies beyond the range."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter import formats
from porter.errors import PorterError
from porter.formats.number import FORMATS

SMALL_FLOATS = [f for f in FORMATS.values() if f.is_float and f.dtype is not None and f.bits <= 16]
SCALE = "float8_e8m0fnu"
EXTREMES = np.array([0.0, -0.0, 1e-45, -1e-45, 1e30, -1e30, np.inf, -np.inf, np.nan])


def same(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[a == a]), np.signbit(b[b == b]))


def from_the_way(f, x):
    """x and its two neighbours in the dtype from which ml_dtypes rounds to f once (it takes float64 there first)."""
    x = x.astype(np.float16 if f.name == "float8_e5m2" else np.float64 if f.name == "float16" else np.float32)
    up, down = x.dtype.type(np.inf), x.dtype.type(-np.inf)
    return np.concatenate([x, np.nextafter(x, up), np.nextafter(x, down)]).astype(np.float64)


def finite(f):
    with np.errstate(invalid="ignore"):  # signalling NaN codes
        values = f.codes().astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("f", SMALL_FLOATS, ids=lambda f: f.name)
def test_every_value_every_midpoint_and_their_neighbours_round_as_ml_dtypes_does(f):
    values = finite(f)
    middle = (values[1:] + values[:-1]) / 2
    x = from_the_way(f, np.concatenate([values, middle]))
    if f.name == SCALE:
        x = x[np.abs(x) >= 2.0**-126]  # below, ml_dtypes meets float32's subnormals
    assert same(f.round(x), x.astype(f.dtype).astype(np.float64))


@pytest.mark.parametrize("f", [f for f in SMALL_FLOATS if f.name != SCALE], ids=lambda f: f.name)
@pytest.mark.filterwarnings("ignore:overflow")
def test_beyond_the_range_and_special_values_go_where_ml_dtypes_puts_them(f):
    top = f.max + f.ulp(f.max) / 2
    x = np.concatenate([EXTREMES, from_the_way(f, np.array([top, -top]))])
    got, expected = f.round(x), x.astype(f.dtype).astype(np.float64)
    if f.has_nan:
        assert same(got, expected)
    else:  # without NaN the result for NaN is ours to choose: ml_dtypes gives -0, we give 0
        assert same(got[~np.isnan(x)], expected[~np.isnan(x)]) and got[np.isnan(x)] == 0


@pytest.mark.parametrize("f", SMALL_FLOATS, ids=lambda f: f.name)
def test_range_and_spacing_are_those_of_ml_dtypes(f):
    info = ml_dtypes.finfo(f.dtype)
    assert (f.max, f.tiny) == (float(info.max), float(info.smallest_normal))
    assert f.smallest == float(info.smallest_subnormal)
    assert f.eps == float(info.eps)
    assert (f.min == float(info.min)) or f.name == SCALE
    with np.errstate(invalid="ignore"):  # signalling NaN codes
        values = f.codes().astype(np.float64)
    assert f.has_inf == np.isinf(values).any() and f.has_nan == np.isnan(values).any()
    assert f.has_negative_zero == (np.signbit(values) & (values == 0)).any()


@pytest.mark.parametrize("f", [f for f in SMALL_FLOATS if f.name != SCALE], ids=lambda f: f.name)
def test_ulp_is_the_distance_to_the_next_value(f):
    values = finite(f)
    positive = values[(values >= 0)]
    assert np.array_equal(f.ulp(positive[:-1]), np.diff(positive))


@pytest.mark.parametrize("f", SMALL_FLOATS, ids=lambda f: f.name)
def test_saturation_keeps_the_largest_value_and_nan(f):
    assert f.round(1e39, saturate=True) == f.max and f.round(np.inf, saturate=True) == f.max
    assert np.isnan(f.round(np.nan, saturate=True)) if f.has_nan else f.round(np.nan, saturate=True) == 0


@pytest.mark.parametrize("name", ["float32", "float16"])
@given(x=st.floats(allow_nan=False, width=64))
def test_ieee_formats_round_as_numpy_casts(name, x):
    with np.errstate(over="ignore", under="ignore"):
        assert same(formats.of(name).round(x), np.float64(x).astype(name).astype(np.float64))


def test_float64_to_bfloat16_rounds_once():
    x = 1 + 2.0**-8 + 2.0**-40  # just above a tie; by way of float32 it becomes the tie and goes down
    assert formats.of("bf16").round(x) == 1 + 2.0**-7
    assert float(np.float64(x).astype(ml_dtypes.bfloat16)) == 1.0
    assert formats.of("bf16").encode(x) == 1 + 2.0**-7


@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_tf32_keeps_ten_bits_of_float32(x):
    y = formats.of("tf32").round(np.float32(x))
    assert y.dtype == np.float32
    if np.isfinite(y):
        assert int(np.float32(y).view(np.uint32)) & 0x1FFF == 0
        assert abs(float(y) - x) <= max(abs(x) * 2.0**-11, 2.0**-137)


@given(x=st.floats(2.0**-126, 2.0**126))
def test_block_scales_rounded_up_never_fall_below(x):
    up, down = formats.of("e8m0").round(x, rounding="up"), formats.of("e8m0").round(x, rounding="down")
    assert down <= x <= up <= 2 * down


@pytest.mark.parametrize(
    "rounding, expected",
    [("nearest", [2, -2, 4]), ("away", [3, -3, 4]), ("zero", [2, -2, 3]), ("up", [3, -2, 4]), ("down", [2, -3, 3])],
)
def test_each_direction_of_rounding(rounding, expected):
    assert formats.of("int8").round(np.array([2.5, -2.5, 3.5]), rounding=rounding).tolist() == expected


def test_integers_round_to_even_and_saturate():
    assert formats.of("uint8").round(np.array([-3.0, 0.5, 1.5, 255.5, 300])).tolist() == [0, 0, 2, 255, 255]
    assert formats.of("int4").round(np.array([-9.0, -7.5, 7.4, 8])).tolist() == [-8, -8, 7, 7]


@pytest.mark.parametrize("name", [f.name for f in FORMATS.values() if f.dtype is not None and f.bits <= 16])
def test_unpack_gives_back_what_pack_took(name):
    f = formats.of(name)
    codes = f.codes()
    values = np.concatenate([codes, codes[:3]])  # a length that fills no whole byte
    packed = f.pack(values)
    assert packed.size == -(-values.size * f.bits // 8)
    assert f.unpack(packed, values.shape).tobytes() == values.tobytes()


def test_packing_puts_the_first_value_in_the_low_bits_as_onnx_does():
    import onnx

    values = np.array([-8, 7, 1], ml_dtypes.int4)
    tensor = onnx.numpy_helper.from_array(values, "w")
    assert formats.of("int4").pack(values).tobytes() == tensor.raw_data
    halves = np.array([0.5, -6, 3], ml_dtypes.float4_e2m1fn)
    assert formats.of("e2m1").pack(halves).tobytes() == onnx.numpy_helper.from_array(halves, "w").raw_data


def test_results_keep_the_float_dtype_they_came_in():
    x = np.ones(3, np.float32)
    assert formats.of("e4m3fn").round(x).dtype == np.float32
    assert formats.of("e4m3fn").encode(x).dtype == ml_dtypes.float8_e4m3fn


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(PorterError) as error:
        formats.of("fp9")
    assert str(error.value).splitlines()[0] == "number format 'fp9'" and "float8_e4m3fn" in str(error.value)


def test_unpacking_the_wrong_number_of_bytes_says_both():
    with pytest.raises(PorterError) as error:
        formats.of("int4").unpack(np.zeros(3, np.uint8), (4,))
    assert str(error.value) == "packed int4 of shape [4]\n  expected 2 bytes\n  found 3 bytes"
