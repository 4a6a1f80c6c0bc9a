"""Small models for the checker's tests, written as ONNX text."""

import numpy as np
import onnx
import pytest

from porter import graph

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def make(text, weights=None):
    proto = onnx.parser.parse_model(HEADER + text)
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"/{node.op_type.lower()}_{index}"
    return graph.load(proto)


@pytest.fixture
def model():
    """model(text, weights={}) loads a model from ONNX text; nodes are named /operator_index."""
    return make
