"""Ranges of tensors, seen piece by piece: a histogram of magnitudes per tensor, channel or group, never the tensor itself.

minmax       the largest magnitude seen
percentile   what 99.99 in 100 magnitudes keep below
mse          the range that leaves the least squared error in the format
entropy      the range whose rounded histogram diverges least from what was seen (Kullback-Leibler)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from porter.errors import PorterError
from porter.formats import of

METHODS = ("minmax", "percentile", "mse", "entropy")
BINS = 2048
PERCENT = 99.99
SHARES = np.linspace(1.0, 0.05, 77)  # shares of the largest magnitude that mse and entropy try


@dataclass
class Histogram:
    """Magnitudes seen so far in equal bins over [0, top], one row per group; a row's range doubles (its bins merge in
    pairs) as larger ones come.

    axis    the axis whose indices have a row each; all of the tensor is one row where it is None
    group   indices of the axis that share a row
    """

    axis: int | None = None
    group: int = 1
    bins: int = BINS
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    top: np.ndarray = field(default_factory=lambda: np.zeros(0))
    amax: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, x: np.ndarray) -> None:
        """Counts the magnitudes of x; Inf and NaN are kept in `amax` alone."""
        rows = self._rows(np.abs(np.asarray(x, np.float32)))
        if not len(self.top):
            self.counts, self.top, self.amax = (
                np.zeros((len(rows), self.bins)),
                np.zeros(len(rows)),
                np.zeros(len(rows)),
            )
        high = np.max(rows, axis=1, initial=0.0).astype(np.float64)
        with np.errstate(invalid="ignore"):
            self.amax = np.maximum(self.amax, high)  # NaN stays
        usable = np.isfinite(high)
        self.top = np.where((self.top == 0) & usable, high, self.top)
        while np.any(short := usable & (self.top < high)):
            merged = self.counts[short].reshape(-1, self.bins // 2, 2).sum(axis=2)
            self.counts[short] = np.concatenate([merged, np.zeros_like(merged)], axis=1)
            self.top[short] *= 2
        if not usable.all():
            rows = rows[usable]
        if rows.size:
            step = np.where(self.top[usable] > 0, self.bins / np.where(self.top[usable] > 0, self.top[usable], 1), 0)
            place = np.minimum(rows * step.astype(np.float32)[:, None], np.float32(self.bins - 1)).astype(np.int32)
            place += (np.arange(len(rows), dtype=np.int32) * self.bins)[:, None]
            self.counts[usable] += np.bincount(place.reshape(-1), minlength=len(rows) * self.bins).reshape(
                -1, self.bins
            )

    def _rows(self, x: np.ndarray) -> np.ndarray:
        if self.axis is None:
            return x.reshape(1, -1)
        moved = np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1)
        count = -(-len(moved) // self.group)
        if count * self.group > len(moved):  # the last group may be short
            moved = np.concatenate([moved, np.zeros((count * self.group - len(moved), moved.shape[1]), moved.dtype)])
        return moved.reshape(count, -1)

    def range(self, method: str, format: str, limit: float = 0.0) -> np.ndarray:
        """Per row, the magnitude that maps to the largest code of the format (or to `limit`); Inf or NaN where one was seen."""
        if method not in METHODS:
            raise PorterError(f"calibration method {method!r}", expected=", ".join(METHODS))
        made = self.amax.copy()
        for i in np.flatnonzero(np.isfinite(self.amax) & (self.amax > 0)):
            made[i] = self._range(int(i), method, format, limit)
        return made

    def _range(self, row: int, method: str, format: str, limit: float) -> float:
        counts, top, amax = self.counts[row], float(self.top[row]), float(self.amax[row])
        if method == "minmax":
            return amax
        if method == "percentile":
            share = np.cumsum(counts) / counts.sum()
            return min(float((np.searchsorted(share, PERCENT / 100) + 1) * top / self.bins), amax)
        measure = {"mse": _squared, "entropy": _divergence}[method]
        centers = (np.arange(self.bins) + 0.5) * (top / self.bins)
        errors = [measure(counts, centers, amax * share, format, limit) for share in SHARES]
        return float(amax * SHARES[int(np.argmin(errors))])


@dataclass(frozen=True)
class Ranges:
    """What calibration saw, by tensor name."""

    seen: Mapping[str, Histogram]
    method: str

    def amax(self, name: str, format: str, limit: float = 0.0) -> float:
        """The magnitude of a whole tensor that maps to the largest code."""
        return float(np.max(self.rows(name, format, limit), initial=0.0))

    def rows(self, name: str, format: str, limit: float = 0.0) -> np.ndarray:
        """The same per channel or group, as the tensor's histogram was asked for."""
        if name not in self.seen:
            where = f"activation '{name}'"
            raise PorterError(where, expected="a value of the model that calibration saw", found="no such value")
        return self.seen[name].range(self.method, format, limit)


def _rounded(centers: np.ndarray, top: float, format: str, limit: float) -> np.ndarray:
    f = of(format)
    scale = top / (limit or f.max)
    return np.asarray(f.round(np.minimum(centers, top) / scale, saturate=True)) * scale


def _squared(counts: np.ndarray, centers: np.ndarray, top: float, format: str, limit: float) -> float:
    return float(np.sum(counts * np.square(_rounded(centers, top, format, limit) - centers)))


def _divergence(counts: np.ndarray, centers: np.ndarray, top: float, format: str, limit: float) -> float:
    """KL of the histogram, with what lies beyond in its last bin, from one that is even within each code."""
    codes = _rounded(centers, top, format, limit)
    inside = centers <= top
    p = np.where(inside, counts, 0.0)
    last = int(np.flatnonzero(inside)[-1]) if inside.any() else 0
    p[last] += counts[~inside].sum()
    _, group = np.unique(codes, return_inverse=True)
    filled = counts > 0
    mass = np.bincount(group, weights=np.where(inside, counts, 0.0))
    width = np.bincount(group, weights=(filled & inside).astype(float))
    q = np.where(filled & inside, mass[group] / np.maximum(width[group], 1), 0.0)
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum() / p.sum()
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    return float(np.sum(p[both] * np.log(p[both] / q[both])) + lost * 50.0)
