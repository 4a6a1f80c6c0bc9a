"""The recipe of docs/ci.md, run as the runner would: on a branch that changes one model for the worse and one not."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"


def model(path: Path, operator: str) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy")
    node = helper.make_node(operator, ["x", "x"], ["y"], "/layer")
    path.parent.mkdir(exist_ok=True)
    graph = helper.make_graph([node], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize(("operator", "code"), [("Add", 0), ("Mul", 1)])
def test_each_changed_model_is_checked(tmp_path, operator, code):
    step = re.search(r"run: \|\n(.*?)\n      - if", PAGE.read_text(), re.DOTALL)
    assert step is not None
    script = textwrap.dedent(step[1]).replace("${{ github.base_ref }}", "main")
    here = tmp_path / "work" / "repo"
    here.mkdir(parents=True)

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=here, check=True, capture_output=True
        )

    git("init", "-q", "-b", "main")
    for name in ("kept", "changed"):
        model(here / "models" / f"{name}.onnx", "Add")
    git("add", "-A")
    git("commit", "-qm", "models")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    git("checkout", "-qb", "change")
    model(here / "models" / "changed.onnx", operator)
    proto = onnx.load(here / "models" / "changed.onnx")
    proto.producer_name = "another tool"
    onnx.save(proto, here / "models" / "changed.onnx")
    git("commit", "-qam", "change")
    shim = tmp_path / "bin" / "porter"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m porter.cli "$@"\n')
    shim.chmod(0o755)
    done = subprocess.run(["bash", "-e", "-c", script], cwd=here, capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}"})  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    found = sorted(p.name for p in (here / "found").iterdir())
    assert found == [f"models_changed.onnx.{end}" for end in ("html", "sarif", "xml")], "only the changed model"
