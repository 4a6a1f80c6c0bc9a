"""Decoders as loops: the cache is fed back, judged per head, and a fault that only a longer cache shows is found."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from porter.check.decode import agreement, decode
from porter.errors import PorterError

DECODER = """<ir_version: 10, opset_import: ["" : 20]>
g (int64[b,1] input_ids, float[b,2,p,4] past_0_key, float[b,2,p,4] past_0_value)
  => (float[b,1,11] logits, float[b,2,t,4] present_0_key, float[b,2,t,4] present_0_value)
  <int64[4] heads = {0, 0, 2, 4}, int64[3] merged = {0, 0, 8}, int64[1] from = {FROM}, int64[1] to = {1000},
   int64[1] axis = {2}, float factor = {FACTOR}> {
  h = Gather (table, input_ids)
  q0 = MatMul (h, wq)
  q1 = Reshape (q0, heads)
  q = Transpose <perm = [0, 2, 1, 3]> (q1)
  k0 = MatMul (h, wk)
  k1 = Reshape (k0, heads)
  k2 = Mul (k1, factor)
  k = Transpose <perm = [0, 2, 1, 3]> (k2)
  v0 = MatMul (h, wv)
  v1 = Reshape (v0, heads)
  v = Transpose <perm = [0, 2, 1, 3]> (v1)
  present_0_key = Concat <axis = 2> (past_0_key, k)
  present_0_value = Concat <axis = 2> (past_0_value, v)
  seen_key = Slice (present_0_key, from, to, axis)
  seen_value = Slice (present_0_value, from, to, axis)
  kt = Transpose <perm = [0, 1, 3, 2]> (seen_key)
  s = MatMul (q, kt)
  a = Softmax (s)
  o = MatMul (a, seen_value)
  o1 = Transpose <perm = [0, 2, 1, 3]> (o)
  m = Reshape (o1, merged)
  logits = MatMul (m, out)
}"""


def save(path, window=1000, factor=1.0, change=None):
    proto = onnx.parser.parse_model(DECODER.replace("FROM", str(-window)).replace("FACTOR", str(factor)))
    rng = np.random.default_rng(4)
    for name, shape in {"table": (11, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "out": (8, 11)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        if name == change:
            array = array[:, ::-1].copy()
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"/{node.op_type.lower()}_{index}"
    onnx.save(proto, path)
    return path


def test_a_decoder_agrees_with_itself_over_many_steps(tmp_path):
    a = save(tmp_path / "a.onnx")
    result = decode(a, a, 5, dims={"b": 2})
    assert (result.verdict, result.exit_code, len(result.steps)) == ("equivalent", 0, 5)
    assert [s.past for s in result.steps] == [4, 5, 6, 7, 8]
    assert [f.tensor for f in result.steps[0].findings] == [
        "logits", "present_0_key head 0", "present_0_key head 1", "present_0_value head 0", "present_0_value head 1"
    ]  # fmt: skip
    assert result.steps[-1].routers is None
    assert result.steps[-1].top_k == 1.0 and result.steps[-1].kl < 1e-9


def test_a_window_shows_once_the_cache_is_longer_than_it(tmp_path):
    a, b = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", window=7)
    result = decode(a, b, 8)
    assert (result.verdict, len(result.steps), result.steps[-1].past) == ("different", 4, 7)
    assert "decode step 4, 7 tokens in the cache: 'logits' changed" in result.message
    assert result.json()["first_divergence"]["tensor"] == "logits"


def test_a_wrong_cache_is_named_by_its_head(tmp_path):
    a, b = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", factor=1.001)
    result = decode(a, b, 2)
    bad = [f for f in result.steps[-1].findings if not f.ok]
    assert "present_0_key head 0" in [f.tensor for f in bad]
    assert all(not f.tensor.startswith("present_0_value") for f in bad)


def test_without_a_cache_there_is_no_loop(tmp_path):
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(PorterError, match=r"inputs past\.\.\. and outputs present"):
        decode(tmp_path / "m.onnx", tmp_path / "m.onnx", 1)


ROUTED = """<ir_version: 10, opset_import: ["" : 20]>
g (int64[b,1] input_ids, float[b,2,p,4] past_0_key) => (float[b,1,8] logits, float[b,2,t,4] present_0_key)
  <int64[4] heads = {0, 0, 2, 4}, int64[1] two = {2}, int64[1] last = {-1}> {
  h = Gather (table, input_ids)
  k0 = Reshape (h, heads)
  k = Transpose <perm = [0, 2, 1, 3]> (k0)
  present_0_key = Concat <axis = 2> (past_0_key, k)
  scores = MatMul (h, router)
  best, which = TopK (scores, two)
  experts = Gather (bank, which)
  weights = Softmax (best)
  column = Unsqueeze (weights, last)
  parts = Mul (experts, column)
  axes = Constant <value_ints = [2]> ()
  logits = ReduceSum <keepdims = 0> (parts, axes)
}"""


def test_routers_are_told_by_how_often_they_choose_alike(tmp_path):
    rng = np.random.default_rng(1)
    weights = {"table": (11, 8), "router": (8, 6), "bank": (6, 8)}
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in weights.items()}
    for name, router in (("a", arrays["router"]), ("b", arrays["router"][:, ::-1].copy())):
        proto = onnx.parser.parse_model(ROUTED)
        for key, array in (arrays | {"router": router}).items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    same = decode(tmp_path / "a.onnx", tmp_path / "a.onnx", 2, dims={"b": 3})
    assert (same.verdict, same.steps[0].routers) == ("equivalent", 1.0) and "choose alike in 100%" in same.message
    other = decode(tmp_path / "a.onnx", tmp_path / "b.onnx", 2, dims={"b": 3})
    assert other.verdict == "different" and other.json()["steps"][0]["routers"] < 0.9


def test_agreement_counts_the_largest():
    x = np.array([[4.0, 3, 2, 1], [1, 2, 3, 4]])
    assert agreement(x, x, 2) == 1.0 and agreement(x, -x, 2) == 0.0
    assert agreement(x, np.array([[4.0, 1, 3, 2], [1, 2, 3, 4]]), 2) == 0.75


def test_the_command_exits_by_verdict(tmp_path):
    a, b = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", change="out")
    line = [sys.executable, "-m", "porter.cli", "check", str(a), str(b), "--decode", "2", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["first_divergence"]["tensor"]) == (1, "different", "logits")
    assert document["steps"][0]["kl"] > 0.01
