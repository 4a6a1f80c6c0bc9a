"""Ranges from samples in bounded memory, by four methods."""

from __future__ import annotations

import numpy as np
import pytest

from porter.errors import PorterError
from porter.precision.ranges import BINS, METHODS, Histogram, Ranges


def seen(x: np.ndarray, parts: int = 1) -> Histogram:
    h = Histogram()
    for part in np.array_split(x, parts):
        h.add(part)
    return h


def test_a_histogram_does_not_grow_and_loses_no_count() -> None:
    x = np.random.default_rng(0).standard_normal(40_000) * np.geomspace(0.01, 30, 40_000)
    h = seen(x, 20)
    assert h.counts.shape == (1, BINS) and h.counts.sum() == x.size
    assert h.amax[0] == pytest.approx(np.abs(x).max(), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_an_outlier_does_not_cost_the_others_their_steps(method: str) -> None:
    x = np.append(np.random.default_rng(0).standard_normal(100_000), 100.0)
    top = Ranges({"x": seen(x)}, method).amax("x", "int8")
    # least squares: cutting to t costs (100 - t)**2 / 1e5, steps of t / 127 cost their square / 12; the sum is least near 66
    assert top == 100.0 if method == "minmax" else top == pytest.approx(66, abs=8) if method == "mse" else top < 10


def test_the_least_squares_range_has_the_least_squares() -> None:
    x = np.random.default_rng(1).standard_normal(200_000)
    r = Ranges({"x": seen(x)}, "mse")
    best = r.amax("x", "int4")

    def error(top: float) -> float:
        scale = top / 7
        return float(np.mean(np.square(np.clip(np.rint(x / scale), -8, 7) * scale - x)))

    assert error(best) <= 1.02 * min(error(best * f) for f in (0.7, 0.85, 1.2, 1.5))


def test_what_was_not_seen_has_no_range() -> None:
    with pytest.raises(PorterError, match="activation 'y'"):
        Ranges({}, "mse").amax("y", "int8")
