"""Codes of eight bits and fewer are looked up: every code becomes what ml_dtypes makes of it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porter import ops

CODES = """float8_e4m3fn float8_e4m3 float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
float4_e2m1fn int4 uint4 int2 uint2""".split()


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("wide", [np.float32, np.float16, np.float64])
def test_every_code(name, wide):
    dtype = np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16).T.view(dtype)
    for x in (codes, codes[:, ::3], codes[3, 7]):
        got = ops.source.cast(x, np.dtype(wide))
        assert got.dtype == wide and np.shape(got) == np.shape(x)
        np.testing.assert_array_equal(got, np.asarray(x).astype(wide))
    assert ops.float64.cast(codes, np.dtype(wide)).dtype == np.float64  # a rounding that the true value does not have
