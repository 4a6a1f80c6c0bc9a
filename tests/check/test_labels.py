"""Movement by labels: equal routes are proved, a wrong element is named with both its origins."""

import numpy as np

from porter.check import labels

SPLIT = "g (float16[2,3,4] x, float16[2,3,4] z) => (float16[4,3,4] y) {{ {body} }}"


def test_two_transposes_are_the_one_they_make(model):
    two = model("g (float[2,3,4] x) => (float[4,2,3] y) { t = Transpose <perm = [1, 2, 0]> (x)\n"
                "  y = Transpose <perm = [1, 2, 0]> (t) }")  # fmt: skip
    one = model("g (float[2,3,4] x) => (float[4,2,3] y) { y = Transpose <perm = [2, 0, 1]> (x) }")
    assert labels.compare(two, one).same is True
    assert str(labels.compare(two, one)) == "every output element comes from the same input element"


def test_a_wrong_axis_is_told_by_where_the_element_came_from(model):
    good = model("g (float[3,3] x) => (float[3,3] y) { y = Transpose <perm = [1, 0]> (x) }")
    bad = model("g (float[3,3] x) => (float[3,3] y) { y = Identity (x) }")
    moved = labels.compare(good, bad)
    assert str(moved) == "output 'y' at [0, 1] is x[0, 1], expected x[1, 0]"


def test_swapped_halves_of_a_concat_are_told_apart_in_a_narrow_format(model):
    good = model(SPLIT.format(body="y = Concat <axis = 0> (x, z)"))
    bad = model(SPLIT.format(body="y = Concat <axis = 0> (z, x)"))
    assert labels.compare(good, model(SPLIT.format(body="t = Identity (x) y = Concat <axis = 0> (t, z)"))).same
    assert str(labels.compare(good, bad)) == "output 'y' at [0, 0, 0] is z[0, 0, 0], expected x[0, 0, 0]"


def test_weights_are_known_by_their_bits(model):
    text = "g (float[2] x) => (float[4] y) { y = Concat <axis = 0> (x, w) }"
    one, zero = np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32)
    assert labels.compare(model(text, {"w": one}), model(text, {"w": one})).same
    assert str(labels.compare(model(text, {"w": one}), model(text, {"w": zero}))) == (
        "output 'y' at [2] is a constant, expected 0"
    )


def test_what_computes_alike_on_the_same_elements_is_decided(model):
    before = model("g (float[2,3] x, float[3,4] w) => (float[4,2] y) { a = MatMul (x, w)  b = Relu (a)\n"
                   "  y = Transpose <perm = [1, 0]> (b) }")  # fmt: skip
    pushed = model("g (float[2,3] x, float[3,4] w) => (float[4,2] y) { a = MatMul (x, w)\n"
                   "  b = Transpose <perm = [1, 0]> (a)  y = Relu (b) }")  # fmt: skip
    assert labels.compare(before, pushed).same is True
    # a product of transposed matrices sums in another order: equal over the reals, not bit for bit
    turned = model("g (float[2,3] x, float[3,4] w) => (float[4,2] y) { p = Transpose <perm = [1, 0]> (x)\n"
                   "  q = Transpose <perm = [1, 0]> (w)  a = MatMul (q, p)  y = Relu (a) }")  # fmt: skip
    moved = labels.compare(before, turned)
    assert moved.same is None and str(moved) == "not movement alone: node '/matmul_0' (MatMul)"


def test_constants_that_are_folded_and_nodes_that_are_merged_are_decided(model):
    text = "g (float[4] x) => (float[4] y, float[4] z) {{ {body} }}"
    w = {"w": np.float32([1, 2, 3, 4])}
    before = model(text.format(body="a = Neg (w) b = Add (x, a) y = Exp (b) c = Add (a, x) z = Exp (c)"), w)
    after = model(text.format(body="b = Add (x, w) y = Exp (b) z = Identity (y)"), {"w": -w["w"]})
    assert labels.compare(before, after).same is True
    assert (
        labels.compare(before, model(text.format(body="b = Add (x, w) y = Exp (b) z = Identity (y)"), w)).same is None
    )


def test_a_mask_that_is_computed_says_nothing(model):
    text = "g (float[4] x, float[4] z) => (float[4] y) {{ c = Greater (x, z) y = Where (c, {}) }}"
    assert labels.compare(model(text.format("x, z")), model(text.format("x, z"))).same is True
    assert labels.compare(model(text.format("x, z")), model(text.format("z, x"))).same is None
