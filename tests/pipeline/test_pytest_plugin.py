"""The pytest plugin, as a package outside of this one uses it."""

import ast
import gc
import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from threading import Thread

import pytest

PASS = '''
    """Two negations are none."""
    from porter.pipeline import exact
    from porter.rewrite import rewrite

    contract = exact

    @rewrite
    def twice(op, x):
        return op.Neg(op.Neg(x))

    @twice.to
    def none(op, x):
        return op.{made}(x)
'''
PAIRS = """# two negations become nothing
g (float[4] x) => (float[4] y) {
  a = Neg (x)
  b = Neg (a)
  y = Relu (b)
}
# ->
EXPECTED
# -----
# one negation stays
g (float[4] x) => (float[4] y) {
  y = Neg (x)
}
# ->
unchanged
"""


@pytest.fixture
def package(tmp_path):
    def make(made="Identity", expected="unchanged"):
        root = tmp_path / "site" / "their_own" / "mine"
        root.mkdir(parents=True)
        (root.parent / "__init__.py").write_text("")
        (root / "__init__.py").write_text("")
        (root / "fold.py").write_text(textwrap.dedent(PASS).replace("{made}", made))
        info = tmp_path / "site" / "theirs-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[porter.passes]\ntheirs = their_own\n")
        (tmp_path / "mine.fold.onnxtxt").write_text(PAIRS.replace("EXPECTED", expected))
        return tmp_path

    return make


def run(folder, *words):
    env = {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "porter.pytest", "-p", "no:cacheprovider", *words, str(folder)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=env, cwd=folder)


def test_goldens_are_written_and_then_hold(package):
    folder = package()
    wrong = run(folder)
    assert wrong.returncode == 1 and "1 failed, 1 passed" in wrong.stdout
    assert run(folder, "--update-golden").returncode == 0
    written = (folder / "mine.fold.onnxtxt").read_text()
    assert "Relu" in written.split("# ->")[1] and "Neg" not in written.split("# ->")[1].split("# -----")[0]
    right = run(folder)
    assert right.returncode == 0 and "2 passed" in right.stdout, right.stdout


def test_a_pass_that_is_wrong_fails_whatever_the_text_says(package):
    folder = package(made="Abs")
    done = run(folder, "--update-golden")
    assert done.returncode == 1 and "mine.fold changed node" in done.stdout, done.stdout


def test_the_option_may_be_there_already(package):
    folder = package()
    (folder / "conftest.py").write_text(
        "import contextlib\n\n\ndef pytest_addoption(parser):\n    with contextlib.suppress(ValueError):\n"
        '        parser.addoption("--update-golden", action="store_true")\n'
    )
    assert run(folder, "--update-golden").returncode == 0


class Waste:
    """Whose collection runs Python, where another thread may take over."""

    def __del__(self):
        for _ in range(3):
            pass


def test_modules_are_parsed_one_at_a_time():
    """Python 3.11 fails in `ast.parse` where two threads are in it, and pytest parses what a thread imports."""
    text = Path(inspect.__file__).read_text()
    failures: list[Exception] = []

    def parse(depth: int) -> None:
        if depth:
            return parse(depth - 1)
        for _ in range(10):
            waste = Waste()
            waste.cycle = waste
            try:
                ast.parse(text)
            except SystemError as error:
                failures.append(error)
        return None

    before, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    try:
        threads = [Thread(target=parse, args=(depth,)) for depth in (0, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        gc.set_threshold(*threshold)
    assert not failures
