"""Contracts as files, and a search that keeps its budget and writes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.check import budgets, draw
from porter.check.gate import bound, within
from porter.device import load_device
from porter.errors import CheckFailed, PorterError
from porter.porting.port import port
from porter.precision.contract import Formats
from porter.precision.layers import layers
from porter.precision.search import applied, search, seconds
from tests.precision.test_faults import one_weight
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


def test_perplexity_is_of_the_samples_own_tokens_and_not_of_the_cache() -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 16, (2, 6))
    truth = random.standard_normal((2, 6, 16)) * 3
    other = truth + random.standard_normal(truth.shape)
    (budget,) = bound(budgets(["perplexity=0.5"]), {"ids": ids})

    def plain(logits: np.ndarray) -> float:
        """The definition, token by token."""
        total = 0.0
        for row, tokens in zip(logits, ids, strict=True):
            for i in range(5):
                total += np.log(np.sum(np.exp(row[i]))) - row[i, tokens[i + 1]]
        return float(np.exp(total / 10))

    judged = within((budget,), "logits", truth, other)
    assert judged.values["perplexity"] == pytest.approx(plain(other) / plain(truth) - 1)
    assert judged.ok == (judged.values["perplexity"] <= 0.5)
    assert within((budget,), "present.0.key", truth, other).values == {}
    with pytest.raises(PorterError, match="an input of token ids"):
        within(bound(budgets(["perplexity=0.5"]), {"x": truth}), "logits", truth, other)


def test_a_budget_may_be_a_function_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def worst(truth, got):\n    return abs(truth - got).max()\n")
    (budget,) = budgets([f"{file}:worst=0.25"])
    zero = np.zeros((2, 3))
    assert within((budget,), "y", zero, zero + 0.25).ok and not within((budget,), "y", zero, zero + 0.3).ok
    with pytest.raises(PorterError, match="a function of mine"):
        budgets([f"{file}:best=1"])
    with pytest.raises(PorterError, match="no such file"):
        budgets([f"{tmp_path}/none.py:worst=1"])


@pytest.mark.parametrize("terms", [64, 128, 192, 512])
def test_the_search_counts_two_rows_at_once_where_the_kernel_asks_for_them(terms: int, tmp_path: Path) -> None:
    """Trn2 multiplies float8 at twice the bf16 rate in double_row mode alone: the emitted text says which sums run in it."""
    device, path = load_device("trainium:trn2"), tmp_path / "model.onnx"
    made = one_weight("y = MatMul (x, w)", f"65536,{terms}", (terms, 512), "65536,512")
    fp8, wide = (seconds(layers(made), s, device) for s in ("fp8", "bf16"))
    made = one_weight("y = MatMul (x, w)", f"256,{terms}", (terms, 512), "256,512")
    graph.save(made, path)
    (target,) = port(path, targets=[device], out=tmp_path / "out", precision="fp8").targets
    assert target.status == "ok", target.message
    text = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.py"))
    assert "nc_matmul" in text
    assert wide / fp8 == pytest.approx(2.0 if "double_row" in text else 1.0, rel=0.05)
