"""Running graphs: names, wanted values, freeing, functions, subgraphs, and what is said when inputs are wrong."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from onnx import parser

from porter import graph, ops
from porter.errors import PorterError
from porter.ops import running
from porter.ops.arrays import Numpy


def read(text):
    return graph.read(parser.parse_model(text))


CHAIN = """
<ir_version: 10, opset_import: ["" : 24]>
g (float[N] x) => (float[N] y) { a = Exp(x)  b = Neg(a)  c = Sqrt(a)  y = Add(b, c) }
"""


def test_inputs_by_name_or_in_order():
    x = np.float32([1, 2])
    by_name = ops.evaluate(read(CHAIN), {"x": x}, ops.source)
    np.testing.assert_array_equal(by_name["y"], ops.evaluate(read(CHAIN), [x], ops.source)["y"])


def test_only_what_is_wanted_is_computed():
    seen = []
    result = ops.evaluate(
        read(CHAIN), {"x": np.float32([0])}, ops.source, want=["b"], on_value=lambda name, _: seen.append(name)
    )
    assert (list(result), seen) == (["b"], ["a", "b"])


def test_a_given_value_is_not_computed():
    seen = []
    result = ops.evaluate(
        read(CHAIN),
        {"x": np.float32([0]), "a": np.float32([4])},
        ops.source,
        on_value=lambda name, _: seen.append(name),
    )
    assert (float(result["y"][0]), seen) == (-2.0, ["b", "c", "y"])


def test_a_value_is_freed_after_its_last_use():
    alive = {}
    at_the_end = []

    def watch(name, array):
        alive[name] = weakref.ref(array)
        if name == "y":
            gc.collect()
            at_the_end.extend(n for n, r in alive.items() if r() is not None)

    ops.evaluate(read(CHAIN), {"x": np.zeros(3, np.float32)}, ops.source, on_value=watch)
    assert "a" not in at_the_end


def test_float64_keeps_what_a_cast_would_round():
    text = """
    <ir_version: 10, opset_import: ["" : 24]>
    g (float[1] x) => (float[1] y) { a = Cast<to=16>(x)  y = Cast<to=1>(a) }
    """
    x = np.float32([1.01])
    assert ops.evaluate(read(text), [x], ops.float64)["y"][0] == np.float64(x[0])
    assert ops.evaluate(read(text), [x], ops.source)["y"][0] == 1.0078125


def test_an_attribute_default_is_the_float32_that_a_file_would_hold():
    left, right = (
        read(f'<ir_version: 10, opset_import: ["" : 24]> g (float[3] x) => (float[3] y) {{ y = LeakyRelu{a}(x) }}')
        for a in ("", "<alpha = 0.01>")
    )
    x = np.float32([-1, -2, 3])
    np.testing.assert_array_equal(*(ops.evaluate(m, [x], ops.float64)["y"] for m in (left, right)))


def test_functions_take_attributes_and_leave_inputs_out():
    text = """
    <ir_version: 10, opset_import: ["" : 24, "porter" : 1]>
    g (float[2] x) => (float[2] y, float[2] z) { y = porter.Scaled<by = 3.0>(x)  z = porter.Scaled(x, x) }
    <domain: "porter", opset_import: ["" : 24]>
    Scaled <by: float = 2.0> (x, low) => (y) { f = Constant<value_float: float = @by>() s = Mul(x, f) y = Clip(s, low) }
    """
    proto = parser.parse_model(text.replace("z = porter.Scaled(x, x)", "z = porter.Scaled(x, one)").replace(
        "{ y = porter", "{ one = Constant<value_float = 5.0>() y = porter"))  # fmt: skip
    result = ops.evaluate(graph.read(proto), [np.float32([1, 4])], ops.source)
    assert result["y"].tolist() == [3, 12]
    assert result["z"].tolist() == [5, 8]


def test_a_subgraph_sees_values_from_outside():
    text = """
    <ir_version: 10, opset_import: ["" : 24]>
    g (float[2] x, bool flag) => (float[2] y) {
      a = Exp(x)
      y = If (flag) <
        then_branch = t () => (float[2] t_y) { t_y = Neg(a) },
        else_branch = e () => (float[2] e_y) { e_y = Identity(a) }
      >
    }
    """
    x = np.float32([0, 0])
    assert ops.evaluate(read(text), [x, np.array(True)], ops.source)["y"].tolist() == [-1, -1]
    assert ops.evaluate(read(text), [x, np.array(False)], ops.source)["y"].tolist() == [1, 1]


def test_a_loop_collects_rows_while_its_condition_holds():
    text = """
    <ir_version: 10, opset_import: ["" : 24]>
    g (int64 n, bool go, float s) => (float last, float[k] rows) {
      last, rows = Loop (n, go, s) <
        body = b (int64 i, bool c, float v) => (bool c_out, float w, float row) {
          two = Constant<value_float = 2.0>()  limit = Constant<value_float = 20.0>()
          w = Mul(v, two)  row = Identity(w)  c_out = Less(w, limit)
        }
      >
    }
    """
    model = read(text)
    result = ops.evaluate(model, [np.int64(9), np.array(True), np.float32(3)], ops.source)
    assert (float(result["last"]), result["rows"].tolist()) == (24.0, [6, 12, 24])
    none = ops.evaluate(model, [np.int64(9), np.array(False), np.float32(3)], ops.source)
    assert (float(none["last"]), none["rows"].shape) == (3.0, (0,))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x'\n  expected float[N]\n  found nothing"),
        ({"z": np.zeros(1, np.float32)}, "input 'z'\n  expected one of x\n  found no such input"),
        ({"x": np.zeros(1, np.int64)}, "input 'x'\n  expected float[N]\n  found int64[1] (1 elements)"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(PorterError) as error:
        ops.evaluate(read(CHAIN), inputs, ops.source)
    assert str(error.value) == message


def test_an_attribute_that_the_operator_does_not_have_is_named():
    model = read(CHAIN)
    node = next(iter(model.graph))
    node.attributes["axis"] = graph.Attr("axis", graph.AttributeType.INT, 1)
    with pytest.raises(PorterError, match="attribute 'axis' of Exp\n  expected no attributes"):
        ops.evaluate(model, [np.float32([1])], ops.source)


@pytest.mark.parametrize("kind, number", [("float", "0.0"), ("int64", "0")])
def test_a_range_that_would_not_end_is_refused(kind, number):
    text = f"""<ir_version: 10, opset_import: ["" : 24]>
    g ({kind} a) => ({kind}[n] y) {{ d = Constant <value = {kind} {{{number}}}> ()  y = Range (a, a, d) }}"""
    with pytest.raises(PorterError, match="delta of Range\n  expected a number other than 0"):
        ops.evaluate(read(text), {"a": np.zeros((), "float32" if kind == "float" else "int64")}, ops.float64)


def test_a_slice_that_takes_no_step_is_refused():
    text = """<ir_version: 10, opset_import: ["" : 24]> g (float[4] a, int64[1] s) => (float[n] y) {
      y = Slice (a, s, s, s, s) }"""
    with pytest.raises(PorterError, match="steps\n  expected steps other than 0"):
        ops.evaluate(read(text), {"a": np.zeros(4, np.float32), "s": np.zeros(1, np.int64)}, ops.float64)


def test_a_model_with_such_a_slice_is_refused_by_name():
    text = """<ir_version: 10, opset_import: ["" : 24]> g (float[4] a) => (float[n] y)
      <int64[1] one = {1}, int64[1] none = {0}> { y = Slice (a, one, one, none, none) }"""
    with pytest.raises(PorterError, match=r"\(Slice\)\n  expected inputs that fit each other\n  found .* cannot be 0"):
        graph.load(parser.parse_model(text))


def test_erf_is_exact_to_the_last_bit_or_two():
    import math

    x = np.linspace(-7, 7, 10001)
    want = np.array([math.erf(v) for v in x])
    assert np.abs(Numpy("any", double=True).erf(x) - want).max() <= 2 * np.finfo(np.float64).eps


def test_erf_of_many_has_the_bits_of_erf_of_few():
    for kind in (np.float32, np.float64):
        x = np.concatenate([np.linspace(-7, 7, 9001), [0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-40]]).astype(kind)
        few = np.concatenate([ops.source.erf(part) for part in np.array_split(x, 20)])
        assert ops.source.erf(x).tobytes() == few.tobytes()
    assert np.isnan(ops.source.erf(np.full(9001, np.nan, np.float32))).all()


PLUMBING = """
<ir_version: 10, opset_import: ["" : 24]>
g (float[N,M] x, int64[K] i) => (float[A,B] y, int64[C] found) {
  minus = Constant<value_ints = [-1]>()
  zero = Constant<value_ints = [0]>()
  one = Constant<value_ints = [1]>()
  two = Constant<value_ints = [2]>()
  shape = Shape(x)
  rows = Gather(shape, zero)
  wide = Concat<axis = 0>(rows, minus)
  flat = Reshape(x, wide)
  where = NonZero(x)
  count = Shape(where)
  found = Slice(count, one, two)
  y = Gather(flat, i)
}
"""


def test_what_shapes_fix_is_computed_once_and_what_elements_fix_at_every_run(monkeypatch):
    ran = []
    inner = running.compute
    monkeypatch.setattr(running, "compute", lambda step, *rest: (ran.append(step.node.op_type), inner(step, *rest))[1])
    ready = ops.Evaluator(read(PLUMBING))
    at = np.array([1], np.int64)
    for x, found, expected in (
        (np.float32([[1, 0], [0, 2]]), 2, ["Shape", "Gather", "Concat", "Reshape", "NonZero", "Shape", "Slice", "Gather"]),
        (np.float32([[1, 3], [4, 2]]), 4, ["Reshape", "NonZero", "Shape", "Slice", "Gather"]),  # as long, of other elements
        (np.float32([[1, 3], [4, 2], [0, 5]]), 5, ["Shape", "Gather", "Concat", "Reshape", "NonZero", "Shape", "Slice", "Gather"]),
        (np.float32([[0, 0], [0, 2]]), 1, ["Reshape", "NonZero", "Shape", "Slice", "Gather"]),
    ):  # fmt: skip
        ran.clear()
        given = ready({"x": x, "i": at}, ops.source)
        np.testing.assert_array_equal(given["y"], x[at])
        assert (given["found"].tolist(), ran) == ([found], expected)
    assert ready({"x": np.float32([[1, 0]]), "i": at * 0}, ops.float64)["y"].dtype == np.float64


def test_every_value_is_shown_at_every_run():
    ready = ops.Evaluator(read(PLUMBING))
    inputs = {"x": np.float32([[1, 0]]), "i": np.array([0], np.int64)}
    ready(inputs, ops.source)
    seen = []
    ready(inputs, ops.source, on_value=lambda name, _: seen.append(name))
    assert {"shape", "minus", "rows", "wide", "flat", "y", "found"} <= set(seen)


def test_a_value_given_once_is_computed_in_the_next_run():
    ready = ops.Evaluator(read(CHAIN))
    x = np.float32([0])
    assert ready({"x": x, "a": np.float32([4])}, ops.source)["y"][0] == -2
    assert ready({"x": x}, ops.source)["y"][0] == 0
    assert ready({"x": x}, ops.source, want=["a", "y"])["a"][0] == 1
    with pytest.raises(PorterError, match="no such names"):
        ready({"x": x}, ops.source, want=["nowhere"])
