"""A fault planted in a deep model is cut out with a node or two, and the folder that is kept shows it again."""

import numpy as np
import pytest

from porter import check, graph
from porter.check.reduce import reduce
from porter.errors import PorterError

RNG = np.random.default_rng(5)
LAYERS = 12


def deep(model, fault=None):
    """Twelve residual layers with normalization; `fault` is the layer whose epsilon is a hundred times too large."""
    lines, weights = ["h0 = Identity (x)"], {}
    for i in range(LAYERS):
        eps = 1e-3 if i == fault else 1e-5
        lines += [
            f"n{i} = LayerNormalization <epsilon = {eps}> (h{i}, g{i}, b{i})",
            f"m{i} = MatMul (n{i}, w{i})",
            f"a{i} = Relu (m{i})",
            f"p{i} = MatMul (a{i}, v{i})",
            f"h{i + 1} = Add (h{i}, p{i})",
        ]
        rng = np.random.default_rng(i)
        weights |= {f"w{i}": rng.standard_normal((16, 32)), f"v{i}": rng.standard_normal((32, 16)) / 8}
        weights |= {f"g{i}": rng.uniform(0.5, 2, 16), f"b{i}": rng.standard_normal(16)}
    lines.append(f"y = Identity (h{LAYERS})")
    text = "g (float[4,16] x) => (float[4,16] y) {\n" + "\n".join(lines) + "\n}"
    return model(text, {k: v.astype(np.float32) for k, v in weights.items()})


def test_one_node_is_left_of_sixty(model, tmp_path):
    before, after = deep(model), deep(model, fault=7)
    small = reduce(before, after)
    assert small.nodes == (1, 1)
    assert [n.op_type for n in small.after.graph] == ["LayerNormalization"]
    assert small.inputs.keys() == {"h7"}
    assert graph.source_name(next(iter(small.after.graph))) == f"/layernormalization_{1 + 5 * 7}"
    folder = small.save(tmp_path / "kept")
    again = check(
        str(folder / "before.onnx"), str(folder / "after.onnx"), inputs=folder / "inputs.npz", method="numeric"
    )
    assert again.verdict == "different"
    assert "porter check before.onnx after.onnx" in (folder / "README.txt").read_text()
    assert len(list(before.graph)) == len(list(after.graph)) == 5 * LAYERS + 2, "the models stay as they were"


def test_names_of_its_own_do_not_hide_the_node(model):
    before, after = deep(model), deep(model, fault=7)
    for node in after.graph:
        for v in node.outputs:
            v.name = f"other_{v.name}"
    after.graph.inputs[0].name = "input"
    small = reduce(before, after)
    assert small.nodes == (1, 1) and small.inputs.keys() == {"h7"}
    assert "epsilon = 0.001" in small.rewrite and "became" in small.rewrite
    assert {v.name for v in after.graph.inputs} == {"input"}, "the models stay as they were"


def test_shapes_are_as_small_as_still_fail(model):
    small = reduce(deep(model), deep(model, fault=7))
    assert small.inputs["h7"].shape == (1, 2), "of one element a normalization makes nothing"


def test_a_region_between_values_that_both_have_is_left_whole(model):
    before = model(
        "g (float[4,8] x) => (float[4,8] y) { a = Tanh (x) b = Exp (a) c = Neg (b) d = Abs (c) y = Relu (d) }"
    )
    after = model(
        "g (float[4,8] x) => (float[4,8] y) { a = Tanh (x) q = Exp (a) r = Sqrt (q) d = Abs (r) y = Relu (d) }"
    )
    small = reduce(before, after)
    assert small.nodes == (2, 2) and small.inputs.keys() == {"b"}


def test_models_that_agree_cannot_be_reduced(model):
    with pytest.raises(PorterError, match="models that agree on these inputs"):
        reduce(deep(model), deep(model))
