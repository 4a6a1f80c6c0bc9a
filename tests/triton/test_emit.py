"""Emitted Triton means what the tile program means, sample by sample, and says so plainly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.tile.interpret import run as run_tiles
from porter.tile.program import Axis, Program
from porter.tile.target import CannotEmit
from porter.tile.text import parse
from porter.triton.emit import emit

pytest.importorskip("triton", reason="the gpu extra is not installed")
from porter.triton import harness

sys.path.insert(0, str(Path(__file__).parent))
from samples import NAMES, distance, draw, sample

# Both sum float32 products of the same values, in different orders: a few roundings of the largest partial sum.
SUMS = 8 * 2.0**-24


def run(program: Program, inputs: list[np.ndarray], **options: object) -> list[np.ndarray]:
    source = emit(program)
    return harness.run(source.text, program.name, program.params, inputs, source.grid, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_computes_what_its_tile_program_computes(name: str) -> None:
    program = sample(name)
    inputs = draw(program)
    assert distance(run(program, inputs, shuffle=1), run_tiles(program, inputs)) <= SUMS


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_a_function_of_the_program(name: str) -> None:
    text = emit(sample(name)).text
    assert text == emit(sample(name)).text
    assert "/" not in text.replace("//", "").replace(" / ", "")  # no paths


def test_the_text_reads_like_a_kernel() -> None:
    text = emit(sample("matmul"), options={"num_warps": 8, "num_stages": 2}, heading=["gelu(x w + b)"]).text
    assert text.startswith('"""gelu(x w + b)\n\nBuffers, row-major:\n    in  x: float32[37, 70]\n')
    assert 'SIGNATURE = {"x": "*fp32", "w": "*fp32", "b": "*fp32", "y": "*fp32"}' in text
    assert 'OPTIONS = {"num_warps": 8, "num_stages": 2}' in text
    body = text[text.index("@triton.jit") :]
    assert (
        body
        == """\
@triton.jit
def matmul(x, w, b, y):
    instance = tl.program_id(0)
    m = (instance // 2) * 16 + tl.arange(0, 16)
    m_in = m < 37
    n = (instance % 2) * 32 + tl.arange(0, 32)
    n_in = n < 50
    acc = tl.full([16, 32], 0.0, tl.float32)
    for k_from in range(0, 96, 32):
        k = k_from + tl.arange(0, 32)
        k_in = k < 70
        xt = tl.load(x + m[:, None] * 70 + k[None, :], mask=m_in[:, None] & k_in[None, :], other=0.0)
        wt = tl.load(w + n[:, None] + k[None, :] * 50, mask=n_in[:, None] & k_in[None, :], other=0.0)
        acc = tl.dot(xt, tl.trans(wt), acc, input_precision="bf16x6")
    bt = tl.load(b + n, mask=n_in)
    h = acc + bt[None, :]
    z = h * 0.70710677
    e = tl.erf(z)
    p = e + 1.0
    q = h * 0.5
    g = q * p
    tl.store(y + m[:, None] * 50 + n[None, :], g, mask=m_in[:, None] & n_in[None, :])
"""
    )


def test_an_accumulator_keeps_its_matrix_shape_through_all_loops() -> None:
    """A reshape per step would move the accumulator through shared memory each time."""
    lines = emit(sample("conv")).text.splitlines()
    first = next(i for i, line in enumerate(lines) if "for c_from" in line)
    last = next(i for i, line in enumerate(lines) if "tl.dot(" in line)
    assert "tl.full([16, 32], 0.0, tl.float32)" in lines[first - 1]
    assert not any("tl.reshape(a" in line for line in lines[first : last + 1])
    assert "tl.reshape(a0, [16, 4, 8])" in lines[last + 1]


def test_a_program_without_ragged_axes_has_no_masks() -> None:
    program = sample("transpose")
    program = parse("""kernel transpose {
      in x: float32[16, 32]
      out y: float32[32, 16]
      axis i: 32 by 16 grid
      axis j: 16 by 16 resident
      t: float32<i, j> = load x(16, 32)[j, i]
      store y(32, 16)[i, j] = t
    }""")
    assert "mask" not in emit(program).text


def test_offsets_are_64_bits_wide_only_where_a_tensor_needs_it() -> None:
    text = """kernel copy {{
      in x: float32[{n}, 1024]
      out y: float32[{n}, 1024]
      axis i: {n} by 1 grid
      axis j: 1024 by 1024 resident
      t: float32<i, j> = load x({n}, 1024)[i, j]
      store y({n}, 1024)[i, j] = t
    }}"""
    assert "int64" not in emit(parse(text.format(n=1 << 20))).text
    assert "tl.cast(i, tl.int64) * 1024" in emit(parse(text.format(n=1 << 21))).text


def test_names_that_python_or_triton_have_taken_are_changed() -> None:
    program = parse("""kernel names {
      in tl: float32[8]
      out exp: float32[8]
      axis for: 8 by 8 resident
      lambda: float32<for> = load tl(8)[for]
      tanh: float32<for> = tanh lambda
      %1: float32<for> = neg tanh
      store exp(8)[for] = %1
    }""")
    x = np.linspace(-2, 2, 8, dtype=np.float32)
    np.testing.assert_allclose(run(program, [x])[0], -np.tanh(x), rtol=1e-6)


def test_a_short_contraction_of_a_large_tile_is_padded_for_the_unit() -> None:
    """4 terms are below the least depth of tl.dot, and 128 x 128 x 4 products too many to spread over registers."""
    program = parse("""kernel short {
      in x: float32[3, 128, 4]
      in w: float32[4, 128]
      out y: float32[3, 128, 128]
      axis g: 3 by 1 grid
      axis m: 128 by 128 resident
      axis n: 128 by 128 resident
      axis k: 4 by 4 resident
      xt: float32<g, m, k> = load x(3, 128, 4)[g, m, k]
      wt: float32<n, k> = load w(4, 128)[k, n]
      p: float32<g, m, n> = dot xt, wt over k as bf16x6
      store y(3, 128, 128)[g, m, n] = p
    }""")
    source = emit(program)
    assert [(p.m, p.n, p.k) for p in source.products] == [(128, 128, 8)]
    assert "tl.join" in source.text
    inputs = draw(program)
    assert distance(run(program, inputs), run_tiles(program, inputs)) <= SUMS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "int32", "float64"])
def test_a_contraction_of_any_dtype(dtype: str) -> None:
    result = {"int8": "int32", "int32": "int32", "float64": "float64"}.get(dtype, "float32")
    program = parse(f"""kernel product {{
      in a: {dtype}[2, 20, 40]
      in b: {dtype}[40, 24]
      out y: {result}[2, 20, 24]
      axis g: 2 by 1 grid
      axis m: 20 by 32 resident
      axis n: 24 by 32 resident
      axis k: 40 by 64 resident
      zero: {result}<g, m, n> = full {0 if result == "int32" else 0.0}
      at: {dtype}<g, m, k> = load a(2, 20, 40)[g, m, k] pad {0 if dtype.startswith("int") else 0.0}
      bt: {dtype}<n, k> = load b(40, 24)[k, n] pad {0 if dtype.startswith("int") else 0.0}
      p: {result}<g, m, n> = dot at, bt over k plus zero as fp32
      store y(2, 20, 24)[g, m, n] = p
    }}""")
    inputs = draw(program)
    assert distance(run(program, inputs), run_tiles(program, inputs)) <= SUMS


@pytest.mark.parametrize("op", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int64"])
def test_reductions(op: str, dtype: str) -> None:
    program = parse(f"""kernel fold {{
      in x: {dtype}[6, 16, 4]
      out y: {dtype}[6]
      axis r: 6 by 4 grid
      axis a: 16 by 16 resident
      axis b: 4 by 4 resident
      t: {dtype}<r, a, b> = load x(6, 16, 4)[r, a, b]
      s: {dtype}<r> = reduce {op} t over a, b
      store y(6)[r] = s
    }}""")
    x = draw(program)[0]
    x = x if x.dtype.kind in "iu" else (x.astype(np.float32) * 0.25 + 1).astype(x.dtype)
    wide = x if x.dtype.kind in "iu" else x.astype(np.float64)
    ufunc = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    wanted = ufunc.reduce(wide.reshape(6, 64), axis=1)
    # float32: 63 roundings at most; bfloat16 is summed in float32 and rounded once
    tolerance = {"float32": 63 * 2.0**-24, "bfloat16": 2.0**-8}.get(dtype, 0)
    assert distance(run(program, [x]), [wanted.astype(x.dtype)]) <= tolerance


def test_a_maximum_of_nan_is_nan() -> None:
    program = sample("maxpool")
    x = draw(program)[0]
    x[0, 3, 3] = np.nan
    got, wanted = run(program, [x]), run_tiles(program, [x])
    assert np.isnan(wanted[0]).sum() > 0 and distance(got, wanted) == 0


def test_carried_values_may_change_places() -> None:
    program = parse("""kernel fibonacci {
      out y: int32[1]
      out z: int32[1]
      axis i: 10 by 1 loop
      zero: int32<> = full 0
      one: int32<> = full 1
      for i {
        carry p: int32<> = a from zero next b
        carry q: int32<> = b from one next c
        c: int32<> = add a, b
      }
      store y(1)[0] = p
      store z(1)[0] = q
    }""")
    assert [int(x[0]) for x in run(program, [])] == [55, 89]
    assert [int(x[0]) for x in run_tiles(program, [])] == [55, 89]


def test_what_triton_lacks_is_a_reason() -> None:
    program = parse("""kernel wide {
      in x: float64[8]
      out y: float64[8]
      axis i: 8 by 8 resident
      t: float64<i> = load x(8)[i]
      s: float64<i> = tanh t
      store y(8)[i] = s
    }""")
    with pytest.raises(CannotEmit, match="Triton has no tanh of float64"):
        emit(program)
    with pytest.raises(CannotEmit, match="Triton has no type complex64"):
        emit(
            parse("""kernel c {
          in x: complex64[8]
          out y: complex64[8]
          axis i: 8 by 8 resident
          t: complex64<i> = load x(8)[i]
          store y(8)[i] = t
        }""")
        )


def test_the_grid_is_the_product_of_its_axes() -> None:
    program = sample("attention")
    assert emit(program).grid == 4 * 4 * 3
    one = replace(program, axes=tuple(replace(a, tile=128) if a.name == "s" else a for a in program.axes))
    assert isinstance(one.axis("s"), Axis) and emit(one).grid == 16
