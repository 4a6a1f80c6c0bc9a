"""Rules on small graphs: both orders of a sum, attributes, conditions, functions, and the reasons of near misses."""

from __future__ import annotations

import numpy as np
import pytest

from porter import graph, ops, rewrite
from porter.errors import PorterError


def model(text: str) -> graph.Model:
    made = graph.parse(text)
    ops.infer(made)
    return made


def run(made: graph.Model, *rules: rewrite.Rule) -> list[rewrite.Rewrite]:
    records = list(rewrite.apply(made, rules))
    graph.validate(made)
    return records


def operators(made: graph.Model) -> list[str]:
    return [node.op_type for node in made.graph]


@rewrite.rewrite
def double(op, x):
    """x + x is 2 x."""
    return x + x


double.to(lambda op, x: x * 2.0)


@rewrite.rewrite
def distribute(op, x, y, z):
    """x y + x z is x (y + z)."""
    return x * y + x * z


distribute.to(lambda op, x, y, z: x * (y + z))


def test_replacement_takes_the_type_of_the_place():
    made = model("g (float16[2] x) => (float16[2] y) { y = Add (x, x) }")
    (record,) = run(made, double)
    assert operators(made) == ["Mul"]
    assert graph.constant(made.graph[0].inputs[1]).dtype == np.float16
    assert made.graph.outputs[0].name == "y"
    assert (record.number, record.rule, record.nodes) == (1, "double", ("Add",))


@pytest.mark.parametrize("left", ["x, y", "y, x"])
@pytest.mark.parametrize("right", ["x, z", "z, x"])
@pytest.mark.parametrize("total", ["a, b", "b, a"])
def test_commutative_operators_match_both_ways(left, right, total):
    text = f"""g (float[2] x, float[2] y, float[2] z) => (float[2] r)
    {{ a = Mul ({left}) b = Mul ({right}) r = Add ({total}) }}"""
    made = model(text)
    assert len(run(made, distribute)) == 1
    assert operators(made) == ["Add", "Mul"]


def test_equal_places_have_one_key_and_equal_regions():
    made = model("g (float[2] x, float[2] z) => (float[2] y) { a = Add (x, x) b = Add (z, z) y = Sub (a, b) }")
    first, second = run(made, double)
    assert first.key == second.key
    assert graph.text(first.before, bare=True) == graph.text(second.before, bare=True)


def test_weights_become_inputs_of_a_region():
    text = """g (float[2,3] x) => (float[2,3] y) <float[3] w = {1.0, 2.0, 3.0}, float[3] v = {4.0, 5.0, 6.0}>
    { a = Mul (x, w) b = Mul (x, v) c = Add (a, b) y = Neg (c) }"""
    made = model(text)
    (record,) = run(made, distribute)
    assert len(record.before.graph.inputs) == 3 and not record.before.graph.initializers


def test_stopping_stops_the_rewriting():
    made = model("g (float[2] x) => (float[2] y) { a = Add (x, x) b = Add (a, a) y = Add (b, b) }")
    changes = rewrite.apply(made, (double,))
    next(changes)
    changes.close()
    assert operators(made) == ["Mul", "Add", "Add"]
    graph.validate(made)


def test_a_replacement_of_another_shape_is_refused():
    @rewrite.rewrite
    def careless(op, x):
        return op.Neg(op.Neg(x))

    careless.to(lambda op, x: op.Unsqueeze(x, [0]))
    made = model("g (float[2] x) => (float[2] y) { a = Neg (x) y = Neg (a) }")
    assert run(made, careless) == []
    assert operators(made) == ["Neg", "Neg"]


def test_rules_that_undo_each_other_are_noticed(monkeypatch):
    @rewrite.rewrite
    def there(op, x):
        return op.Neg(x)

    @rewrite.rewrite
    def back(op, x):
        return 0.0 - x

    there.to(lambda op, x: 0.0 - x)
    back.to(lambda op, x: op.Neg(x))
    made = model("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    with pytest.raises(PorterError, match="rules there, back"):
        run(made, there, back)


def test_a_fusion_becomes_a_function_with_its_body():
    @rewrite.fusion
    def Gated(op, x, *, bias, alpha):
        """x times its hard sigmoid, shifted."""
        return x * op.HardSigmoid(x + bias, alpha=alpha)

    text = """g (float[2] x) => (float[2] y) <float b = {0.25}>
    { a = Add (x, b) s = HardSigmoid <alpha = 0.5> (a) y = Mul (s, x) }"""
    made = model(text)
    before = ops.evaluate(made, {"x": np.asarray([1.0, -0.5], np.float32)}, ops.source)
    run(made, Gated)
    (call,) = made.graph
    assert (call.domain, call.op_type) == ("porter", "Gated")
    assert graph.attributes(call) == {"bias": 0.25, "alpha": 0.5}
    (function,) = made.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Add", "HardSigmoid", "Mul"]
    assert function.doc_string == "x times its hard sigmoid, shifted."
    again = graph.parse(graph.text(made))
    after = ops.evaluate(again, {"x": np.asarray([1.0, -0.5], np.float32)}, ops.source)
    np.testing.assert_array_equal(before["y"], after["y"])


def test_attributes_that_a_pattern_does_not_name_must_be_the_default():
    @rewrite.rewrite
    def plain(op, x):
        return op.LeakyRelu(x)

    plain.to(lambda op, x: op.Relu(x))
    made = model("g (float[2] x) => (float[2] y) { y = LeakyRelu <alpha = 0.5> (x) }")
    assert run(made, plain) == []
    (answer,) = rewrite.why(made, "y", [plain])
    assert answer.reason == "alpha of 'node_LeakyRelu_0' is 0.5, which the pattern does not expect"


def test_constants_in_the_middle_may_be_kept_exactly():
    @rewrite.rewrite
    def third(op, x):
        return op.Exp(x * (1.0 / 3.0))

    third.to(lambda op, x: op.Exp(x / 3.0))
    made = model("g (float[2] x) => (float[2] y) <float c = {0.33333334}> { a = Mul (x, c) y = Exp (a) }")
    (record,) = run(made, third)
    (wanted,) = record.exact.values()
    assert float(wanted) == 1.0 / 3.0


def test_why_says_how_far_each_rule_came():
    text = """g (float[2] x, float[2] y, float[2] z, float[2] w) => (float[2] r)
    { a = Mul (x, y) b = Div (w, z) r = Add (a, b) }"""
    made = model(text)
    (answer,) = rewrite.why(made, "a", [distribute])
    assert not answer.fits
    assert str(answer) == "distribute: 2 of 3 operators fit; 'b' comes from Div 'node_Div_1', not Mul"


def test_why_says_that_a_rule_fits():
    made = model("g (float[2] x) => (float[2] y) { y = Add (x, x) }")
    assert [str(answer) for answer in rewrite.why(made, "y", [double])] == ["double: fits"]


def test_why_names_the_nearest_nodes():
    made = model("g (float[2] x) => (float[2] y) { y = Add (x, x) }")
    with pytest.raises(PorterError, match="try  one of: node_Add_0"):
        rewrite.why(made, "node_Add", [double])


def test_a_condition_without_words_answers_with_its_name():
    @rewrite.rewrite
    def never(op, x):
        return op.Neg(x)

    never.to(lambda op, x: x)

    @never.when
    def the_moon_is_full(m):
        return False

    made = model("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    (answer,) = rewrite.why(made, "y", [never])
    assert answer.reason == "the moon is full does not hold"


def test_several_outputs_are_replaced_together():
    @rewrite.rewrite
    def halves(op, x):
        return op.Split(x, outputs=2, axis=0, num_outputs=2)

    halves.to(lambda op, x: (op.Slice(x, [0], [1], [0]), op.Slice(x, [1], [2], [0])))
    text = "g (float[2] x) => (float[1] a, float[1] b) { a, b = Split <axis = 0, num_outputs = 2> (x) }"
    made = model(text)
    run(made, halves)
    assert operators(made) == ["Slice", "Slice"]
    assert [value.name for value in made.graph.outputs] == ["a", "b"]


def test_a_rewrite_without_another_side_says_so():
    @rewrite.rewrite
    def half(op, x):
        return op.Neg(x)

    made = model("g (float[2] x) => (float[2] y) { y = Neg (x) }")
    with pytest.raises(PorterError, match=r"try  @half\.to"):
        run(made, half)


def test_a_shared_part_stays_for_those_who_read_it():
    @rewrite.rewrite
    def root(op, x):
        return op.Sqrt(op.shared(x * x))

    root.to(lambda op, x: op.Abs(x))
    made = model("g (float[2] x) => (float[2] y, float[2] z) { a = Mul (x, x) y = Sqrt (a) z = Neg (a) }")
    run(made, root)
    assert operators(made) == ["Mul", "Abs", "Neg"]


def test_rules_reach_into_loops():
    text = """g (int64 n, bool go, float[2] x) => (float[2] y) {
      y = Loop <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
        d = Identity (c)
        t = Add (s, s)
      }> (n, go, x)
    }"""
    made = model(text)
    assert len(run(made, double)) == 1
    (loop,) = made.graph
    assert [node.op_type for node in next(graph.graphs(loop))] == ["Identity", "Mul"]
