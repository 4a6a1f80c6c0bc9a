"""The layout pass: what lies across the partitions, what is turned, what is loaded as it lies."""

from __future__ import annotations

import pytest
from trainium_support import ROUNDING, device, distance, drawn, lowered

from porter.targets.trainium import target
from porter.targets.trainium.demands import plan
from porter.targets.trainium.layout import Layout, Plan
from porter.tile.interpret import run
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
