"""A Resize of more places than a kernel holds: gathers, weighed and added, that say what onnxruntime does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from porter import graph, ops, pipeline

CASES = {
    "two taps": ('g (float[1,1,7] x) => (float[1,1,300] y) <int64[3] sizes = {1, 1, 300}> '
                 '{ y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , sizes) }',
                 {"Gather": 2, "Mul": 2, "Add": 1}),
    "four taps along two axes": ('g (float[1,1,5,7] x) => (float[1,1,280,300] y) <int64[4] sizes = {1, 1, 280, 300}> '
                                 '{ y = Resize <mode = "cubic"> (x, , , sizes) }', {"Gather": 8, "Mul": 8, "Add": 6}),
    "no one distance": ('g (int32[1,2,7] x) => (int32[1,4,300] y) <int64[3] sizes = {1, 4, 300}> '
                        '{ y = Resize (x, , , sizes) }', {"Gather": 2}),
    "narrow, in float32": ('g (float16[1,7] x) => (float16[1,300] y) <int64[2] sizes = {1, 300}> '
                           '{ y = Resize <mode = "linear"> (x, , , sizes) }', {"Cast": 2, "Gather": 2, "Mul": 2, "Add": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_becomes_gathers(name: str) -> None:
    text, wanted = CASES[name]
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 19]> {text}')
    model = graph.load(proto)
    made = pipeline.run(model, "tiling.resize").model  # held to its contract
    counts = {op: sum(n.op_type == op for n in made.graph) for op in {n.op_type for n in made.graph}}
    assert counts == wanted
    value = proto.graph.input[0].type.tensor_type
    shape = [d.dim_value for d in value.shape.dim]
    x = (10 * np.random.default_rng(0).standard_normal(shape)).astype(
        onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)
    )
    (before,) = ops.evaluate(graph.load(proto), {"x": x}, ops.source).values()
    (after,) = ops.evaluate(made, {"x": x}, ops.source).values()
    assert before.tobytes() == after.tobytes()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (other,) = ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})
    # onnxruntime's places are float32: n of them are off by n 2**-23 along each axis, and weights with them, whose slope is about 1
    step = 2.0**-9 if x.dtype == np.float16 else 2 * max(shape) * 2.0**-23
    assert np.abs(after.astype(np.float64) - other).max() <= step * np.abs(x.astype(np.float64)).max()
