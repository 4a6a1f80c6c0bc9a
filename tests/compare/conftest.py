"""Small models whose figures fit on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y[m, 256] = x[m, 512] @ w[512, 256], float32."""
    w = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", d]) for n, d in (("x", 512), ("y", 256)))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "/product")], "g", [x], [y], [numpy_helper.from_array(w, "w")]
    )
    return _saved(tmp_path_factory, graph, "product.onnx")


def _decoder(tokens: int | str, past: bool) -> onnx.GraphProto:
    """One layer of attention without projections of the query: vocabulary 32, hidden 16, 2 heads of 8."""
    rng = np.random.default_rng(1)
    f = {
        n: rng.standard_normal(s).astype(np.float32) * 0.3
        for n, s in (("table", (32, 16)), ("wk", (16, 16)), ("wv", (16, 16)), ("head", (16, 32)))
    }
    i = {"split": np.array([0, 0, 2, 8]), "join": np.array([0, 0, 16])}
    node = helper.make_node
    nodes = [node("Gather", ["table", "ids"], ["x"], "/embed"), node("Reshape", ["x", "split"], ["q_"], "/q/split"),
             node("Transpose", ["q_"], ["q"], "/q", perm=[0, 2, 1, 3])]  # fmt: skip
    for n in "kv":
        made = f"new_{n}" if past else f"present.{n}"
        nodes += [node("MatMul", ["x", f"w{n}"], [f"p{n}"], f"/{n}/MatMul"),
                  node("Reshape", [f"p{n}", "split"], [f"s{n}"], f"/{n}/split"),
                  node("Transpose", [f"s{n}"], [made], f"/{n}", perm=[0, 2, 1, 3])]  # fmt: skip
        if past:
            nodes.append(node("Concat", [f"past.{n}", made], [f"present.{n}"], f"/{n}/cat", axis=2))
    nodes += [node("Transpose", ["present.k"], ["kt"], "/kt", perm=[0, 1, 3, 2]), node("MatMul", ["q", "kt"], ["s"], "/scores"),
              node("Softmax", ["s"], ["p"], "/softmax", axis=-1), node("MatMul", ["p", "present.v"], ["o"], "/mix"),
              node("Transpose", ["o"], ["ot"], "/back", perm=[0, 2, 1, 3]), node("Reshape", ["ot", "join"], ["h"], "/join"),
              node("MatMul", ["h", "head"], ["logits"], "/head")]  # fmt: skip
    info = helper.make_tensor_value_info
    inputs = [info("ids", TensorProto.INT64, ["batch", tokens])]
    inputs += [info(f"past.{n}", TensorProto.FLOAT, ["batch", 2, "past", 8]) for n in "kv"] if past else []
    outputs = [info("logits", TensorProto.FLOAT, ["batch", tokens, 32])]
    outputs += [info(f"present.{n}", TensorProto.FLOAT, ["batch", 2, "past + 1" if past else tokens, 8]) for n in "kv"]
    weights = [numpy_helper.from_array(a, n) for n, a in {**f, **i}.items()]
    return helper.make_graph(nodes, "decoder", inputs, outputs, weights)


@pytest.fixture(scope="session")
def prefill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prompt graph of a decoder with one layer."""
    return _saved(tmp_path_factory, _decoder("seq", past=False), "prefill.onnx")


@pytest.fixture(scope="session")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its step graph, which takes the cache."""
    return _saved(tmp_path_factory, _decoder(1, past=True), "decode.onnx")


@pytest.fixture(scope="session")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes the cache and any number of tokens, as many exporters write it."""
    drawn = _decoder("seq", past=True)
    for value in drawn.output:
        if value.name != "logits":
            value.type.tensor_type.shape.dim[2].dim_param = "total"
    return _saved(tmp_path_factory, drawn, "model.onnx")


def _saved(folder: pytest.TempPathFactory, graph: onnx.GraphProto, name: str) -> Path:
    path = folder.mktemp("models") / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
