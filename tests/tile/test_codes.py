"""Casts from and to codes, spelled out in arithmetic: what porter.formats and ml_dtypes say, for every code and tie."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porter import formats
from porter.tile import interpret
from porter.tile.affine import Affine
from porter.tile.choose import choose
from porter.tile.codes import is_code, spelled
from porter.tile.form import Cast, Form, Index, Load, Store
from porter.tile.limits import Limits
from porter.tile.program import Param
from porter.tile.schedule import schedule
from porter.tile.verify import verify

FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")
INTEGERS = ("int4", "uint4", "int2", "uint2")


def cast(x: np.ndarray, dtype: str, lacking: set[str]) -> np.ndarray:
    """x in another type, by a tile program that knows nothing of these types but their bytes."""
    form = Form((Param("x", x.shape, x.dtype.name), Param("y", x.shape, dtype, out=True)), {"i": x.size})
    value = form.add(Cast(form.add(Load(0, x.shape, (Index(Affine.of("i")),), None, x.dtype.name)), dtype))
    form.stores.append(Store(1, x.shape, (Index(Affine.of("i")),), value))
    form = spelled(form, lacking)
    assert not any(isinstance(n, Cast) and not n.bits and {n.dtype, form[n.arg].dtype} & lacking for n in form.nodes)
    program = schedule(form, choose(form, Limits()), "cast")
    verify(program)
    return interpret.run(program, [x])[0]


def interesting(f: formats.Format, wide: type) -> np.ndarray:
    """Every value of a format, the midpoints between them, their neighbours, and what no format holds."""
    values = np.unique(f.codes().astype(np.float64)[np.isfinite(f.codes().astype(np.float64))])
    values = np.concatenate([values, [2 * f.max, -2 * f.max, f.max + f.ulp(f.max)]])
    values = np.unique(np.concatenate([values, (values[1:] + values[:-1]) / 2])).astype(wide)
    values = np.concatenate([values, np.nextafter(values, wide(np.inf)), np.nextafter(values, wide(-np.inf))])
    rng = np.random.default_rng(0)
    drawn = (rng.normal(size=4000) * 2.0 ** rng.integers(-30, 20, 4000)).astype(wide)
    return np.concatenate([values, drawn, np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, -1e-40, 1e38], wide)])


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "float8_e8m0fnu"])
def test_every_code_is_the_number_that_it_means(dtype: str) -> None:
    codes = formats.of(dtype).codes()
    number = "float32" if formats.of(dtype).is_float else "int32"
    got = cast(codes, number, {dtype})
    np.testing.assert_array_equal(got, codes.astype(number))
    if number == "float32":
        numbers = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(codes.astype(np.float32)[numbers]))


@pytest.mark.parametrize("wide", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_number_becomes_the_nearest_code(dtype: str, wide: type) -> None:
    f = formats.of(dtype)
    x = interesting(f, wide)
    got = cast(x, dtype, {dtype})
    want = f.encode(x)
    numbers = ~np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(got.view(np.uint8)[numbers], want.view(np.uint8)[numbers])
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_casts_to_float32_codes_are_those_of_numpy() -> None:
    for dtype in FLOATS:
        x = interesting(formats.of(dtype), np.float32)
        np.testing.assert_array_equal(
            cast(x, dtype, {dtype}).astype(np.float32), x.astype(getattr(ml_dtypes, dtype)).astype(np.float32)
        )


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("source", ["int8", "uint8", "int32", "int64", "float32"])
def test_an_integer_code_keeps_the_lowest_bits(dtype: str, source: str) -> None:
    x = np.arange(-40, 40).astype(source) if source != "uint8" else np.arange(256, dtype=np.uint8)
    got, want = cast(x, dtype, {dtype}), x.astype(np.int32).astype(getattr(ml_dtypes, dtype))
    np.testing.assert_array_equal(got.astype(np.int32), want.astype(np.int32))


def test_one_code_becomes_another() -> None:
    codes = formats.of("float8_e4m3fnuz").codes()
    got = cast(codes, "float8_e5m2fnuz", {"float8_e4m3fnuz", "float8_e5m2fnuz"})
    np.testing.assert_array_equal(
        got.astype(np.float32), formats.of("float8_e5m2fnuz").encode(codes.astype(np.float32)).astype(np.float32)
    )


def test_what_a_code_is() -> None:
    assert all(is_code(d) for d in (*FLOATS, *INTEGERS)) and not any(is_code(d) for d in ("int8", "bool", "bfloat16"))
