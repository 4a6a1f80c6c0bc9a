"""Index tensors that only count: which axis of the result each coordinate runs along, and from where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Per coordinate the range it covers; `perm` brings the source's axes into the result's order, `kept` is the
    shape of the counted axes then, with 1 where the result only repeats.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    perm: tuple[int, ...]
    kept: tuple[int, ...]


def grid_of(indices: np.ndarray, source: tuple[int, ...]) -> Grid | None:
    """The grid that GatherND's indices are, or None: each coordinate must be fixed, or count by one along its own
    axis.
    """
    coordinates = indices.shape[-1]
    dims = indices.shape[:-1]
    if indices.size == 0 or len(source) < coordinates:
        return None
    starts, stops, along = [], [], []
    for coordinate in range(coordinates):
        values = indices[..., coordinate].astype(np.int64)
        values = np.where(values < 0, values + source[coordinate], values)
        axes = [axis for axis in range(len(dims)) if dims[axis] > 1 and np.any(np.diff(values, axis=axis))]
        if len(axes) > 1:
            return None
        start = int(values.reshape(-1)[0])
        if axes:
            shape = [-1 if axis == axes[0] else 1 for axis in range(len(dims))]
            if not np.array_equal(values, np.broadcast_to(start + np.arange(dims[axes[0]]).reshape(shape), dims)):
                return None
        starts.append(start)
        stops.append(start + (dims[axes[0]] if axes else 1))
        along.append(axes[0] if axes else None)
    counted = [axis for axis in along if axis is not None]
    if len(set(counted)) != len(counted):
        return None
    order = [i for _, i in sorted((axis, i) for i, axis in enumerate(along) if axis is not None)]
    fixed = [i for i in range(coordinates) if along[i] is None]
    perm = (*fixed, *order, *range(coordinates, len(source)))
    kept = tuple(dims[axis] if axis in counted else 1 for axis in range(len(dims)))
    return Grid(tuple(starts), tuple(stops), perm, kept)
