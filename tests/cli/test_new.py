"""`porter new`: what it writes works as it stands, and its tests pass."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper


def porter(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "porter.cli", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_new_pass_of_ones_own_passes_its_tests(tmp_path):
    done = porter("new", "pass", "gate", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("try  cd porter-gate && pytest\n"), done.stderr
    project = tmp_path / "porter-gate"
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    result = subprocess.run(tested, capture_output=True, text=True, check=False, cwd=project)
    assert result.returncode == 0 and "3 passed" in result.stdout, result.stdout
    # The example says what it does: with another body the tests fail.
    gate = project / "porter_gate" / "fusion" / "gate.py"
    gate.write_text(gate.read_text().replace("op.Sigmoid(y)", "op.Tanh(y)"))
    assert subprocess.run(tested, capture_output=True, check=False, cwd=project).returncode == 1


def test_in_a_checkout_the_files_go_where_ours_lie(tmp_path):
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text("")
    (tmp_path / "porter" / "deep").mkdir(parents=True)
    (tmp_path / "porter" / "passes").symlink_to("../passes")
    done = porter("new", "pass", "fusion.wide_gate", cwd=tmp_path / "porter" / "deep")
    assert done.returncode == 0, done.stderr
    assert "def WideGate(op, x, y):" in (tmp_path / "passes" / "fusion" / "wide_gate.py").read_text()
    pairs = (tmp_path / "tests" / "passes" / "fixtures" / "fusion.wide_gate.txt").read_text()
    assert "z = porter.WideGate (x, y)" in pairs
    done = porter("new", "target", "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from porter.targets.tiny.emit import emit" in (tmp_path / "targets" / "tiny" / "__init__.py").read_text()
    assert (tmp_path / "tests" / "targets" / "tiny" / "test_tiny.py").is_file()


def test_a_new_target_of_ones_own_passes_its_tests_and_ports(tmp_path):
    done = porter("new", "target", "tiny_chip", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("try  cd porter-tiny-chip && pytest\n"), done.stderr
    project = tmp_path / "porter-tiny-chip"
    assert (project / "porter_tiny_chip" / "tiny_chip" / "devices" / "tiny_chip.toml").is_file()
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    result = subprocess.run(tested, capture_output=True, text=True, check=False, cwd=project)
    assert result.returncode == 0 and "5 passed" in result.stdout, result.stdout
    # What `pip install -e .` would leave: the project on the path, and its entry point.
    info = project / "porter_tiny_chip-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: porter-tiny-chip\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[porter.targets]\nporter_tiny_chip = porter_tiny_chip\n")
    env = {**os.environ, "PYTHONPATH": str(project)}
    shown = [sys.executable, "-m", "porter.cli", "targets"]
    listed = subprocess.run(shown, capture_output=True, text=True, check=True, env=env, cwd=tmp_path).stdout
    assert "tiny_chip:tiny_chip*" in listed
    words = ["port", "m.onnx", "--target", "tiny_chip", "-o", "out"]
    onnx.save(_relu(), tmp_path / "m.onnx")
    ported = subprocess.run([*shown[:-1], *words], capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert ported.returncode == 0, ported.stderr
    assert "def k00_relu(tiny_chip, " in next((tmp_path / "out" / "kernels").glob("*.py")).read_text()


def _relu() -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [5, 7]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "/act")], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("name", ["Gate", "2fast", "fusion.class", "../up", "a b"])
def test_names_are_names_of_modules(tmp_path, name):
    done = porter("new", "pass", name, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"name '{name}'\n  expected lower case words")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    assert porter("new", "pass", "gate", cwd=tmp_path).returncode == 0
    (tmp_path / "porter-gate" / "porter_gate" / "fusion" / "gate.py").write_text("mine")
    done = porter("new", "pass", "gate", cwd=tmp_path)
    assert done.returncode == 2 and "exists\n  try  another name" in done.stderr
    assert (tmp_path / "porter-gate" / "porter_gate" / "fusion" / "gate.py").read_text() == "mine"
