"""The error ledger: shares sum to 1, go to the step that made them, and what formats do not explain is said."""

import numpy as np
import pytest

from porter import check, pipeline
from porter.check.ledger import OWN, Taken, ledger

RNG = np.random.default_rng(8)
LAYER = "g (float[4,32] x) => (float[4,32] y) { a = MatMul (x, w) b = Tanh (a) y = MatMul (b, v) }"
W = {"w": RNG.standard_normal((32, 32)).astype(np.float32), "v": RNG.standard_normal((32, 32)).astype(np.float32)}


def rounded(name, to):
    return W | {name: W[name].astype(to).astype(np.float32)}


def test_shares_sum_to_one_and_follow_the_blame(model):
    steps = [Taken("w in half", model(LAYER, rounded("w", np.float16)), precision=True)]
    both = rounded("w", np.float16) | {"v": W["v"] * np.float32(1.0001)}
    steps.append(Taken("v scaled", model(LAYER, both)))
    book = ledger(model(LAYER, W), steps, check.draw(model(LAYER, W)))
    assert [e.step for e in book.entries] == [OWN, "w in half", "v scaled"]
    assert sum(e.share for e in book.entries) == pytest.approx(1.0)
    assert all(e.share == pytest.approx(e.format + e.accumulation) for e in book.entries)
    own, half, scaled = book.entries
    assert abs(own.share) < 1e-2 and half.share > 0.5 and half.format > 0.5
    assert not own.unexplained and not half.unexplained
    assert scaled.error_db > own.error_db


def test_a_step_that_claims_no_cheaper_format_and_moves_float64_is_unexplained(model):
    wrong = W | {"v": W["v"] * np.float32(1.0001)}
    book = ledger(model(LAYER, W), [Taken("fusion", model(LAYER, wrong))], check.draw(model(LAYER, W)))
    assert [e.step for e in book.unexplained] == ["fusion"]
    assert "unexplained" in book.text() and book.json()[1]["unexplained"] is True


def test_one_step_may_undo_another(model):
    there = Taken("there", model(LAYER, W | {"v": W["v"] * np.float32(1.01)}))
    back = Taken("back", model(LAYER, rounded("w", np.float16)), precision=True)
    book = ledger(model(LAYER, W), [there, back], check.draw(model(LAYER, W)))
    assert sum(e.share for e in book.entries) == pytest.approx(1.0)


def test_a_pipeline_that_is_checked_has_a_ledger(model):
    original = model(LAYER, W)
    book = pipeline.run(original, "cleanup, quantization.bf16", no_cache=True).ledger
    assert [e.step for e in book.entries] == [OWN, "quantization.bf16"]
    assert book.entries[1].share > 0.95 and not book.unexplained
    assert book.entries[1].error_db - book.entries[1].predicted_db == pytest.approx(book.entries[1].excess_db)
    assert not pipeline.run(original, "cleanup", checks=False).ledger.entries


def test_explain_shows_it(model):
    result = check(model(LAYER, W), model(LAYER, W), explain=True)
    assert any(line.startswith("the model's own rounding") for line in result.explained)
