"""Gathers and scatters. Negative indices count from the end; an index out of range is an error in ONNX."""

from __future__ import annotations

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import ints, normal
from porter.ops.registry import op


def in_range(xp, indices, n):
    """Indices in [0, n): negative ones counted from the end. n is a length, or one per last coordinate."""
    if isinstance(indices, np.ndarray):
        if isinstance(n, int) and indices.size and indices.min() >= 0 and indices.max() < n:
            return indices
        if indices.size and ((indices < -np.asarray(n)) | (indices >= np.asarray(n))).any():
            bad = indices[(indices < -np.asarray(n)) | (indices >= np.asarray(n))].reshape(-1)[0]
            raise PorterError("indices", expected=f"indices within {n}", found=str(int(bad)))
        return np.where(indices < 0, indices + n, indices)
    if indices.dtype.kind == "u":
        return indices
    return xp.where(xp.less(indices, 0), indices + np.asarray(n, indices.dtype), indices)


@op("Gather", moves=True)
def gather(xp, data, indices, *, axis=0):
    """data[..., indices, ...] along one axis."""
    axis = normal(axis, data.ndim)
    return xp.take(data, in_range(xp, indices, data.shape[axis]), axis)


@op("GatherElements", since=11, moves=True)
def gather_elements(xp, data, indices, *, axis=0):
    """y[i, j, k] = data[i, indices[i, j, k], k], for axis 1."""
    axis = normal(axis, data.ndim)
    return xp.take_along_axis(_corner(xp, data, indices, axis), in_range(xp, indices, data.shape[axis]), axis)


def _corner(xp, data, indices, axis):
    """The part of data that indices of a smaller shape can reach: the rest of the other axes is never read."""
    stops = [n if i == axis else indices.shape[i] for i, n in enumerate(data.shape)]
    return xp.slice(data, (0,) * data.ndim, stops)


@op("GatherND", since=11, moves=True)
def gather_nd(xp, data, indices, *, batch_dims=0):
    """Slices of data at the coordinates in the last axis of indices."""
    depth = indices.shape[-1]
    sizes = np.array(data.shape[batch_dims : batch_dims + depth], np.int64)
    return xp.gather_nd(data, in_range(xp, indices, sizes), batch_dims)


@op("ScatterElements", since=11)
def scatter_elements(xp, data, indices, updates, *, axis=0, reduction="none"):
    """data with y[i, indices[i, j, k], k] = updates[i, j, k], for axis 1; equal places combine by `reduction`."""
    axis = normal(axis, data.ndim)
    return xp.scatter_along_axis(data, in_range(xp, indices, data.shape[axis]), updates, axis, reduction)


@op("Scatter", since=9)
def scatter(xp, data, indices, updates, *, axis=0):
    """ScatterElements under its first name."""
    return scatter_elements(xp, data, indices, updates, axis=axis)


@op("ScatterND", since=11)
def scatter_nd(xp, data, indices, updates, *, reduction="none"):
    """data with the slices at the coordinates in the last axis of indices replaced by, or combined with, updates."""
    sizes = np.array(data.shape[: indices.shape[-1]], np.int64)
    return xp.scatter_nd(data, in_range(xp, indices, sizes), updates, reduction)


@op("OneHot", since=9, static=("depth",), moves=True)
def one_hot(xp, indices, depth, values, *, axis=-1):
    """values[1] at the index along a new axis of length depth, values[0] elsewhere and for indices out of range."""
    n = ints(depth)[0]
    axis = normal(axis, indices.ndim + 1)
    at = xp.cast(indices, np.int64)
    at = xp.where(xp.less(at, 0), at + n, at)
    at = xp.reshape(at, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    ramp = xp.reshape(xp.arange(n), [n if i == axis else 1 for i in range(indices.ndim + 1)])
    off, on = (xp.reshape(xp.slice(values, (i,), (i + 1,)), ()) for i in (0, 1))
    return xp.where(xp.equal(at, ramp), on, off)
