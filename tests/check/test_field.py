"""The prime field: each law that holds there, and models that it decides."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.check.field import Constant, agree, agree_on
from porter.ops import residues
from porter.ops.field import Field
from porter.ops.residues import P, Q

FLOAT = np.dtype(np.float32)
SEEDS = pytest.mark.parametrize("seed", [0, 1])


def field_and(seed, *shapes):
    f = Field(seed)
    return f, *(f.random(f"v{i}", shape, FLOAT) for i, shape in enumerate(shapes))


def equal(a, b):
    return np.array_equal(a.tags, b.tags) and np.array_equal(a.p, b.p)


def softmax(f, x):
    e = f.exp(x)
    return e / f.sum(e, axis=-1, keepdims=True)


# name -> (f, x, y, z) -> two values that are one; x, y, z are arrays of shape [4, 6]
LAWS = {
    "addition is associative": lambda f, x, y, z: ((x + y) + z, x + (y + z)),
    "addition is commutative": lambda f, x, y, z: (x + y, y + x),
    "multiplication distributes": lambda f, x, y, z: (x * (y + z), x * y + x * z),
    "division undoes multiplication": lambda f, x, y, z: (x * y / y, x),
    "a power is repeated multiplication": lambda f, x, y, z: (f.power(x, f.lift(np.float32(3))), x * x * x),
    "half a power is a root": lambda f, x, y, z: (f.power(x, f.lift(np.float32(0.5))), f.sqrt(x)),
    "minus half a power is one over the root": lambda f, x, y, z: (f.power(x, f.lift(np.float32(-0.5))), 1 / f.sqrt(x)),
    "exp of a sum": lambda f, x, y, z: (f.exp(x + y), f.exp(x) * f.exp(y)),
    "exp of a difference": lambda f, x, y, z: (f.exp(x - y), f.exp(x) / f.exp(y)),
    "a softmax does not see what is subtracted": lambda f, x, y, z: (
        softmax(f, x),
        softmax(f, x - f.max(x, axis=-1, keepdims=True)),
    ),
    "a running maximum cancels": lambda f, x, y, z: (
        f.exp(x - f.maximum(x, y)) * f.exp(f.maximum(x, y) - z),
        f.exp(x - z),
    ),
    "root of a product": lambda f, x, y, z: (f.sqrt(x * y), f.sqrt(x) * f.sqrt(y)),
    "root of a square is the absolute value": lambda f, x, y, z: (f.sqrt(x * x), f.abs(x)),
    "a value is its sign times its absolute value": lambda f, x, y, z: (x, f.sign(x) * f.abs(x)),
    "root of a constant times a value": lambda f, x, y, z: (f.sqrt(np.float32(96) * x), 96**0.5 * f.sqrt(x)),
    "the root of 64 is 8": lambda f, x, y, z: (x * f.sqrt(f.lift(np.float32(64))), 8 * x),
    "a root squared": lambda f, x, y, z: (x * np.float32(32**-0.25) * 32**-0.25, x * np.float32(32**-0.5)),
    "a root of two squared": lambda f, x, y, z: (x * np.float32(2**0.5) * 2**0.5, x + x),
    "absolute values multiply": lambda f, x, y, z: (f.abs(x * y), f.abs(x) * f.abs(y)),
    "tanh by exp": lambda f, x, y, z: (f.tanh(x), 1 - 2 / (f.exp(2 * x) + 1)),
    "tanh is odd": lambda f, x, y, z: (f.tanh(-x), -f.tanh(x)),
    "erf is odd": lambda f, x, y, z: (f.erf(-x), -f.erf(x)),
    "cos is even": lambda f, x, y, z: (f.cos(-x), f.cos(x)),
    "max is associative": lambda f, x, y, z: (f.maximum(f.maximum(x, y), z), f.maximum(x, f.maximum(y, z))),
    "max is commutative": lambda f, x, y, z: (f.maximum(x, y), f.maximum(y, x)),
    "max is idempotent": lambda f, x, y, z: (f.maximum(x, x), x),
    "max and min are the two": lambda f, x, y, z: (f.maximum(x, y) + f.minimum(x, y), x + y),
    "a reduced max is the max of parts": lambda f, x, y, z: (
        f.max(x, axis=(0, 1)),
        f.maximum(f.max(x[:2], axis=(0, 1)), f.max(x[2:], axis=(0, 1))),
    ),
    "a choice is by comparison": lambda f, x, y, z: (f.where(f.greater(x, y), x, y), f.maximum(x, y)),
    "min is associative": lambda f, x, y, z: (f.minimum(f.minimum(x, y), z), f.minimum(x, f.minimum(y, z))),
    "comparison is of the same two whichever way round": lambda f, x, y, z: (
        f.where(f.less(x, y), z, 0),
        f.where(f.greater(y, x), z, 0),
    ),
    "one function of one value is one value": lambda f, x, y, z: (f.log(x * y), f.log(y * x)),
    "a value is never NaN": lambda f, x, y, z: (f.where(f.isnan(x / y), 0, x), x),
    "-inf is below all": lambda f, x, y, z: (f.maximum(x, f.lift(-np.inf)), x),
    "exp of -inf is 0": lambda f, x, y, z: (
        f.exp(f.where(np.eye(4, 6) > 0, x, -np.inf) + y) + x * 0,
        f.where(np.eye(4, 6) > 0, f.exp(x + y), 0),
    ),
    "sums in parts": lambda f, x, y, z: (f.sum(x, axis=1), f.sum(x[:, :2], axis=1) + f.sum(x[:, 2:], axis=1)),
    "products in parts": lambda f, x, y, z: (f.prod(x, axis=1), f.prod(x[:, :2], axis=1) * f.prod(x[:, 2:], axis=1)),
    "the last of a running sum": lambda f, x, y, z: (f.cumsum(x, 1)[:, -1], f.sum(x, axis=1)),
    "contraction is bilinear": lambda f, x, y, z: (
        f.matmul(x + y, f.transpose(z, (1, 0))),
        f.matmul(x, f.transpose(z, (1, 0))) + f.matmul(y, f.transpose(z, (1, 0))),
    ),
    "einsum is a matmul": lambda f, x, y, z: (f.einsum("ik,jk->ij", x, y), f.matmul(x, f.transpose(y, (1, 0)))),
    "a convolution of width 1 is a matmul": lambda f, x, y, z: (
        f.conv(f.reshape(x, (1, 4, 6)), f.reshape(y[:, :4], (4, 4, 1)), strides=(1,), pads=[(0, 0)], dilations=(1,))[0],
        f.matmul(y[:, :4], x),
    ),
}


@SEEDS
@pytest.mark.parametrize("law", LAWS)
def test_law(law, seed):
    f, x, y, z = field_and(seed, (4, 6), (4, 6), (4, 6))
    assert equal(*LAWS[law](f, x, y, z))


def test_the_page_says_every_law_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    said = page.partition("## The laws of the field")[2].partition("What must not hold")[0]
    assert {line[2:] for line in said.splitlines() if line.startswith("- ")} == set(LAWS)


# What must not hold: were one of these equal, the field would call different models the same.
FALSE = {
    "exp is not itself": lambda f, x, y, z: (f.exp(x), x),
    "functions differ by name": lambda f, x, y, z: (f.log(x), f.floor(x)),
    "relu is not the identity": lambda f, x, y, z: (f.maximum(x, 0), x),
    "max does not distribute": lambda f, x, y, z: (f.maximum(x + z, y + z), f.maximum(x, y) + z),
    "a root is not linear": lambda f, x, y, z: (f.sqrt(x + y), f.sqrt(x) + f.sqrt(y)),
    "order of subtraction": lambda f, x, y, z: (x - y, y - x),
    "a tiny epsilon counts": lambda f, x, y, z: (x + np.float32(1e-5), x + np.float32(1.1e-5)),
    "half an epsilon counts": lambda f, x, y, z: (x + np.float32(1e-12), x),
}


@SEEDS
@pytest.mark.parametrize("law", FALSE)
def test_no_law(law, seed):
    f, x, y, z = field_and(seed, (4, 6), (4, 6), (4, 6))
    assert not equal(*FALSE[law](f, x, y, z))


@given(a=st.integers(0, P - 1), b=st.integers(0, P - 1), e=st.integers(0, 2**31))
def test_residues_are_python_integers_modulo_p(a, b, e):
    x, y = np.array([a]), np.array([b])
    assert residues.add(x, y, P)[0] == (a + b) % P
    assert residues.multiply(x, y, P)[0] == a * b % P
    assert residues.power(x, e, P)[0] == pow(a, e, P)
    assert a == 0 or residues.multiply(residues.inverse(x, P), x, P)[0] == 1
    assert residues.exponential(np.array([a % Q]))[0] == pow(residues.G, a % Q, P)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 700))
def test_contractions_by_limbs_are_exact(seed, k):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, P, (3, k)), rng.integers(0, P, (k, 2))
    exact = (a.astype(object) @ b.astype(object)) % P
    assert np.array_equal(residues.bilinear(np.matmul, a, b, k, P), exact.astype(np.int64))


@given(x=st.floats(allow_nan=False, allow_infinity=False), y=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_the_rationals_they_are(x, y):
    from fractions import Fraction

    one, two = (int(residues.from_floats(np.array([v]), P)[0]) for v in (x, y))
    assert one == residues.from_fraction(Fraction(x), P)
    assert one * two % P == residues.from_fraction(Fraction(x) * Fraction(y), P)


@pytest.mark.parametrize(
    "stored, meant",
    [(1 / 3, (1 / 3, 1)), (0.044715, (0.044715, 1)), (1e-5, (1e-5, 1)), (2**0.5, (1, 2**0.5)),
     (32**-0.25, (1, 32**-0.25)), (-(96**-0.5), (-1, 96**-0.5)), (1 / 768, (1 / 768, 1)), (0.123456789, None)],
)  # fmt: skip
def test_a_constant_means_the_simplest_number_that_rounds_to_it(stored, meant):
    for dtype in ("float32", "float64"):
        value = float(np.dtype(dtype).type(stored))
        factor, root, k = residues.meaning(value, dtype)
        if meant is None:
            assert float(factor) == value and root == 1
        else:
            assert (float(factor), float(root) ** (1 / k)) == pytest.approx(meant, rel=1e-12)


def test_both_exponents_of_two_primes_are_of_order_q():
    assert P == 2 * Q + 1 and pow(residues.G, Q, P) == 1 and residues.G != 1
    assert all(pow(2, n - 1, n) == 1 == pow(3, n - 1, n) for n in (P, Q)) and P % 4 == Q % 4 == 3
    assert all(pow(a, (m - 1) // 2, m) == 1 for a in (2, 3, 5, 7, 11, 13) for m in (P, Q))


# models

GELU = """g (float[2,8] x) => (float[2,8] y) {
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  root = Constant <value_float = 1.4142135381698608> ()
  d = Div (x, root)  e = Erf (d)  f = Add (e, one)  g = Mul (x, f)  y = Mul (g, half) }"""
SOFTMAX_BY_HAND = """g (float[2,8] x) => (float[2,8] y) {
  m = ReduceMax <keepdims = 1> (x, axes)  s = Sub (x, m)  e = Exp (s)
  t = ReduceSum <keepdims = 1> (e, axes)  y = Div (e, t) }"""
AXES = {"axes": np.array([1])}
NORM = """g (float[2,3,8] x) => (float[2,3,8] y) {
  eps = Constant <value_float = 1e-5> ()
  two = Constant <value_float = 2.0> ()
  mean = ReduceMean (x, last)  c = Sub (x, mean)  sq = Pow (c, two)
  v = ReduceMean (sq, last)  ve = Add (v, eps)  sd = Sqrt (ve)
  n = Div (c, sd)  scaled = Mul (n, gamma)  y = Add (scaled, beta) }"""
SCALE = {"gamma": np.linspace(0.3, 2, 8, dtype=np.float32), "beta": np.linspace(-1, 1, 8, dtype=np.float32)}


def pairs(model):
    yield "gelu", model(GELU), model("g (float[2,8] x) => (float[2,8] y) { y = Gelu (x) }")
    yield "softmax", model(SOFTMAX_BY_HAND, AXES), model("g (float[2,8] x) => (float[2,8] y) { y = Softmax (x) }")
    yield (
        "layer normalization",
        model(NORM, {**SCALE, "last": np.array([-1])}),
        model(
            "g (float[2,3,8] x) => (float[2,3,8] y) { y = LayerNormalization <epsilon = 1e-5> (x, gamma, beta) }", SCALE
        ),
    )
    yield (
        "silu",
        model("g (float[2,8] x) => (float[2,8] y) { s = Sigmoid (x)  y = Mul (x, s) }"),
        model("g (float[2,8] x) => (float[2,8] y) { n = Neg (x) e = Exp (n) o = Constant <value_float = 1.0> ()"
              "  d = Add (o, e)  y = Div (x, d) }"),
    )  # fmt: skip
    yield (
        "transposes across a product",
        model("g (float[3,4] a, float[4,5] b) => (float[5,3] y) { c = MatMul (a, b)"
              "  y = Transpose <perm = [1, 0]> (c) }"),
        model("g (float[3,4] a, float[4,5] b) => (float[5,3] y) { p = Transpose <perm = [1, 0]> (a)"
              "  q = Transpose <perm = [1, 0]> (b)  y = MatMul (q, p) }"),
    )  # fmt: skip
    yield (
        "max pooling in two steps",
        model("g (float[1,2,8] x) => (float[1,2,2] y) { y = MaxPool <kernel_shape = [4], strides = [4]> (x) }"),
        model("g (float[1,2,8] x) => (float[1,2,2] y) { t = MaxPool <kernel_shape = [2], strides = [2]> (x)"
              "  y = MaxPool <kernel_shape = [2], strides = [2]> (t) }"),
    )  # fmt: skip


def test_equal_models_are_proved(model):
    for name, before, after in pairs(model):
        agreement = agree(before, after)
        assert agreement.equal, f"{name}: {agreement}"
        assert agreement.chance < (1e-4 if "max" in name else 1e-9)  # a maximum hides all but one of its elements


NEAR = [(0.5, 0.6), (0.5, 0.5001), (6.0, 6.5), (1e-5, 1e-6)]


@pytest.mark.parametrize("n", [1, 1000])
@pytest.mark.parametrize(("one", "other"), NEAR)
@pytest.mark.parametrize("operator", ["Greater", "Max", "Min"])
def test_a_constant_is_told_from_another_that_is_near(model, operator, one, other, n):
    kind = "bool" if operator == "Greater" else "float"
    text = f"g (float[{n}] x) => ({kind}[{n}] y) <float c = {{%r}}> {{ y = {operator} (x, c) }}"
    assert agree(model(text % one), model(text % other)).equal is False


def test_what_a_choice_hides_is_not_called_equal(model):
    """A single element of many that goes another way, behind a maximum, a place, or an equality that no chance meets."""
    x = np.random.default_rng(0).standard_normal((1, 300)).astype(np.float32)
    for operator, kind in (("ReduceMax <keepdims = 0>", "float"), ("ArgMax <axis = -1, keepdims = 0>", "int64")):
        text = f"g (float[1,300] x) => ({kind}[N] y) {{ s = Mul (x, w)  y = {operator} (s%s) }}"
        text = text.replace("[N]", "[1]") % (", a" if "Reduce" in operator else "")
        other = x.copy()
        other[0, 17] *= 2
        axis = {"a": np.array([1])} if "Reduce" in operator else {}
        agreement = agree(model(text, {"w": x, **axis}), model(text, {"w": other, **axis}))
        assert not agreement.equal
    text = "g (float[1,300] x) => (float[1,%d] y, int64[1,%d] i) { s = Mul (x, w)  y, i = TopK (s, k) }"
    for k in (1, 300):
        few = [model(text % (k, k), {"w": w, "k": np.array([k])}) for w in (x, other)]
        assert not agree(*few).equal
    assert agree(few[0], few[0]).seeds == 2  # all of them in order hide nothing
    text = "g (float[64] x) => (bool[64] y) <float c = {%r}> { y = Equal (x, c) }"
    assert not agree(model(text % 0.5), model(text % 0.6)).equal


def test_another_part_of_one_array_is_not_beside_its_maximum():
    field = Field(0)
    both = field.random("both", (2, 300), np.dtype(np.float32))
    one, other = both[:1], both[1:]
    top = field.max(one, axis=-1, keepdims=True)
    assert (one - top).doubt.visible == (both - top).doubt.visible == 1
    assert (other - top).doubt.visible == pytest.approx(1 / 300)


def test_a_maximum_beside_what_it_was_taken_of_hides_nothing(model):
    whole = model("g (float[2,300] x) => (float[2,300] y) { y = Softmax <axis = -1> (x) }")
    parts = model(
        "g (float[2,300] x) => (float[2,300] y) { m = ReduceMax (x, a)  d = Sub (x, m)  e = Exp (d)"
        "  s = ReduceSum (e, a)  y = Div (e, s) }",
        {"a": np.array([-1])},
    )
    agreement = agree(whole, parts)
    assert agreement.equal and agreement.chance < 1e-9 and agreement.seeds == 2


def test_different_models_disagree_and_nothing_more_is_said(model):
    ours = list(pairs(model))
    wrong = model(GELU.replace("1.4142135381698608", "1.5"))
    assert agree(ours[0][1], wrong).equal is False
    eps = model(NORM.replace("1e-5", "1e-6"), {**SCALE, "last": np.array([-1])})
    found = agree(ours[2][1], eps)
    assert found.equal is False and found.first == "ve"
    same_shape = [
        m for _, m, _ in ours if [v.shape for v in m.graph.inputs] == [v.shape for v in ours[0][1].graph.inputs]
    ]
    for one, two in itertools.combinations(same_shape, 2):
        assert agree(one, two).equal is False


def test_laws_of_exp_hold_behind_an_exp_where_names_are_shared(model):
    text = """g (float[2,8] x) => (float[2,8] y) {{ p = Softmax (x)  h = MatMul (p, w)  {second} }}"""
    w = {"w": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32), **AXES}
    by_hand = "m = ReduceMax <keepdims = 1> (h, axes) s = Sub (h, m) e = Exp (s) t = ReduceSum (e, axes) y = Div (e, t)"
    assert agree(model(text.format(second=by_hand), w), model(text.format(second="y = Softmax (h)"), w)).equal


def test_constants_folded_in_the_source_type_are_agreed_on(model):
    computed = model("g (float[2,8] x) => (float[2,8] y) { r = Log (w)  y = Mul (x, r) }", {"w": SCALE["gamma"]})
    folded = model("g (float[2,8] x) => (float[2,8] y) { y = Mul (x, w) }", {"w": np.log(SCALE["gamma"])})
    agreement = agree(computed, folded)
    assert agreement.equal and agreement.reading == "folded constants"


def test_a_division_by_zero_is_left_to_the_numbers(model):
    text = "g (float[2] x) => (float[2] y) {{ {name} = Sub (x, x)  y = Div (x, {name}) }}"
    agreement = agree(model(text.format(name="a")), model(text.format(name="b")))
    assert agreement.equal is None and "undefined in the field" in agreement.reason


def test_a_cast_is_a_function_of_its_own(model):
    plain = model("g (float[2] x) => (float[2] y) { y = Identity (x) }")
    cast = model("g (float[2] x) => (float[2] y) { b = Cast <to = 16> (x)  y = Cast <to = 1> (b) }")
    wide = model("g (float[2] x) => (float[2] y) { b = Cast <to = 11> (x)  y = Cast <to = 1> (b) }")
    assert agree(cast, cast).equal and agree(plain, cast).equal is False
    assert agree(plain, wide).equal is False  # rounding float64 to float32 is a function; only numbers know it is idle


def test_functions_of_a_model_are_compared_with_weights_as_they_are(model):
    w = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    left = model("g (float[2,4] x, float[4,3] w) => (float[2,3] y) { t = Add (x, x)  y = MatMul (t, w) }")
    right = model("g (float[2,4] x, float[4,3] w) => (float[2,3] y) { t = MatMul (x, w)  y = Add (t, t) }")
    wrong = model("g (float[2,4] x, float[4,3] w) => (float[2,3] y) { y = MatMul (x, w) }")
    inputs = [np.zeros((2, 4), np.float32), Constant(w)]
    assert agree_on(left.graph, right.graph, inputs).equal
    assert agree_on(left.graph, wrong.graph, inputs).equal is False


@pytest.mark.parametrize("low, high", [(0, 255), (-128, 127), (0, 6), (-0.5, 0.5)])
@pytest.mark.parametrize("seed", range(8))
def test_what_a_clip_hides_is_not_equal(model, low, high, seed):
    """In every second field its ends are hashed the wrong way round, and all is one number: that proves nothing."""
    text = """g (float[4,8] x) => (float[4,8] y) {{
      lo = Constant <value_float = {}> ()  hi = Constant <value_float = {}> ()  h = {}  y = Clip (h, lo, hi) }}"""
    one, two = (model(text.format(float(low), float(high), h)) for h in ("Identity (x)", "Add (x, x)"))
    assert not agree(one, two, seed=seed).equal
