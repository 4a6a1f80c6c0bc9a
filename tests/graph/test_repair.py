"""What is repaired at load, since every runtime takes it, and said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from porter import graph
from porter.errors import PorterError

RELU = helper.make_node("Relu", ["x"], ["y"], name="act")


def test_nodes_out_of_order_are_sorted_and_said(model: Callable, witness: Callable) -> None:
    nodes = [
        helper.make_node("Neg", ["a"], ["y"], name="last"),
        helper.make_node("Relu", ["x"], ["a"], name="first"),
    ]
    loaded = graph.load(model(nodes, {"x": [2]}, {"y": [2]}))
    assert [node.name for node in loaded.graph] == ["first", "last"]
    assert graph.notes(loaded) == ("1 node before what they read; the nodes were put in order",)
    assert witness(graph.to_proto(loaded), {"x": np.float32([-1, 2])})[0].tolist() == [0, -2]


def test_names_are_made_unique_and_said(model: Callable) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="n"),
        helper.make_node("Abs", ["a"], ["b"], name="n"),
        helper.make_node("Neg", ["b"], ["y"]),
        helper.make_node("Exp", ["b"], ["n_1"], name="n_1"),
    ]
    loaded = graph.read(model(nodes, {"x": [2]}, {"y": [2]}))
    assert [node.name for node in loaded.graph] == ["n", "n_2", "Neg_y", "n_1"]
    assert [graph.source_name(node) for node in loaded.graph] == ["n", "n_2", "Neg_y", "n_1"]
    assert graph.notes(loaded) == (
        "1 node had no name; named after operator and output",
        "1 node shared a name with another; a number was added",
    )


def test_weights_listed_as_inputs_are_weights(model: Callable) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"], name="n")
    weights = {"w": np.ones(3, np.float32)}
    for ir_version, notes in ((3, ()), (8, ("1 input with a default value, kept as weights: 'w'",))):
        proto = model([node], {"x": [3], "w": [3]}, {"y": [3]}, weights, opset=8, ir_version=ir_version)
        loaded = graph.load(proto)
        assert [value.name for value in loaded.graph.inputs] == ["x"]
        assert graph.notes(loaded) == notes


def test_a_name_of_a_subgraph_that_hides_one_outside_is_changed(model: Callable, witness: Callable) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["x"], ["a"], name=op)],
            op,
            [],
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        )
        for op in ("Neg", "Exp")
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="r"),
        helper.make_node("If", ["c"], ["b"], name="if", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["a", "b"], ["y"], name="s"),
    ]
    loaded = graph.load(model(nodes, {"x": [2], "c": []}, {"y": [2]}, types={"c": TensorProto.BOOL}))
    assert "2 values of subgraphs had the name of a value outside, the first 'a'; renamed" in graph.notes(loaded)
    feeds = {"x": np.float32([1, -2]), "c": np.asarray(True)}
    assert witness(graph.to_proto(loaded), feeds)[0].tolist() == [0, 2]


def test_a_wrongly_declared_output_is_said(model: Callable) -> None:
    loaded = graph.load(model([RELU], {"x": [3]}, {"y": [4]}))
    assert graph.notes(loaded) == ("output 'y' was declared as [4], but the graph gives [3]",)
    assert graph.shape(loaded.graph.outputs[0]) == (3,)


def test_a_word_for_a_domain_is_the_standards(model: Callable) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")], {"x": [3]}, {"y": [3]})
    proto.opset_import[0].domain = "ai.onnx"
    assert graph.load(proto).opset_imports == {"": graph.HOME_OPSET}


def test_domains_that_no_node_uses_leave(model: Callable) -> None:
    proto = model([RELU], {"x": [3]}, {"y": [3]})
    proto.opset_import.add(domain="com.microsoft", version=1)
    assert graph.load(proto).opset_imports == {"": graph.HOME_OPSET}


def test_fewer_parts_than_outputs_are_refused_before_inference(model: Callable) -> None:
    split = helper.make_node("Split", ["x"], ["y", "z"], name="s", num_outputs=1)
    with pytest.raises(PorterError, match="expected num_outputs = 2, one per output"):
        graph.load(model([split], {"x": [4]}, {"y": [2], "z": [2]}))
