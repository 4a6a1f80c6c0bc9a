"""onnxruntime's own activations, products and normalizations mean after loading what they mean to onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from contrib_support import (
    MASK,
    ROUNDING,
    Case,
    V,
    X,
    check,
    check_open,
    floats,
    halved,
    ids,
    refusal,
    said,
)
from onnx import TensorProto, helper

from porter import graph, ops

ACTIVATIONS = [
    Case("Gelu", [X]),
    Case("FastGelu", [X]),
    Case("FastGelu", [X, V], title="bias"),
    Case("BiasGelu", [X, V]),
    Case("QuickGelu", [X]),
    Case("QuickGelu", [X], {"alpha": 0.5}, title="alpha"),
    Case("FusedMatMul", [X, floats(8, 3)]),
    Case("FusedMatMul", [floats(2, 8, 5), floats(2, 3, 8)], {"transA": 1, "transB": 1, "alpha": 0.25}, title="trans"),
    Case("FusedMatMul", [floats(5, 2, 8), floats(2, 8, 3)], {"transBatchA": 1}, title="batch A"),
    Case("FusedMatMul", [floats(2, 5, 8), floats(8, 2, 3)], {"transBatchB": 1}, title="batch B"),
    Case("FusedMatMul", [floats(5, 2, 3, 8), floats(2, 3, 4, 8)], {"transBatchA": 1, "transB": 1}, title="rank 4"),
    Case("FusedMatMul", [floats(8, 2, 3, 5), floats(2, 3, 8, 4)], {"transBatchA": 1, "transA": 1}, title="both"),
    Case("TransposeMatMul", [floats(8, 5), floats(8, 3)], {"transA": 1}),
    Case("FusedGemm", [floats(4, 8), floats(3, 8), floats(3)], {"transB": 1, "activation": "Relu"}, title="relu"),
    Case(
        "FusedGemm", [floats(4, 8), floats(8, 3)], {"activation": "LeakyRelu", "activation_alpha": 0.2}, title="leaky"
    ),
]

NORMALIZATIONS = [
    Case("LayerNormalization", [X, V, floats(8)], {"epsilon": 1e-3}, domain="", opset=14),
    Case("SimplifiedLayerNormalization", [X, V], {"epsilon": 1e-6, "axis": -1, "stash_type": 1}, domain=""),
    Case("SimplifiedLayerNormalization", [X, floats(5, 8)], {"axis": 1}, domain="", title="two axes"),
    Case("SkipLayerNormalization", [X, floats(2, 5, 8), V]),
    Case(
        "SkipLayerNormalization",
        [X, floats(2, 5, 8), V, floats(8), floats(8)],
        {"epsilon": 1e-4},
        outputs=(0, 3),
        title="sum",
    ),
    Case("SkipLayerNormalization", [X, floats(1, 5, 8), V, floats(8)], title="skip of one"),
    Case("SkipLayerNormalization", [X, floats(5, 8), V, floats(8)], title="skip of rank 2"),
    Case("SkipSimplifiedLayerNormalization", [X, floats(2, 5, 8), V]),
    Case(
        "SkipSimplifiedLayerNormalization",
        [X, floats(2, 5, 8), V, floats(8)],
        {"epsilon": 1e-4},
        outputs=(0, 3),
        title="sum",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), ids(0, 2, 2, 5), floats(9, 8), floats(7, 8), floats(2, 8), V, floats(8), MASK],
        {"mask_index_type": 1},
        outputs=(0, 1, 2),
        title="all",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8)],
        outputs=(0, 1),
        title="no segments",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8), None, ids(0, 7, 2, 5)],
        {"epsilon": 1e-5},
        outputs=(0, 1),
        title="positions",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8), None, ids(0, 7, 1, 5)],
        outputs=(0, 1),
        title="positions of one",
    ),
]


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
def test_activations_and_products(case: Case, witness: Callable) -> None:
    check(case, witness)


@pytest.mark.parametrize("case", NORMALIZATIONS, ids=str)
def test_normalizations(case: Case, witness: Callable) -> None:
    check(case, witness)


@pytest.mark.parametrize(
    "case", [c for c in NORMALIZATIONS + ACTIVATIONS if c.domain and not c.op.startswith(("Fused", "Trans"))], ids=str
)
def test_lengths_may_be_open_when_operators_are_spelled(case: Case, witness: Callable) -> None:
    check_open(case, witness)


REFUSED = [
    (Case("SkipLayerNormalization", [X, X, V], outputs=(0, 1)), "an output 'mean' that nothing reads", "'out1'"),
    (
        Case("FusedGemm", [floats(4, 8), floats(8, 3)], {"activation": "Erf2"}),
        "an attribute 'activation' that is an operator of one input",
        "Erf2",
    ),
]


@pytest.mark.parametrize("case, expected, found", REFUSED, ids=str)
def test_what_has_no_exact_spelling_is_refused_by_name(case: Case, expected: str, found: str) -> None:
    assert refusal(case) == said(case, expected, found)


def test_operators_in_branches_and_functions_are_spelled_too(witness: Callable) -> None:
    gelu = helper.make_node("FastGelu", ["x", "b"], ["y"], name="inner", domain="com.microsoft")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    plain = helper.make_node("Add", ["x", "b"], ["z"], name="plain")
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])
    branch = helper.make_node(
        "If",
        ["c"],
        ["o"],
        name="choice",
        then_branch=helper.make_graph([gelu], "t", [], [y]),
        else_branch=helper.make_graph([plain], "e", [], [z]),
    )
    inside = helper.make_node("QuickGelu", ["u"], ["v"], name="quick", domain="com.microsoft")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("mine", "F", ["u"], ["v"], [inside], imports)
    call = helper.make_node("F", ["o"], ["w"], name="call", domain="mine")
    infos = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("b", TensorProto.FLOAT, [3]),
    ]
    result = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3])
    proto = helper.make_model(
        helper.make_graph([branch, call], "main", infos, [result]),
        opset_imports=[*imports, helper.make_opsetid("mine", 1)],
        functions=[function],
        ir_version=10,
    )
    loaded = graph.load(proto)
    assert not [node for inner in graph.every_graph(loaded) for node in inner if node.domain == "com.microsoft"]
    for choice in (True, False):
        feeds = {"c": np.asarray(choice), "x": floats(2, 3), "b": floats(3)}
        wanted, found = witness(proto, feeds)[0], witness(graph.to_proto(loaded), feeds)[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())
        ours = np.asarray(ops.evaluate(loaded, feeds, ops.source)["w"])
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())


def test_a_note_tells_what_was_spelled() -> None:
    assert "operators of com.microsoft are spelled in the standard's: 1 FastGelu" in graph.notes(
        graph.load(ACTIVATIONS[1].model())
    )


@pytest.mark.parametrize("case", NORMALIZATIONS + ACTIVATIONS, ids=str)
def test_the_same_in_float16(case: Case, witness: Callable) -> None:
    check(halved(case), witness)
