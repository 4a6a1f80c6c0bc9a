"""Types and shapes from the definitions: constants followed, loops understood, data-dependent shapes left open."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from porter import graph, ops
from porter.errors import PorterError


def inferred(body, inputs, outputs="float[?] out", opset=24):
    """(type, shape) of every value by name, subgraphs included."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    model = graph.read(parser.parse_model(text.replace("[?]", "[unknown]")))
    ops.infer(model)
    found = {}
    for inner in graph.every_graph(model):
        for node in inner:
            found.update({v.name: (graph.dtype(v), graph.shape(v)) for v in node.outputs})
    return found


F32, I64, BOOL = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_)


def test_constants_are_followed_through_shape_arithmetic():
    found = inferred(
        """s = Shape<start = 0, end = 1>(x)  d = Constant<value_ints = [-1]>()  t = Concat<axis = 0>(s, d)
        out = Reshape(x, t)""",
        "float[2,3,4] x",
    )
    assert found["out"] == (F32, (2, 12))


def test_a_type_follows_an_attribute():
    assert inferred("out = Cast<to = 7>(x)", "float[2] x", "int64[2] out")["out"] == (I64, (2,))


def test_a_shape_that_depends_on_data_stays_open_and_so_does_what_follows():
    found = inferred("a = NonZero(x)  out = Neg(a)", "float[2,3] x", "int64[?,?] out")
    assert (found["a"], found["out"]) == ((I64, None), (I64, None))


def test_an_input_that_fixes_a_shape_stays_open_too():
    assert inferred("out = Reshape(x, s)", "float[4] x, int64[1] s")["out"] == (F32, None)


LOOP = """
last, rows = Loop (n, go, x) <
  body = b (int64 i, bool c, float v) => (bool c_out, float w, float row) {{
    w = {update}  row = Identity(w)  zero = Constant<value_float = 0.0>()
    sum = ReduceSum<keepdims = 0>(w)  c_out = Less(sum, zero)
  }}
>
"""


def test_the_state_of_a_loop_that_keeps_its_shape_is_known():
    found = inferred(LOOP.format(update="Add(v, v)"), "int64 n, bool go, float[3] x", "float[?] last, float[?,?] rows")
    assert found["last"] == (F32, (3,))
    assert found["w"] == (F32, (3,))
    assert found["rows"] == (F32, None)


def test_the_state_of_a_loop_that_grows_is_not():
    found = inferred(
        LOOP.format(update="Concat<axis = 0>(v, v)"), "int64 n, bool go, float[3] x", "float[?] last, float[?,?] rows"
    )
    assert found["last"] == (F32, None)
    assert found["w"] == (F32, None)


def test_a_loop_of_known_length_is_known_altogether():
    body = """three = Constant<value_int = 3>()
    last, rows = Loop (three, , x) <
      body = b (int64 i, bool c, float v) => (bool c_out, float w, float row) {
        w = Concat<axis = 0>(v, v)  row = ReduceSum<keepdims = 0>(w)  c_out = Identity(c)
      }
    >"""
    found = inferred(body, "float[2] x", "float[?] last, float[?] rows")
    assert (found["last"], found["rows"]) == ((F32, (16,)), (F32, (3,)))


BRANCH = """
out = If (flag) <
  then_branch = t () => (float[unknown] a) {{ a = {then} }},
  else_branch = e () => (float[unknown] b) {{ b = {other} }}
>
"""


def test_branches_of_one_shape_have_that_shape():
    found = inferred(BRANCH.format(then="Exp(x)", other="Neg(x)"), "bool flag, float[3] x")
    assert (found["out"], found["a"]) == ((F32, (3,)), (F32, (3,)))


def test_branches_of_two_shapes_leave_it_open():
    found = inferred(BRANCH.format(then="Exp(x)", other="Concat<axis = 0>(x, x)"), "bool flag, float[3] x")
    assert (found["out"], found["a"], found["b"]) == ((F32, None), (F32, (3,)), (F32, (6,)))


def test_shapes_that_cannot_meet_are_named():
    with pytest.raises(PorterError) as error:
        inferred("out = Add(x, y)", "float[2,3] x, float[4] y")
    assert str(error.value).splitlines()[:2] == [
        "node 'Add_out' (Add)",
        "  expected inputs that fit together",
    ]
    assert "found float[2, 3], float[4]" in str(error.value)
