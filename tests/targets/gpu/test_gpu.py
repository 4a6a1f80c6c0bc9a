"""The gpu family: what is emitted runs right, compiles, fits, and multiplies with the products it asks for."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.device import Device, devices, load_device
from porter.errors import CheckFailed
from porter.targets.gpu import target
from porter.targets.gpu.limits import float32_product
from porter.targets.gpu.toolchain import exceeds
from porter.tile.interpret import run as run_tiles
from porter.tile.program import Dot, walk
from porter.tile.target import CannotEmit, Emitted, Kernel
from porter.tile.text import parse
from porter.tile.tiler import tile
from porter.triton.compile import Result

pytest.importorskip("triton", reason="the gpu extra is not installed")

sys.path.insert(0, str(Path(__file__).parents[2] / "tile"))
from kernels import CASES

H200 = load_device("gpu:h200")
B200 = load_device("gpu:b200")
# Tile program and text sum the same float32 products; a sum that the matrix unit does not take is exact in the text,
# and split into six products in the tile program. Both err by a few roundings of the largest partial sum.
SUMS = 16 * 2.0**-24


def emitted(name: str, device: Device = H200, **changes: object) -> Emitted:
    limits = replace(target.limits(device), **changes)  # type: ignore[arg-type]
    program = tile(CASES[name].meaning(), limits, name=name)
    return target.lower(Kernel(name, program, None), device)


def inputs_of(e: Emitted) -> list[np.ndarray]:
    return [x.reshape(p.shape) for x, p in zip(CASES[e.kernel.name].inputs(), e.kernel.program.inputs, strict=True)]


def some(e: Emitted, n: int = 3) -> list[int]:
    """First, last and a few grid points between."""
    between = np.random.default_rng(0).integers(0, e.grid, n).tolist()
    return sorted({0, e.grid - 1, *between})


def agree(got: list[np.ndarray], wanted: list[np.ndarray], sums: float = SUMS) -> bool:
    for g, w in zip(got, wanted, strict=True):
        g, w = g.astype(np.float64), w.astype(np.float64)
        there = ~np.isnan(g) if np.isnan(g).any() or not (g == 0).any() else np.ones(g.shape, bool)
        if not there.any() or np.max(np.abs(g - w)[there]) > sums * max(np.max(np.abs(w)), 1e-30):
            return False
    return True


INTEGERS = ("integers", "mask", "embedding", "argmax", "top_k", "sort", "scatter_integers")


@pytest.mark.parametrize("name", [n for n in CASES if n not in INTEGERS])
def test_the_text_of_a_kernel_computes_its_tile_program(name: str) -> None:
    e = emitted(name)
    inputs = inputs_of(e)
    # each turn of a recurrence hands on, through tanh, the differences of the one before
    sums = SUMS * (4 if name == "recurrence" else 1)
    assert agree(target.execute(e, inputs, H200, some(e)), run_tiles(e.kernel.program, inputs), sums)


@pytest.mark.parametrize("name", INTEGERS)
def test_kernels_of_integers_agree_bit_for_bit_on_the_whole_grid(name: str) -> None:
    e = emitted(name)
    inputs = inputs_of(e)
    for got, wanted in zip(target.execute(e, inputs, H200), run_tiles(e.kernel.program, inputs), strict=True):
        assert np.array_equal(got, wanted)


def test_a_wrong_emitter_is_seen() -> None:
    e = emitted("matmul_bias_relu")
    inputs = inputs_of(e)
    right = run_tiles(e.kernel.program, inputs)
    for old, new in (("tl.maximum(", "tl.minimum("), (" * 130", " * 131"), ("other=0.0", "other=1.0")):
        assert old in e.text
        with suppress(CheckFailed):
            assert not agree(target.execute(replace(e, text=e.text.replace(old, new)), inputs, H200), right)


def test_limits_come_from_the_device() -> None:
    limits = target.limits(H200)
    assert limits.power_of_two and limits.grid == 2147483647 and limits.float32_product == "bf16x6"
    assert limits.bytes == 255 * 256 * 4 + 232448
    assert target.limits(load_device("gpu:rubin")).bytes - limits.bytes == 334848 - 232448


@pytest.mark.parametrize("name", devices("gpu"))
def test_float32_is_multiplied_by_the_fastest_scheme_that_keeps_it(name: str) -> None:
    """6 passes of bf16 and 3 of tf32 cost the same on every GPU so far; the first keeps all 24 bits."""
    device = load_device(name)
    assert float32_product(device) == "bf16x6"
    slow_bf16 = {**device.facts, "peak.bf16": replace(device.facts["peak.bf16"], value=device["peak.tf32"])}
    assert float32_product(replace(device, facts=slow_bf16)) == "tf32x3"
    without = {path: f for path, f in device.facts.items() if path not in ("peak.bf16", "peak.tf32")}
    assert float32_product(replace(device, facts=without)) == "fp32"


def test_a_float32_product_keeps_more_than_100_db() -> None:
    e = emitted("matmul_bias_relu")
    a, b, c = CASES["matmul_bias_relu"].inputs()
    exact = np.maximum(a.astype(np.float64) @ b + c, 0)
    got = target.execute(e, inputs_of(e), H200)[0].reshape(exact.shape)
    assert 10 * np.log10(np.sum(exact**2) / np.sum((got - exact) ** 2)) > 120


@pytest.mark.parametrize(("device", "unit"), [(H200, "wgmma.bf16"), (B200, "tcgen05.f16")], ids=["sm_90", "sm_100"])
def test_a_bf16_contraction_of_64_rows_is_on_the_matrix_unit(device: Device, unit: str) -> None:
    verdict = target.compile([emitted("matmul_bf16", device)], device)[0]
    assert verdict.ok and verdict.message == "" and verdict.products == (unit,)
    instruction = {"wgmma.bf16": b"wgmma.mma_async", "tcgen05.f16": b"tcgen05.mma"}[unit]
    assert instruction in verdict.files["ptx"] and verdict.files["cubin"].startswith(b"\x7fELF")
    assert verdict.size == len(verdict.files["cubin"]) and verdict.resources["shared"] <= 232448


@pytest.mark.parametrize(("asked", "got"), [("tf32", "tf32"), ("bf16", "bfloat16"), ("bf16x3", "bf16x3")])
def test_a_cheaper_product_in_a_float32_port_is_refused(asked: str, got: str) -> None:
    """The text is what a wrong emitter, or a wrong limit, would write; the tile program asks for bf16x6."""
    right = emitted("matmul_bias_relu")
    wrong = emitted("matmul_bias_relu", float32_product=asked)
    assert right.products == ("bf16x6",)
    verdict = target.compile([replace(right, text=wrong.text)], H200)[0]
    assert not verdict.ok
    assert re.fullmatch(
        r"kernel matmul_bias_relu: the product \[\d+, 32\] x \[32, \d+\] is asked for as bf16x6, "
        f"and requested of Triton as {got}",
        verdict.message,
    )


def test_a_kernel_that_needs_too_much_shared_memory_is_refused_with_the_numbers() -> None:
    program = parse("""kernel greedy {
      in x: float32[512, 512]
      in w: float32[512, 512]
      out y: float32[512, 512]
      axis m: 512 by 128 grid
      axis n: 512 by 128 grid
      axis k: 512 by 256 loop
      zero: float32<m, n> = full 0.0
      for k {
        carry s: float32<m, n> = acc from zero next more
        xt: float32<m, k> = load x(512, 512)[m, k]
        wt: float32<n, k> = load w(512, 512)[k, n]
        more: float32<m, n> = dot xt, wt over k plus acc as tf32
      }
      store y(512, 512)[m, n] = s
    }""")
    verdict = target.compile([target.lower(Kernel("greedy", program, None), H200)], H200)[0]
    asked = verdict.resources["shared"]
    assert not verdict.ok and asked > 232448
    assert verdict.message == (
        f"kernel greedy: shared memory of H200 SXM 141GB has 232448 bytes for one block; it asks {asked}"
    )


@pytest.mark.parametrize(("resource", "amount", "sentence"), [
    ("shared", 561152, "shared memory of H200 SXM 141GB has 232448 bytes for one block; it asks 561152"),
    ("registers", 256, "the register file of H200 SXM 141GB has 255 registers for one thread; it asks 256"),
    ("warps", 64, "a block of H200 SXM 141GB has 1024 threads; it asks 2048"),
    ("tensor_memory", 64, "tensor memory of H200 SXM 141GB has 0 columns; it asks 64"),
])  # fmt: skip
def test_each_resource_is_held_against_the_device(resource: str, amount: int, sentence: str) -> None:
    assert exceeds("k", replace(Result(True), **{resource: amount}), H200) == sentence


def test_registers_of_all_threads_together_are_counted() -> None:
    assert exceeds("k", Result(True, registers=200, warps=16), H200) == (
        "the register file of H200 SXM 141GB has 65536 registers; it asks 102400"
    )
    assert exceeds("k", Result(True, shared=232448, registers=255, warps=8), H200) is None


def test_a_grid_larger_than_the_device_has_is_not_emitted() -> None:
    program = parse("""kernel vast {
      in x: float32[1]
      out y: float32[65536, 65536]
      axis i: 65536 by 1 grid
      axis j: 65536 by 1 grid
      t: float32<> = load x(1)[0]
      store y(65536, 65536)[i, j] = t
    }""")
    with pytest.raises(CannotEmit, match="at most 2147483647 instances; kernel vast asks 4294967296"):
        target.lower(Kernel("vast", program, None), H200)


def test_seconds_are_the_rooflines_of_the_page() -> None:
    program = emitted("conv_1x1").kernel.program
    seconds = target.seconds(program, H200)
    dot = next(s for s in walk(program.body) if isinstance(s, Dot))
    assert dot.precision == "bf16x6"
    lanes = 1
    for a in program.axes:
        lanes *= a.steps * a.tile
    assert seconds["compute"] == pytest.approx(2 * 6 * lanes / 989.4e12, rel=1e-6)
    tensors = 4 * (2 * 64 * 14 * 14 + 96 * 64 + 2 * 96 * 14 * 14)
    assert seconds["memory"] == pytest.approx(tensors / 4.8e12)
    assert seconds["overhead"] == 3e-6


def test_the_kernel_has_the_name_that_it_was_given() -> None:
    program = tile(CASES["add"].meaning(), target.limits(H200), name="other")
    e = target.lower(Kernel("add_7", program, None), H200)
    assert "def add_7(" in e.text and e.language == "triton"
    assert target.execute(e, CASES["add"].inputs(), H200, [0])[0].dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpu:h200", "gpu:b200", "gpu:b300", "gpu:rubin"])  # one of each architecture
def test_every_kernel_compiles_and_fits(name: str) -> None:
    device = load_device(name)
    for verdict in target.compile([emitted(n, device) for n in CASES], device):
        assert verdict.ok, verdict.message
