"""Small ONNX models for ports: built here, with weights from a seed."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _weights(rng: np.random.Generator, **shapes: tuple[int, ...]) -> list[TensorProto]:
    return [
        numpy_helper.from_array((rng.standard_normal(s) / np.sqrt(s[0])).astype(np.float32), n)
        for n, s in shapes.items()
    ]


def _model(nodes: list, inputs: list, outputs: list, weights: list, opset: int = 20) -> onnx.ModelProto:  # type: ignore[type-arg]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def decoder(layers: int = 2) -> onnx.ModelProto:
    """Blocks of layer norm, two matrix products with gelu between, and a residual; equal layers, different weights."""
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for i in range(layers):
        weights += _weights(rng, **{f"g{i}": (24,), f"b{i}": (24,), f"up{i}": (24, 40), f"down{i}": (40, 24)})
        nodes += [
            helper.make_node("LayerNormalization", [x, f"g{i}", f"b{i}"], [f"n{i}"], name=f"/layer.{i}/norm"),
            helper.make_node("MatMul", [f"n{i}", f"up{i}"], [f"u{i}"], name=f"/layer.{i}/up"),
            helper.make_node("Gelu", [f"u{i}"], [f"a{i}"], name=f"/layer.{i}/act"),
            helper.make_node("MatMul", [f"a{i}", f"down{i}"], [f"d{i}"], name=f"/layer.{i}/down"),
            helper.make_node("Add", [x, f"d{i}"], [f"x{i}"], name=f"/layer.{i}/add"),
        ]
        x = f"x{i}"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 7, 24])]
    return _model(nodes, inputs, [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)], weights)


def convnet() -> onnx.ModelProto:
    """Convolution, relu, pooling, a head: odd sizes."""
    rng = np.random.default_rng(1)
    weights = _weights(rng, w=(6, 3, 3, 3), c=(6,), head=(6, 5))
    nodes = [
        helper.make_node("Conv", ["x", "w", "c"], ["y"], name="stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["m"], name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["m"], ["p"], name="average"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "head"], ["logits"], name="head_matmul"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 17, 19])]
    return _model(nodes, inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)], weights)
