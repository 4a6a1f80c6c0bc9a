"""`porter inspect`: what a model wants, computes and becomes; what is in a bundle; pictures of both."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter import graph
from porter.report import picture


def porter(*args: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "porter.cli", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A convolution of 3x3 on 8x8, four channels to six, then a product: figures below are counted by hand."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in (("k", (6, 4, 3, 3)), ("w", (384, 10)))
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "/conv", pads=[1, 1, 1, 1]),
        helper.make_node("Neg", ["c"], ["m"], "/neg"),
        helper.make_node("Neg", ["m"], ["p"], "/again"),
        helper.make_node("Relu", ["p"], ["r"], "/relu"),
        helper.make_node("Flatten", ["r"], ["f"], "/flat"),
        helper.make_node("MatMul", ["f", "w"], ["y"], "/<dense>"),
    ]
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    made = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_model_with_free_dims_says_what_to_bind(model):
    done = porter("inspect", model)
    assert done.returncode == 0 and "bind its dims with  --dim 'n=N'" in done.stdout and "Conv" in done.stdout
    done = porter("inspect", model, "--target", "toy")
    assert done.returncode == 2 and "found free: n" in done.stderr and "--dim n=1" in done.stderr, done.stderr


def test_arithmetic_and_memory_are_those_counted_by_hand(model):
    document = json.loads(porter("inspect", model, "--dim", "n=2", "--json").stdout)
    work = {w["operator"]: w["flops"] for w in document["arithmetic"]}
    elements = 2 * 6 * 8 * 8
    assert work == {
        "Conv": 2 * elements * 4 * 3 * 3,
        "MatMul": 2 * 2 * 10 * 384,
        "Neg": 2 * elements,
        "Relu": elements,
        "Flatten": 0,
    }
    assert document["flops"] == sum(work.values())
    # two values of the same size at each of the middle nodes, float32
    assert (document["peak_bytes"], document["peak_at"]) == (2 * elements * 4, "/neg")
    assert document["parameters"] == 6 * 4 * 3 * 3 + 384 * 10


def test_what_devices_would_do_with_it(model):
    done = porter("inspect", model, "--dim", "n=2", "--target", "gpu,trainium", "--json")
    targets = json.loads(done.stdout)["targets"]
    assert [t["target"] for t in targets] == ["gpu:h200", "trainium:trn2"], done.stderr
    for t in targets:
        assert t["runs"] and t["host"] == {} and t["kernels"] == t["launches"] > 0 and t["origin"] == "model"
        assert t["weight_bytes"] == 4 * (6 * 4 * 3 * 3 + 384 * 10)


def test_a_bundle_shows_each_kernel_whole(model, tmp_path):
    done = porter("port", model, "--target", "toy", "--dim", "n=2", "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    bundle = json.loads(porter("inspect", tmp_path / "b", "--json").stdout)
    assert "onnx-porter" in bundle["versions"] and bundle["model"]["sha256"]
    name = bundle["kernels"][0]["name"]
    shown = porter("inspect", tmp_path / "b", "--kernel", name).stdout
    assert (tmp_path / "b" / bundle["kernels"][0]["source"]).read_text().strip() in shown
    assert (tmp_path / "b" / bundle["kernels"][0]["tile"]).read_text().strip() in shown
    assert "source layer  /conv" in shown
    text = porter("inspect", tmp_path / "b", "--svg", tmp_path / "p.svg").stdout
    assert f"--kernel {name}" in text and "arena buffer" in text
    assert name in (tmp_path / "p.svg").read_text()
    wrong = porter("inspect", tmp_path / "b", "--kernel", "nothing")
    assert wrong.returncode == 2 and f"try  --kernel {name}" in wrong.stderr
    assert porter("inspect", model, "--kernel", name).returncode == 2


def test_pictures_by_step_mark_what_is_new(model, tmp_path):
    done = porter(
        "inspect", model, "--dim", "n=2", "--passes", "cleanup", "--svg", tmp_path / "s", "--dot", tmp_path / "s"
    )
    assert done.returncode == 0, done.stderr
    files = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert files[:2] == ["00-model.dot", "00-model.svg"] and len(files) >= 4
    last = (tmp_path / "s" / files[-2]).read_text()
    assert '"box new"' in last and "/conv" in last
    assert '"box new"' not in (tmp_path / "s" / "00-model.dot").read_text()
    porter("opt", model, "--dim", "n=2", "--passes", "cleanup", "--save-steps", tmp_path / "kept")
    done = porter("inspect", tmp_path / "kept", "--svg", tmp_path / "again")
    assert done.returncode == 0 and list((tmp_path / "again").glob("*.svg")), done.stderr
    (tmp_path / "empty").mkdir()
    assert porter("inspect", tmp_path / "empty").returncode == 2


@pytest.mark.parametrize("draw", [picture.plain, picture.svg])
def test_a_picture_stands_alone_and_has_every_node(model, draw):
    made = picture.of_model(graph.load(model, {"n": 2}))
    text = draw(made)
    ElementTree.fromstring(text)
    for name in ("/conv", "/relu", "/&lt;dense&gt;"):
        assert name in text
    assert "prefers-color-scheme: dark" in text and "http" not in text.replace("http://www.w3.org/", "")
    assert draw(made) == text


def test_dot_reads_what_we_write(model, tmp_path):
    if shutil.which("dot") is None:
        pytest.skip("no graphviz on the path")
    text = picture.dot(picture.of_model(graph.load(model, {"n": 2}), 'a "quoted" title'))
    done = subprocess.run(["dot", "-Tplain"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert sum(line.startswith("node") for line in done.stdout.splitlines()) == 8
