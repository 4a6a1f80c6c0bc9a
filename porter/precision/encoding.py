"""A layer's weight as codes and scales, by each weight method.

clip       where a scale's largest code lies: none (the largest magnitude), mse (least squared error of the weights), percentile,
           entropy (of a channel's magnitudes; scales of blocks are too few numbers for either)
rounding   nearest, or gptq: entry after entry of the sum to the nearest code, and what that cost is taken up by the entries
           still to come, as far as the layer's inputs go together (Frantar et al. 2022, arXiv 2210.17323)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from porter.errors import PorterError
from porter.formats import of, scaling
from porter.formats.scaling import Scaled
from porter.precision.layers import Layer
from porter.precision.ranges import Histogram
from porter.precision.schemes import Coding

CLIPS = ("none", "mse", "percentile", "entropy")
ROUNDINGS = ("nearest", "gptq")
DAMPING = 0.01  # of the second moment's mean diagonal, added to it: GPTQ's own choice
BATCH = 64  # entries of the sum after which the remaining ones are updated in one product


def encode(where: str, array: np.ndarray, coding: Coding, layer: Layer, clip: str = "none",
           second: np.ndarray | None = None) -> Scaled:  # fmt: skip
    """Codes and scales. Blocks lie along the contraction axis, or they are no blocks of the product.

    second   the inputs' second moment [n, n] along the summed axis: rounds by GPTQ
    """
    made = _nearest(where, array, coding, layer, clip)
    if second is None or layer.sums is None or second.shape != (array.shape[layer.sums],) * 2:
        return _without_negative_zero(made, coding)
    return _without_negative_zero(gptq(array, made, layer.sums, second, coding.limit), coding)


def _without_negative_zero(made: Scaled, coding: Coding) -> Scaled:
    """Where 0x80 is NaN, -0 becomes 0."""
    if coding.signed or made.codes.dtype.itemsize != 1:
        return made
    bits = np.ascontiguousarray(made.codes).view(np.uint8)
    return replace(made, codes=np.where(bits == 0x80, np.uint8(0), bits).view(made.codes.dtype))


def _nearest(where: str, array: np.ndarray, coding: Coding, layer: Layer, clip: str) -> Scaled:
    if clip not in CLIPS:
        raise PorterError(f"clipping {clip!r}", expected=", ".join(CLIPS))
    limit = coding.limit or None
    if coding.per == "block" and layer.sums is not None and array.shape[layer.sums] >= coding.block:
        clip = clip if clip == "mse" else "none"
        return scaling.blocked(
            array, coding.format, layer.sums, coding.block, scale=coding.scale, clip=clip, where=where, limit=limit,
            scale_limit=coding.scale_limit or None,
        )  # fmt: skip
    if layer.channels is None:
        return scaling.per_tensor(array, coding.format, limit=limit, where=where)
    if clip in ("percentile", "entropy"):
        scaling.refuse_nan(where, array, of(coding.format))
        array, clip = _cut(array, layer.channels, clip, coding), "none"
    if array.ndim > 2 and layer.batched and layer.sums is not None:  # one scale per matrix and column: experts differ
        return scaling.blocked(array, coding.format, layer.sums, array.shape[layer.sums], clip=clip, where=where,
                               limit=limit)  # fmt: skip
    return scaling.per_channel(array, coding.format, layer.channels, clip=clip, limit=limit, where=where)


def _cut(array: np.ndarray, channels: int, method: str, coding: Coding) -> np.ndarray:
    """The weight cut to each channel's range."""
    seen = Histogram(axis=channels)
    seen.add(array)
    high = seen.range(method, coding.format, coding.limit).astype(np.float32)
    high = high.reshape([-1 if i == channels % array.ndim else 1 for i in range(array.ndim)])
    return np.clip(array, -high, high)


def gptq(array: np.ndarray, made: Scaled, sums: int, second: np.ndarray, limit: float = 0.0) -> Scaled:
    """The same scales with other codes: those whose products with the inputs seen err least, chosen one entry at a time.

    With the moment H of the inputs, rounding entry i of a column by e moves the best values of the entries after it by
    -e U[i, j] / U[i, i], where U is the upper Cholesky factor of H's inverse. Entries with large inputs go first.
    """
    f = of(made.codes.dtype)
    top = limit or f.max
    scale = scaling.spread(made.scale.astype(np.float64) * made.tensor, array.shape, made.axis, made.block)
    flat = np.moveaxis(array, sums, 0).astype(np.float64)
    w = flat.reshape(len(flat), -1)
    s = np.moveaxis(np.broadcast_to(scale, array.shape), sums, 0).reshape(w.shape)
    order = np.argsort(-np.diag(second), kind="stable")
    w, s = w[order].copy(), s[order]
    upper = _factor(second[np.ix_(order, order)])
    codes = np.zeros_like(w)
    for low in range(0, len(w), BATCH):
        high = min(low + BATCH, len(w))
        errors = np.zeros((high - low, w.shape[1]))
        for i in range(low, high):
            quotient = np.divide(w[i], s[i], out=np.zeros_like(w[i]), where=s[i] != 0)
            codes[i] = f.round(np.clip(quotient, -top, top), saturate=True)
            errors[i - low] = (w[i] - codes[i] * s[i]) / upper[i, i]
            w[i + 1 : high] -= np.outer(upper[i, i + 1 : high], errors[i - low])
        w[high:] -= upper[low:high, high:].T @ errors
    back = np.empty_like(codes)
    back[order] = codes
    chosen = np.moveaxis(back.reshape(flat.shape), 0, sums)
    return replace(made, codes=np.ascontiguousarray(f.encode(chosen, saturate=True)))


def _factor(second: np.ndarray) -> np.ndarray:
    """The upper factor U of the inverse of the damped moment: U' U = H^-1."""
    seen = np.diag(second)
    damp = DAMPING * float(np.mean(seen)) or 1.0
    inverse = np.linalg.inv(second + damp * np.eye(len(second)))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T
