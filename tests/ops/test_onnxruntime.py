"""Random types and shapes against onnxruntime with its optimizer off: a second witness beside the official cases."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from porter import graph, ops
from porter.errors import PorterError

OPSET = 24
FLOATS = (np.float32, np.float64)
INTS = (np.int32, np.int64)
UNARY = {
    "Abs": FLOATS + INTS, "Neg": FLOATS + INTS, "Sign": FLOATS + INTS, "Exp": FLOATS, "Log": FLOATS, "Sqrt": FLOATS,
    "Sin": FLOATS, "Cos": FLOATS, "Tan": FLOATS[:1], "Tanh": FLOATS, "Erf": FLOATS[:1], "Floor": FLOATS,
    "Ceil": FLOATS, "Round": FLOATS, "Reciprocal": FLOATS, "Sigmoid": FLOATS, "Relu": FLOATS, "Softplus": FLOATS[:1],
    "Softsign": FLOATS[:1], "Elu": FLOATS[:1], "Selu": FLOATS[:1], "HardSigmoid": FLOATS[:1],
    "HardSwish": FLOATS[:1], "Gelu": FLOATS[:1], "Mish": FLOATS[:1], "LeakyRelu": FLOATS[:1], "Atan": FLOATS[:1],
}  # fmt: skip
BINARY = {
    "Add": FLOATS + INTS, "Sub": FLOATS + INTS, "Mul": FLOATS + INTS, "Div": FLOATS + INTS, "Max": FLOATS + INTS,
    "Min": FLOATS + INTS, "Less": FLOATS + INTS, "GreaterOrEqual": FLOATS + INTS, "Equal": FLOATS + INTS,
    "Mod": INTS, "PRelu": FLOATS[:1],
}  # fmt: skip
REDUCE = {
    "ReduceSum": FLOATS + INTS, "ReduceMean": FLOATS + INTS[:1], "ReduceMax": FLOATS + INTS, "ReduceMin": FLOATS + INTS,
    "ReduceProd": FLOATS[:1], "ReduceL1": FLOATS[:1], "ReduceL2": FLOATS[:1], "ReduceSumSquare": FLOATS[:1],
    "ReduceLogSumExp": FLOATS[:1],
}  # fmt: skip
quickly = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def model(op, inputs, attributes=None, outputs=1, out_types=None):
    """One node over named arrays."""
    kinds = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs.values()]
    node = helper.make_node(op, list(inputs), [f"y{i}" for i in range(outputs)], name=op, **(attributes or {}))
    values = [helper.make_tensor_value_info(n, k, x.shape) for (n, x), k in zip(inputs.items(), kinds, strict=True)]
    results = [helper.make_tensor_value_info(f"y{i}", (out_types or kinds)[0], None) for i in range(outputs)]
    proto = helper.make_model(
        helper.make_graph([node], op, values, results), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    return proto


def witness(proto, inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def compare(op, inputs, attributes=None, out_types=None, steps=16):
    """Both within a few steps of the type of the larger of the element and the tensor's rms."""
    proto = model(op, inputs, attributes, out_types=out_types)
    (theirs,) = witness(proto, inputs)
    ours = ops.evaluate(graph.read(proto), inputs, ops.source)["y0"]
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs)
        return
    step = np.finfo(ours.dtype).eps
    with np.errstate(all="ignore"):
        finite = theirs[np.isfinite(theirs)]
        room = steps * step * (np.sqrt(np.mean(np.square(finite))) if finite.size else 0)
    np.testing.assert_allclose(ours, theirs, rtol=steps * step, atol=room)


def array(draw, dtype, shape, positive=False):
    """Values in a range where nothing overflows, drawn from a seed that hypothesis chooses."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if np.dtype(dtype).kind == "f":
        x = rng.uniform(0.1 if positive else -3, 3, shape)
    else:
        x = rng.integers(1 if positive else -9, 9, shape)
    return x.astype(dtype)


shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)


@quickly(max_examples=60)
@given(st.data(), st.sampled_from(sorted(UNARY)), shapes)
def test_unary(data, op, shape):
    dtype = data.draw(st.sampled_from(UNARY[op]))
    compare(op, {"x": array(data.draw, dtype, shape, positive=op in ("Log", "Sqrt", "Reciprocal"))})


@quickly(max_examples=60)
@given(st.data(), st.sampled_from(sorted(BINARY)), shapes)
def test_binary_with_broadcasting(data, op, shape):
    dtype = data.draw(st.sampled_from(BINARY[op]))
    other = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
    other = other[data.draw(st.integers(0, len(shape))) :] if shape else other
    truth = [TensorProto.BOOL] if op in ("Less", "GreaterOrEqual", "Equal") else None
    inputs = {"a": array(data.draw, dtype, shape), "b": array(data.draw, dtype, other, positive=op in ("Div", "Mod"))}
    compare(op, inputs, out_types=truth)


@quickly(max_examples=60)
@given(st.data(), st.sampled_from(sorted(REDUCE)), st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
def test_reductions(data, op, shape):
    dtype = data.draw(st.sampled_from(REDUCE[op]))
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=0, max_size=rank, unique_by=lambda a: a % rank))
    inputs = {"x": array(data.draw, dtype, shape), "axes": np.array(axes, np.int64)}
    compare(op, inputs, {"keepdims": data.draw(st.integers(0, 1))}, steps=64)


@quickly(max_examples=40)
@given(st.data())
def test_conv(data):
    rank = data.draw(st.integers(1, 2))
    group = data.draw(st.sampled_from((1, 2, 3)))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {
        "group": group,
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 3)) for _ in kernel],
        "dilations": [data.draw(st.integers(1, 2)) for _ in kernel],
        "pads": [data.draw(st.integers(0, 2)) for _ in kernel * 2],
    }
    inputs = {
        "x": array(data.draw, np.float32, (2, 2 * group, *(data.draw(st.integers(5, 9)) for _ in kernel))),
        "w": array(data.draw, np.float32, (group * data.draw(st.integers(1, 2)), 2, *kernel)),
        "b": None,
    }
    inputs["b"] = array(data.draw, np.float32, (inputs["w"].shape[0],))
    compare("Conv", inputs, attributes, steps=64)


@quickly(max_examples=40)
@given(st.data(), st.sampled_from(("MaxPool", "AveragePool")))
def test_pooling(data, op):
    kernel = [data.draw(st.integers(1, 3)) for _ in range(2)]
    attributes = {
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 3)) for _ in kernel],
        "pads": [data.draw(st.integers(0, k - 1)) for k in kernel * 2],
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    shape = (1, 2, data.draw(st.integers(4, 9)), data.draw(st.integers(4, 9)))
    compare(op, {"x": array(data.draw, np.float32, shape)}, attributes)


@quickly(max_examples=30)
@given(st.data())
def test_slices(data):
    n = data.draw(st.integers(1, 6))
    bound = st.integers(-9, 9)
    step = data.draw(st.sampled_from((-3, -2, -1, 1, 2, 3)))
    inputs = {"x": np.arange(n * 2, dtype=np.float32).reshape(n, 2)}
    inputs |= {k: np.array([v], np.int64) for k, v in (("starts", data.draw(bound)), ("ends", data.draw(bound)))}
    compare("Slice", inputs | {"axes": np.array([0], np.int64), "steps": np.array([step], np.int64)})


def test_narrow_floats_compute_in_float32_and_round_once():
    x = np.array([1.0, 2**-9, 2**-9], ml_dtypes.bfloat16)
    proto = model("ReduceSum", {"x": x, "axes": np.array([0], np.int64)})
    result = ops.evaluate(graph.read(proto), {"x": x, "axes": np.array([0], np.int64)}, ops.source)["y0"]
    # added one after the other in bfloat16 both small terms would vanish; their sum is half a step and ties to even
    assert result.dtype == ml_dtypes.bfloat16
    assert float(result[0]) == float(ml_dtypes.bfloat16(np.float32(1.0 + 2**-8)))


def test_a_type_that_the_operator_does_not_take_is_named():
    x = np.array([1, 2], np.int64)
    bad = graph.read(model("Sqrt", {"x": x}))
    with pytest.raises(PorterError) as error:
        ops.infer(bad)
    assert str(error.value) == (
        "node 'Sqrt' (Sqrt), input 'X'\n  expected one of bfloat16, double, float, float16\n  found int64"
    )


def test_two_types_that_must_agree_are_named():
    bad = graph.read(model("Add", {"a": np.float32([1]), "b": np.float64([1])}))
    with pytest.raises(PorterError) as error:
        ops.infer(bad)
    assert str(error.value) == "node 'Add' (Add), input 'B'\n  expected float, the type of input 'A'\n  found double"


def test_shapes_that_do_not_fit_are_named():
    inputs = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((4, 5), np.float32)}
    with pytest.raises(PorterError, match=r"node 'MatMul' \(MatMul\)\n  expected inputs that fit together"):
        ops.evaluate(graph.read(model("MatMul", inputs)), inputs, ops.source)


def test_an_index_out_of_range_is_an_error():
    inputs = {"x": np.zeros(3, np.float32), "i": np.array([0, 3], np.int64)}
    with pytest.raises(PorterError, match="expected indices within 3\n  found 3"):
        ops.evaluate(graph.read(model("Gather", inputs)), inputs, ops.source)
