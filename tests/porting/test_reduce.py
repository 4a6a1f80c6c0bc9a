"""A port that fails is cut down to the node whose text is wrong, at shapes of ones and twos."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from porter import graph
from porter.cli.command import porter
from porter.device import load_device
from porter.errors import PorterError
from porter.passes.fusion.epilogue import Epilogue
from porter.porting.reduce import reduce_port
from porter.rewrite import note
from porter.tile.target import target_of

TEXT = """
g (float[6,8] x) => (float[6,8] y)
<float[8,8] w = {WEIGHTS}>
{
    [first] a = MatMul (x, w)
    [second] b = Softmax <axis = -1> (a)
    [third] c = Tanh (b)
    [fourth] y = Mul (c, x)
}
"""


@pytest.fixture
def model(tmp_path):
    weights = ", ".join(f"{v:.4f}" for v in np.random.default_rng(0).standard_normal(64))
    graph.save(graph.parse(TEXT.replace("WEIGHTS", weights)), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_port_that_passes_cannot_be_reduced(model):
    with pytest.raises(PorterError, match="one that fails"):
        reduce_port(model, load_device("toy"))


def test_the_wrong_instruction_is_what_is_left(model, monkeypatch, tmp_path):
    toy = type(target_of("toy"))
    right = toy.lower

    def wrong(self, kernel, device):
        made = right(self, kernel, device)
        return replace(made, text=re.sub(r"\btanh\b", "exp", made.text))

    monkeypatch.setattr(toy, "lower", wrong)
    small = reduce_port(model, load_device("toy"))
    assert [n.op_type for n in small.model.graph] == ["Tanh"]
    assert all(set(x.shape) == {1} for x in small.inputs.values())
    assert "third" in small.sources and "text against its tile program" in small.message
    folder = small.save(tmp_path / "small")
    assert "porter port model.onnx --target toy" in (folder / "README.txt").read_text()
    monkeypatch.setattr(toy, "lower", right)
    words = (folder / "README.txt").read_text().split("\n\nporter ")[1].split()
    done = subprocess.run(
        [sys.executable, "-m", "porter.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, "what is left is a model that ports, but for the fault"


def run(capfd, *words) -> tuple[int, dict]:
    """A command in this process, where the target is the wrong one: its exit code and document."""
    code = porter.main([*map(str, words), "--json"], standalone_mode=False)
    return code, json.loads(capfd.readouterr().out)


def test_bisect_and_reduce_of_a_port_by_command(model, monkeypatch, tmp_path, capfd):
    code, document = run(capfd, "bisect", model, "--target", "toy")
    assert (code, document["verdict"], document["bad"]) == (0, "good", None)
    toy = type(target_of("toy"))
    right = toy.lower

    def wrong(self, kernel, device):
        made = right(self, kernel, device)
        return replace(made, text=re.sub(r"\btanh\b", "exp", made.text))

    monkeypatch.setattr(toy, "lower", wrong)
    code, document = run(capfd, "bisect", model, "--target", "toy")
    assert (code, document["verdict"], document["bad"]["step"]) == (1, "bad", "kernels")
    assert "third" in document["bad"]["message"] and "text against its tile program" in document["bad"]["message"]
    code, document = run(capfd, "reduce", model, "--target", "toy", "-o", tmp_path / "small")
    assert (code, document["nodes"], document["operators"]) == (1, [1], ["Tanh"])
    assert {p.name for p in (tmp_path / "small").iterdir()} == {"model.onnx", "inputs.npz", "README.txt"}


def test_a_port_whose_pass_is_wrong_is_reduced_to_the_rewrite(model, monkeypatch, tmp_path, capfd):
    """Then what is left is a pair of models: what the rewrite was given, and what it made of it."""

    def wrong(self, model, device):
        node = next(n for n in model.graph if n.op_type == "Mul")
        node.op_type = "Add"
        yield note(1, "sum", [node])

    monkeypatch.setattr(Epilogue, "run", wrong)
    code, document = run(capfd, "reduce", model, "--target", "toy", "-o", tmp_path / "small")
    assert (code, document["nodes"]) == (1, [1, 1])
    assert document["rewrite"] == "y = Mul (c, x)  became  y = Add (c, x)"
    assert {p.name for p in (tmp_path / "small").iterdir()} == {"before.onnx", "after.onnx", "inputs.npz", "README.txt"}
