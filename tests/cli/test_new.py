"""`porter new`: what it writes works as it stands, and its tests pass."""

import subprocess
import sys
from pathlib import Path

import pytest


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
