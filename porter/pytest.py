"""A pytest plugin for authors of passes, in any package: pairs of models in ONNX text are tests.

A file `NAME.onnxtxt`, named after a pass (`mine.fold.onnxtxt`), holds cases:

    # a title: what the pass does here, or refuses
    g (float[4] x) => (float[4] y) { a = Neg (x) y = Neg (a) }
    # ->
    g (float[4] x) => (float[4] y) { y = Identity (x) }
    # -----

The right-hand side is the model after the pass, `unchanged` where it refuses. Each case runs the pass, compares the text,
and checks on inputs that both sides mean what the pass claims. `--update-golden` rewrites the right-hand sides: read
the diff. Installing onnx-porter is enough; nothing has to be imported. Passes of a package that is not installed are found where
the setting `porter_passes` names it (`porter_passes = ["mine"]` under [tool.pytest.ini_options]).
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

RULE = "# -----\n"
SUFFIX = ".onnxtxt"


def pytest_configure(config: pytest.Config) -> None:
    """pytest parses every module of a plugin's package anew, in whatever thread imports it, and `ast.parse` of Python 3.11
    fails now and then where two threads are in it ("AST constructor recursion depth mismatch"): one at a time."""
    if not hasattr(ast.parse, "__wrapped__"):
        ast.parse = _one_at_a_time(ast.parse)


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.RLock()

    @wraps(function)
    def locked(*args: Any, **options: Any) -> Any:
        with lock:
            return function(*args, **options)

    return locked


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("porter_passes", "packages of passes that are not installed", type="args", default=[])
    try:
        parser.addoption(
            "--update-golden", action="store_true", help="rewrite expected texts; read the diff afterwards"
        )
    except ValueError:  # the package's own tests have an option of this name
        return


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Files of pairs that are named after a pass that exists; others of that suffix are somebody else's."""
    if file_path.suffix != SUFFIX or "." not in file_path.stem:
        return None
    return PairFile.from_parent(parent, path=file_path)


class PairFile(pytest.File):
    """The cases of one pass."""

    def collect(self) -> Iterator[pytest.Item]:
        for number, block in enumerate(self.path.read_text().split(RULE)):
            title, _, _ = block.strip().partition("\n")
            if title:
                yield PairItem.from_parent(self, name=title.removeprefix("# "), number=number, block=block)


class PairItem(pytest.Item):
    """One pair: the pass does this, and it means the same."""

    def __init__(self, *, number: int, block: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.number = number
        _, _, models = block.strip().partition("\n")
        self.before, _, self.after = (part.strip() for part in models.partition("# ->\n"))

    def runtest(self) -> None:
        from porter import check, graph, ops, pipeline

        before = graph.parse(self.before)
        ops.infer(before)
        roots = self.config.getini("porter_passes")
        result = pipeline.run(before, self.path.stem, no_cache=True, roots=roots)  # by region, to the pass' contract
        found, was = (graph.text(m, bare=True).strip() for m in (result.model, before))
        if self.config.getoption("--update-golden"):
            self._rewrite("unchanged" if found == was else found)
            return
        wanted = was if self.after == "unchanged" else graph.text(graph.parse(self.after), bare=True).strip()
        if found != wanted:
            raise Different(f"expected\n{wanted}\n\nfound\n{found}")
        verdict = check.compare(before, result.model, check.rounding)
        if not verdict.ok and result.steps[0].contract != "precision":
            raise Different(verdict.message)

    def _rewrite(self, after: str) -> None:
        blocks = self.path.read_text().split(RULE)
        head = blocks[self.number].partition("# ->\n")[0]
        end = "\n" if self.number + 1 < len(blocks) else ""
        blocks[self.number] = f"{head}# ->\n{after}\n{end and ''}"
        self.path.write_text(RULE.join(blocks))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        from porter.errors import PorterError

        if isinstance(excinfo.value, Different | PorterError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


class Different(Exception):
    """What the pass made is not what the file says, or does not mean the same."""
