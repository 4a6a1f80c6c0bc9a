"""The Maia-like family: the same Triton text under assumed limits, and a label on everything that is reported."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.device import devices, load_device
from porter.targets.maia import LABEL, target
from porter.tile.interpret import run as run_tiles
from porter.tile.target import CannotEmit, Emitted, Kernel
from porter.tile.text import parse
from porter.tile.tiler import tile

pytest.importorskip("triton", reason="the gpu extra is not installed")

sys.path.insert(0, str(Path(__file__).parents[2] / "tile"))
from kernels import CASES

MAIA = load_device("maia:200")
SUMS = 16 * 2.0**-24  # as in the gpu family's tests


def emitted(name: str, **changes: object) -> Emitted:
    limits = replace(target.limits(MAIA), **changes)  # type: ignore[arg-type]
    return target.lower(Kernel(name, tile(CASES[name].meaning(), limits, name=name), None), MAIA)


SOME = ("add layernorm softmax matmul_bias_relu matvec attention_causal_grouped conv_3x3_stride_2 conv_depthwise "
        "maxpool rope embedding concat")  # fmt: skip


@pytest.mark.parametrize("name", SOME.split())
def test_the_text_of_a_kernel_computes_its_tile_program(name: str) -> None:
    e = emitted(name)
    inputs = [x.reshape(p.shape) for x, p in zip(CASES[name].inputs(), e.kernel.program.inputs, strict=True)]
    points = sorted({0, e.grid // 2, e.grid - 1})
    for got, wanted in zip(target.execute(e, inputs, MAIA, points), run_tiles(e.kernel.program, inputs), strict=True):
        there = ~np.isnan(got)
        assert there.any() and np.max(np.abs(got - wanted)[there]) <= SUMS * np.max(np.abs(wanted))


def test_limits_are_multiples_of_the_tensor_unit() -> None:
    limits = target.limits(MAIA)
    assert limits.dot_m == (16, 128) and limits.dot_n == (16, 128) and limits.dot_k == (16, 64)
    assert limits.bytes == 2097152 and limits.float32_product == "bf16x6"


@pytest.mark.parametrize("name", devices("maia"))
def test_every_kernel_fits_the_tile_and_says_so(name: str) -> None:
    device = load_device(name)
    for case in ("add", "attention", "matmul_bias_relu", "conv_7x7_stride_2", "log_softmax_long"):
        e = target.lower(Kernel(case, tile(CASES[case].meaning(), target.limits(device), name=case), None), device)
        assert 0 < e.memory["tsram"] <= device["memory.tsram.bytes"]
        assert e.why == LABEL and LABEL in e.text


def test_a_kernel_that_exceeds_the_tile_sram_is_not_emitted() -> None:
    """Two tiles of 2 MiB at once, and the transfer of the next one."""
    program = parse("""kernel greedy {
      in x: float32[2048, 512]
      out y: float32[2048, 512]
      axis m: 2048 by 1024 grid
      axis n: 512 by 512 resident
      t: float32<m, n> = load x(2048, 512)[m, n]
      e: float32<m, n> = exp t
      store y(2048, 512)[m, n] = e
    }""")
    with pytest.raises(CannotEmit) as error:
        target.lower(Kernel("greedy", program, None), MAIA)
    assert str(error.value) == f"tile SRAM of Maia 200 holds 2097152 bytes; kernel greedy asks {3 << 21} ({LABEL})"


def test_kernels_are_compiled_as_far_as_triton_ir() -> None:
    fine, wrong = emitted("matmul_bias_relu"), emitted("matmul_bias_relu", float32_product="tf32")
    verdict, refused = target.compile([fine, replace(fine, text=wrong.text)], MAIA)
    assert verdict.ok and verdict.products == ("bf16x6",) and b"tt.dot" in verdict.files["ttir"]
    assert verdict.message == f"compiled as far as Triton IR, no further toolchain is public; {LABEL}"
    assert not refused.ok and "asked for as bf16x6, and requested of Triton as tf32" in refused.message
    assert refused.message.endswith(LABEL)


def test_seconds_use_the_assumed_rates() -> None:
    seconds = target.seconds(emitted("conv_1x1").kernel.program, MAIA)
    assert seconds["overhead"] == 1e-6 and MAIA.assumed("overhead.launch_s")
    tensors = 4 * (2 * 64 * 14 * 14 + 96 * 64 + 2 * 96 * 14 * 14)
    assert seconds["memory"] == pytest.approx(tensors / 7e12)
    assert seconds["compute"] > 0


@pytest.mark.slow
def test_every_kernel_reaches_triton_ir() -> None:
    for verdict in target.compile([emitted(n) for n in CASES], MAIA):
        assert verdict.ok, verdict.message
