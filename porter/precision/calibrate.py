"""Ranges of activations, seen over samples one after another: a histogram per tensor, never the tensors themselves.

minmax       the largest magnitude seen
percentile   what 99.99 in 100 magnitudes keep below
mse          the range that leaves the least squared error in the format
entropy      the range whose rounded histogram diverges least from what was seen (Kullback-Leibler)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from porter import ops
from porter.bundle.inputs import read_inputs
from porter.check import draw
from porter.check.execution import checked_inputs, run
from porter.errors import PorterError
from porter.formats import of
from porter.graph import Model

METHODS = ("minmax", "percentile", "mse", "entropy")
BINS = 2048
DRAWN = 4  # samples drawn where the user gives none
PERCENT = 99.99
SHARES = np.linspace(1.0, 0.05, 77)  # shares of the largest magnitude that mse and entropy try

Sample = Mapping[str, np.ndarray]


@dataclass
class Histogram:
    """Magnitudes seen so far in 2048 equal bins over [0, top]; the range doubles (bins merge in pairs) as larger ones come."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    top: float = 0.0
    amax: float = 0.0

    def add(self, x: np.ndarray) -> None:
        size = np.abs(np.asarray(x, np.float32)).reshape(-1)
        high = float(np.max(size, initial=0.0))
        self.amax = max(self.amax, high) if np.isfinite(high) else float(high)
        if not np.isfinite(high) or (high == 0.0 and self.top == 0.0):
            self.counts[0] += size.size if high == 0.0 else 0
            return
        self.top = self.top or high
        while self.top < high:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
            self.top *= 2
        self.counts += np.histogram(size, BINS, (0.0, self.top))[0]

    @property
    def centers(self) -> np.ndarray:
        return (np.arange(BINS) + 0.5) * (self.top / BINS)


@dataclass(frozen=True)
class Ranges:
    """What calibration saw, by tensor name."""

    seen: Mapping[str, Histogram]
    method: str

    def amax(self, name: str, format: str, limit: float = 0.0) -> float:
        """The magnitude that maps to the largest code of the format (or to `limit`); Inf where one was seen."""
        h = self.seen.get(name)
        if h is None:
            raise PorterError(
                f"activation '{name}'", expected="a value of the model that calibration saw", found="no such value"
            )
        if h.amax == 0.0 or not np.isfinite(h.amax) or self.method == "minmax":
            return h.amax
        if self.method == "percentile":
            share = np.cumsum(h.counts) / h.counts.sum()
            return min(float((np.searchsorted(share, PERCENT / 100) + 1) * h.top / BINS), h.amax)
        measure = {"mse": _squared, "entropy": _divergence}[self.method]
        errors = [measure(h, h.amax * share, format, limit) for share in SHARES]
        return float(h.amax * SHARES[int(np.argmin(errors))])


def watch(model: Model, names: Iterable[str], samples: Iterable[Sample], method: str = "mse") -> Ranges:
    """Histograms of the named values over the samples, in the source arithmetic; one sample is in memory at a time."""
    if method not in METHODS:
        raise PorterError(f"calibration method {method!r}", expected=", ".join(METHODS))
    wanted = {name: Histogram() for name in names}
    for sample in samples:
        arrays = checked_inputs(model, sample)
        for name in wanted.keys() & arrays.keys():
            wanted[name].add(arrays[name])

        def see(name: str, array: object) -> None:
            if name in wanted and isinstance(array, np.ndarray):
                wanted[name].add(array)

        run(model, arrays, ops.source, on_value=see)
    return Ranges(wanted, method)


def samples_of(model: Model, source: str = "") -> Iterator[Sample]:
    """Samples from an .npz, from a folder of them in order of name, or drawn (4 of them) where source is empty."""
    if not source:
        yield from (draw(model, seed) for seed in range(DRAWN))
        return
    path = Path(source)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise PorterError(
            f"--calibrate {source}", expected="an .npz file or a folder of them", found="a folder without any"
        )
    names = {str(v.name) for v in model.graph.inputs if not v.is_initializer()}
    for file in files:
        yield {name: array for name, array in read_inputs(file).items() if name in names}


def _rounded(h: Histogram, top: float, format: str, limit: float) -> np.ndarray:
    f = of(format)
    scale = top / (limit or f.max)
    return np.asarray(f.round(np.minimum(h.centers, top) / scale, saturate=True)) * scale


def _squared(h: Histogram, top: float, format: str, limit: float) -> float:
    return float(np.sum(h.counts * np.square(_rounded(h, top, format, limit) - h.centers)))


def _divergence(h: Histogram, top: float, format: str, limit: float) -> float:
    """KL of the histogram, with what lies beyond in its last bin, from one that is even within each code."""
    codes = _rounded(h, top, format, limit)
    inside = h.centers <= top
    p = np.where(inside, h.counts, 0.0)
    last = int(np.flatnonzero(inside)[-1]) if inside.any() else 0
    p[last] += h.counts[~inside].sum()
    _, group = np.unique(codes, return_inverse=True)
    filled = h.counts > 0
    mass = np.bincount(group, weights=np.where(inside, h.counts, 0.0))
    width = np.bincount(group, weights=(filled & inside).astype(float))
    q = np.where(filled & inside, mass[group] / np.maximum(width[group], 1), 0.0)
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum() / p.sum()
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    return float(np.sum(p[both] * np.log(p[both] / q[both])) + lost * 50.0)
