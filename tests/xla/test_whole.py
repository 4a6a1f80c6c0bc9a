"""Whole models as one XLA program: right, with weights as arguments, and the same every time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import porter
from porter import xla
from porter.errors import PorterError

rng = np.random.default_rng(0)


def model(batch: object = 2) -> onnx.ModelProto:
    """gelu(x @ w + b), rows taken by int64 indices."""
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in (("w", (16, 24)), ("b", (24,)))
    ]
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["c"]), node("Gelu", ["c"], ["g"])]
    nodes.append(node("Gather", ["g", "rows"], ["y"], axis=0))
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", 1, [batch, 16]), value("rows", 7, [3])], [value("y", 1, [3, 24])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


INPUTS = {"x": rng.standard_normal((2, 16)).astype(np.float32), "rows": np.array([1, 0, 1])}


def test_it_computes_what_the_reference_does() -> None:
    loaded = porter.load(model())
    program = xla.whole(loaded)
    assert program.arguments == ("x", "rows", "w")  # 24 numbers of b may be needed to know shapes: they stay inside
    wanted = porter.reference(loaded, INPUTS)["y"]
    runs = [
        program.run(INPUTS),
        program.run(INPUTS, program.stablehlo("tpu")),
        program.run_proto(INPUTS, program.hlo_proto()),
    ]
    assert all(np.abs(found["y"] - wanted).max() < 16 * 2.0**-23 for found in runs)


def test_it_is_the_same_every_time_and_holds_no_paths() -> None:
    loaded = porter.load(model())
    one, two = xla.whole(loaded), xla.whole(loaded)
    assert one.stablehlo("tpu") == two.stablehlo("tpu") and one.hlo_proto() == two.hlo_proto()
    assert b".py" not in one.hlo_proto() and "loc(" not in one.stablehlo("tpu")


def test_float32_products_ask_for_all_their_passes() -> None:
    assert "precision = [HIGHEST, HIGHEST]" in xla.whole(porter.load(model())).stablehlo("tpu")


def test_a_free_dim_is_named() -> None:
    from porter import graph

    with pytest.raises(PorterError, match="input 'x'"):
        xla.whole(graph.read(model("batch"))).stablehlo("tpu")
