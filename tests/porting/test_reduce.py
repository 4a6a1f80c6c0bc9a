"""A port that fails is cut down to the node whose text is wrong, at shapes of ones and twos."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from porter import graph
from porter.device import load_device
from porter.errors import PorterError
from porter.porting.reduce import reduce_port
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
