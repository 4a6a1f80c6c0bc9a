"""The harness is a strict device: it sees every access outside a buffer, and multiplies as a matrix unit does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from porter.errors import CheckFailed, PorterError
from porter.formats import matmul
from porter.tile.program import Program
from porter.tile.text import parse
from porter.triton.emit import emit

pytest.importorskip("triton", reason="the gpu extra is not installed")
from porter.triton import harness

sys.path.insert(0, str(Path(__file__).parent))
from samples import NAMES, distance, draw, sample


def execute(program: Program, text: str, inputs: list[np.ndarray], grid: int, **options: object) -> list[np.ndarray]:
    return harness.run(text, program.name, program.params, inputs, grid, **options)  # type: ignore[arg-type]


def conditions(text: str) -> Iterator[tuple[str, str]]:
    """(condition, the text without it), for each conjunct of each mask of a load or a store."""
    for found in re.finditer(r", mask=((?:[^,()\[\]]|\([^()]*\)|\[[^\]]*\])+)|\n +mask=(.+),\n", text):
        whole = found[1] or found[2]
        start = found.start(1) if found[1] else found.start(2)
        parts = whole.split(" & ")
        for i, part in enumerate(parts):
            rest = " & ".join(parts[:i] + parts[i + 1 :]) or "True"
            yield part, text[:start] + rest + text[start + len(whole) :]


def differs(program: Program, text: str, inputs: list[np.ndarray], grid: int, right: list[np.ndarray]) -> bool:
    """Whether the harness refuses the text, or its outputs are not the right ones."""
    try:
        return distance(execute(program, text, inputs, grid), right) > 1e-5
    except CheckFailed:
        return True


def infinities(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Every seventh float of each input made infinite: what is masked to 0 must not reach a product with them."""
    return [np.where(np.arange(x.size).reshape(x.shape) % 7 == 3, np.array(np.inf, x.dtype), x)
            if x.dtype.kind == "f" else x for x in inputs]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_mask_of_an_access_dropped_in_turn_is_caught(name: str) -> None:
    program = sample(name)
    source, inputs = emit(program), draw(program)
    if name == "gather":  # rows beyond the table, on either side, are what its index is checked for; and its last row
        inputs[0][0, 2], inputs[0][1, 3], inputs[0][0, 0] = -31, 30, 29
    wild = infinities(inputs)
    right, far = (execute(program, source.text, x, source.grid) for x in (inputs, wild))
    broken = list(conditions(source.text))
    assert len(broken) == source.text.count(" & ") + source.text.count("mask=") - _other_ands(source.text)
    for condition, text in broken:
        missed = differs(program, text, inputs, source.grid, right) or differs(program, text, wild, source.grid, far)
        assert missed, f"{name}: {condition} is not missed"


def _other_ands(text: str) -> int:
    return sum(line.count(" & ") for line in text.splitlines() if "mask=" not in line)


@pytest.mark.parametrize("name", ["layernorm", "attention"])
def test_each_mask_statement_dropped_in_turn_is_caught(name: str) -> None:
    """Lanes past the extent hold NaN, or what exp makes of a pad: a reduction that takes them in goes wrong."""
    program = sample(name)
    source, inputs = emit(program), draw(program)
    right = execute(program, source.text, inputs, source.grid)
    wheres = list(re.finditer(r"tl\.where\(\w+_in\[[^\]]*\], (\w+), [^\n]*\)", source.text))
    assert wheres
    for m in wheres:
        text = source.text[: m.start()] + m[1] + source.text[m.end() :]
        assert differs(program, text, inputs, source.grid, right), f"{name}: {m[0]} is not missed"


def test_a_read_outside_its_buffer_names_the_kernel_the_buffer_and_the_element() -> None:
    program = sample("transpose")
    source = emit(program)
    text = source.text.replace("x + i[:, None] + j", "x + 600 + i[:, None] + j")
    assert text != source.text
    with pytest.raises(CheckFailed) as error:
        execute(program, text, draw(program), source.grid)
    assert str(error.value) == (
        "kernel transpose, grid point 0: a read leaves its buffer\n"
        "  expected elements 0 to 593 of x\n"
        "  found element 600, in 256 of 256 active lanes"
    )


def test_a_pointer_far_off_does_not_land_in_another_buffer() -> None:
    """With real addresses, x[594 + ...] may well be y."""
    program = sample("transpose")
    source = emit(program)
    for far in (594, -1, 1 << 20, -(1 << 20), (1 << 31) - 2048):
        text = source.text.replace("tl.load(x + ", f"tl.load(x + {far} + ")
        with pytest.raises(CheckFailed, match="a read leaves its buffer"):
            execute(program, text, draw(program), source.grid)


def test_a_store_past_its_buffer_and_a_store_to_an_input_are_caught() -> None:
    program = sample("transpose")
    source = emit(program)
    with pytest.raises(CheckFailed, match="a write leaves its buffer"):
        execute(program, source.text.replace("tl.store(y + ", "tl.store(y + 1 + "), draw(program), source.grid)
    with pytest.raises(CheckFailed, match="a write to an input"):
        execute(program, source.text.replace("tl.store(y + ", "tl.store(x + "), draw(program), source.grid)


def test_a_read_of_an_output_is_caught() -> None:
    program = sample("transpose")
    source = emit(program)
    with pytest.raises(CheckFailed, match="grid point 0: a read of an output"):
        execute(program, source.text.replace("tl.load(x + ", "tl.load(y + "), draw(program), source.grid)


def test_two_instances_that_write_one_element_are_caught() -> None:
    program = sample("transpose")
    source = emit(program)
    text = source.text.replace("instance = tl.program_id(0)", "instance = tl.program_id(0) * 0")
    with pytest.raises(CheckFailed, match="grid point 1: an element is written twice"):
        execute(program, text, draw(program), source.grid)


def test_chosen_points_write_their_part_and_leave_the_rest_nan() -> None:
    program = sample("matmul")
    source, inputs = emit(program), draw(program)
    whole = execute(program, source.text, inputs, source.grid)[0]
    part = execute(program, source.text, inputs, source.grid, points=[1, 4])[0]
    inside = np.zeros(part.shape, bool)
    inside[:16, 32:] = inside[32:, :32] = True
    assert np.array_equal(np.isnan(part), ~inside) and np.array_equal(part[inside], whole[inside])


@pytest.mark.parametrize("name", ["attention", "conv"])
def test_the_order_of_instances_does_not_matter(name: str) -> None:
    program = sample(name)
    source, inputs = emit(program), draw(program)
    first = execute(program, source.text, inputs, source.grid)
    again = execute(program, source.text, inputs, source.grid, shuffle=7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


PRODUCT = """kernel product {{
  in a: {dtype}[32, 64]
  in b: {dtype}[64, 32]
  out y: float32[32, 32]
  axis m: 32 by 32 resident
  axis n: 32 by 32 resident
  axis k: 64 by 64 resident
  at: {dtype}<m, k> = load a(32, 64)[m, k]
  bt: {dtype}<n, k> = load b(64, 32)[k, n]
  p: float32<m, n> = dot at, bt over k as {precision}
  store y(32, 32)[m, n] = p
}}"""


@pytest.mark.parametrize("precision", ["fp32", "tf32", "tf32x3", "bf16x3", "bf16x6", "bf16", "fp16"])
def test_a_product_of_float32_is_what_its_precision_makes_of_it(precision: str) -> None:
    """Triton's own interpreter multiplies exactly, whatever is asked."""
    program = parse(PRODUCT.format(dtype="float32", precision=precision))
    a, b = draw(program)
    got = execute(program, emit(program).text, [a, b], 1)[0]
    assert distance([got], [matmul.dot(a, b, precision=precision)]) <= 64 * 2.0**-24  # BLAS may sum in another order
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))
    least, most = {"fp32": (0, 1e-6), "tf32": (1e-5, 2e-3), "tf32x3": (0, 1e-6), "bf16x3": (1e-7, 1e-4),
                   "bf16x6": (0, 1e-6), "bf16": (1e-4, 1e-2), "fp16": (1e-5, 2e-3)}[precision]  # fmt: skip
    assert least <= error <= most


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_operands_are_numbers(dtype: str) -> None:
    """Triton's own interpreter multiplies the bit patterns of bfloat16."""
    program = parse(PRODUCT.format(dtype=dtype, precision="fp32"))
    a, b = draw(program)
    got = execute(program, emit(program).text, [a, b], 1)[0]
    a, b = a.astype(np.float64), b.astype(np.float64)
    assert np.max(np.abs(got - a @ b)) <= 64 * 2.0**-24 * np.max(np.abs(a) @ np.abs(b))


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Triton's own interpreter cuts the low bits off."""
    program = parse("""kernel narrow {
      in x: float32[1024]
      out y: bfloat16[1024]
      axis i: 1024 by 1024 resident
      t: float32<i> = load x(1024)[i]
      c: bfloat16<i> = cast t
      store y(1024)[i] = c
    }""")
    x = np.random.default_rng(0).standard_normal(1024).astype(np.float32)
    x[:4] = [1 + 2**-8, 1 + 3 * 2**-8, np.inf, np.nan]
    got = execute(program, emit(program).text, [x], 1)[0]
    assert np.array_equal(got.view(np.uint16), x.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert float(got[0]) == 1.0 and float(got[1]) == 1 + 2**-6


def test_a_masked_lane_without_a_pad_holds_nan() -> None:
    program = sample("layernorm")
    source = emit(program)
    text = source.text.replace("s = tl.sum(xm, axis=1)", "s = tl.sum(xt, axis=1)")
    assert text != source.text
    assert np.isnan(execute(program, text, draw(program), source.grid)[0]).all()


def test_inputs_of_another_shape_or_dtype_are_refused() -> None:
    program = sample("transpose")
    with pytest.raises(PorterError, match="input x of kernel transpose") as error:
        execute(program, emit(program).text, [np.zeros((18, 32), np.float32)], 6)
    assert error.value.found == "float32[18, 32]"


def test_text_that_does_not_run_says_so() -> None:
    program = sample("transpose")
    source = emit(program)
    with pytest.raises(PorterError, match="Triton kernel transpose, line"):
        execute(program, source.text.replace("tl.store(", "tl.store(("), draw(program), source.grid)
    with pytest.raises(PorterError, match="grid point 0"):
        execute(program, source.text.replace("tl.store(y", "tl.store(z"), draw(program), source.grid)
    with pytest.raises(PorterError, match="Triton module"):
        execute(program, source.text.replace("def transpose", "def other"), draw(program), source.grid)


def test_triton_is_left_as_it_was() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    before = tl.sum, tl.reduce, tl.load, interpreter.interpreter_builder
    program = sample("softmax")
    source = emit(program)
    execute(program, source.text, draw(program), source.grid)
    with pytest.raises(CheckFailed):
        execute(program, source.text.replace("tl.store(y + ", "tl.store(y + 9999 + "), draw(program), source.grid)
    assert (tl.sum, tl.reduce, tl.load, interpreter.interpreter_builder) == before
