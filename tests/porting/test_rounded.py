"""What an integer output of a kernel may hold: what its real number rounds to within the error that the number may have."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from porter import graph
from porter.porting.checks import rounded


def test_only_a_tie_may_fall_either_way() -> None:
    scalars = {"s": np.float32(0.5), "z": np.int8(0)}
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in scalars.items()]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[2]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
    ]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4])],
        [helper.make_tensor_value_info("q", TensorProto.INT8, [1, 1, 3])], weights,
    )  # fmt: skip
    alone = graph.load(helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)], ir_version=10))
    x = np.array([[[1.0, 0.5, 0.5, -2.0]]], np.float32)  # averages 0.75, 0.5, -0.75: 1.5, 1 and -1.5 steps
    low, high = rounded(alone, {"x": x}, "q")
    assert low.ravel().tolist() == [1, 1, -2]
    assert high.ravel().tolist() == [2, 1, -1]
