"""Scales by every rule, and E4M3 from one flavour to another, over all codes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porter.errors import PorterError
from porter.formats import of, scaling
from porter.formats.matmul import dot, hopper_fp8

E4M3FN = np.dtype(ml_dtypes.float8_e4m3fn)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("format", ["int8", "int4", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float4_e2m1fn"])
def test_no_error_is_beyond_half_a_step_of_the_largest_code(format: str) -> None:
    x = normal(64, 32)
    made = scaling.per_channel(x, format, 1)
    step = of(format).ulp(of(format).max) * made.scale[None, :]
    assert np.all(np.abs(made.decode() - x) <= step / 2 * (1 + 1e-6))


def test_clipping_by_squared_error_never_loses() -> None:
    x = normal(256, 8)
    x[0] *= 8  # one outlier per column
    plain, clipped = (scaling.per_channel(x, "int4", 1, clip=c).decode() for c in ("none", "mse"))
    errors = np.square(plain - x).sum(0), np.square(clipped - x).sum(0)
    assert np.all(errors[1] <= errors[0]) and errors[1].sum() < 0.8 * errors[0].sum()


def test_the_three_rules_of_e8m0_scales() -> None:
    x = np.zeros((32, 4), np.float32)
    x[0] = [448, 449, 256, 0]
    scales = {
        r: scaling.blocked(x, "float8_e4m3fn", 0, 32, scale="float8_e8m0fnu", rule=r).scale.astype(np.float32)[0]
        for r in ("ocp", "nvidia", "aws")
    }
    assert scales["ocp"].tolist() == [1, 1, 1, 2.0**-127]  # 449 saturates
    assert scales["nvidia"].tolist() == [1, 2, 1, 2.0**-127]  # rounded upward
    assert scales["aws"].tolist() == [2, 2, 2, 2.0**-127]  # half the range


def test_nvfp4_has_two_scales_and_four_and_a_half_bits() -> None:
    x = normal(128, 16)
    made = scaling.blocked(x, "float4_e2m1fn", 0, 16, scale="float8_e4m3fn")
    assert made.bits == 4.5 and made.scale.shape == (8, 16) and made.scale.dtype == E4M3FN
    assert float(np.max(made.scale.astype(np.float32))) == 448.0
    assert np.sqrt(np.mean(np.square(made.decode() - x))) < 0.12


def test_blocks_along_the_other_axis_are_other_numbers() -> None:
    x = normal(64, 64) * np.exp(normal(64, 1, seed=1))
    along, across = (scaling.blocked(x, "float4_e2m1fn", axis, 32, scale="float8_e8m0fnu") for axis in (0, 1))
    assert along.scale.shape == (2, 64) and across.scale.shape == (64, 2)
    assert not np.array_equal(along.decode(), across.decode())


def test_codes_never_pass_a_limit_below_the_format() -> None:
    codes = scaling.per_channel(normal(64, 8), "float8_e4m3fn", 1, limit=240.0).codes.astype(np.float32)
    assert float(np.abs(codes).max()) == 240.0


@pytest.mark.parametrize("format", ["float4_e2m1fn", "float6_e2m3fn", "int8", "float8_e4m3fn"])
def test_nan_is_refused_where_it_stands(format: str) -> None:
    x = normal(4, 4)
    x[1, 2] = np.nan
    with pytest.raises(PorterError, match=r"nan at \[1, 2\]"):
        scaling.per_channel(x, format, 0, where="weight 'w'")


def test_every_e4m3fn_code_but_three_is_a_sixteenth_in_b11fnuz() -> None:
    codes = np.arange(256, dtype=np.uint8)
    fine = codes[(codes & 0x7F) != 0x7F]
    moved, factor = scaling.to_b11fnuz(fine.view(E4M3FN))
    assert factor == 16.0
    np.testing.assert_array_equal(moved.astype(np.float32) * factor, fine.view(E4M3FN).astype(np.float32))
    assert not np.any(moved.view(np.uint8) == 0x80)  # NaN there
    with pytest.raises(PorterError, match="2 NaN codes"):
        scaling.to_b11fnuz(codes.view(E4M3FN))


def test_e4m3fn_codes_up_to_240_are_equal_bit_by_bit_in_the_240_flavour() -> None:
    codes = np.arange(256, dtype=np.uint8)
    shared = codes[(codes & 0x7F) < 0x78]
    np.testing.assert_array_equal(
        shared.view(E4M3FN).astype(np.float32), shared.view(ml_dtypes.float8_e4m3).astype(np.float32)
    )
    beyond = codes[(codes & 0x7F) >= 0x78].view(ml_dtypes.float8_e4m3).astype(np.float32)
    assert not np.any(np.isfinite(beyond))


def test_hopper_keeps_about_14_bits_and_promotion_helps() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.abs(rng.standard_normal(s)).astype(E4M3FN).astype(np.float32) for s in ((8, 4096), (4096, 8)))
    exact = a.astype(np.float64) @ b
    errors = {p: np.max(np.abs(hopper_fp8(a, b, promote=p) - exact) / exact) for p in (0, 128)}
    plain = np.max(np.abs(dot(a, b, precision="fp32") - exact) / exact)
    assert plain < 1e-6 < errors[128] < errors[0]
    one = np.abs(hopper_fp8(a[:, :32], b[:32]) - a[:, :32].astype(np.float64) @ b[:32])
    top = np.max(np.abs(a[:, :32, None] * b[None, :32, :]), axis=1)
    assert np.all(one <= 32 * 2.0**-13 * top) and np.any(
        one > 2.0**-14 * top
    )  # 32 terms, each cut at 14 bits of the largest
    np.testing.assert_array_equal(dot(a, b, precision="fp32", accumulator="hopper_fp8"), hopper_fp8(a, b))
