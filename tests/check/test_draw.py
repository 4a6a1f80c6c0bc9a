"""Drawn inputs are valid: each role is read off the graph, and the reason is given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import check
from porter.check.inputs import extremes
from porter.errors import PorterError

ENCODER = """g (int64[2,6] input_ids, int64[2,6] token_type_ids, int64[2,6] positions, int64[2,6] attention_mask)
  => (float[2,6,4] y) {
  words = Gather (word, input_ids)
  types = Gather (kind, token_type_ids)
  two = Constant <value_int = 2> ()
  shifted = Add (positions, two)
  places = Gather (place, shifted)
  a = Add (words, types)
  b = Add (a, places)
  m = Cast <to = 1> (attention_mask)
  axis = Constant <value_ints = [-1]> ()
  column = Unsqueeze (m, axis)
  y = Mul (b, column)
}"""


def encoder(model):
    rng = np.random.default_rng(0)
    sizes = {"word": 11, "kind": 2, "place": 9}
    return model(ENCODER, {k: rng.standard_normal((n, 4)).astype(np.float32) for k, n in sizes.items()})


def test_ids_positions_and_masks_are_in_range_and_explained(model):
    inputs = check.draw(encoder(model), 3)
    assert inputs["input_ids"].max() < 11 and inputs["token_type_ids"].max() < 2
    assert inputs["positions"].max() < 7  # the table has 9 rows, and 2 is added first
    assert set(np.unique(inputs["attention_mask"])) <= {0, 1} and (inputs["attention_mask"][:, 0] == 1).all()
    assert (np.diff(inputs["attention_mask"], axis=-1) <= 0).all(), "padding stands at the right"
    assert inputs.why["input_ids"] == "0 to 10: indexes axis 0 of [11, 4] in Gather '/gather_0'"
    assert inputs.why["attention_mask"].startswith("0 and 1, padded at the right")


def test_the_same_seed_draws_the_same_and_another_does_not(model):
    one, two, three = (check.draw(encoder(model), seed) for seed in (5, 5, 6))
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert not np.array_equal(one["input_ids"], three["input_ids"])


def test_edges_stay_valid(model):
    drawn = {inputs.label: inputs for inputs in check.edges(encoder(model))}
    assert list(drawn) == ["zeros", "ones", "upper end", "masks with holes"]
    holes = drawn["masks with holes"]["attention_mask"]
    assert set(np.unique(holes)) == {0, 1} and holes.any(axis=-1).all() and not holes[..., 0].any()
    assert (drawn["upper end"]["input_ids"] == 10).all() and (drawn["upper end"]["token_type_ids"] == 1).all()
    assert (drawn["zeros"]["attention_mask"][:, 0] == 1).all() and drawn["zeros"]["attention_mask"].sum() == 2
    assert (drawn["upper end"]["attention_mask"] == 1).all()


def test_denominators_and_roots_are_positive(model):
    m = model(
        "g (float[40] a, float[40] b, float[40] c) => (float[40] y) { q = Div (a, b)  r = Sqrt (c)  y = Add (q, r) }"
    )
    inputs = check.draw(m, 0)
    assert (inputs["b"] >= 0.5).all() and (inputs["c"] >= 0.5).all() and (inputs["a"] < 0).any()
    assert inputs.why["b"] == "0.5 to 2: the denominator of Div '/div_0'"


def test_a_mask_inside_a_function_is_found(model):
    m = model("""g (float[2,3] x, bool[2,3] keep, int32[2] seq_lens) => (float[2,3] y, int32[2] n) {
      zero = Constant <value_float = 0.0> ()
      y = Where (keep, x, zero)
      n = Identity (seq_lens) }""")  # fmt: skip
    inputs = check.draw(m, 0)
    assert inputs["keep"][:, 0].all() and inputs["seq_lens"].min() >= 1


def test_indices_of_gather_elements_and_nd_fit_their_tensors(model):
    m = model("""g (float[5,7] x, int64[5,2] i, int64[3,2] j) => (float[5,2] y, float[3] z) {
      y = GatherElements <axis = 1> (x, i)
      z = GatherND (x, j) }""")  # fmt: skip
    for seed in range(5):
        inputs = check.draw(m, seed)
        assert inputs["i"].max() < 7 and inputs["j"].max() < 5


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2**31))
def test_no_row_of_a_mask_is_ever_empty(shape, seed):
    from porter.check.inputs import _mask

    assert _mask(np.random.default_rng(seed), tuple(shape))[..., 0].all()


def test_an_unbound_dim_says_how_to_bind_it(model):
    with pytest.raises(PorterError) as error:
        check.draw(model("g (float[N,3] x) => (float[N,3] y) { y = Relu (x) }"))
    assert "--dim" in str(error.value) or "dim" in str(error.value)


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16", "int8"])
def test_extremes_reach_both_ends_of_a_format(model, kind):
    from porter import formats

    drawn = extremes(model(f"g ({kind}[6] x) => ({kind}[6] y) {{ y = Identity (x) }}"))["x"]
    held = formats.of(drawn.dtype.name)
    assert drawn.max() == held.max and drawn.min() == held.min and drawn.astype(float)[0] > 0


def test_extremes_stay_valid(model):
    drawn = extremes(encoder(model))
    assert set(np.unique(drawn["input_ids"])) == {0, 10} and drawn["attention_mask"].all()


def test_lengths_of_nothing_and_of_one_are_edges_of_recurrent_layers(model):
    lstm = model("""g (float[3,2,4] x, int32[2] steps) => (float[3,1,2,5] y) {
      y = LSTM <hidden_size = 5> (x, w, r, , steps) }""", {
        "w": np.ones((1, 20, 4), np.float32), "r": np.ones((1, 20, 5), np.float32)})  # fmt: skip
    steps = {inputs.label: inputs["steps"].tolist() for inputs in check.edges(lstm)}
    assert steps == {"zeros": [0, 0], "ones": [1, 1], "upper end": [3, 3]}
    assert check(lstm, lstm).verdict == "equivalent"


def test_what_is_clipped_is_drawn_on_both_sides_of_its_bounds(model):
    m = model("""g (float[400] x, int64[400] i, float[9,2] table) => (float[400] y, float[400,2] z) {
      low = Constant <value_float = -3.0> ()
      high = Constant <value_float = 250.0> ()
      zero = Constant <value_int = 0> ()
      last = Constant <value_int = 8> ()
      y = Clip (x, low, high)
      at = Clip (i, zero, last)
      z = Gather (table, at) }""")  # fmt: skip
    inputs = check.draw(m, 0)
    assert inputs["x"].min() < -3 and inputs["x"].max() > 250 and np.ptp(inputs["x"]) < 400
    assert set(range(9)) <= set(inputs["i"].tolist()) <= set(range(-1, 11))
    assert inputs.why["x"] == "-3 to 250: cut to it by Clip '/clip_4'"
    ends = {label: drawn["x"][0] for drawn in check.edges(m) for label in [drawn.label]}
    assert ends == {"zeros": 0, "ones": 1, "upper end": 250}
    assert set(extremes(m)["x"].tolist()) == {-3.0, 250.0}


def test_bounds_that_say_nothing_leave_floats_normal(model):
    m = model("""g (float[40] x) => (float[40] y) {
      low = Constant <value_float = -3.4e38> ()
      high = Constant <value_float = 3.4e38> ()
      y = Clip (x, low, high) }""")  # fmt: skip
    assert check.draw(m, 0).why["x"] == "standard normal"


def test_floats_that_become_indices_or_bytes_are_in_range(model):
    m = model("""g (float[300] ids, float[300] pixels, float[300] classes, float[5,2] table) =>
        (float[300,2] y, uint8[300] b, float[300,4] h) {
      whole = Cast <to = 7> (ids)
      y = Gather (table, whole)
      b = Cast <to = 2> (pixels)
      depth = Constant <value_int = 4> ()
      ends = Constant <value_floats = [0.0, 1.0]> ()
      h = OneHot (classes, depth, ends) }""")  # fmt: skip
    for inputs in (check.draw(m, 0), extremes(m), *check.edges(m)):
        assert inputs["ids"].min() >= 0 and inputs["ids"].max() <= 4 and inputs["ids"].dtype == np.float32
        assert inputs["pixels"].min() >= 0 and inputs["pixels"].max() <= 255
        assert inputs["classes"].min() >= 0 and inputs["classes"].max() <= 3
    assert check.draw(m, 0)["pixels"].max() > 200 and len(set(check.draw(m, 0)["classes"].tolist())) == 4
