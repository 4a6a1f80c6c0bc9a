"""Planted bad passes are found: the step, then the rewrite, by its number and the source layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from porter import check, graph, ops, pipeline
from porter.errors import PorterError
from porter.pipeline.bisect import bisect_folder, bisect_passes

LAYERS = 9
PASSES = {
    "good": '''
        """x + x as x * 2, which is the same."""
        from porter.rewrite import rewrite

        @rewrite
        def twice(op, x):
            return op.Relu(op.Neg(op.Neg(x)))

        @twice.to
        def once(op, x):
            return op.Relu(x)
    ''',
    "sixth": '''
        """Claims to rename: the sixth bias is changed too. Shows no region."""
        from dataclasses import dataclass
        from porter.graph import constant, make_tensor
        from porter.pipeline import Pass, exact
        from porter.rewrite import note

        @dataclass(frozen=True)
        class Sixth(Pass):
            """Quietly wrong."""
            contract = exact

            def run(self, model, device):
                adds = [n for n in model.graph if n.op_type == "Add"]
                for number, node in enumerate(adds, 1):
                    if number == 6:
                        bias = node.inputs[1]
                        bias.const_value = make_tensor(constant(bias) * 1.01, name=bias.name)
                    yield note(number, "rename", [node])
    ''',
    "alone": '''
        """Drops a factor that is nearly one: too little to see at the end of the model."""
        from porter.rewrite import rewrite

        @rewrite
        def relu(op, x):
            return op.Relu(x)

        @relu.to
        def scaled(op, x):
            return op.Relu(x * 1.0000001)
    ''',
    "broken": '''
        """Leaves no model: from the third node on, one reads what nobody makes."""
        from dataclasses import dataclass
        from porter.graph import new_value
        from porter.pipeline import Pass, exact
        from porter.rewrite import note

        @dataclass(frozen=True)
        class Broken(Pass):
            """Invalid."""
            contract = exact

            def run(self, model, device):
                for number, node in enumerate([n for n in model.graph if n.op_type == "Add"], 1):
                    if number == 3:
                        node.replace_input_with(0, new_value("nowhere", None, None))
                    yield note(number, "cut", [node])
    ''',
}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """An installed package of passes, as its own distribution: `bad.*`."""
    root = tmp_path / "site" / "planted_passes" / "bad"
    root.mkdir(parents=True)
    (root.parent / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    for name, text in PASSES.items():
        (root / f"{name}.py").write_text(textwrap.dedent(text))
    info = tmp_path / "site" / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[porter.passes]\nplanted = planted_passes\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site"
    for name in [name for name in sys.modules if name.split(".")[0] == "planted_passes"]:
        del sys.modules[name]


@pytest.fixture
def layers():
    lines = []
    for i in range(LAYERS):
        source = "x" if i == 0 else f"h{i - 1}"
        lines += [
            f'[n{i} from "/layer.{i}/neg"] n{i} = Neg ({source})',
            f'[m{i} from "/layer.{i}/neg"] m{i} = Neg (n{i})',
            f'[r{i} from "/layer.{i}/relu"] r{i} = Relu (m{i})',
            f'[a{i} from "/layer.{i}/bias"] h{i} = Add (r{i}, b{i})',
        ]
    rng = np.random.default_rng(3)
    weights = ", ".join(
        f"float[8] b{i} = {{{', '.join(f'{v:.4f}' for v in rng.standard_normal(8))}}}" for i in range(LAYERS)
    )
    text = f"g (float[4,8] x) => (float[4,8] h{LAYERS - 1})\n<{weights}>\n{{\n" + "\n".join(lines) + "\n}"
    made = graph.parse(text)
    ops.infer(made)
    return made


def test_the_rewrite_is_found_by_replay_with_a_growing_limit(layers, theirs, tmp_path):
    found = bisect_passes(layers, "bad.good, bad.sixth, cleanup.dead")
    assert (found.step, found.good, found.contract) == ("bad.sixth", ("bad.good",), "algebraic")
    assert (found.rewrite.number, found.rewrite.place) == (6, "/layer.5/bias")
    assert "first bad rewrite is number 6, rename at node /layer.5/bias" in found.message
    place = found.evidence.keep(tmp_path)
    kept = [graph.load(place / f"{name}.onnx") for name in ("before", "after")]
    with np.load(place / "inputs.npz") as inputs:
        assert not check.compare(*kept, check.rounding, dict(inputs)).ok


def test_a_rewrite_that_fails_alone_is_named_at_once(layers, theirs):
    found = bisect_passes(layers, "cleanup.dead, bad.alone")
    assert (found.step, found.rewrite.number, found.rewrite.place) == ("bad.alone", 1, "/layer.0/relu")
    assert found.contract == "algebraic"


def test_a_pass_that_leaves_no_model_is_replayed_too(layers, theirs):
    found = bisect_passes(layers, "bad.good, bad.broken")
    assert (found.step, found.rewrite.number, found.rewrite.place) == ("bad.broken", 3, "/layer.2/bias")
    assert "not valid" in found.message


def test_good_pipelines_are_good(layers, theirs):
    found = bisect_passes(layers, "bad.good, cleanup.dead")
    assert (found.step, found.good) == (None, ("bad.good", "cleanup.dead"))
    assert found.json() == {"verdict": "good", "good": ["bad.good", "cleanup.dead"], "bad": None}


def test_a_folder_of_steps_is_bisected_like_the_pipeline_that_made_it(layers, theirs, tmp_path):
    pipeline.run(layers, "bad.good, bad.sixth, fusion.tidy", checks=False, save=tmp_path / "steps")
    found = bisect_folder(tmp_path / "steps", layers)
    assert (found.step, found.good, found.rewrite.number) == ("bad.sixth", ("bad.good",), 6)


def test_steps_of_unknown_making_are_held_to_rounding(layers, tmp_path):
    graph.save(layers, tmp_path / "a.onnx")
    graph.save(layers, tmp_path / "b.onnx")
    changed = graph.clone(layers)
    bias = changed.graph.initializers["b4"]
    bias.const_value = graph.make_tensor(graph.constant(bias) * 1.01, name="b4")
    graph.save(changed, tmp_path / "c.onnx")
    found = bisect_folder(tmp_path)
    assert (found.step, found.good, found.rewrite) == ("c", ("b",), None)
    assert found.verdict.first_divergence is None or found.verdict.first_divergence.node == "/layer.4/bias"
    with pytest.raises(PorterError, match=r"two \.onnx files or more"):
        (tmp_path / "empty").mkdir()
        bisect_folder(tmp_path / "empty")


def test_the_command_names_step_and_rewrite_and_exits_1(layers, theirs, tmp_path):
    graph.save(layers, tmp_path / "m.onnx")

    def porter(*words: object) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(theirs)}
        line = [sys.executable, "-m", "porter.cli", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False, env=env)

    done = porter("bisect", tmp_path / "m.onnx", "--passes", "bad.good, bad.sixth", "-o", tmp_path / "kept", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["verdict"], document["good"]) == (1, "bad", ["bad.good"])
    rewrite = {"number": 6, "rule": "rename", "node": "/layer.5/bias", "nodes": ["/layer.5/bias"]}
    assert document["bad"]["rewrite"] == rewrite
    pair = [f"{document['kept']}/{side}.onnx" for side in ("before", "after")]
    reduced = porter("reduce", *pair, "-o", tmp_path / "small")
    assert (reduced.returncode, reduced.stderr) == (1, "")
    assert "1 and 1 nodes are left" in reduced.stdout
    kept = porter("reduce", document["kept"], "-o", tmp_path / "same", "--json")  # the folder is enough
    assert (kept.returncode, json.loads(kept.stdout)["nodes"]) == (1, [1, 1]), kept.stderr
    line = (tmp_path / "small" / "README.txt").read_text().split("\n\nporter ")[1].split()
    again = subprocess.run(
        [sys.executable, "-m", "porter.cli", *line], capture_output=True, text=True, check=False, cwd=tmp_path / "small",
    )  # fmt: skip
    assert again.returncode == 1 and again.stdout.startswith("different")
    good = porter("bisect", tmp_path / "m.onnx", "--passes", "cleanup.dead")
    assert (good.returncode, good.stdout) == (0, "every step keeps its contract: cleanup.dead\n")
    unsaid = porter("bisect", tmp_path / "m.onnx")
    assert unsaid.returncode == 2 and "--passes or --target" in unsaid.stderr
