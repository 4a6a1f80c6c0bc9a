"""What must not pass: wrong products, wrong instructions, wrong text, reads outside, dropped pads, too much VMEM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.errors import CheckFailed, PorterError
from porter.targets.tpu import instructions, simulate, target
from porter.targets.tpu.chip import Geometry
from porter.targets.tpu.emit import pallas
from porter.tile.interpret import run
from porter.tile.program import Dot, For, Load, Program, Statement
from porter.tile.target import CannotEmit, Kernel
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from tpu_support import CASES, TIGHT, V6E, both, emitted, matmul, ulps

CHIP = Geometry.of(V6E)
ULPS = 16


# Products


def test_one_pass_of_bf16_shows_in_the_numbers() -> None:
    e = emitted("looped_matmul")
    assert "precision=HIGHEST" in e.text and e.products == ("bf16x6",)
    once = replace(e, text=e.text.replace("precision=HIGHEST", "precision=DEFAULT"))
    assert ulps(*both(once)) > 1000


def test_a_product_without_precision_is_one_pass_too() -> None:
    e = emitted("matmul_bias_relu")
    assert ulps(*both(replace(e, text=e.text.replace(", precision=HIGHEST", "")))) > 1000


def test_one_pass_of_bf16_in_stablehlo_is_refused_in_an_fp32_port() -> None:
    e = emitted("conv_3x3_stride_2")
    once = replace(e, text=e.text.replace("HIGHEST", "DEFAULT"))
    with pytest.raises(CheckFailed) as error:
        target.execute(once, CASES["conv_3x3_stride_2"].inputs(), V6E)
    assert str(error.value).splitlines()[:3] == [
        "kernel conv_3x3_stride_2", "  expected float32 products as bf16x6", "  found bf16"]  # fmt: skip


def test_a_program_that_asks_for_one_pass_gets_it() -> None:
    program, inputs = matmul()
    program = _map(program, lambda s: replace(s, precision="bf16") if isinstance(s, Dot) else s)
    written = pallas(program, CHIP)
    assert "precision=DEFAULT" in written.text and written.products == ("bf16",)
    assert ulps(simulate.run(written.text, "matmul", inputs), run(program, inputs)) < ULPS


def test_mosaic_has_no_three_pass_product() -> None:
    program, _ = matmul()
    with pytest.raises(CannotEmit, match="Mosaic has no product of float32 as bf16x3"):
        pallas(_map(program, lambda s: replace(s, precision="bf16x3") if isinstance(s, Dot) else s), CHIP)


# Instructions and text


def test_a_wrong_instruction_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(instructions.SPELLING, "exp", "jnp.exp2({0})")
    assert ulps(*both(emitted("softmax"))) > 1000


@pytest.mark.parametrize(
    "wrong", [("keepdims=True", "keepdims=True) * (1 + 1e-3"), ("jnp.max(", "jnp.min("), ("0.125", "0.25")]
)
def test_a_wrong_emitter_is_caught(wrong: tuple[str, str]) -> None:
    e = emitted("attention_causal_grouped")
    assert wrong[0] in e.text
    assert ulps(*both(replace(e, text=e.text.replace(*wrong)))) > 1000


def test_a_slice_past_its_block_is_caught() -> None:
    e = emitted("looped_matmul", TIGHT)
    slices = "pl.ds(pl.multiple_of(128*"
    assert slices in e.text
    axis = e.text.split(slices)[1].split(",")[0]
    moved = replace(e, text=e.text.replace(f"{slices}{axis}, 128)", f"{slices}{axis} + 64, 1)", 1))
    with pytest.raises(CheckFailed, match="Out-of-bounds read"):
        target.execute(moved, CASES["looped_matmul"].inputs(), V6E)


def test_a_block_past_its_array_is_caught() -> None:
    program, inputs = matmul()
    text = pallas(program, CHIP).text
    assert "lambda m, n, k: (m, k)" in text
    with pytest.raises(CheckFailed) as error:
        simulate.run(text.replace("lambda m, n, k: (m, k)", "lambda m, n, k: (m, k + 1)"), "matmul", inputs)
    assert "block indices 0..2 in dimension 1 of (50, 300)" in str(error.value) and "block 3 of 128" in str(error.value)


def test_integers_beyond_32_bits_are_refused() -> None:
    e = emitted("integers")
    inputs = CASES["integers"].inputs()
    inputs[0] = inputs[0] + 2**40
    with pytest.raises(PorterError, match="TPU programs index with 32 bits"):
        target.execute(e, inputs, V6E)


# Loops as grid dimensions, and their pads


def _map(program: Program, change: Callable[[Statement], Statement]) -> Program:
    def visit(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
        return tuple(change(replace(s, body=visit(s.body)) if isinstance(s, For) else s) for s in body)

    return replace(program, body=visit(program.body))


def test_a_loop_becomes_the_last_grid_dimension_where_its_blocks_do_not_fit() -> None:
    program, inputs = matmul()
    a, b, y = program.params
    even = replace(program, params=(replace(a, shape=(50, 384)), replace(b, shape=(384, 200)), y))
    even = replace(even, axes=tuple(replace(a, extent=384) if a.name == "k" else a for a in even.axes))
    views = {"a": (50, 384), "b": (384, 200), "y": (50, 200)}
    even = _map(
        even, lambda s: replace(s, access=replace(s.access, view=views[s.access.param])) if hasattr(s, "access") else s
    )
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal(p.shape).astype(np.float32) for p in even.inputs]
    whole = pallas(even, CHIP)
    streamed = pallas(even, replace(CHIP, vmem=whole.vmem - 1))
    assert whole.grid == (4, 2) and "fori_loop" in whole.text
    assert streamed.grid == (4, 2, 3) and "pltpu.VMEM((16, 128), jnp.float32)" in streamed.text
    assert "('parallel', 'parallel', 'arbitrary')" in streamed.text and streamed.vmem < whole.vmem
    for written in (whole, streamed):
        assert ulps(simulate.run(written.text, "matmul", inputs), run(even, inputs)) < ULPS


def test_vmem_that_no_form_fits_is_refused_with_both_numbers() -> None:
    program, _ = matmul()
    with pytest.raises(CannotEmit, match=r"vmem of v6e holds 1000 bytes; kernel matmul asks \d+"):
        pallas(program, replace(CHIP, vmem=1000))


def test_a_ragged_loop_runs_as_a_grid_dimension() -> None:
    program, inputs = matmul()
    written = pallas(program, CHIP)
    assert ulps(simulate.run(written.text, "matmul", inputs), run(program, inputs)) < ULPS


@pytest.mark.parametrize("name", ["left", "right"])
def test_each_dropped_pad_is_caught(name: str) -> None:
    program, inputs = matmul()
    bare = _map(program, lambda s: replace(s, pad=None) if isinstance(s, Load) and s.name == name else s)
    got = simulate.run(pallas(bare, CHIP).text, "matmul", inputs)
    assert ulps(got, run(program, inputs)) == float("inf")


def test_a_dropped_accumulator_start_is_caught() -> None:
    program, inputs = matmul()
    text = pallas(program, CHIP).text
    assert "@pl.when(k == 0)" in text
    got = simulate.run(text.replace("@pl.when(k == 0)", "@pl.when(k == 1)"), "matmul", inputs)
    assert ulps(got, run(program, inputs)) > 1000


# Chosen points


def test_chosen_points_are_right_and_the_rest_is_nan() -> None:
    e = emitted("looped_matmul", TIGHT)
    inputs = CASES["looped_matmul"].inputs()
    [wanted] = run(e.kernel.program, inputs)
    [got] = target.execute(e, inputs, V6E, points=[0, e.grid - 1])
    there = ~np.isnan(got)
    columns = e.kernel.program.grid[-1]
    last = columns.extent - (columns.steps - 1) * columns.tile
    assert there[:8, :128].all() and there[-2:, -last:].all() and 0 < there.sum() < got.size // 4
    assert ulps([got[there]], [wanted[there]]) < ULPS


def test_chosen_points_of_a_streamed_loop_run_all_its_steps() -> None:
    program, inputs = matmul()
    written = pallas(program, CHIP)
    [got] = simulate.run(written.text, "matmul", inputs, points=[5])
    [wanted] = run(program, inputs)
    assert (
        ulps([got[32:48, 128:]], [wanted[32:48, 128:]]) < ULPS
        and np.isnan(got[:32]).all()
        and np.isnan(got[:, :128]).all()
    )


def test_the_grid_runs_in_any_order() -> None:
    e = emitted("looped_matmul", TIGHT)
    inputs = CASES["looped_matmul"].inputs()
    runs = [simulate.run(e.text, "looped_matmul", inputs, seed=s)[0] for s in (1, 2)]
    assert np.array_equal(*runs)


def test_a_gathered_program_goes_to_xla_whatever_its_tiles() -> None:
    meaning = CASES["embedding"].meaning()
    e = target.lower(Kernel("embedding", tile(meaning, TIGHT, name="embedding"), meaning), V6E)
    assert (e.language, e.program, e.grid) == ("stablehlo", None, 1)
