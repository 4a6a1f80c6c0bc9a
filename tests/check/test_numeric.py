"""Contracts: real faults are caught and named, honest rewrites pass."""

import numpy as np
import pytest

from porter import check, ops
from porter.errors import PorterError

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


GELU = """g (float[4,64] x) => (float[4,64] y) {{
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  root = Constant <value_float = {root}> ()
  scaled = Div (x, root)
  e = Erf (scaled)
  more = Add (e, one)
  both = Mul (x, more)
  y = Mul (both, half)
}}"""
ROOT_TWO = 1.4142135381698608

LAYER = """g (float[3,8,64] x) => (float[3,8,64] y) {{
  two = Constant <value_float = 2.0> ()
  eps = Constant <value_float = {eps}> ()
  mean = ReduceMean (x, axes)
  centred = Sub (x, mean)
  square = Pow (centred, two)
  variance = ReduceMean (square, axes)
  shifted = Add (variance, eps)
  deviation = Sqrt (shifted)
  normed = Div (centred, deviation)
  scaled = Mul (normed, gamma)
  y = Add (scaled, beta)
}}"""
LAYER_WEIGHTS = {"axes": np.array([-1]), "gamma": normal(64), "beta": normal(64)}


def attention(mask=True, scale="q", scaled_by=0.25):
    """Masked single-head attention; `scale` says where the factor stands."""
    lines = {
        "q": ("qs = Mul (q, factor)\n  s = MatMul (qs, kt)", "s"),
        "s": ("s0 = MatMul (q, kt)\n  s = Mul (s0, factor)", "s"),
    }
    return f"""g (float[2,8,16] q, float[2,8,16] k, float[2,8,16] v, int64[2,8] attention_mask) => (float[2,8,16] y) {{
  factor = Constant <value_float = {scaled_by}> ()
  low = Constant <value_float = -10000.0> ()
  one = Constant <value_float = 1.0> ()
  kt = Transpose <perm = [0, 2, 1]> (k)
  {lines[scale][0]}
  m = Cast <to = 1> (attention_mask)
  inverted = Sub (one, m)
  bias2 = Mul (inverted, low)
  axis = Constant <value_ints = [1]> ()
  bias = Unsqueeze (bias2, axis)
  masked = {"Add (s, bias)" if mask else "Identity (s)"}
  p = Softmax <axis = -1> (masked)
  y = MatMul (p, v)
}}"""


ONE_MATMUL = "g (float[64,{k}] x) => (float[64,48] y) {{ y = MatMul (x, w) }}"


@pytest.mark.parametrize("contract", [check.exact, check.algebraic, check.rounding], ids=str)
def test_a_model_keeps_every_contract_against_itself(model, contract):
    one, two = (model(LAYER.format(eps=1e-5), LAYER_WEIGHTS) for _ in range(2))
    verdict = check.compare(one, two, contract)
    assert verdict.ok and not verdict.message and verdict.first_divergence is None
    assert verdict.metric["sqnr_db"] > 120


def test_gelu_with_the_wrong_constant_is_named_with_its_node(model):
    verdict = check.compare(model(GELU.format(root=ROOT_TWO)), model(GELU.format(root=1.4143)), check.rounding)
    assert not verdict.ok
    assert verdict.first_divergence.node == "/div_3" and verdict.first_divergence.tensor == "scaled"
    assert verdict.message.splitlines()[0] == "output 'y' changed"


def test_gelu_spelled_as_onnx_own_operator_is_only_rounded_elsewhere(model):
    own = model("g (float[4,64] x) => (float[4,64] y) { y = Gelu (x) }")
    spelled = model(GELU.format(root=ROOT_TWO))
    assert check.compare(spelled, own, check.rounding).ok
    tanh = model('g (float[4,64] x) => (float[4,64] y) { y = Gelu <approximate = "tanh"> (x) }')
    assert not check.compare(spelled, tanh, check.rounding).ok


def test_an_epsilon_that_moved_is_caught(model):
    good = model(LAYER.format(eps=1e-5), LAYER_WEIGHTS)
    assert not check.compare(good, model(LAYER.format(eps=1.2e-5), LAYER_WEIGHTS), check.rounding).ok
    fused = model(
        "g (float[3,8,64] x) => (float[3,8,64] y) { y = LayerNormalization <epsilon = 1e-5> (x, gamma, beta) }",
        {k: v for k, v in LAYER_WEIGHTS.items() if k != "axes"},
    )
    assert check.compare(good, fused, check.algebraic).ok


def test_a_dropped_mask_is_caught_and_a_moved_scale_is_not(model):
    good = model(attention())
    assert check.compare(good, model(attention(scale="s")), check.algebraic).ok
    assert check.compare(good, model(attention(scale="s")), check.rounding).ok
    verdict = check.compare(good, model(attention(mask=False)), check.algebraic)
    assert not verdict.ok and verdict.first_divergence.tensor == "masked"
    assert not check.compare(good, model(attention(scaled_by=0.2501)), check.rounding).ok


def test_swapped_operands_are_caught(model):
    good = model("g (float[4,8] a, float[4,8] b) => (float[4,8] y) { d = Sub (a, b)  y = Relu (d) }")
    swapped = model("g (float[4,8] a, float[4,8] b) => (float[4,8] y) { d = Sub (b, a)  y = Relu (d) }")
    verdict = check.compare(good, swapped, check.exact)
    assert not verdict.ok and verdict.first_divergence.node == "/sub_0"


def test_reassociation_is_algebra_and_not_exact(model):
    left = model("g (float[9,9] a, float[9,9] b, float[9,9] c) => (float[9,9] y) { t = Add (a, b)  y = Add (t, c) }")
    right = model("g (float[9,9] a, float[9,9] b, float[9,9] c) => (float[9,9] y) { u = Add (b, c)  y = Add (a, u) }")
    assert check.compare(left, right, check.algebraic).ok
    assert check.compare(left, right, check.rounding).ok
    verdict = check.compare(left, right, check.exact)
    assert not verdict.ok and verdict.outputs[0].distance.ulp <= 32


def test_a_folded_batch_norm_is_rounding_and_a_lost_one_is_not(model):
    w, gamma, beta, mean = normal(6, 4, 3, 3), normal(6), normal(6), normal(6)
    variance = np.abs(normal(6)) + np.float32(0.5)
    text = "g (float[2,4,9,9] x) => (float[2,6,7,7] y) {{ {body} }}"
    unfolded = "c = Conv (x, w)  y = BatchNormalization <epsilon = 1e-3> (c, gamma, beta, mean, variance)"
    scale = (gamma / np.sqrt(variance.astype(np.float64) + 1e-3)).astype(np.float32)
    folded = {"w": w * scale[:, None, None, None], "b": beta - mean * scale}
    before = model(
        text.format(body=unfolded), {"w": w, "gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    )
    after = model(text.format(body="y = Conv (x, w, b)"), folded)
    assert check.compare(before, after, check.rounding).ok
    assert not check.compare(before, after, check.exact).ok
    wrong = {"w": folded["w"], "b": beta}
    assert not check.compare(before, model(text.format(body="y = Conv (x, w, b)"), wrong), check.rounding).ok


@pytest.mark.parametrize("k", [32, 512])
def test_tf32_in_place_of_fp32_is_caught(model, k):
    """The cheaper unit's operands as a Cast would leave them: 10 fraction bits."""
    w = normal(k, 48)
    cut = (w.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    good = model(ONE_MATMUL.format(k=k), {"w": w})
    assert not check.compare(good, model(ONE_MATMUL.format(k=k), {"w": cut}), check.rounding).ok


def test_bfloat16_keeps_its_budget_and_misses_a_tighter_one(model):
    text = """g (float[64,96] x) => (float[64,48] y) {
      xb = Cast <to = 16> (x)  xw = Cast <to = 1> (xb)
      wb = Cast <to = 16> (w)  ww = Cast <to = 1> (wb)
      y = MatMul (xw, ww) }"""
    w = normal(96, 48)
    before, after = model(ONE_MATMUL.format(k=96), {"w": w}), model(text, {"w": w})
    verdict = check.compare(before, after, check.precision("sqnr", db=40))
    assert verdict.ok and 40 < verdict.metric["sqnr_db"] < 60
    failed = check.compare(before, after, check.precision(sqnr_db=70))
    assert not failed.ok and "sqnr_db is" in failed.message and "sqnr_db >= 70" in failed.message
    assert check.compare(before, after, check.precision(cosine=0.999, max_abs=0.5)).ok
    assert not check.compare(before, after, check.rounding).ok


def test_a_missed_budget_is_traced_to_where_it_was_lost(model):
    text = """g (float[64,96] x) => (float[64,48] y) {{
      {cast}
      t = MatMul (xw, w)  s = Neg (t)  c = Cast <to = 17> (s)  n = Cast <to = 1> (c)  y = Abs (n) }}"""
    w = normal(96, 48)
    plain = text.format(cast="xw = Identity (x)").replace(
        "c = Cast <to = 17> (s)  n = Cast <to = 1> (c)", "n = Neg (t)"
    )
    after = model(text.format(cast="xb = Cast <to = 16> (x)  xw = Cast <to = 1> (xb)"), {"w": w})
    verdict = check.compare(model(plain, {"w": w}), after, check.precision("sqnr", db=40))
    assert not verdict.ok and verdict.first_divergence.tensor == "n", "bfloat16 keeps 40 dB, float8 does not"


def test_a_fault_cannot_hide_inside_a_generous_budget(model):
    text = """g (float[64,96] x) => (float[64,48] y) {{
      xb = Cast <to = 16> (x)  xw = Cast <to = 1> (xb)
      wb = Cast <to = 16> (w)  ww = Cast <to = 1> (wb)
      c = Constant <value_float = {factor}> ()
      t = MatMul (xw, ww)  y = Mul (t, c) }}"""
    w = normal(96, 48)
    before = model(ONE_MATMUL.format(k=96), {"w": w})
    right, wrong = (model(text.format(factor=c), {"w": w}) for c in (1.0, 1.01))
    generous = check.precision("sqnr", db=30)
    assert check.compare(before, wrong, generous).ok, "1% is 40 dB"
    held = check.precision("sqnr", db=30, arithmetic="bf16")
    assert check.compare(before, right, held).ok
    verdict = check.compare(before, wrong, held)
    assert not verdict.ok and "times what the formats make, allowed 1.5" in verdict.message


def test_moved_zeros_and_nans_are_values(model):
    one = model("g (float[4] x) => (float[4] y) { y = Identity (x) }")
    plus = model("g (float[4] x) => (float[4] y) { z = Constant <value_float = 0.0> ()  y = Add (x, z) }")
    x = {"x": np.array([-0.0, np.nan, np.inf, 1], np.float32)}
    assert check.compare(one, one, check.exact, x).ok
    verdict = check.compare(one, plus, check.exact, x)
    assert not verdict.ok and "a zero changed its sign at [0]" in verdict.message


def test_a_folded_transpose_is_exact_however_blas_reads_its_operand(model):
    for m, k, n in ((5, 33, 17), (64, 64, 64), (1, 60, 33), (40, 7, 3)):
        w = normal(n, k)
        text = "g (float[{m},{k}] x) => (float[{m},{n}] y) {{ {body} y = MatMul (x, {w}) }}"
        folded = model(text.format(m=m, k=k, n=n, body="", w="w"), {"w": np.ascontiguousarray(w.T)})
        body = "t = Transpose <perm = [1, 0]> (w)"
        assert check.compare(model(text.format(m=m, k=k, n=n, body=body, w="t"), {"w": w}), folded, check.exact).ok


def test_an_infinity_that_appears_is_infinitely_far(model):
    good = model("g (float[4] x) => (float[4] y) { c = Constant <value_float = 4.0> ()  a = Sub (x, c)  y = Exp (a) }")
    bad = model(
        "g (float[4] x) => (float[4] y) { c = Constant <value_float = 4.0> () d = Exp (c) e = Exp (x) y = Div (e, d) }"
    )
    x = {"x": np.array([0.5, 90, 1, 2], np.float32)}
    verdict = check.compare(good, bad, check.rounding, x)
    assert not verdict.ok and verdict.metric["max_abs"] == np.inf
    assert verdict.outputs[0].json()["max_abs"] == "inf"


def test_different_interfaces_are_bad_usage(model):
    one = model("g (float[4] x) => (float[4] y) { y = Relu (x) }")
    two = model("g (float[4] x) => (float[4] y, float[4] z) { y = Relu (x)  z = Neg (x) }")
    with pytest.raises(PorterError) as error:
        check.compare(one, two, check.exact)
    assert str(error.value) == "outputs of the two models\n  expected y\n  found y, z"
    with pytest.raises(PorterError, match="input 'x'"):
        check.compare(one, one, check.exact, {"x": np.zeros(5, np.float32)})


def test_the_message_names_output_limit_node_and_inputs(model):
    good, bad = model(GELU.format(root=ROOT_TWO)), model(GELU.format(root=1.5))
    lines = check.compare(good, bad, check.algebraic, subject="fusion.gelu").message.splitlines()
    assert lines[0] == "fusion.gelu changed output 'y'"
    assert lines[1].startswith("  256 of 256 elements moved; worst at [") and " became " in lines[1]
    assert lines[1].split(", allowed ")[1].endswith("e-11")
    assert lines[2].startswith("  first at node '/div_3' (Div), tensor 'scaled': 256 of 256 elements moved; worst at [")
    assert lines[3] == "  on draw 0"


def test_equal_values_round_alike():
    """On an input of ones every place rounds alike: averaging over places does not take the error away."""
    from porter.check.dither import Dithered

    xp = Dithered(0)
    same, other = np.full(10000, 1.3e-3), np.random.default_rng(0).uniform(1e-3, 2e-3, 10000)
    f32 = np.dtype(np.float32)
    assert np.ptp(xp.rounded(same, f32)) == 0
    errors = xp.rounded(other, f32) - other
    assert np.abs(errors.mean()) < 0.05 * np.abs(errors).mean()


def test_weights_that_one_side_computed_may_be_rounded():
    from porter.check.dither import Dithered

    x, w = np.linspace(1, 2, 100, dtype=np.float32), np.linspace(1, 2, 100, dtype=np.float32)
    xp = Dithered(0, given=[x])
    assert np.array_equal(xp.settle(x, None), x) and np.array_equal(Dithered(0).settle(w, None), w)
    moved = np.abs(xp.settle(w, None) - w.astype(np.float64))
    assert moved.max() > 0 and (moved <= np.spacing(w) / 2).all()
    assert np.array_equal(xp.settle(w[:4].copy(), None), w[:4]), "numbers and short lists are what they are"


@pytest.mark.parametrize("count", [1, 2, 16, 1000])
def test_the_rms_of_few_errors_scatters_as_allowed(count):
    from porter.check import gate

    rng = np.random.default_rng(count)
    seen = np.sqrt(np.mean(rng.standard_normal((200000 // count, count)) ** 2, axis=1))
    assert np.mean(seen > gate.spread(count)) < 1e-3 and gate.spread(count) < 1.1 * seen.max() + 0.2


COUNTED = """g (float[1] x) => (float[n, 1] y) {{
  most = Constant <value = int64 {{5}}> ()  go = Constant <value = bool {{1}}> ()  end = Constant <value_floats = [{}]> ()
  step = Constant <value_floats = [0.1]> ()
  last, y = Loop (most, go, x) <body = b (int64 i, bool c, float[1] h) => (bool more, float[1] next, float[1] row) {{
    next = Add (h, step)  row = Identity (next)  less = Less (next, end)  axes = Constant <value_ints = [0]> ()
    more = Squeeze (less, axes) }}> }}"""


def test_another_number_of_rows_is_a_difference(model):
    """How often a loop runs hangs on what it computes: other shapes are told, none is broadcast."""
    one, two = model(COUNTED.format(0.15)), model(COUNTED.format(0.35))
    result = check(one, two, inputs={"x": np.zeros(1, np.float32)})
    assert result.verdict == "different" and "shape [2, 1] became [4, 1]" in result.message, result.message
    assert check(one, model(COUNTED.format(0.15)), inputs={"x": np.zeros(1, np.float32)}).verdict == "equivalent"


def test_where_float64_comes_to_other_shapes_the_first_models_own_are_right(model):
    """0.1 + 0.1 + 0.1 is below 0.3 in one format and above in the other: the loop runs four times there, three here."""
    one = model(COUNTED.format(0.3))
    two = model(
        COUNTED.format(0.3).replace("Add (h, step)", "Add (step, k)").replace("next =", "k = Identity (h)  next =")
    )
    lengths = {
        xp.name: ops.evaluate(one, {"x": np.zeros(1, np.float32)}, xp)["y"].shape[0] for xp in (ops.source, ops.float64)
    }
    assert len(set(lengths.values())) == 2, lengths
    assert check(one, two, inputs={"x": np.zeros(1, np.float32)}, method="numeric").verdict == "equivalent"
