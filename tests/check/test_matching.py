"""Values of two models are matched by name, provenance, expression, value and place; the first divergence by any."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from porter import check
from porter.check.matching import matches

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "faults"))
from equal_layers import decoder
from equivalents import rename

X = "g (float[4,8] x) => (float[4,8] y) {{ {} }}"
W = {"w": np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)}


def anew(model):
    """Nodes that nobody knows by name."""
    for node in model.graph:
        node.metadata_props.clear()
        node.name = f"new_{node.name}"


def found(one, two):
    sample = check.draw(one)
    return {b.name: (a.name, how) for b, (a, how) in matches(one, two, sample, sample).items()}


def test_names_come_first_then_equal_expressions_then_source_layers(model):
    one = model(X.format("a = MatMul (x, w)  b = Relu (a)  y = Exp (b)"), W)
    two = model(X.format("a = MatMul (x, w)  other = Relu (a)  y = Exp (other)"), W)
    assert found(one, two) == {"a": ("a", "name"), "other": ("b", "expression"), "y": ("y", "name")}
    leaky = X.format("p = MatMul (x, w)  q = LeakyRelu <alpha = {}> (p)  y = Exp (q)")
    one, two = model(leaky.replace("{}", "0.1"), W), model(leaky.replace("{}", "0.2").replace("q", "r"), W)
    assert found(one, two)["r"] == ("q", "provenance")


def test_equal_values_are_partners_whoever_computes_them(model):
    one = model(X.format("a = MatMul (x, w)  b = Add (a, a)  c = Tanh (b)  y = Neg (c)"), W)
    two = model(X.format("p = Add (x, x)  q = MatMul (p, w)  r = Tanh (q)  y = Neg (r)"), W)
    anew(two)
    assert found(one, two) == {"q": ("b", "value"), "r": ("c", "value"), "y": ("y", "name")}


def test_two_that_agree_are_nobodys_partner(model):
    one = model(X.format("a = Tanh (x)  b = Neg (a)  c = Neg (b)  y = MatMul (c, w)"), W)
    two = model(X.format("p = Sub (x, z)  q = Tanh (p)  y = MatMul (q, w)"), W | {"z": np.zeros(8, np.float32)})
    anew(two)
    assert "q" not in found(one, two)  # both a and c are equal to it


def test_behind_a_fault_the_place_says_it(model):
    one = model(X.format("a = MatMul (x, w)  b = Relu (a)  c = Tanh (b)  y = Neg (c)"), W)
    two = model(
        X.format("p = MatMul (x, v)  q = Relu (p)  r = Tanh (q)  y = Neg (r)"), {"v": W["w"] * np.float32(1.01)}
    )
    anew(two)
    assert found(one, two) == {"p": ("a", "place"), "q": ("b", "place"), "r": ("c", "place"), "y": ("y", "name")}


@pytest.mark.parametrize("layer", [0, 3])
def test_a_fault_in_a_model_with_other_names_is_found_where_it_is(tmp_path, layer):
    onnx.save(decoder(5, fused=True, wrong=layer), tmp_path / "b.onnx")
    wrong = onnx.load(rename(tmp_path / "b.onnx", tmp_path))
    bad = [i for i, n in enumerate(wrong.graph.node) if n.op_type == "Softmax"][layer]
    result = check(decoder(5, fused=True), wrong)
    assert result.verdict == "different"
    assert (result.first_divergence.node, result.first_divergence.operator) == (f"node_{bad}", "Softmax")
    assert "matched by" in result.message and result.json()["first_divergence"]["matched_by"] != "name"
