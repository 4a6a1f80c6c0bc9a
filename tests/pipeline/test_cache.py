"""Verdicts are kept by content, under a cap; what is damaged is computed again."""

from __future__ import annotations

import os

import pytest

from porter import graph, ops, pipeline
from porter.pipeline.cache import Cache, key


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "porter" / "verdicts"


def gelu():
    made = graph.parse(
        """g (float[4] x) => (float[4] y) <float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
        { d = Div (x, root) e = Erf (d) p = Add (e, one) h = Mul (x, p) y = Mul (h, half) }"""
    )
    ops.infer(made)
    return made


def test_the_second_run_compares_no_region(home, monkeypatch):
    first = pipeline.run(gelu(), "fusion.gelu", whole=False)
    assert len(list(home.glob("*.json"))) == 1
    from porter import check

    def never(*args, **options):
        raise AssertionError("compared")

    monkeypatch.setattr(check, "compare", never)
    second = pipeline.run(gelu(), "fusion.gelu", whole=False)
    assert second.steps[0].metric == first.steps[0].metric


def test_no_cache_leaves_nothing(home):
    pipeline.run(gelu(), "fusion.gelu", no_cache=True)
    assert not home.exists()


def test_damage_is_not_believed(home):
    pipeline.run(gelu(), "fusion.gelu")
    (path,) = home.glob("*.json")
    path.write_text("{")
    assert pipeline.run(gelu(), "fusion.gelu").steps[0].metric["sqnr_db"] > 250
    assert path.read_text() != "{"


def test_the_oldest_go_when_it_is_full(tmp_path):
    store = Cache(tmp_path, cap=100)
    for number in range(10):
        store.put(f"k{number}", "x" * 20)
        os.utime(tmp_path / f"k{number}.json", (number, number))
    store.trim()
    assert [path.stem for path in sorted(tmp_path.glob("*.json"))] == ["k7", "k8", "k9"]


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    store = Cache(tmp_path / "file" / "below")
    store.put("k", 1)
    assert store.get("k") is None


def test_keys_depend_on_every_part():
    assert key("a", "b") != key("ab", "") and key("a", "b") == key("a", "b")
