"""`porter check`: verdicts by exit code, in text, JSON, JUnit XML and SARIF."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


def save(path: Path, *nodes: tuple[str, str, str], **constants: float) -> Path:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy")
    made = [helper.make_node(op, i.split(), [o], f"/{o}") for op, i, o in nodes]
    weights = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in constants.items()]
    graph = helper.make_graph(made, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "twice": save(folder / "twice.onnx", ("Add", "x x", "y")),
        "by two": save(folder / "by_two.onnx", ("Mul", "x two", "y"), two=2.0),
        "by three": save(folder / "by_three.onnx", ("Mul", "x three", "y"), three=3.0),
        "nearly": save(folder / "nearly.onnx", ("Mul", "x two", "y"), two=2.001),
    }


def check(*args: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "porter.cli", "check", *map(str, args), "--dim", "n=3"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_equal_models_are_equivalent(models):
    done = check(models["twice"], models["by two"], "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["first_divergence"]) == (0, "equivalent", None)
    assert [o["tensor"] for o in document["outputs"]] == ["y"]


def test_different_models_are_shown_where(models, tmp_path):
    done = check(
        models["twice"], models["by three"], "--json", "--junit", tmp_path / "j.xml", "--sarif", tmp_path / "deep" / "s"
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["cause"]) == (1, "different", "function")
    assert (document["outputs"][0]["node"], document["outputs"][0]["ok"]) == ("/y", False)
    assert ElementTree.parse(tmp_path / "j.xml").find("testsuite").get("failures") == "1"
    sarif = json.loads((tmp_path / "deep" / "s").read_text())
    assert sarif["runs"][0]["results"][0]["ruleId"] == "porter/function"
    assert "different" in check(models["twice"], models["by three"]).stdout


def test_a_budget_decides_for_a_cheaper_second(models):
    assert check(models["twice"], models["nearly"]).returncode == 1
    assert check(models["twice"], models["nearly"], "--budget", "sqnr_db=50").returncode == 0  # 20 log10(2/0.001) is 66
    assert check(models["twice"], models["nearly"], "--budget", "sqnr_db=80").returncode == 1


def test_what_the_field_cannot_prove_is_unknown(models):
    done = check(models["twice"], models["by three"], "--method", "field")
    assert done.returncode == 3 and done.stdout.startswith("unknown")


def test_given_inputs_are_used_and_must_fit(models, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 4), np.float32))  # on zeros no factor shows
    assert (
        check(models["twice"], models["by three"], "--method", "numeric", "--inputs", tmp_path / "x.npz").returncode
        == 0
    )
    np.savez(tmp_path / "x.npz", z=np.zeros((3, 4), np.float32))
    done = check(models["twice"], models["by three"], "--inputs", tmp_path / "x.npz")
    assert done.returncode == 2 and 1 <= len(done.stderr.splitlines()) <= 4, done.stderr
