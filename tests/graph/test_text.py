"""The text of a model parses back to a model that prints the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper

from porter import graph
from porter.errors import PorterError


def round_trip(model: graph.Model) -> graph.Model:
    text = graph.text(model)
    parsed = graph.parse(text, graph.tensors(model))
    assert graph.text(parsed) == text
    bare = graph.text(model, bare=True)
    assert graph.text(graph.parse(bare, graph.tensors(model)), bare=True) == bare
    return parsed


def test_what_a_model_looks_like() -> None:
    text = """<ir_version: 12, opset_import: ["" : 24, "porter" : 1]>
main (float[N,4] x, int64 n) => (float[N,4] "y out")
<int64[1] axes = {-1},
 float[4] w = {1.0, -0.5, inf, 1e-10},
 float[?,4] a>
{
  [norm] a = porter.Scale <factor = 2.0> (x, w)
  [/layer.0/sum from "sum" with ["k" : "v"]] _, s = Split <axis = 1, num_outputs = 2> (a)
  [clip] "y out" = Clip (a, , s)
}
<domain: "porter", opset_import: ["" : 24]>
Scale <factor = 1.0, mode> (a, b) => (c)
{
  [k] k = Constant <value_float: float = @factor> ()
  [ab] ab = Mul (a, b)
  [c] c = Mul (ab, k)
}
"""
    model = graph.parse(text)
    assert graph.text(model) == text
    split = model.graph[1]
    assert split.metadata_props == {"porter.source": "sum", "k": "v"} and split.outputs[0].name == ""
    assert model.graph[2].inputs[1] is None


def test_the_header_may_be_left_out() -> None:
    model = graph.parse("""
    # gate times its sigmoid
    g (float[2,2] x) => (float[2,2] y)
    {
      s = Sigmoid (x)   # the gate
      y = Mul (x, s)
    }
    """)
    assert model.opset_imports == {"": graph.HOME_OPSET}
    graph.validate(model)
    onnx.checker.check_model(graph.to_proto(model), full_check=True)


@pytest.mark.parametrize(
    "text, where, expected",
    [
        ("g (float[2] x) => (float[2] y) { y = Relu (z) }", "line 1", "a value that is defined before"),
        ("g (float[2] x) => (float[2] y)\n{\n  y = Relu x\n}", "line 3", "'('"),
        ("g (flaot[2] x) => (float[2] y) { y = Relu (x) }", "line 1", "a type before this, not 'flaot',"),
        ("g (float[2] x) => (float[2] y) { }", "graph 'g'", "a definition of output 'y'"),
        ("g () => (float[2] y) <float[2] y = {1}> { }", "line 1", "2 values of 'y' before this, not 1,"),
        ("g (float[2] x) => (float[2] y) { y = Relu (x) y = Abs (x) }", "line 1", "one definition of 'y' before this"),
        ("g (float[2] x) => (float[2] y) { y = Relu (x)", "line 1", "the name of a result"),
    ],
)
def test_texts_that_are_no_model(text: str, where: str, expected: str) -> None:
    with pytest.raises(PorterError) as error:
        graph.parse(text)
    assert (error.value.where, error.value.expected) == (where, expected)


def test_large_tensors_stand_as_their_hash() -> None:
    array = np.arange(100, dtype=np.float32)
    model = graph.parse("g (float[100] x) => (float[100] y) { y = Relu (x) }")
    graph.add_initializer(model, "big", array)
    text = graph.text(model)
    assert "{#" in text and len(text) < 400
    with pytest.raises(PorterError, match="the tensor 'big' among those given with the text"):
        graph.parse(text)
    assert (graph.constant(round_trip(model).graph.initializers["big"]) == array).all()
    other = graph.clone(model)
    graph.add_initializer(other, "more", array + 1)
    assert len(graph.tensors(other)) == 2


def test_every_kind_of_attribute(model: Callable) -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["z z"])], "inner body", [],
        [helper.make_tensor_value_info("z z", TensorProto.FLOAT, ["N", None])],
        [helper.make_tensor("w", TensorProto.DOUBLE, [2], [0.1, float("nan")])],
    )  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "odd domain", "Odd.Name", ["a"], ["b"],
        [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 24)],
        ["i", "f", "s", "is_", "fs", "ss", "t"],
    )  # fmt: skip
    call = helper.make_node(
        "Odd.Name", ["y"], ["out"], domain="odd domain", name='quoted "name"',
        i=-3, f=0.1, s='line\n"two"', is_=[1, 2], fs=[0.5, 1e20, 3.0], ss=["a", ""],
        t=helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"\xff"]),
    )  # fmt: skip
    proto = model(
        [node, call], {"x": [2, 3], "c": []}, {"out": None}, types={"c": TensorProto.BOOL}, functions=[function]
    )
    empty = call = proto.graph.node[1].attribute
    empty.add(name="none", type=onnx.AttributeProto.INTS)
    proto.functions[0].attribute.append("none")
    parsed = round_trip(graph.read(proto))
    values = graph.attributes(parsed.graph[1])
    assert (
        values["i"] == -3 and values["f"] == np.float32(0.1) and values["s"] == 'line\n"two"' and values["none"] == ()
    )
    assert values["t"].tolist() == [b"a", b"\xff"]  # type: ignore[attr-defined]


DTYPES = [
    np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64, np.uint64, np.bool_, np.complex64,
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_value_of_every_type_survives(dtype: type) -> None:
    kind = np.dtype(dtype)
    rng = np.random.default_rng(0)
    for _ in range(20):
        array = np.frombuffer(rng.bytes(16 * kind.itemsize), np.uint8).copy()
        if kind == np.bool_ or ("4" in kind.name and kind.itemsize == 1 and "float8" not in kind.name):
            array %= 2 if kind == np.bool_ else 16
        values = array.view(np.bool_ if kind == np.bool_ else kind)
        if kind.name in ("int4", "uint4", "float4_e2m1fn"):
            values = rng.integers(0, 8, 16).astype(kind)
        model = graph.parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
        graph.add_initializer(model, "w", values)
        parsed = graph.constant(round_trip(model).graph.initializers["w"])
        assert parsed is not None and parsed.dtype == kind
        if kind == np.complex64:
            assert np.array_equal(parsed, values, equal_nan=True)
        else:
            same = parsed.view(np.uint8) == values.view(np.uint8)
            with np.errstate(invalid="ignore"):  # signalling NaNs are among the bits drawn
                nan = values != values
            assert (same.reshape(16, -1).all(axis=1) | nan).all()


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=0, max_dims=3, max_side=3), elements=st.floats(width=32)))
def test_float32_survives_to_the_bit(array: np.ndarray) -> None:
    model = graph.parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    graph.add_initializer(model, "w", array)
    parsed = graph.constant(round_trip(model).graph.initializers["w"])
    assert (
        np.array_equal(parsed, array, equal_nan=True)
        and (np.signbit(parsed) == np.signbit(array))[~np.isnan(array)].all()
    )


@settings(deadline=None)
@given(st.text(min_size=1))
def test_any_text_can_be_a_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    model = graph.parse("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.inputs[0].name = name + "x"
    model.graph[0].name = name
    assert round_trip(model).graph.inputs[0].name == name + "x"


def test_real_models(models: Path) -> None:
    for path in sorted(models.glob("*/*.onnx")):
        if "reject" not in str(path):
            round_trip(graph.read(path))
