"""Sampling of pictures: at a grid of places, and over regions of interest."""

from __future__ import annotations

import itertools
import math

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import NotKnown
from porter.ops.registry import op

_CUBIC = -0.75  # Keys' parameter, fixed by ONNX for GridSample


@op("GridSample", since=16)
def grid_sample(xp, x, grid, *, align_corners=0, mode="linear", padding_mode="zeros"):
    """x read at the places of the grid, whose coordinates run from -1 to 1, the last axis first."""
    sizes = x.shape[2:]
    rank, n, c = len(sizes), x.shape[0], x.shape[1]
    places = grid.shape[1:-1]
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    at = []
    for i, size in enumerate(sizes):
        k = rank - 1 - i
        low = (0,) * (grid.ndim - 1)
        g = xp.reshape(xp.slice(grid, (*low, k), (*grid.shape[:-1], k + 1)), (n, math.prod(places)))
        p = (g + 1.0) / 2.0 * float(size - 1) if align_corners else ((g + 1.0) * float(size) - 1.0) / 2.0
        p = xp.round(p) if mode == "nearest" else p
        if padding_mode == "border":
            p = xp.minimum(xp.maximum(p, 0), size - 1)
        elif padding_mode == "reflection":
            p = _reflected(xp, p, size, align_corners)
        at.append(p)
    taps = [_weights(xp, p, mode) for p in at]
    flat = xp.reshape(x, (n, c, math.prod(sizes)))
    total = None
    for chosen in itertools.product(*taps):
        weight, index = None, None
        for (place, w), size in zip(chosen, sizes, strict=True):
            if padding_mode == "reflection":
                place = _reflected(xp, place, size, align_corners)
            elif padding_mode == "zeros":
                inside = xp.logical_and(xp.greater_equal(place, 0), xp.less_equal(place, size - 1))
                w = xp.where(inside, w, xp.full((), 0, w.dtype))
            weight = w if weight is None else weight * w
            near = xp.cast(xp.minimum(xp.maximum(place, 0), size - 1), np.int64)
            index = near if index is None else index * size + near
        spread = (n, c, math.prod(places))
        read = xp.take_along_axis(flat, xp.broadcast_to(xp.reshape(index, (n, 1, -1)), spread), 2)
        term = read * xp.cast(xp.reshape(weight, (n, 1, -1)), read.dtype)
        total = term if total is None else total + term
    return xp.reshape(total, (n, c, *places))


def _weights(xp, p, mode):
    """(place, weight) of every tap around p."""
    if mode == "nearest":
        return [(p, xp.full(p.shape, 1, p.dtype))]
    base = xp.floor(p)
    r = p - base
    if mode == "linear":
        return [(base, 1.0 - r), (base + 1.0, r)]

    def near(d):
        return ((_CUBIC + 2.0) * d - (_CUBIC + 3.0)) * d * d + 1.0

    def far(d):
        return ((_CUBIC * d - 5.0 * _CUBIC) * d + 8.0 * _CUBIC) * d - 4.0 * _CUBIC

    return [
        (base - 1.0, far(r + 1.0)),
        (base, near(r)),
        (base + 1.0, near(1.0 - r)),
        (base + 2.0, far(2.0 - r)),
    ]


def _reflected(xp, p, size, align_corners):
    """p mirrored at the borders, as often as it takes."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0:
        return xp.full(p.shape, 0, p.dtype)
    distance = xp.abs(p - low)
    turns = xp.floor(distance / span)
    rest = distance - turns * span
    odd = turns - 2.0 * xp.floor(turns / 2.0)
    return xp.where(xp.equal(odd, 0), rest + low, span - rest + low)


@op("RoiAlign", since=10)
def roi_align(
    xp,
    x,
    rois,
    batch_indices,
    *,
    coordinate_transformation_mode="half_pixel",
    mode="avg",
    output_height=1,
    output_width=1,
    sampling_ratio=0,
    spatial_scale=1.0,
):
    """Mean (or largest weighted corner) of bilinear samples in each bin of each region."""
    half = coordinate_transformation_mode == "half_pixel"
    if sampling_ratio:
        return _aligned(
            xp, x, rois, batch_indices, half, mode, (output_height, output_width), sampling_ratio, spatial_scale
        )
    if not xp.concrete(rois):  # each region has a grid of its own
        raise NotKnown("RoiAlign", expected="a sampling_ratio, or regions that are known", found="a ratio of 0")
    out = []
    for box, batch in zip(rois, batch_indices, strict=True):
        left, top, right, bottom = box * spatial_scale - (0.5 if half else 0.0)
        w, h = right - left, bottom - top
        if not half:  # a region is at least one pixel wide
            w, h = max(w, 1.0), max(h, 1.0)
        grid = (int(np.ceil(h / output_height)), int(np.ceil(w / output_width)))
        if 0 in grid:  # no samples, and 0 as in onnxruntime
            out.append(np.full((1, x.shape[1], output_height, output_width), 0, x.dtype))
            continue
        one = (x, box[None], np.asarray(batch)[None], half, mode, (output_height, output_width), grid, spatial_scale)
        out.append(_aligned(xp, *one))
    return np.concatenate(out) if out else np.zeros((0, x.shape[1], output_height, output_width), x.dtype)


def _aligned(xp, x, rois, batch_indices, half, mode, bins, ratio, scale):
    """RoiAlign of regions that are all sampled with the same number of points per bin."""
    count, channels = rois.shape[0], x.shape[1]
    grid = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    left, top, right, bottom = (
        xp.slice(rois, (0, k), (count, k + 1)) * scale - (0.5 if half else 0.0) for k in range(4)
    )
    ends = []
    for start, stop, size, n, points in (
        (top, bottom, x.shape[2], bins[0], grid[0]),
        (left, right, x.shape[3], bins[1], grid[1]),
    ):
        long = stop - start if half else xp.maximum(stop - start, 1.0)  # else a region is at least one pixel wide
        at = (np.arange(n * points) + 0.5)[None].astype(rois.dtype)
        ends.append(_ends(xp, start + xp.asarray(at) * (long / (n * points)), size))
    pixels = xp.reshape(xp.transpose(x, (0, 2, 3, 1)), (-1, channels))  # a row of channels per pixel
    picture = xp.reshape(xp.cast(batch_indices, np.int64), (count, 1, 1)) * x.shape[2]
    corners = []
    for (iy, wy), (ix, wx) in itertools.product(*ends):
        rows = (picture + xp.reshape(iy, (count, -1, 1))) * x.shape[3] + xp.reshape(ix, (count, 1, -1))
        weight = xp.reshape(wy, (count, -1, 1, 1)) * xp.reshape(wx, (count, 1, -1, 1))
        corners.append(xp.take(pixels, rows, 0) * weight)
    a, b, c, d = corners
    whole = xp.maximum(xp.maximum(a, b), xp.maximum(c, d)) if mode == "max" else a + b + c + d
    whole = xp.reshape(whole, (count, bins[0], grid[0], bins[1], grid[1], channels))
    made = xp.max(whole, axis=(2, 4)) if mode == "max" else xp.sum(whole, axis=(2, 4)) / float(grid[0] * grid[1])
    return xp.transpose(made, (0, 3, 1, 2))


def _ends(xp, places, size):
    """The two pixels around each place and their weights; 0 for places more than one pixel outside."""
    inside = xp.logical_and(xp.greater_equal(places, -1.0), xp.less_equal(places, float(size)))
    p = xp.minimum(xp.maximum(places, 0.0), size - 1.0)
    low = xp.minimum(xp.floor(p), size - 1.0)
    high = xp.minimum(low + 1.0, size - 1.0)
    part = p - low
    none = xp.full(part.shape, 0, part.dtype)
    weights = xp.where(inside, 1.0 - part, none), xp.where(inside, part, none)
    return [(xp.cast(at, np.int64), w) for at, w in zip((low, high), weights, strict=True)]


@op("MaxRoiPool", host="regions that depend on data")
def max_roi_pool(xp, x, rois, *, pooled_shape, spatial_scale=1.0):
    """Largest element in each bin of each region, 0 for an empty bin."""
    height, width = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
    for n, roi in enumerate(rois):
        # halves round away from zero, and regions include both their ends
        left, top, right, bottom = (int(v) for v in np.floor(roi[1:] * spatial_scale + 0.5))
        rows = _bins(top, max(bottom - top + 1, 1), pooled_shape[0], height)
        columns = _bins(left, max(right - left + 1, 1), pooled_shape[1], width)
        for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(rows), enumerate(columns)):
            if a < b and c < d:
                out[n, :, i, j] = x[int(roi[0]), :, a:b, c:d].max(axis=(1, 2))
    return out


def _bins(start: int, length: int, count: int, size: int) -> list[tuple[int, int]]:
    step = length / count
    edges = [(start + math.floor(i * step), start + math.ceil((i + 1) * step)) for i in range(count)]
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


@op("Dropout", since=12, static=("ratio", "training_mode"))
def dropout(xp, x, ratio=None, training_mode=None, *, seed=None, outputs=1):
    """x, and a mask of ones: dropping is for training, and its result is random."""
    if training_mode is not None and bool(np.all(training_mode)) and (ratio is None or float(np.max(ratio)) > 0):
        raise PorterError(
            "Dropout", expected="training_mode false, or a ratio of 0", found="training with random drops"
        )
    return (x, xp.full(x.shape, True, np.bool_))[:outputs]
