"""Graphs on which `make fuzz` found something, cut down to what matters, on the targets where it was found."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_port import executed

from porter import graph, ops

FOUND = {
    # movement that goes into two kernels is the last node of both, and both calls had its name
    "kernels that end in the same node": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[7,2,1] x) => (float[15,1,1] c, float[1,1,1] r, float[7,1,2] v)
        <int64[7,1,1] at = {0, 0, 0, 1, 1, -1, -2}, float[1,1,1] e = {-0.3}, float[1,1,2] w = {1, 2}> {
          g = GatherElements <axis = 1> (x, at)
          c = Concat <axis = 0> (g, e, g)
          r = ReduceLogSumExp (g)
          v = ConvTranspose (g, w)
        }""",
    ),
    # the identity of a masked minimum has 64 bits, and the kernel's integers 32
    "the least of 64-bit integers": (
        "tpu",
        """<ir_version: 10, opset_import: ["" : 18]>
        g (int64[5] x, int64[3] u) => (int64[5] y) <int64[3,1] at = {1, 1, 4}> {
          y = ScatterND <reduction = "min"> (x, at, u)
        }""",
    ),
    "a pad of a constant without elements": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[7,0,6,8] x) => (float[7,2,7,4] y)
        <float[7,0,8,1] none = {}, int64[8] pads = {0, 0, 0, 2, 0, 2, 1, 1}> {
          e = MatMul (x, none)
          y = Pad (e, pads)
        }""",
    ),
    "a pad of which the input shows nothing": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1] x) => (float[1] y) <int64 axis = {0}> {
          y = CumSum <exclusive = 1> (x, axis)
        }""",
    ),
    "a softmax of nothing, as it was before opset 13": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 7]>
        g (float[2,3] x) => (float[0,2,3] y) <float[0,1,1] none = {}> {
          e = Mul (none, x)
          y = Softmax <axis = 0> (e)
        }""",
    ),
    "arithmetic of lengths that are none": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[2,3] x) => (float[2,3] y, int64[0] none) <int64[0] e = {}, int64[1] one = {1}> {
          none = Add (e, one)
          y = Neg (x)
        }""",
    ),
    # sqrt(-1) past an extent was NaN, and a Cast to integers kept it as what those lanes hold
    "a lane of NaN becomes an integer": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 14]>
        g (float[2,3,1] x) => (float[2,3,1] y, uint8[2,3,1] q)
        <float low = {0}, float high = {4}, float[3] s = {0.05, 0.06, 0.02}, uint8[3] z = {1, 3, 0}> {
          c = Clip (x, low, high)
          y = Sqrt (c)
          q = QuantizeLinear <axis = 1> (c, s, z)
        }""",
    ),
    # channels were moved last around a pool whose places are read: those count with channels first
    "a pool with its places": (
        "gpu",
        """<ir_version: 10, opset_import: ["" : 15]>
        g (float[1,2,8] x) => (float[1,2,8] y, int64[1,2,8] places) {
          y, places = MaxPool <kernel_shape = [2], pads = [0, 1]> (x)
        }""",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_mended(name: str) -> None:
    target, text = FOUND[name]
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = (rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 3, shape)).astype(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = ops.reference(graph.read(model), feeds)
        got, _, _ = executed(model, feeds, target, text=True)
    for output, exact in truth.items():
        assert got[output].dtype == exact.dtype
        np.testing.assert_allclose(got[output], exact, rtol=1e-5, atol=1e-6, err_msg=output)


EMPTY = {
    "a softmax along nothing": ("g (float[2,0,3] x) => (float[2,0,3] y) { y = LogSoftmax <axis = 1> (x) }", (2, 0, 3)),
    "a convolution of no pictures": (
        "g (float[0,1,2] x) => (float[0,3,2] y) <float[3,1,1] w = {1, 2, 3}> { y = Conv (x, w) }", (0, 3, 2),
    ),
    "a loop of no turns, whose row nobody gave a shape": (
        "g (float[2,3] x) => (float[0,2,3] y) <int64 none = {0}, bool go = {1}> { s, y = Loop (none, go, x) <body = "
        "b (int64 i, bool g, float[2,3] a) => (bool h, float[2,3] o, float[] e) { h = Identity (g) o = Neg (a) e = Tanh (o) }> }",
        (0, 2, 3),
    ),
    "a picture of no lines, made larger": (
        'g (float[1,1,2,0] x) => (float[1,1,4,0] y) <float[0] roi = {}, float[4] scales = {1, 1, 2, 2}> '
        '{ y = Resize <mode = "linear"> (x, roi, scales) }', (1, 1, 4, 0),
    ),
    "a recurrence of no steps": (
        "g (float[0,2,1] x) => (float[0,1,2,1] y) <float[1,4,1] w = {1, 2, 3, 4}, float[1,4,1] r = {1, 2, 3, 4}> "
        "{ y = LSTM <hidden_size = 1> (x, w, r) }", (0, 1, 2, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_comes_of_nothing(name: str) -> None:
    text, shape = EMPTY[name]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {text}')
    onnx.checker.check_model(model)
    (dims,) = ([d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input)
    (y,) = ops.evaluate(graph.read(model), {"x": np.zeros(dims, np.float32)}, ops.source).values()
    assert y.shape == shape


def test_a_convolution_of_no_channels_is_its_bias() -> None:
    text = "g (float[1,0,2] x, float[2,0,1] w) => (float[1,2,2] y) <float[2] b = {1, 2}> { y = Conv (x, w, b) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {text}')
    feeds = {"x": np.zeros((1, 0, 2), np.float32), "w": np.zeros((2, 0, 1), np.float32)}
    (y,) = ops.evaluate(graph.read(model), feeds, ops.source).values()
    assert y.tolist() == [[[1, 1], [2, 2]]]
