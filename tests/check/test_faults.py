"""Known miscompilations, collected from public trackers, are told apart and shown where they are."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from porter import check, graph
from porter.check.reduce import reduce

sys.path.insert(0, str(Path(__file__).parent / "faults"))
from pairs import pairs  # the folder holds a table and its readers, not a package

PAIRS = pairs()


def test_there_are_sixty_with_sources_of_their_own():
    assert len(PAIRS) >= 60
    assert len({p.title for p in PAIRS}) == len(PAIRS)
    assert len({p.source for p in PAIRS}) >= 60


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_known_fault_is_different_where_it_is(pair):
    before, after = graph.load(pair.before), graph.load(pair.after)
    result = check(before, after)
    assert result.verdict == "different", f"{pair.source}\n{result.message}"
    if pair.blame == "interface":
        assert result.cause == "interface"
        return
    found = result.first_divergence or next(f for f in result.outputs if not f.ok)
    assert (found.tensor, result.exit_code) == (pair.blame, 1), result.message
    assert found.node


FUNCTIONS = [p for p in PAIRS if p.blame != "interface"]
SOME = [p if i % 6 == 0 else pytest.param(p, marks=pytest.mark.slow) for i, p in enumerate(FUNCTIONS)]


@pytest.mark.parametrize("pair", SOME, ids=str)
def test_reduce_leaves_a_handful_of_nodes(pair):
    before, after = graph.load(pair.before), graph.load(pair.after)
    small = reduce(before, after)
    assert min(small.nodes) <= 5 and not small.verdict.ok


@pytest.mark.parametrize("pair", SOME, ids=str)
def test_the_command_exits_1_and_names_the_node(pair, tmp_path, capsys):
    from porter.cli import main

    def exits(*paths):
        with pytest.raises(SystemExit) as left:
            main(["check", *paths])
        return left.value.code

    for name, proto in (("a", pair.before), ("b", pair.after)):
        onnx.save(proto, tmp_path / f"{name}.onnx")
    paths = [str(tmp_path / f"{name}.onnx") for name in "ab"]
    assert exits(*paths) == 1
    said = capsys.readouterr().out
    assert said.startswith("different") and "node '" in said, said
    assert exits(paths[0], paths[0]) == 0
