"""The layout pass: what lies across the partitions, what is turned, what is loaded as it lies; and programs that need
every kind of detour."""

from __future__ import annotations

import numpy as np
import pytest
from trainium_support import ROUNDING, device, distance, lowered, program

from porter.targets.trainium import target
from porter.targets.trainium.demands import plan
from porter.targets.trainium.depth import Deep
from porter.targets.trainium.home import homes
from porter.targets.trainium.layout import Layout, Plan
from porter.tile.interpret import run
from porter.tile.program import Program
from porter.tile.target import CannotEmit
from porter.tile.text import parse

PARTITIONS = 128


MATMUL = """
kernel matmul {
  in a: float32[100, 200]
  in b: float32[200, 130]
  in c: float32[130]
  out o: float32[100, 130]
  axis m: 100 by 100 resident
  axis n: 130 by 130 resident
  axis k: 200 by 128 loop
  zero: float32<m, n> = full 0
  for k {
    carry sum: float32<m, n> = so_far from zero next more
    x: float32<m, k> = load a(100, 200)[m, k] pad 0
    w: float32<n, k> = load b(200, 130)[k, n] pad 0
    more: float32<m, n> = dot x, w over k plus so_far as fp32
  }
  bias: float32<n> = load c(130)[n]
  y: float32<m, n> = add sum, bias
  store o(100, 130)[m, n] = y
}
"""
CONV = """
kernel conv {
  in a: float32[3, 33, 33]
  in b: float32[8, 3, 3, 3]
  out o: float32[8, 17, 17]
  axis o: 8 by 8 resident
  axis y: 17 by 17 resident
  axis x: 17 by 17 resident
  axis u: 3 by 3 resident
  axis v: 3 by 3 resident
  axis c: 3 by 3 resident
  p: float32<y, x, u, v, c> = load a(3, 33, 33)[c, u + 2*y + -1, v + 2*x + -1] pad 0
  w: float32<o, u, v, c> = load b(8, 3, 3, 3)[o, c, u, v]
  r: float32<o, y, x> = dot p, w over c, u, v as fp32
  store o(8, 17, 17)[o, y, x] = r
}
"""
SOFTMAX = """
kernel softmax {
  in a: float32[7, 1000]
  out o: float32[7, 1000]
  axis r: 7 by 7 resident
  axis c: 1000 by 1000 resident
  x: float32<r, c> = load a(7, 1000)[r, c]
  m: float32<r> = reduce max x over c
  d: float32<r, c> = sub x, m
  e: float32<r, c> = exp d
  l: float32<r> = reduce add e over c
  y: float32<r, c> = div e, l
  store o(7, 1000)[r, c] = y
}
"""
ATTENTION = """
kernel attention {
  in q: float32[50, 32]
  in k: float32[60, 32]
  in v: float32[60, 32]
  out o: float32[50, 32]
  axis s: 50 by 50 resident
  axis e: 32 by 32 resident
  axis d: 32 by 32 resident
  axis t: 60 by 60 resident
  x: float32<s, d> = load q(50, 32)[s, d]
  y: float32<d, t> = load k(60, 32)[t, d]
  z: float32<s, t> = dot x, y over d as fp32
  i: int32<s> = iota s
  j: int32<t> = iota t
  c: bool<s, t> = ge i, j
  lowest: float32<> = full -inf
  masked: float32<s, t> = select c, z, lowest
  m: float32<s> = reduce max masked over t
  b: float32<s, t> = sub masked, m
  p: float32<s, t> = exp b
  w: float32<e, t> = load v(60, 32)[t, e]
  h: float32<s, e> = dot p, w over t as fp32
  l: float32<s> = reduce add p over t
  r: float32<s, e> = div h, l
  store o(50, 32)[s, e] = r
}
"""
SCALED = """
kernel scaled {
  in a: float32[100, 200]
  in b: float32[200, 130]
  out o: float32[100, 130]
  axis m: 100 by 100 resident
  axis n: 130 by 130 resident
  axis k: 200 by 128 loop
  zero: float32<m, n> = full 0
  half: float32<> = full 0.5
  for k {
    carry sum: float32<m, n> = so_far from zero next more
    faded: float32<m, n> = mul so_far, half
    x: float32<m, k> = load a(100, 200)[m, k] pad 0
    w: float32<n, k> = load b(200, 130)[k, n] pad 0
    more: float32<m, n> = dot x, w over k plus faded as fp32
  }
  store o(100, 130)[m, n] = sum
}
"""


def planned(text: str) -> Plan:
    return plan(parse(text), PARTITIONS)


def test_a_convolution_has_its_output_channels_across_the_partitions() -> None:
    made = planned(CONV)
    assert made.home == ("o",)
    assert made.stationary["r"] == "b"  # the weights: the other side holds the contiguous axis of the output


def test_channels_and_windows_are_summed_across_the_partitions_windows_outermost() -> None:
    assert planned(CONV).natural("p") == Layout(("u", "v", "c"), ("y", "x"))


def test_a_matmul_keeps_the_contiguous_axis_of_its_output_free() -> None:
    made = planned(MATMUL)
    assert made.home == ("m",) and made.stationary["more"] == "a"
    assert made.natural("more") == Layout(("m",), ("n",)) and made.natural("w") == Layout(("k",), ("n",))


def test_rows_of_a_softmax_lie_across_the_partitions() -> None:
    assert planned(SOFTMAX).home == ("r",)


def test_scores_are_made_once_and_turned_for_the_second_product() -> None:
    made = planned(ATTENTION)
    assert made.home == ("s",) and made.natural("p").part == ("s",)
    assert made.turned == {("p", ("t",))}
    assert "nisa.nc_transpose(dst=p_turned, data=p)" in lowered(ATTENTION).text


def test_a_contiguous_axis_wanted_across_partitions_is_loaded_as_it_lies_and_turned() -> None:
    text = lowered(MATMUL).text
    assert "src=a.ap(pattern=[[200, 100], [1, k_n]], offset=k_at)" in text  # rows of a, as they lie
    assert "nisa.nc_transpose(dst=x_turned, data=x)" in text
    assert "src=b.ap(pattern=[[130, k_n], [1, 130]], offset=130 * k_at)" in text  # the summed axis is outermost already


def test_a_bias_along_the_free_axis_is_repeated_over_the_partitions_by_a_step_of_0() -> None:
    assert "src=c.ap(pattern=[[0, 100], [1, 130]], offset=0)" in lowered(MATMUL).text


def test_a_sum_that_only_products_write_stays_in_psum_and_another_does_not() -> None:
    assert "accumulate=k_at > 0" in lowered(MATMUL).text
    assert "accumulate=False" in lowered(SCALED).text
    p = parse(SCALED)
    inputs = drawn(p)
    assert distance(target.execute(lowered(p), inputs, device()), run(p, inputs)) < ROUNDING


def test_exp_of_a_difference_is_one_activation() -> None:
    text = lowered(SOFTMAX).text
    assert text.count("nisa.activation(") == 1
    for argument in ("op=nl.exp", "data=x", "bias=minus_m", "reduce_op=nl.add", "reduce_res=l"):
        assert argument in text
    assert text.count("nisa.tensor_reduce(") == 1  # the maximum: the sum comes with the exponentials


def test_steps_join_what_follows() -> None:
    text = lowered("""
kernel steps {
  in p0: float32[100, 60]
  in p1: float32[100]
  out out0: float32[100, 60]
  axis m: 100 by 100 resident
  axis n: 60 by 60 resident
  x: float32<m, n> = load p0(100, 60)[m, n]
  v: float32<m> = load p1(100)[m]
  q: float32<> = full 0.25
  a: float32<m, n> = mul x, v
  b: float32<m, n> = sub a, x
  c: float32<m, n> = mul b, q
  y: float32<m, n> = tanh c
  store out0(100, 60)[m, n] = y
}
""").text
    assert "op0=nl.multiply, operand0=v, op1=nl.subtract, operand1=x" in text and "scale=0.25" in text


TABLES = {
    "gelu": ["h: float32<> = full 0.5", "c: float32<> = full 0.70710677", "i: float32<> = full 1.0",
             "a: float32<m, n> = mul x, c", "b: float32<m, n> = erf a", "d: float32<m, n> = add b, i",
             "e: float32<m, n> = mul x, d", "y: float32<m, n> = mul e, h"],
    "gelu_apprx_tanh": ["h: float32<> = full 0.5", "c: float32<> = full 0.7978846", "k: float32<> = full 0.044715",
                        "i: float32<> = full 1.0", "a: float32<m, n> = mul x, x", "b: float32<m, n> = mul a, x",
                        "d: float32<m, n> = mul b, k", "e: float32<m, n> = add x, d", "f: float32<m, n> = mul c, e",
                        "g: float32<m, n> = tanh f", "j: float32<m, n> = add i, g", "l: float32<m, n> = mul x, j",
                        "y: float32<m, n> = mul h, l"],
    "silu": ["s: float32<m, n> = logistic x", "y: float32<m, n> = mul s, x"],
    "softplus": ["e: float32<m, n> = exp x", "y: float32<m, n> = log1p e"],
    "mish": ["e: float32<m, n> = exp x", "l: float32<m, n> = log1p e", "t: float32<m, n> = tanh l",
             "y: float32<m, n> = mul x, t"],
    "": ["h: float32<> = full 0.51", "c: float32<> = full 0.70710677", "i: float32<> = full 1.0",
         "a: float32<m, n> = mul x, c", "b: float32<m, n> = erf a", "d: float32<m, n> = add b, i",
         "e: float32<m, n> = mul x, d", "y: float32<m, n> = mul e, h"],
}  # fmt: skip


@pytest.mark.parametrize("function", TABLES)
def test_a_chain_that_is_a_table_function_is_one_activation(function: str) -> None:
    steps = "\n  ".join(TABLES[function])
    p = parse(f"""
kernel chain {{
  in p0: float32[100, 60]
  out out0: float32[100, 60]
  axis m: 100 by 100 resident
  axis n: 60 by 60 resident
  x: float32<m, n> = load p0(100, 60)[m, n]
  {steps}
  store out0(100, 60)[m, n] = y
}}
""")
    text = lowered(p).text
    if function:
        assert f"nisa.activation(dst=y, op=nl.{function}, data=x)" in text and text.count("nisa.") == 3
    else:
        assert "nl.gelu" not in text  # half is not 0.51
    inputs = drawn(p)
    assert distance(target.execute(lowered(p), inputs, device()), run(p, inputs)) < ROUNDING


def test_a_causal_mask_is_counted_by_the_engine() -> None:
    text = lowered(ATTENTION).text
    assert text.count("nisa.affine_select(") == 1 and "nisa.iota(" not in text
    p = parse(ATTENTION)
    inputs = drawn(p)
    assert distance(target.execute(lowered(p), inputs, device()), run(p, inputs)) < ROUNDING


# Programs that force a detour, each run against the tile interpreter.
DETOURS = {
    "a gather of rows": """
kernel gather_rows {
  in p0: float32[50, 20]
  in p1: int64[70]
  out out0: float32[70, 20]
  axis s: 70 by 70 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(70)[s]
  x: float32<s, d> = load p0(50, 20)[@i + 0, d]
  store out0(70, 20)[s, d] = x
}
""",
    "a gather along a row": """
kernel gather_along {
  in p0: float32[30, 50]
  in p1: int64[30, 7]
  out out0: float32[30, 7]
  axis s: 30 by 16 grid
  axis d: 7 by 7 resident
  i: int64<s, d> = load p1(30, 7)[s, d]
  x: float32<s, d> = load p0(30, 50)[s, @i + 0]
  store out0(30, 7)[s, d] = x
}
""",
    "a gather with two indices and a tail": """
kernel gather_two {
  in p0: float32[9, 50, 4]
  in p1: int64[40]
  in p2: int32[40]
  out out0: float32[40, 4]
  axis s: 40 by 40 resident
  axis d: 4 by 4 resident
  i: int64<s> = load p1(40)[s]
  j: int32<s> = load p2(40)[s]
  k: int32<> = full 9
  m: int32<s> = rem j, k
  x: float32<s, d> = load p0(9, 50, 4)[@m + 0, @i + 0, d]
  store out0(40, 4)[s, d] = x
}
""",
    "a gather that can miss": """
kernel gather_pad {
  in p0: float32[30, 20]
  in p1: int64[60]
  out out0: float32[60, 20]
  axis s: 60 by 60 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(60)[s]
  x: float32<s, d> = load p0(30, 20)[@i + -5, d] pad -1.0
  store out0(60, 20)[s, d] = x
}
""",
    "a gathered operand of a product": """
kernel gather_dot {
  in p0: float32[50, 20]
  in p1: int64[33]
  in p2: float32[20, 40]
  out out0: float32[33, 40]
  axis s: 33 by 33 resident
  axis n: 40 by 40 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(33)[s]
  x: float32<s, d> = load p0(50, 20)[@i + 0, d]
  w: float32<n, d> = load p2(20, 40)[d, n]
  y: float32<s, n> = dot x, w over d as fp32
  store out0(33, 40)[s, n] = y
}
""",
    "a batched product": """
kernel batched {
  in p0: float32[3, 17, 24]
  in p1: float32[3, 24, 19]
  out out0: float32[3, 17, 19]
  axis b: 3 by 3 resident
  axis m: 17 by 17 resident
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: float32<b, m, k> = load p0(3, 17, 24)[b, m, k]
  y: float32<b, n, k> = load p1(3, 24, 19)[b, k, n]
  z: float32<b, m, n> = dot x, y over k as fp32
  e: float32<b, m, n> = exp z
  store out0(3, 17, 19)[b, m, n] = z
}
""",
    "a batch of vectors, on the Vector engine": """
kernel depthwise {
  in p0: float32[40, 12, 5]
  in p1: float32[40, 5]
  in p2: float32[40]
  out out0: float32[40, 12]
  axis c: 40 by 40 resident
  axis y: 12 by 12 resident
  axis u: 5 by 1 loop
  z: float32<c, y> = full 0
  for u {
    carry r: float32<c, y> = s from z next t
    x: float32<c, y, u> = load p0(40, 12, 5)[c, y, u]
    w: float32<c, u> = load p1(40, 5)[c, u]
    t: float32<c, y> = dot x, w over u plus s as fp32
  }
  b: float32<c> = load p2(40)[c]
  o: float32<c, y> = add r, b
  store out0(40, 12)[c, y] = o
}
""",
    "a product of constants and a row": """
kernel ones {
  in p0: float32[24, 19]
  out out0: float32[19]
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: float32<k> = full 1.0
  y: float32<n, k> = load p0(24, 19)[k, n]
  z: float32<n> = dot x, y over k as fp32
  store out0(19)[n] = z
}
""",
    "small integers in a product": """
kernel int8_dot {
  in p0: int8[17, 24]
  in p1: int8[24, 19]
  out out0: int32[17, 19]
  axis m: 17 by 17 resident
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: int8<m, k> = load p0(17, 24)[m, k]
  y: int8<n, k> = load p1(24, 19)[k, n]
  z: int32<m, n> = dot x, y over k as fp32
  store out0(17, 19)[m, n] = z
}
""",
    "coordinates across two axes of the partitions": """
kernel coordinates {
  in p0: float32[5, 6, 40]
  out out0: float32[5, 6, 40]
  axis a: 5 by 5 resident
  axis b: 6 by 4 grid
  axis c: 40 by 40 resident
  x: float32<a, b, c> = load p0(5, 6, 40)[a, b, c]
  i: int32<a, b, c> = iota 100*a + 7*b + c + -3
  f: float32<a, b, c> = cast i
  y: float32<a, b, c> = add x, f
  store out0(5, 6, 40)[a, b, c] = y
}
""",
    "a reduction whose result is wanted elsewhere": """
kernel elsewhere {
  in p0: float32[20, 30]
  in p1: float32[30, 40]
  out out0: float32[20, 40]
  axis m: 20 by 20 resident
  axis n: 40 by 40 resident
  axis k: 30 by 30 resident
  x: float32<m, k> = load p0(20, 30)[m, k]
  s: float32<k> = reduce add x over m
  c: float32<m, k> = mul x, s
  y: float32<n, k> = load p1(30, 40)[k, n]
  z: float32<m, n> = dot c, y over k as fp32
  store out0(20, 40)[m, n] = z
}
""",
    "a reduction of a reduction, too large for a partition": """
kernel pooled {
  in p0: float32[300, 13, 14]
  out out0: float32[300]
  axis c: 300 by 300 resident
  axis y: 13 by 13 resident
  axis x: 14 by 14 resident
  v: float32<c, y, x> = load p0(300, 13, 14)[c, y, x]
  w: float32<c, y, x> = mul v, v
  s: float32<c> = reduce add w over y, x
  m: float32<> = reduce max s over c
  o: float32<c> = div s, m
  store out0(300)[c] = o
}
""",
    "the same per row": """
kernel pooled_rows {
  in p0: float32[6, 200, 150]
  out out0: float32[6, 200]
  axis r: 6 by 6 resident
  axis c: 200 by 200 resident
  axis y: 150 by 150 resident
  v: float32<r, c, y> = load p0(6, 200, 150)[r, c, y]
  s: float32<r, c> = reduce add v over y
  m: float32<r> = reduce max s over c
  o: float32<r, c> = sub s, m
  store out0(6, 200)[r, c] = o
}
""",
    "two results, one of which lacks an axis": """
kernel two {
  in p0: float32[20, 30]
  out out0: float32[20, 30]
  out out1: float32[20]
  axis m: 20 by 20 resident
  axis n: 30 by 30 resident
  x: float32<m, n> = load p0(20, 30)[m, n]
  e: float32<m, n> = exp x
  s: float32<m> = reduce add e over n
  store out0(20, 30)[m, n] = e
  store out1(20)[m] = s
}
""",
    "integers summed exactly": """
kernel whole {
  in p0: int64[20, 31]
  out out0: int64[20]
  axis m: 20 by 20 resident
  axis n: 31 by 31 resident
  x: int64<m, n> = load p0(20, 31)[m, n]
  s: int64<m> = reduce add x over n
  store out0(20)[m] = s
}
""",
    "any and all": """
kernel truth {
  in p0: bool[20, 31]
  out out0: bool[20]
  out out1: bool[20]
  axis m: 20 by 20 resident
  axis n: 31 by 31 resident
  x: bool<m, n> = load p0(20, 31)[m, n]
  s: bool<m> = reduce and x over n
  t: bool<m> = reduce or x over n
  store out0(20)[m] = s
  store out1(20)[m] = t
}
""",
    "carries that change places": """
kernel places {
  in p0: float32[20, 6]
  out out0: float32[20]
  out out1: float32[20]
  axis m: 20 by 20 resident
  axis n: 6 by 1 loop
  z: float32<m> = full 0
  o: float32<m> = full 1.0
  for n {
    carry u: float32<m> = a from z next b
    carry v: float32<m> = b from o next c
    x: float32<m, n> = load p0(20, 6)[m, n]
    c: float32<m> = add a, x
  }
  store out0(20)[m] = u
  store out1(20)[m] = v
}
""",
    "backwards": """
kernel backwards {
  in p0: float32[20, 60]
  out out0: float32[20, 50]
  axis m: 20 by 20 resident
  axis n: 50 by 50 resident
  x: float32<m, n> = load p0(20, 60)[m, -1*n + 44] pad 0.0
  store out0(20, 50)[m, n] = x
}
""",
    "six axes": """
kernel six {
  in p0: float32[3, 2, 3, 2, 5, 4]
  in p1: float32[3, 3, 4]
  out out0: float32[2, 4, 3, 2, 3, 5]
  axis a: 3 by 3 resident
  axis b: 2 by 2 resident
  axis c: 3 by 3 resident
  axis d: 2 by 2 resident
  axis e: 5 by 5 resident
  axis f: 4 by 4 resident
  x: float32<a, b, c, d, e, f> = load p0(3, 2, 3, 2, 5, 4)[a, b, c, d, e, f]
  y: float32<a, c, f> = load p1(3, 3, 4)[a, c, f]
  z: float32<a, b, c, d, e, f> = add x, y
  store out0(2, 4, 3, 2, 3, 5)[b, f, c, d, a, e] = z
}
""",
}


def drawn(p: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    made = []
    for x in p.inputs:
        dtype = np.dtype(x.dtype)
        if dtype.kind == "b":
            made.append(rng.integers(0, 4, x.shape) > 0)
        elif dtype.kind in "iu":
            made.append(rng.integers(0, 45, x.shape).astype(dtype))
        else:
            made.append(rng.standard_normal(x.shape).astype(dtype))
    return made


@pytest.mark.parametrize("what", DETOURS)
@pytest.mark.parametrize("generation", ["trn1", "trn2"])
def test_a_detour_arrives(what: str, generation: str) -> None:
    p = parse(DETOURS[what])
    inputs = drawn(p)
    if p.name == "whole":
        inputs = [x + 2**24 for x in inputs]  # beyond what float32 counts
    got = target.execute(lowered(p, generation), inputs, device(generation))
    assert distance(got, run(p, inputs)) < ROUNDING


def test_every_home_gives_the_same_result() -> None:
    from porter.targets.trainium.emit import Emitter
    from porter.targets.trainium.limits import chip
    from porter.tile.target import Emitted, Kernel

    p = program("attention_mask")
    inputs = drawn(p)
    wanted = run(p, inputs)
    tried = 0
    for home in homes(p, PARTITIONS):
        emitter = Emitter(p, Deep(p, {}), chip(device()), home)
        try:
            emitter.write()
        except CannotEmit:
            continue
        emitted = Emitted(Kernel(p.name, p, None), "nki", emitter.text, program=p)
        assert distance(target.execute(emitted, inputs, device()), wanted) < ROUNDING, home
        tried += 1
    assert tried >= 5


def test_a_store_to_gathered_places_is_refused_with_the_reason() -> None:
    scatter = DETOURS["a gather of rows"].replace("[@i + 0, d]", "[s, d]").replace("[s, d] = x", "[@i + 0, d] = x")
    with pytest.raises(CannotEmit, match="a store to gathered places: NKI's scatter is not emitted"):
        lowered(scatter.replace("p0(50, 20)[s, d]", "p0(50, 20)[0, d]"))
