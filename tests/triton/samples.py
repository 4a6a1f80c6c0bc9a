"""Hand-written tile programs as the tiler makes them, one of each kind, and inputs for them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from porter.tile.program import Param, Program
from porter.tile.text import parse

FOLDER = Path(__file__).parent / "samples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.tile"))


def sample(name: str) -> Program:
    return parse((FOLDER / f"{name}.tile").read_text())


def draw(program: Program, seed: int = 0) -> list[np.ndarray]:
    """Unit normal floats; integers of either sign, valid as indices where they are called ids."""
    rng = np.random.default_rng(seed)

    def one(p: Param) -> np.ndarray:
        dtype = np.dtype(getattr(ml_dtypes, p.dtype, p.dtype))
        if p.name == "ids":
            return rng.integers(-30, 30, p.shape).astype(dtype)
        if dtype.kind == "b":
            return rng.integers(0, 2, p.shape).astype(bool)
        if dtype.kind in "iu":
            return rng.integers(-100 if dtype.kind == "i" else 0, 100, p.shape).astype(dtype)
        return rng.standard_normal(p.shape).astype(np.float32).astype(dtype)

    return [one(p) for p in program.inputs]


def distance(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference over the outputs, each relative to its largest element; NaN must meet NaN."""
    worst = 0.0
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        g64, w64 = g.astype(np.float64), w.astype(np.float64)
        if not np.array_equal(np.isnan(g64), np.isnan(w64)):
            return np.inf
        same = g64 == w64  # infinities too
        error = np.abs(np.where(same, 0, g64) - np.where(same, 0, w64))
        scale = np.max(np.abs(w64[np.isfinite(w64)]), initial=1e-30)
        worst = max(worst, float(np.nanmax(error, initial=0)) / scale)
    return worst
