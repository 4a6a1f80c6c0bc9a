"""Operators as older opsets spelled them: attributes that became inputs, explicit broadcasting, other defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.ops import activation, contraction, elementwise, movement, normalization, pooling, resize, selection, vision
from porter.ops.control import scan
from porter.ops.registry import op
from porter.ops.types import dtype_of


def _aligned(xp: Any, a: Any, b: Any, broadcast: int, axis: int | None) -> Any:
    """b with trailing axes of length 1, so that its first axis meets axis `axis` of a."""
    if not broadcast or axis is None:
        return b
    return xp.reshape(b, (*b.shape, *(1,) * (a.ndim - axis % max(a.ndim, 1) - b.ndim)))


def _broadcasting(name: str, apply: Callable[..., Any]) -> None:
    def old(xp: Any, a: Any, b: Any, *, axis: int | None = None, broadcast: int = 0) -> Any:
        return apply(xp, a, _aligned(xp, a, b, broadcast, axis))

    old.__doc__ = f"{name} with b aligned to the axis of a that the node names."
    op(name, since=1)(old)


for _name, _apply in {
    "Add": lambda xp, a, b: xp.add(a, b),
    "Sub": lambda xp, a, b: xp.subtract(a, b),
    "Mul": lambda xp, a, b: xp.multiply(a, b),
    "Div": elementwise.div,
    "Pow": elementwise.pow_,
    "And": lambda xp, a, b: xp.logical_and(a, b),
    "Or": lambda xp, a, b: xp.logical_or(a, b),
    "Xor": lambda xp, a, b: xp.logical_xor(a, b),
    "Equal": lambda xp, a, b: xp.equal(a, b),
    "Greater": lambda xp, a, b: xp.greater(a, b),
    "Less": lambda xp, a, b: xp.less(a, b),
}.items():
    _broadcasting(_name, _apply)


@op("PRelu", since=1)
def prelu(xp, x, slope):
    """x where x >= 0, slope * x elsewhere, one slope per channel."""
    many = slope.ndim == 1 and slope.shape[0] > 1 and x.ndim > 1
    return activation.prelu(xp, x, xp.reshape(slope, (-1,) + (1,) * (x.ndim - 2)) if many else slope)


@op("Gemm", since=1)
def gemm(xp, a, b, c, *, alpha=1.0, beta=1.0, broadcast=0, transA=0, transB=0):
    """alpha * A' @ B' + beta * C."""
    return contraction.gemm(xp, a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@op("Clip", since=1)
def clip(xp, x, *, max=3.4028234663852886e38, min=-3.4028234663852886e38):
    """min(max(x, low), high)."""
    return xp.minimum(xp.maximum(x, min), max)


@op("Dropout", since=1)
def dropout(xp, x, *, is_test=0, ratio=0.5, outputs=1):
    """x: porter runs models, it does not train them."""
    return vision.dropout(xp, x, outputs=outputs)


@op("Dropout", since=7)
def dropout_7(xp, x, *, ratio=0.5, outputs=1):
    """x: porter runs models, it does not train them."""
    return vision.dropout(xp, x, outputs=outputs)


@op("BatchNormalization", since=1)
def batch_normalization(xp, x, scale, b, mean, var, *, epsilon=1e-5, is_test=0, momentum=0.9, spatial=1):
    """(x - mean) / sqrt(variance + epsilon) * scale + b, per channel or per element of a picture."""
    if spatial:
        return normalization.batch_normalization(xp, x, scale, b, mean, var, epsilon=epsilon)
    return (x - mean) / xp.sqrt(var + epsilon) * scale + b


@op("BatchNormalization", since=7)
def batch_normalization_7(xp, x, scale, b, mean, var, *, epsilon=1e-5, momentum=0.9, spatial=1):
    """(x - mean) / sqrt(variance + epsilon) * scale + b, per channel or per element of a picture."""
    return batch_normalization(xp, x, scale, b, mean, var, epsilon=epsilon, spatial=spatial)


@op("Reshape", since=1, moves=True)
def reshape(xp, data, *, shape):
    """The same elements in another shape."""
    return movement.reshape(xp, data, np.asarray(shape, np.int64))


@op("Squeeze", since=1, moves=True)
def squeeze(xp, data, *, axes=None):
    """Without the named axes of length 1, or all of them."""
    return movement.squeeze(xp, data, None if axes is None else np.asarray(axes, np.int64))


@op("Unsqueeze", since=1, moves=True)
def unsqueeze(xp, data, *, axes):
    """With new axes of length 1 at the named places of the result."""
    return movement.unsqueeze(xp, data, np.asarray(axes, np.int64))


@op("Split", since=1, static=("lengths",), moves=True)
def split_1(xp, x, lengths=None, *, axis=0, split=None, outputs=1):
    """Cut along one axis, at the given lengths or into equal parts."""
    return split_2(xp, x, axis=axis, split=lengths if split is None else split, outputs=outputs)


@op("Split", since=2, moves=True)
def split_2(xp, x, *, axis=0, split=None, outputs=1):
    """Cut along one axis, at the given lengths or into equal parts."""
    return movement.split(xp, x, None if split is None else np.asarray(split, np.int64), axis=axis, outputs=outputs)


@op("Slice", since=1, moves=True)
def slice_(xp, data, *, axes=None, ends, starts):
    """data[start:end] along the named axes."""
    named = None if axes is None else np.asarray(axes, np.int64)
    return movement.slice_(xp, data, np.asarray(starts, np.int64), np.asarray(ends, np.int64), named)


@op("Pad", since=1, moves=True)
def pad_1(xp, data, *, mode="constant", paddings, value=0.0):
    """Borders of a constant, of the mirror image, or of the edge."""
    return pad(xp, data, mode=mode, pads=paddings, value=value)


@op("Pad", since=2, moves=True)
def pad(xp, data, *, mode="constant", pads, value=0.0):
    """Borders of a constant, of the mirror image, or of the edge."""
    return movement.pad(xp, data, np.asarray(pads, np.int64), np.asarray(value, data.dtype), mode=mode)


@op("Tile", since=1, static=("tiles", "axis"), moves=True)
def tile(xp, x, tiles, axis):
    """The whole repeated along one axis."""
    repeats = np.ones(x.ndim, np.int64)
    repeats[int(axis.reshape(()))] = int(tiles.reshape(()))
    return movement.tile(xp, x, repeats)


@op("Concat", since=1, moves=True)
def concat(xp, *inputs, axis=1):
    """End to end along one axis."""
    return movement.concat(xp, *inputs, axis=axis)


def _flattened(name: str, apply: Callable[..., Any]) -> None:
    def old(xp: Any, x: Any, *, axis: int = 1) -> Any:
        return xp.reshape(apply(xp, movement.flatten(xp, x, axis=axis), axis=1), x.shape)

    old.__doc__ = f"{name} over all axes from `axis` on, taken together."
    op(name, since=1)(old)


_flattened("Softmax", activation.softmax)
_flattened("LogSoftmax", activation.log_softmax)
_flattened("Hardmax", activation.hardmax)


@op("Selu", since=1)
def selu(xp, x, *, alpha=1.6732, gamma=1.0507):
    """gamma * x where x > 0, gamma * alpha * (exp(x) - 1) elsewhere."""
    return activation.selu(xp, x, alpha=alpha, gamma=gamma)


@op("TopK", since=1)
def top_k(xp, x, *, axis=-1, k):
    """The k largest elements along the axis in order, and their indices."""
    return selection.top_k(xp, x, np.asarray(k), axis=axis)


_TYPES = {"FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7, "BOOL": 9,
          "FLOAT16": 10, "DOUBLE": 11, "UINT32": 12, "UINT64": 13}  # fmt: skip


@op("Cast", since=1)
def cast(xp, x, *, to):
    """x in the type whose name is given."""
    if to not in _TYPES:
        raise PorterError("Cast", expected=f"one of {', '.join(_TYPES)}", found=str(to))
    return xp.cast(x, dtype_of(_TYPES[to]))


def _upsampled(xp: Any, x: Any, scales: Any, mode: str) -> Any:
    # opset 9 and before: the place of an element is its index divided by the scale, nearest is the one below
    return resize.resize(
        xp,
        x,
        scales=np.asarray(scales, np.float32),
        mode="linear" if mode in ("linear", "bilinear") else mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@op("Upsample", since=1)
def upsample_1(xp, x, *, height_scale, mode="nearest", width_scale):
    """Pictures enlarged by the two scales."""
    return _upsampled(xp, x, [1.0, 1.0, height_scale, width_scale], mode)


@op("Upsample", since=7)
def upsample_7(xp, x, *, mode="nearest", scales):
    """Enlarged by one scale per axis."""
    return _upsampled(xp, x, scales, mode)


@op("Upsample", since=9, static=("scales",))
def upsample(xp, x, scales, *, mode="nearest"):
    """Enlarged by one scale per axis."""
    return _upsampled(xp, x, scales, mode)


@op("Resize", since=10, static=("scales",))
def resize_10(xp, x, scales, *, mode="nearest"):
    """Resized by one scale per axis."""
    return _upsampled(xp, x, scales, mode)


@op("LpPool", since=1)
def lp_pool(xp, x, *, auto_pad="NOTSET", kernel_shape=None, p=2.0, pads=None, strides=None):
    """(sum of |x| ** p) ** (1 / p) of every window."""
    return pooling.lp_pool(xp, x, auto_pad=auto_pad, kernel_shape=kernel_shape, p=p, pads=pads, strides=strides)


@op("GlobalLpPool", since=1)
def global_lp_pool(xp, x, *, p=2.0):
    """(sum of |x| ** p) ** (1 / p) over the spatial axes."""
    return pooling.global_lp_pool(xp, x, p=p)


@op("Scan", since=8, static=("sequence_lens",), moves=True)
def scan_8(xp, sequence_lens, *initial_state_and_scan_inputs, body, directions=None, num_scan_inputs):
    """Scan over axis 1 of every element of the batch in axis 0, up to that element's own length."""
    batch = initial_state_and_scan_inputs[-1].shape[0]
    carried = len(initial_state_and_scan_inputs) - num_scan_inputs
    results = []
    for n in range(batch):
        parts = [
            xp.reshape(xp.slice(x, (n,) + (0,) * (x.ndim - 1), (n + 1, *x.shape[1:])), x.shape[1:])
            for x in initial_state_and_scan_inputs
        ]
        steps = parts[-1].shape[0]
        length = steps if sequence_lens is None else int(sequence_lens[n])
        cut = [xp.slice(x, (0,) * x.ndim, (length, *x.shape[1:])) for x in parts[carried:]]
        got = scan(
            xp, *parts[:carried], *cut, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions
        )
        rest = [xp.pad(y, [(0, steps - length)] + [(0, 0)] * (y.ndim - 1)) for y in got[carried:]]
        results.append([xp.reshape(y, (1, *y.shape)) for y in (*got[:carried], *rest)])
    return tuple(xp.concatenate(list(column), axis=0) for column in zip(*results, strict=True))
