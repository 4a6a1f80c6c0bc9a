"""Contracts as files, and a search that keeps its budget and writes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter import ops, pipeline
from porter.check import budgets, draw
from porter.device import load_device
from porter.errors import CheckFailed, PorterError
from porter.precision.contract import Formats
from porter.precision.search import applied, search
from tests.precision.test_pitfalls import linear


def test_a_contract_reads_back_equal(tmp_path: Path) -> None:
    made = Formats("fp8", {"/head[0]": "bf16", "*mlp*": "int8w"}, {"kl": 0.02})
    made.write(tmp_path / "p.toml")
    assert Formats.read(tmp_path / "p.toml") == made == Formats.read(made.text())
    assert [made.of(n) for n in ("/head[0]", "/layer.1/mlp/up", "/q")] == ["bf16", "int8w", "fp8"]


def test_a_contract_with_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('default = "fp5"\n')
    with pytest.raises(PorterError, match="fp5"):
        Formats.read(tmp_path / "p.toml")


def test_a_contract_decides_per_layer() -> None:
    model = linear()
    first = next(iter(model.graph))
    device = load_device("gpu:h200")
    made = pipeline.run(model, "quantization.narrow", device, checks=False).model
    mixed = applied(model, Formats("bf16", {str(first.name): "int8w"}), device)
    assert sum("int8" in n for n in made.graph.initializers) == 2
    assert [n for n in mixed.graph.initializers if "int8" in n] == ["w1/int8"]


def test_the_search_keeps_its_budget_and_says_how_far_from_the_best_it_is() -> None:
    model, device = linear(), load_device("gpu:h200")
    sample = draw(model)
    truth = ops.evaluate(model, dict(sample), ops.float64)["y"]
    for limit in (20.0, 30.0, 38.0):
        found = search(model, device, budgets([f"sqnr_db={limit}"]), sample)
        got = ops.evaluate(applied(model, found.formats, device), dict(sample), ops.source)["y"]
        assert 10 * np.log10(np.sum(truth**2) / np.sum((got - truth) ** 2)) >= limit
        assert found.bound <= found.seconds * (1 + 1e-9) <= found.seconds_bf16 * (1 + 2e-9)
    with pytest.raises(CheckFailed, match="in bfloat16 alone"):
        search(model, device, budgets(["sqnr_db=90"]), sample)


def test_a_search_without_a_budget_is_refused() -> None:
    model = linear()
    with pytest.raises(PorterError, match="a budget to keep"):
        search(model, load_device("gpu:h200"), (), draw(model))
