"""What the simulated core does where no rule is broken: versions that differ, memory nobody wrote, integers beside floats."""

from __future__ import annotations

import numpy as np
from trainium_support import device, snippet

from porter.targets.trainium.limits import chip
from porter.targets.trainium.simulator import Machine


def test_version_2_transposes_by_a_product_and_loses_a_column_with_inf() -> None:
    body = """
        a = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=a, src=p0)
        t = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_transpose(dst=t, data=a)
        s = nl.ndarray((2, 2), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=s, src=t)
        nisa.dma_copy(dst=out.ap(pattern=[[512, 2], [1, 2]], offset=0), src=s)
        """
    x = np.array([[1, np.inf], [3, 4]], np.float32)
    assert np.array_equal(snippet(body, x)[0][:2, :2], x.T)
    assert np.array_equal(np.isnan(snippet(body, x, on="trn1")[0][:2, :2]), [[False, False], [True, True]])


def test_fresh_memory_is_nan_and_integers_are_a_pattern() -> None:
    body = """
        a = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=out, src=a)
        """
    assert np.isnan(snippet(body)[0]).all()
    machine = Machine(chip(device()))
    assert machine.language.ndarray((2, 2), machine.language.int32).array.tolist() == [[0x55555555] * 2] * 2


def test_version_4_writes_bfloat16_to_psum() -> None:
    body = """
        a = nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.sbuf)
        nisa.memset(dst=a, value=1.0)
        nisa.nc_matmul(dst=nl.ndarray((8, 8), dtype=nl.bfloat16, buffer=nl.psum), stationary=a, moving=a)
        """
    snippet(body, on="trn3")


def test_32_bit_integers_are_exact_on_their_own_and_float32_elsewhere() -> None:
    body = """
        a = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.dma_copy(dst=a, src=p0)
        b = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.tensor_tensor(dst=b, data1=a, data2=a, op=nl.subtract)
        c = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=c, data=a, op0=nl.subtract, operand0=16777217.0)
        d = nl.ndarray((1, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=d, data=a, op0=nl.subtract, operand0=16777216.0)
        nisa.dma_copy(dst=out.ap(pattern=[[1, 1], [1, 1]], offset=0), src=d)
        """
    got = snippet(body, np.array([[2**24 + 1]], np.int32))[0][0, 0]
    assert got == 0.0  # 2**24 + 1 is no float32
