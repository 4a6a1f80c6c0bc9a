"""Which grid points to run when not all are run, and which output elements they write."""

from __future__ import annotations

import itertools
import math

import numpy as np

from porter.tile.program import Program, Store, walk


def sample(program: Program, seed: int = 0, most: int = 12) -> list[int]:
    """Flat grid points: every combination of interior and edge once, first and last, and two at random.

    All points of one combination run the same code on the same kind of data; edges are where masks and clipping matter.
    """
    choices = []
    for a in program.grid:
        kinds = {0, a.steps - 1, a.steps // 2}
        choices.append(sorted(kinds))
    shape = tuple(a.steps for a in program.grid)
    if not shape:
        return [0]
    total = math.prod(shape)
    if total <= most:
        return list(range(total))
    rng = np.random.default_rng(seed)
    corners = [int(np.ravel_multi_index(c, shape)) for c in itertools.islice(itertools.product(*choices), 4096)]
    kept = {0, total - 1, *(int(i) for i in rng.integers(0, total, 2))}
    # one point per combination of (interior, edge): a corner stands for its combination
    seen: set[tuple[bool, ...]] = set()
    for point in corners:
        kind = tuple(i == n - 1 for i, n in zip(np.unravel_index(point, shape), shape, strict=True))
        if kind not in seen and len(kept) < most + 2:
            seen.add(kind)
            kept.add(point)
    return sorted(kept)


def footprint(program: Program, points: list[int]) -> list[np.ndarray]:
    """For each output, which elements these grid points write: boolean arrays in the outputs' shapes."""
    shape = tuple(a.steps for a in program.grid)
    written = {p.name: np.zeros(math.prod(p.shape), bool) for p in program.outputs}
    stores = [s for s in walk(program.body) if isinstance(s, Store)]
    for point in points:
        tiles = dict(zip((a.name for a in program.grid), np.unravel_index(point, shape) if shape else (), strict=True))
        for s in stores:
            axes = sorted({a for i in s.access.index for a in i.affine.axes})
            grids = []
            for name in axes:
                a = program.axis(name)
                first = int(tiles[name]) * a.tile if name in tiles else 0
                last = min(first + a.tile, a.extent) if name in tiles else a.extent
                grids.append(np.arange(first, last))
            at = dict(zip(axes, np.meshgrid(*grids, indexing="ij", sparse=True), strict=True)) if axes else {}
            flat: np.ndarray = np.zeros((), np.int64)
            for size, index in zip(s.access.view, s.access.index, strict=True):
                flat = flat * size + sum((k * at[a] for a, k in index.affine.terms), np.int64(index.affine.const))
            written[s.access.param][flat.reshape(-1) if isinstance(flat, np.ndarray) else flat] = True
    return [written[p.name].reshape(p.shape) for p in program.outputs]
