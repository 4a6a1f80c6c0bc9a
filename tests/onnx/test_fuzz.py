"""A small slice of make fuzz: the same graphs every time."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fuzz import _differs, draw, tried


@pytest.mark.parametrize("seed", range(8))
def test_all_sides_agree(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert tried(seed, ("toy",), text=False) == []


def test_a_seed_is_a_graph() -> None:
    assert draw(3)[0] == draw(3)[0] != draw(4)[0]


def test_a_difference_is_seen() -> None:
    import numpy as np

    assert _differs(np.float32([1, 2]), np.array([1, 2.1]))
    assert _differs(np.float32([1, np.nan]), np.array([1.0, 2.0]))
    assert not _differs(np.float32([1, 2]), np.array([1.0, 2.0000001]))
