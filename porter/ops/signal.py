"""Fourier transforms as matrix products, and the mel filter bank."""

from __future__ import annotations

import numpy as np

from porter.ops.arrays import Numpy
from porter.ops.namespace import ints, normal
from porter.ops.registry import op
from porter.ops.types import dtype_of


def _fourier(xp, real, imaginary, length, bins, inverse):
    """Transform the last axis to `bins` frequencies: sum over n of x[n] * exp(-2 pi i n k / length)."""
    n = min(real.shape[-1], length)
    if real.shape[-1] > n:
        real, imaginary = (
            None if v is None else xp.slice(v, (0,) * v.ndim, (*v.shape[:-1], n)) for v in (real, imaginary)
        )
    if isinstance(xp, Numpy):  # as onnx's evaluator has it, to the last bit
        whole = real if imaginary is None else real + 1j * imaginary
        spectrum = (np.fft.ifft if inverse else np.fft.fft)(whole, length)[..., :bins]
        return spectrum.real, spectrum.imag
    # n * k modulo the length first: angles stay small and exact
    angle = 2 * np.pi * (np.outer(np.arange(n), np.arange(bins)) % length) / length
    share = 1 / length if inverse else 1.0
    cos = xp.asarray((np.cos(angle) * share).astype(real.dtype))
    sin = xp.asarray((np.sin(angle) * (share if inverse else -share)).astype(real.dtype))
    if imaginary is None:
        return xp.matmul(real, cos), xp.matmul(real, sin)
    return (
        xp.matmul(real, cos) - xp.matmul(imaginary, sin),
        xp.matmul(real, sin) + xp.matmul(imaginary, cos),
    )


def _real(xp, real, imaginary, length):
    """The real signal whose one-sided spectrum this is."""
    bins = min(real.shape[-1], length // 2 + 1)
    # frequencies that have a mirror image count twice
    twice = np.where((np.arange(bins) == 0) | (2 * np.arange(bins) == length), 1.0, 2.0)[:, None] / length
    angle = 2 * np.pi * (np.outer(np.arange(bins), np.arange(length)) % length) / length
    low = (0,) * real.ndim
    real, imaginary = (xp.slice(v, low, (*v.shape[:-1], bins)) for v in (real, imaginary))
    return xp.matmul(real, xp.asarray((np.cos(angle) * twice).astype(real.dtype))) - xp.matmul(
        imaginary, xp.asarray((np.sin(angle) * twice).astype(real.dtype))
    )


def _parts(xp, x):
    """Real and imaginary part of a tensor whose last axis holds one or both."""
    low, shape = (0,) * (x.ndim - 1), x.shape[:-1]
    pick = [xp.reshape(xp.slice(x, (*low, i), (*shape, i + 1)), shape) for i in range(x.shape[-1])]
    return pick[0], (pick[1] if len(pick) > 1 else None)


def _transform(xp, x, length, axis, inverse, onesided):
    axis = normal(axis, x.ndim)
    real, imaginary = _parts(xp, x)
    rank = real.ndim
    to_end = (*(i for i in range(rank) if i != axis), axis)
    back = tuple(np.argsort(to_end))
    real = xp.transpose(real, to_end)
    imaginary = None if imaginary is None else xp.transpose(imaginary, to_end)
    n = real.shape[-1]
    if inverse and onesided:
        length = length or 2 * (n - 1)
        y = xp.transpose(_real(xp, real, imaginary, length), back)
        return xp.reshape(y, (*y.shape, 1))
    length = length or n
    made = _fourier(xp, real, imaginary, length, length // 2 + 1 if onesided else length, inverse)
    made = [xp.transpose(v, back) for v in made]
    return xp.concatenate([xp.reshape(v, (*v.shape, 1)) for v in made], axis=rank)


@op("DFT", since=17, static=("dft_length",))
def dft_17(xp, x, dft_length=None, *, axis=1, inverse=0, onesided=0):
    """Discrete Fourier transform along an axis; real and imaginary parts lie in the last one."""
    return _transform(xp, x, None if dft_length is None else ints(dft_length)[0], axis, inverse, onesided)


@op("DFT", since=20, static=("dft_length", "axis"))
def dft(xp, x, dft_length=None, axis=None, *, inverse=0, onesided=0):
    """Discrete Fourier transform along an axis; real and imaginary parts lie in the last one."""
    along = -2 if axis is None else ints(axis)[0]
    return _transform(xp, x, None if dft_length is None else ints(dft_length)[0], along, inverse, onesided)


@op("STFT", since=17, static=("frame_step", "frame_length"))
def stft(xp, x, frame_step, window=None, frame_length=None, *, onesided=1):
    """The Fourier transform of every frame of a signal, each weighted by the window."""
    step = ints(frame_step)[0]
    size = ints(frame_length)[0] if frame_length is not None else x.shape[1] if window is None else window.shape[0]
    real, imaginary = _parts(xp, x) if x.ndim == 3 else (x, None)
    frames = np.arange(1 + (real.shape[1] - size) // step)[:, None] * step + np.arange(size)
    cut = [None if v is None else xp.take(v, frames, 1) for v in (real, imaginary)]
    if window is not None:
        cut = [None if v is None else v * window for v in cut]
    made = _fourier(xp, cut[0], cut[1], size, size // 2 + 1 if onesided else size, False)
    return xp.concatenate([xp.reshape(v, (*v.shape, 1)) for v in made], axis=3)


@op(
    "MelWeightMatrix",
    since=17,
    static=("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz"),
)
def mel_weight_matrix(
    xp, num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz, *, output_datatype=1
):
    """Triangles, evenly spaced in mel, that sum the bins of a spectrum."""
    bins, length, rate = (ints(v)[0] for v in (num_mel_bins, dft_length, sample_rate))
    low, high = (2595 * np.log10(1 + float(v) / 700) for v in (lower_edge_hertz, upper_edge_hertz))
    mel = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
    edges = ((length + 1) * (700 * (10 ** (mel / 2595) - 1)) // rate).astype(np.int64)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    at = np.arange(length // 2 + 1)[:, None]
    rise, fall = middle - left, right - middle
    up = np.where(rise > 0, (at - left) / np.maximum(rise, 1), (at == middle) * 1.0)
    down = (right - at) / np.maximum(fall, 1)
    y = np.where((at >= left) & (at <= middle), up, 0.0)
    y = np.where((fall > 0) & (at >= middle) & (at < right), down, y)
    return y.astype(dtype_of(output_datatype))
