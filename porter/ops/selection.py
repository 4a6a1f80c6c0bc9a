"""Operators that choose elements by their values: sorting, and results whose shape depends on the data."""

from __future__ import annotations

import numpy as np

from porter.ops.namespace import ints, normal
from porter.ops.registry import op

_DATA = "data-dependent shape"  # why these stay on the host


@op("TopK", since=10, static=("k",))
def top_k(xp, x, k, *, axis=-1, largest=1, sorted=1):
    """The k largest (or smallest) elements along the axis in order, and their indices; the first of equals first."""
    return xp.first(x, ints(k)[0], normal(axis, x.ndim), bool(largest))


@op("NonZero", host=_DATA)
def non_zero(xp, x):
    """Coordinates of the elements that are not 0, one column each."""
    return np.stack(np.nonzero(x)).astype(np.int64) if x.ndim else np.zeros((0, int(x != 0)), np.int64)


@op("Compress", since=9, host=_DATA, moves=True)
def compress(xp, x, condition, *, axis=None):
    """The slices of x where the condition holds; without an axis, of the flattened x."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, normal(axis, x.ndim))
    return xp.take(x, np.nonzero(condition)[0], axis)


@op("Unique", since=11, host=_DATA)
def unique(xp, x, *, axis=None, sorted=1, outputs=1):
    """Distinct elements (or slices), in order or as first met; where each is first met, what each became, how often."""
    values, first, inverse, counts = np.unique(x, True, True, True, axis=None if axis is None else normal(axis, x.ndim))
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        place = np.argsort(order, kind="stable")
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], place[inverse]
    return (values, *(v.astype(np.int64) for v in (first, inverse, counts)))[:outputs]


@op("NonMaxSuppression", since=10, host=_DATA)
def non_max_suppression(
    xp,
    boxes,
    scores,
    max_output_boxes_per_class=None,
    iou_threshold=None,
    score_threshold=None,
    *,
    center_point_box=0,
):
    """(batch, class, box) of the best boxes, each overlapping no better one by more than the threshold."""
    most = int(np.reshape(max_output_boxes_per_class, ())) if max_output_boxes_per_class is not None else 0
    overlap = float(np.reshape(iou_threshold, ())) if iou_threshold is not None else 0.0
    least = float(np.reshape(score_threshold, ())) if score_threshold is not None else -np.inf
    if center_point_box:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = middle - half, middle + half
    else:  # corners come in any order
        low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    area = np.prod(high - low, axis=-1)
    chosen = []
    for n, c in np.ndindex(*scores.shape[:2]):
        order = np.argsort(-scores[n, c], kind="stable")
        order = order[scores[n, c][order] > least]
        kept: list[int] = []
        while len(order) and len(kept) < most:
            best, order = int(order[0]), order[1:]
            kept.append(best)
            common = np.maximum(
                np.minimum(high[n, best], high[n, order]) - np.maximum(low[n, best], low[n, order]), 0
            ).prod(-1)
            union = area[n, best] + area[n, order] - common
            order = order[~((common > 0) & (common > overlap * union))]
        chosen += [(n, c, k) for k in kept]
    return np.array(chosen, np.int64).reshape(-1, 3)
