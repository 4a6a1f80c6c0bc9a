"""What weight methods need to know of a layer's input: its second moment over the samples, summed as they stream by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Moments:
    """Of the vectors along one axis of a tensor: the sum of their outer products, and the largest and mean magnitude per entry.

    axis      the axis that a product sums over
    products  whether outer products are summed at all
    second    sum of x x', [n, n]: the squared error of a product with a changed weight is its trace with the change
    """

    axis: int = -1
    products: bool = True
    second: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    largest: np.ndarray = field(default_factory=lambda: np.zeros(0))
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, x: np.ndarray) -> None:
        rows = np.moveaxis(np.asarray(x, np.float32), self.axis, -1).reshape(-1, x.shape[self.axis])
        size = np.abs(rows)
        if not self.count:
            n = rows.shape[1]
            self.second, self.largest, self.total = (
                np.zeros((n, n) if self.products else (0, 0)),
                np.zeros(n),
                np.zeros(n),
            )
        if self.products:
            self.second += rows.T @ rows
        self.largest = np.maximum(self.largest, size.max(axis=0, initial=0.0))
        self.total += size.sum(axis=0, dtype=np.float64)
        self.count += len(rows)

    @property
    def mean(self) -> np.ndarray:
        """The mean magnitude of each entry."""
        return self.total / max(self.count, 1)

    def error(self, change: np.ndarray) -> float:
        """The squared error of all products seen, where the weight [n, outputs] changes by `change`."""
        return float(np.sum((self.second @ change) * change))
