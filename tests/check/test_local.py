"""Models compared by expressions and regions: what is the same is not run, what differs is decided once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from porter import check, graph
from porter.check.expressions import Expressions
from porter.check.local import Local
from porter.ops import running

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "faults"))
from equal_layers import decoder
from equivalents import rename

LAYER = "g (float[2,8] x) => (float[2,8] y) { a = MatMul (x, w)  b = Add (a, c)  y = Relu (b) }"
W = {"w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8), "c": np.linspace(0, 1, 8, dtype=np.float32)}


def same(one, two):
    a, b = (Expressions(m, check.draw(m)).all() for m in (one, two))
    return [a.of[x] == b.of[y] for x, y in zip(one.graph.outputs, two.graph.outputs, strict=True)] == [True]


SAME = {
    "names": "g (float[2,8] x) => (float[2,8] z) { p = MatMul (x, w)  q = Add (p, c)  z = Relu (q) }",
    "operands of a sum": "g (float[2,8] x) => (float[2,8] y) { a = MatMul (x, w)  b = Add (c, a)  y = Relu (b) }",
    "an idle node": "g (float[2,8] x) => (float[2,8] y) { i = Identity (x)  j = Cast <to = 1> (i)  a = MatMul (j, w)"
    "  b = Add (a, c)  y = Relu (b) }",
    "a folded constant": "g (float[2,8] x) => (float[2,8] y) { h = Add (c, c)  k = Sub (h, c)  a = MatMul (x, w)"
    "  b = Add (a, k)  y = Relu (b) }",
}
OTHER = {
    "an operator": LAYER.replace("Relu", "Abs"),
    "operands of a difference": LAYER.replace("Add (a, c)", "Sub (a, c)"),
    "a constant": LAYER.replace("Add (a, c)", "Add (a, a)"),
    "operands of a product of matrices": "g (float[8,8] x) => (float[8,8] y) { y = MatMul (w, x) }",
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_show_in_an_expression(model, what):
    weights = W if what != "a folded constant" else W | {"c": np.float32([0.5] * 8)}
    assert same(model(LAYER, weights), model(SAME[what], weights))


@pytest.mark.parametrize("what", OTHER)
def test_what_shows_in_an_expression(model, what):
    assert not same(model(LAYER, W), model(OTHER[what], W))


def test_an_attribute_that_is_the_default_does_not_show_and_another_does(model):
    text = "g (float[2,8] x) => (float[2,8] y) {{ y = Softmax {} (x) }}"
    plain, default, other = (model(text.format(a)) for a in ("", "<axis = -1>", "<axis = 0>"))
    assert same(plain, default) and not same(plain, other)


def test_bodies_of_loops_and_of_functions_are_part_of_the_expression(model):
    text = """g (float[3] x, bool go) => (float[3] y) {{ y = If (go) <
      then_branch = t () => (float[3] p) {{ p = Add (x, x) }},
      else_branch = e () => (float[3] q) {{ q = {} (x) }}> }}"""
    assert same(model(text.format("Neg")), model(text.format("Neg")))
    assert not same(model(text.format("Neg")), model(text.format("Abs")))


BRANCH = """g (float[3] x, bool go) => (float[3] y) {{ y = If (go) <
  then_branch = t () => (float[3] p) {{ p = Add (x, x) }},
  else_branch = e () => (float[3] q) {{ c = Constant <value = float[1] {{2}}> ()  {} }}> }}"""


def test_what_a_branch_computes_from_constants_and_a_choice_for_a_branch_do_not_show(model):
    stored = model(BRANCH.format("q = Mul (x, k)"), {"k": np.float32([4])})
    computed = model(BRANCH.format("s = Shape (x)  n = Slice (s, z, o)  f = Cast <to = 1> (n)  d = Add (f, i)"
                                   "  q = Mul (x, d)"), {"z": np.array([0]), "o": np.array([1]), "i": np.float32([1])})  # fmt: skip
    chosen = model(
        "g (float[3] x, bool go) => (float[3] y) { t = Add (x, x)  e = Mul (x, k)  y = Where (go, t, e) }",
        {"k": np.float32([4])},
    )
    turned = model(
        "g (float[3] x, bool go) => (float[3] y) { t = Add (x, x)  e = Mul (x, k)  y = Where (go, e, t) }",
        {"k": np.float32([4])},
    )
    assert same(stored, computed) and same(stored, chosen) and not same(stored, turned)
    assert not same(stored, model(BRANCH.format("q = Mul (x, c)")))


def test_a_branch_that_is_known_does_not_show(model):
    text = """g (float[3] x) => (float[3] y) {{ s = Size (x)  go = Equal (s, n)  y = If (go) <
      then_branch = t () => (float[3] p) {{ p = Add (x, x) }}, else_branch = e () => (float[3] q) {{ q = Neg (x) }}> }}"""
    text = text.replace("{{", "{").replace("}}", "}")
    taken = model("g (float[3] x) => (float[3] y) { y = Add (x, x) }")
    assert same(model(text, {"n": np.array(3)}), taken) and not same(model(text, {"n": np.array(4)}), taken)


def test_equal_models_are_told_so_from_one_run(model):
    result = check(model(LAYER, W), model(SAME["names"], W))
    assert (result.verdict, result.method, result.draws) == ("equivalent", "structure", ("draw 0",))
    assert result.chance == 0.0 and result.message == "the same expressions of the same inputs"


def test_a_wrong_name_proves_nothing(model):
    """Values of one name that differ, in models that are equal: the region grows past them."""
    one = model("g (float[2,8] x) => (float[2,8] y) { t = Add (x, c)  y = Add (t, x) }", W)
    two = model("g (float[2,8] x) => (float[2,8] y) { t = Add (x, x)  y = Add (t, c) }", W)
    result = check(one, two)
    assert (result.verdict, result.method) == ("equivalent", "field+numeric")
    lost = model("g (float[2,8] x) => (float[2,8] y) { t = Add (x, c)  y = Identity (t) }", W)
    assert Local(one, lost, [check.draw(one)]).decide().equal is None


def test_a_region_follows_a_value_from_which_one_side_starts(model):
    """t is there in both, and the second side computes y without it."""
    one = model("g (float[2,8] x) => (float[2,8] y, float[2,8] t) { t = Add (x, c)  y = Mul (t, c) }", W)
    two = model(
        "g (float[2,8] x) => (float[2,8] y, float[2,8] t) { t = Add (x, c)  p = Mul (x, c)  q = Mul (c, c)  y = Add (p, q) }",
        W,
    )
    assert Local(one, two, [check.draw(one)]).decide().equal


def test_values_that_hang_on_each_other_are_followed_too(model):
    """Both sides read s and t, which are no two variables: t is 2 s."""
    text = "g (float[2,8] x) => (float[2,8] y, float[2,8] s, float[2,8] t) {{ s = Add (x, c)  t = Add (s, s)  {} }}"
    more = {"quarter": np.float32([0.25])}
    sums = "p = Mul (s, s)  q = Mul (t, t)  r = Mul (q, quarter)  y = Add (p, r)"
    one, two = model(text.format("y = Mul (t, s)"), W), model(text.format(sums), W | more)
    local = Local(one, two, [check.draw(one)])
    assert local.decide().equal and local.exhausted


def test_a_constant_that_is_rounded_otherwise_is_named(model):
    """And only such a one: it says that no larger region will agree."""
    text = "g (float[2,8] x) => (float[2,8] y) { a = MatMul (x, w)  b = Add (a, c)  y = Relu (b) }"
    named = {}
    for what, c in {"an ulp": np.nextafter(W["c"], np.float32(2)), "a thousandth": W["c"] * np.float32(1.001)}.items():
        one, two = model(text, W), model(text, W | {"c": c})
        local = Local(one, two, [check.draw(one)])
        assert not local.decide().equal
        named[what] = local.rounded
    assert named == {"an ulp": "c", "a thousandth": ""}
    result = check(model(text, W), model(text, W | {"c": np.nextafter(W["c"], np.float32(2))}), method="field")
    assert (result.verdict, result.message) == ("unknown", "constant 'c' is rounded otherwise in the second")


def test_weights_that_nodes_compute_are_variables_too(model):
    """Layers of one form are one region, whatever their dequantized weights are."""
    rng, weights, sides = np.random.default_rng(1), {}, ["", ""]
    for i, (x, y) in enumerate((("x", "h"), ("h", "k"), ("k", "y"))):
        weights |= {f"q{i}": rng.integers(-128, 127, (8, 8)).astype(np.int8)}
        weights |= {f"s{i}": rng.uniform(0.01, 0.02, 8).astype(np.float32)}
        weight = f"  o{i} = DequantizeLinear <axis = 1> (q{i}, s{i})"
        sides[0] += f"{weight}  p{i} = MatMul ({x}, o{i})  {y} = Mul (p{i}, p{i})"
        sides[1] += f"{weight}  n{i} = Neg ({x})  m{i} = MatMul (n{i}, o{i})  {y} = Mul (m{i}, m{i})"
    one, two = (model("g (float[2,8] x) => (float[2,8] y) {" + s + "}", weights) for s in sides)
    local = Local(one, two, [check.draw(one)])
    assert local.decide().equal and (local.tried, len(local.pairs)) == (3, 1)


def renamed(model, tmp_path):
    onnx.save(model, tmp_path / "b.onnx")
    return onnx.load(rename(tmp_path / "b.onnx", tmp_path))


def test_what_decides_on_a_shape_is_no_variable(model):
    """The scales of a Resize are floats that both sides store, as weights are."""
    text = """g (float[1,1,2,3] x) => (float[1,1,4,6] y) <float[4] s = {{1, 1, 2, 2}}> {{ {}  y = Resize (h, , s) }}"""
    one, two = (model(text.format(h)) for h in ("a = Neg (x) h = Neg (a)", "h = Identity (x)"))
    result = check(one, two)
    assert (result.verdict, result.method) == ("equivalent", "field+numeric")


def test_a_tool_that_renamed_everything_is_decided_region_by_region(tmp_path):
    """By value: rewritten layers whose values nobody knows by name, nor by source."""
    before, after = graph.load(decoder(20)), graph.load(renamed(decoder(20, fused=True), tmp_path))
    local = Local(before, after, [check.draw(before)])
    agreement = local.decide()
    assert agreement.equal and local.tried > 20 > len(local.pairs), (agreement, local.tried, len(local.pairs))
    assert check(before, after).method == "field+numeric"


def evaluations(monkeypatch, work):
    """How many nodes are evaluated meanwhile."""
    count, real = [0], running._results

    def counted(*args, **options):
        count[0] += 1
        return real(*args, **options)

    monkeypatch.setattr(running, "_results", counted)
    result = work()
    monkeypatch.setattr(running, "_results", real)
    assert count[0]
    return count[0], result


def test_a_hundred_equal_layers_cost_what_one_does_and_a_run(monkeypatch):
    def checked(layers, **change):
        return evaluations(monkeypatch, lambda: check(decoder(layers), decoder(layers, fused=True, **change)))

    (one, _), (hundred, result) = checked(1), checked(100)
    assert (result.verdict, result.method, result.draws) == ("equivalent", "field+numeric", ("draw 0",))
    nodes = {fused: len(decoder(100, fused).graph.node) for fused in (False, True)}
    run = 2 * nodes[False] + nodes[True]  # the first in float64 and in its own dtypes, the second in its own
    assert hundred <= run + 1.1 * one, (one, hundred, run)
    # the regions are decided once: 100 layers have the distinct ones of one layer
    before, after = graph.load(decoder(100)), graph.load(decoder(100, fused=True))
    local = Local(before, after, [check.draw(before)])
    assert local.decide().equal and (local.tried, len(local.pairs)) == (
        400,
        3,
    )  # the two norms of a layer are one region


def test_one_wrong_layer_of_many_is_named():
    result = check(decoder(30), decoder(30, fused=True, wrong=17))
    assert (result.verdict, result.first_divergence.node) == ("different", "/l17.p")


def test_a_model_larger_than_memory_streams(tmp_path):
    """Weights stay in their file: no more than a layer's are held at a time, in either arithmetic."""
    import tracemalloc

    layers, width = 24, 256
    paths = []
    for name in ("a", "b"):
        at = tmp_path / name
        at.mkdir()
        onnx.save_model(decoder(layers, fused=name == "b", width=width), at / "m.onnx", save_as_external_data=True,
                        location="w.bin", size_threshold=1024)  # fmt: skip
        paths.append(at / "m.onnx")
    size = (tmp_path / "a" / "w.bin").stat().st_size
    check(decoder(1), decoder(1, fused=True))  # what is imported once is not counted
    tracemalloc.start()
    result = check(*paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.verdict == "equivalent" and size > 45e6
    assert peak < size / 2, f"{peak / 1e6:.0f} MB held of {size / 1e6:.0f} MB of weights"
