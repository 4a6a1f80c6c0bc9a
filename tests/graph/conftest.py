"""Small models built by hand, and onnxruntime without its optimizer as the outside witness."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of one subject share

Shape = Sequence[int | str | None]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape | None],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 24,
    ir_version: int = 8,
    types: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of float32 values unless `types` says otherwise."""
    kinds = types or {}

    def info(name: str, shape: Shape | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        list(nodes),
        "main",
        [info(*item) for item in inputs.items()],
        [info(*item) for item in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(f.domain, 1) for f in functions]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    """What onnxruntime computes, its optimizer off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, dict(feeds))


@pytest.fixture
def model() -> Callable[..., onnx.ModelProto]:
    """Builds a model from nodes."""
    return build


@pytest.fixture
def witness() -> Callable[..., list[Any]]:
    """Runs a model in onnxruntime."""
    return run
