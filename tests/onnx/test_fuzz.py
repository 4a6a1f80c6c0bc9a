"""A small slice of make fuzz: the same graphs every time."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fuzz import differs, draw, tried


@pytest.mark.parametrize("seed", range(12))
def test_all_sides_agree(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [f for f in tried(seed, ("toy",)) if f.side != "onnxruntime"] == []


def test_a_seed_is_a_graph() -> None:
    assert draw(3).model == draw(3).model != draw(4).model


def test_every_drawn_graph_is_valid() -> None:
    opsets = set()
    for seed in range(40, 70):
        model = draw(seed).model
        onnx.checker.check_model(model, full_check=True)
        opsets.add(model.opset_import[0].version)
    assert len(opsets) > 10


def test_a_difference_is_seen() -> None:
    exact, kind = np.array([1.0, 2.0]), np.dtype(np.float32)
    near = [exact * (1 + 1e-7), exact * (1 - 1e-7)]
    assert differs(np.float32([1, 2.1]), exact, near, kind, 0.0)
    assert differs(np.float32([1, np.nan]), exact, near, kind, 0.0)
    assert differs(np.float32([1]), exact, near, kind, 0.0)
    assert differs(np.float64([1, 2]), exact, near, kind, 0.0)
    assert not differs(np.float32([1, 2.0000002]), exact, near, kind, 0.0)


def test_a_tie_may_fall_either_way() -> None:
    exact, kind = np.array([1, 2]), np.dtype(np.int64)
    assert differs(np.array([1, 3]), exact, [exact, exact], kind, 0.0)
    assert not differs(np.array([1, 3]), exact, [exact, np.array([1, 3])], kind, 0.0)
