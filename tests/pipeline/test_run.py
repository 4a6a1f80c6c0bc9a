"""A pipeline run: steps, limits, saved models, and passes that are wrong on purpose, from outside the package."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.errors import PorterError
from porter.pipeline import StepFailed

TWO_LAYERS = """
g (float[4,8] x, float[8,8] w) => (float[4,8] y)
<float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
{
  [up from "/layer.0/up"] a = MatMul (x, w)
  [act0 from "/layer.0/act"] d0 = Div (a, root)
  [e0 from "/layer.0/act"] e0 = Erf (d0)
  [p0 from "/layer.0/act"] p0 = Add (e0, one)
  [h0 from "/layer.0/act"] h0 = Mul (a, p0)
  [g0 from "/layer.0/act"] g0 = Mul (h0, half)
  [up1 from "/layer.1/up"] b = MatMul (g0, w)
  [d1 from "/layer.1/act"] d1 = Div (b, root)
  [e1 from "/layer.1/act"] e1 = Erf (d1)
  [p1 from "/layer.1/act"] p1 = Add (e1, one)
  [h1 from "/layer.1/act"] h1 = Mul (b, p1)
  [g1 from "/layer.1/act"] y = Mul (h1, half)
}
"""

WRONG = {
    "lenient": '''
        """Gelu, with a factor that is nearly right."""
        from porter.rewrite import rewrite

        @rewrite
        def almost(op, x):
            return x * (1.0 + op.Erf(x / 1.4142135623730951)) * 0.5

        @almost.to
        def wrong(op, x):
            return op.Gelu(x * 1.001)
    ''',
    "second": '''
        """Doubles the result, but only of the second layer, and shows no region."""
        from dataclasses import dataclass
        from porter.graph import insert_after, new_node
        from porter.pipeline import Pass, exact
        from porter.rewrite import note

        @dataclass(frozen=True)
        class Second(Pass):
            """Quietly wrong."""
            contract = exact

            def run(self, model, device):
                for node in list(model.graph):
                    if node.name == "e1":
                        node.replace_input_with(0, node.inputs[0].producer().inputs[0])
                        yield note(1, "skip", [node])
    ''',
    "broken": '''
        """Leaves a graph that is no model: a node reads what nobody makes."""
        from dataclasses import dataclass
        from porter.graph import new_value
        from porter.pipeline import Pass, exact
        from porter.rewrite import note

        @dataclass(frozen=True)
        class Broken(Pass):
            """Invalid."""
            contract = exact

            def run(self, model, device):
                model.graph[0].replace_input_with(0, new_value("nowhere", None, None))
                yield note(1, "cut", [model.graph[0]])
    ''',
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package of passes that is not porter's."""
    root = tmp_path / "outside" / "their_passes" / "bad"
    root.mkdir(parents=True)
    (root.parent / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    for name, text in WRONG.items():
        (root / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path / "outside"))
    yield ("their_passes",)
    for name in [name for name in sys.modules if name.split(".")[0] == "their_passes"]:
        del sys.modules[name]


@pytest.fixture
def two_layers():
    made = graph.parse(TWO_LAYERS)
    ops.infer(made)
    return made


def test_steps_say_what_happened(two_layers):
    result = pipeline.run(two_layers, "cleanup.dead, fusion.gelu", no_cache=True)
    dead, gelu = (step.json() for step in result.steps)
    assert (dead["name"], dead["contract"], dead["status"], dead["rewrites"]) == ("cleanup.dead", "exact", "ok", 0)
    assert (gelu["name"], gelu["contract"], gelu["rewrites"]) == ("fusion.gelu", "algebraic", 2)
    assert gelu["metric"]["sqnr_db"] > 250 and gelu["metric"]["accumulated"]["sqnr_db"] > 100
    assert gelu["seconds"] >= 0
    assert [r.place for r in result.rewrites["fusion.gelu"]] == ["/layer.0/act", "/layer.1/act"]


def test_what_exact_passes_move_is_proved_by_labels():
    model = graph.parse("""
    <ir_version: 10, opset_import: ["": 24]>
    g (float[2,3,4] x) => (float[4,3,2] y, float[4,3,2] z) {
      a = Transpose <perm = [1, 0, 2]> (x)
      b = Transpose <perm = [2, 0, 1]> (a)
      c = Identity (b)
      y = Exp (c)
      e = Exp (c)
      z = Neg (e)
      dead = Neg (c)
    }""")
    ops.infer(model)
    steps = [s for s in pipeline.run(model, "cleanup", no_cache=True).steps if s.rewrites]
    assert {s.name for s in steps} >= {"cleanup.shapes", "cleanup.dead", "cleanup.duplicates"}
    assert all(s.contract == "exact" and s.metric["moved"] == 1.0 for s in steps), steps


def test_the_model_given_is_not_changed(two_layers):
    before = graph.text(two_layers)
    pipeline.run(two_layers, "fusion", no_cache=True)
    assert graph.text(two_layers) == before


def test_equal_layers_are_checked_once(two_layers):
    watch = pipeline.Check()
    pipeline.run(two_layers, "fusion.gelu", checks=False, instruments=[watch])
    assert (watch.regions, watch.distinct) == (2, 1)


def test_limit_applies_the_first_so_many(two_layers):
    result = pipeline.run(two_layers, "fusion.gelu", limit=1, no_cache=True)
    assert [node.op_type for node in result.model.graph].count("Gelu") == 1


def test_steps_are_saved_and_can_be_opened(two_layers, tmp_path):
    pipeline.run(two_layers, "cleanup.dead, fusion.gelu", save=tmp_path, no_cache=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["02-fusion.gelu.onnx"]
    assert [node.op_type for node in graph.load(tmp_path / "02-fusion.gelu.onnx").graph].count("Gelu") == 2


def test_a_wrong_rewrite_is_stopped_and_named(two_layers, outside, tmp_path):
    with pytest.raises(StepFailed) as error:
        pipeline.run(two_layers, "bad.lenient", keep=tmp_path / "out", roots=outside, no_cache=True)
    failed = error.value
    assert failed.exit_code == 1 and failed.rewrite is not None and failed.rewrite.number == 1
    lines = str(failed).splitlines()
    assert lines[0] == "bad.lenient changed node '/layer.0/act'"
    assert lines[1].startswith("  32 of 32 elements moved; worst at [") and "allowed" in lines[1]
    assert lines[2] == "  first wrong rewrite is number 1, almost at node /layer.0/act"
    assert lines[3] == f"  kept {tmp_path}/out/fail-001: before.onnx, after.onnx, inputs.npz"
    assert lines[4] == f"  try  porter opt {tmp_path}/out/fail-001/before.onnx --passes 'bad.lenient' --limit 1 --check"


def test_what_is_kept_shows_the_failure(two_layers, outside, tmp_path):
    with pytest.raises(StepFailed):
        pipeline.run(two_layers, "bad.lenient", keep=tmp_path / "out", roots=outside, no_cache=True)
    before, after = (graph.load(tmp_path / "out" / "fail-001" / f"{name}.onnx") for name in ("before", "after"))
    with np.load(tmp_path / "out" / "fail-001" / "inputs.npz") as kept:
        inputs = dict(kept)
    old, new = (next(iter(ops.reference(model, inputs).values())) for model in (before, after))
    assert 1e-4 < np.max(np.abs(old - new)) < 1e-1


def test_a_second_failure_is_kept_beside_the_first(two_layers, outside, tmp_path):
    for _ in range(2):
        with pytest.raises(StepFailed):
            pipeline.run(two_layers, "bad.lenient", keep=tmp_path / "out", roots=outside, no_cache=True)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["fail-001", "fail-002"]


def test_a_change_without_a_region_is_found_on_the_whole_model(two_layers, outside, tmp_path):
    with pytest.raises(StepFailed) as error:
        pipeline.run(
            two_layers, "cleanup, bad.second, fusion.gelu", keep=tmp_path / "out", roots=outside, no_cache=True
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "bad.second changed output 'y'"
    assert lines[2] == "  first wrong rewrite is number 1, skip at node /layer.1/act"


def test_a_group_that_fails_names_the_pass(two_layers, outside):
    text = "cleanup, bad.second, cleanup.dead"
    stages = tuple(replace(stage, group="one") for stage in pipeline.parse(text, outside))
    with pytest.raises(StepFailed) as error:
        pipeline.run(two_layers, stages, no_cache=True)
    assert error.value.step == "bad.second"


def test_a_pass_that_leaves_no_model_is_named(two_layers, outside):
    with pytest.raises(PorterError) as error:
        pipeline.run(two_layers, "bad.broken", roots=outside, no_cache=True)
    assert str(error.value).startswith("pass bad.broken left a model that is not valid: ")


def test_without_checks_nothing_is_compared(two_layers, outside):
    result = pipeline.run(two_layers, "bad.lenient", roots=outside, checks=False)
    assert result.steps[0].rewrites == 2 and result.steps[0].metric == {}


def test_why_asks_every_rule(two_layers):
    answers = dict(pipeline.why(two_layers, "/layer.0/act"))
    assert answers["fusion.gelu"].fits
    answers = pipeline.why(two_layers, "up", "fusion.swiglu")
    assert not answers[0][1].fits


def test_unchanged_models_are_not_run(two_layers, monkeypatch):
    from porter import check

    def never(*args, **options):
        raise AssertionError("compared")

    monkeypatch.setattr(check, "compare", never)
    pipeline.run(two_layers, "cleanup.dead", no_cache=True)
