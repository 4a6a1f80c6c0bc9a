"""Resize: each axis on its own, as a few taps with weights that depend on shapes alone."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import ints, is_float, normals
from porter.ops.registry import op


@op("Resize", since=11, static=("roi", "scales", "sizes"))
def resize(
    xp,
    x,
    roi=None,
    scales=None,
    sizes=None,
    *,
    antialias=0,
    axes=None,
    coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75,
    exclude_outside=0,
    extrapolation_value=0.0,
    keep_aspect_ratio_policy="stretch",
    mode="nearest",
    nearest_mode="round_prefer_floor",
):
    """y[o] = sum over taps of weight * x[place(o) + tap], axis by axis."""
    steps = steps_of(
        x.shape, roi, scales, sizes, antialias=antialias, axes=axes, mode=mode, nearest_mode=nearest_mode,
        coordinate_transformation_mode=coordinate_transformation_mode, cubic_coeff_a=cubic_coeff_a,
        exclude_outside=exclude_outside, keep_aspect_ratio_policy=keep_aspect_ratio_policy,
    )  # fmt: skip
    kind = x.dtype
    if mode != "nearest" and not is_float(kind):  # integers interpolate in float32 and round back
        x = xp.cast(x, np.float32)
    outside = np.asarray(False)
    for step in steps:
        x = pick(xp, x, step.taps[:, 0], step.axis) if step.weights is None else blend(xp, x, step)
        outside = outside | step.outside.reshape([-1 if i == step.axis else 1 for i in range(x.ndim)])
    if outside.any():
        x = xp.where(outside, xp.full((), extrapolation_value, x.dtype), x)
    if x.dtype == kind:
        return x
    return xp.cast(xp.round(xp.minimum(xp.maximum(x, np.iinfo(kind).min), np.iinfo(kind).max)), kind)


@dataclass(frozen=True)
class Step:
    """One axis of a Resize: each place of the result is a sum of elements at `taps`, (out, number of taps).

    weights: as many, float64; None where the one tap is taken as it is. outside: (out,), what is extrapolated instead.
    """

    axis: int
    taps: np.ndarray
    weights: np.ndarray | None
    outside: np.ndarray

    def columns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Taps and weights, (out,) each, without those whose weights are all 0."""
        assert self.weights is not None
        columns = list(zip(self.taps.T, self.weights.T, strict=True))
        return [c for c in columns if c[1].any()] or columns[:1]


def steps_of(
    shape, roi=None, scales=None, sizes=None, *, antialias=0, axes=None, coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75, exclude_outside=0, keep_aspect_ratio_policy="stretch", mode="nearest",
    nearest_mode="round_prefer_floor",
):  # fmt: skip
    """The axes that a Resize of this shape changes, in their order; what is asked for as the operator's inputs and attributes."""
    named = normals(axes, len(shape)) if axes is not None else tuple(range(len(shape)))
    lengths = [shape[a] for a in named]
    scales = None if scales is None or not np.size(scales) else [float(s) for s in scales]
    if scales is None:
        wanted = list(ints(sizes))
        scales = [w / n for w, n in zip(wanted, lengths, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            one = (min if keep_aspect_ratio_policy == "not_larger" else max)(scales)
            scales = [one] * len(scales)
            wanted = [math.floor(one * n + 0.5) for n in lengths]
    else:
        wanted = [math.floor(s * n) for s, n in zip(scales, lengths, strict=True)]
    cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    steps = []
    for i, (axis, n, scale, out) in enumerate(zip(named, lengths, scales, wanted, strict=True)):
        if scale == 1.0 and out == n and not cropped:
            continue
        window = (float(roi[i]), float(roi[i + len(named)])) if roi is not None and np.size(roi) else (0.0, 1.0)
        place = _places(coordinate_transformation_mode, n, out, scale, window)
        outside = (place < 0) | (place > n - 1) if cropped else np.zeros(out, bool)
        if mode == "nearest":
            taps, weights = np.clip(_nearest(place, nearest_mode), 0, n - 1).astype(np.int64)[:, None], None
        else:
            shrink = min(scale, 1.0) if antialias else 1.0
            taps, weights = _taps(place, n, mode, shrink, cubic_coeff_a, exclude_outside)
        steps.append(Step(axis, taps, weights, outside))
    return steps


def _places(mode: str, n: int, out: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Where each element of the resized axis lies on the original one."""
    o = np.arange(out, dtype=np.float64)
    width = scale * n
    match mode:
        case "asymmetric":
            return o / scale
        case "align_corners":
            return np.zeros(out) if width == 1 else o * (n - 1) / (width - 1)
        case "pytorch_half_pixel":
            return np.full(out, -0.5) if width == 1 else (o + 0.5) / scale - 0.5
        case "half_pixel":
            return (o + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            return n / 2 * (1 - out / width) + (o + 0.5) / scale - 0.5
        case "tf_half_pixel_for_nn":
            return (o + 0.5) / scale
        case "tf_crop_and_resize":
            low, high = roi
            step = np.full(out, (high - low) * (n - 1) / 2) if width == 1 else o * (high - low) * (n - 1) / (width - 1)
            return step + low * (n - 1)
    raise PorterError("Resize", expected="a coordinate transformation mode of ONNX", found=mode)


def _nearest(place: np.ndarray, mode: str) -> np.ndarray:
    match mode:
        case "round_prefer_floor":
            return np.ceil(place - 0.5)
        case "round_prefer_ceil":
            return np.floor(place + 0.5)
        case "floor":
            return np.floor(place)
        case "ceil":
            return np.ceil(place)
    raise PorterError("Resize", expected="a nearest mode of ONNX", found=mode)


def _taps(place: np.ndarray, n: int, mode: str, shrink: float, a: float, exclude: int) -> tuple[np.ndarray, np.ndarray]:
    """Which elements (out, taps) each place blends, and with which weights; `shrink` widens the filter."""
    base = np.floor(place)
    start = math.floor(-(1 if mode == "linear" else 2) / shrink) + 1
    offsets = np.arange(start, 2 - start)
    distance = np.abs(offsets - (place - base)[:, None]) * shrink
    if mode == "linear":
        weights = np.clip(1 - distance, 0, 1)
    else:  # Keys' cubic convolution
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    taps = (base[:, None] + offsets).astype(np.int64)
    if exclude:
        weights = np.where((taps < 0) | (taps >= n), 0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    return np.clip(taps, 0, n - 1), weights


def blend(xp, x, step):
    """sum over t of x[taps[:, t]] * weights[:, t] along the axis."""
    shape = [-1 if i == step.axis else 1 for i in range(x.ndim)]
    terms = (
        pick(xp, x, taps, step.axis) * xp.asarray(weights.reshape(shape).astype(x.dtype))
        for taps, weights in step.columns()
    )
    return functools.reduce(operator.add, terms)


def pick(xp, x, places, axis):
    """x[places] along an axis: repeats and strides as what they are, anything else as a gather."""
    n, out = x.shape[axis], len(places)
    if out == n and (places == np.arange(n)).all():
        return x
    if repeated(places, n):
        wide = xp.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
        wide = xp.broadcast_to(wide, (*x.shape[: axis + 1], out // n, *x.shape[axis + 1 :]))
        return xp.reshape(wide, (*x.shape[:axis], out, *x.shape[axis + 1 :]))
    if strided(places):
        low, high, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
        low[axis], high[axis] = int(places[0]), int(places[-1]) + 1
        steps[axis] = int(places[1] - places[0]) if out > 1 else 1
        return xp.slice(x, low, high, steps)
    return xp.take(x, places, axis)


def repeated(places: np.ndarray, n: int) -> bool:
    """Whether these are all n places in order, each as often as the others."""
    out = len(places)
    return n > 0 and out % n == 0 and bool((places == np.arange(out) // max(out // n, 1)).all())


def strided(places: np.ndarray) -> bool:
    """Whether these are places at one distance."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    return len(places) > 0 and step > 0 and bool((places == places[0] + step * np.arange(len(places))).all())
