"""Convolutions of few channels with many places, taken apart: the same sums, without the shapes libtpu takes minutes for."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from jax import lax

from porter.xla import hlo, narrow, windows

# length, window, stride, padding, outputs
LINES = [
    (500, 256, 2, (0, 0), 3),
    (601, 250, 3, (5, 0), 4),
    (427, 256, 1, (3, 4), 2),
    (900, 256, 256, (0, 0), 2),
    (700, 64, 100, (0, 1), 2),
]


def _meaning(shapes: list[tuple[int, ...]], strides: tuple[int, ...], padding: list[tuple[int, int]], **more: int):
    given = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
    return jax.make_jaxpr(lambda x, w: lax.conv_general_dilated(x, w, strides, padding, **more))(*given)


@pytest.mark.parametrize(("length", "window", "stride", "padding", "outputs"), LINES)
@pytest.mark.parametrize("turned", [False, True], ids=["last", "first"])
def test_the_sums_are_the_same(
    length: int, window: int, stride: int, padding: tuple[int, int], outputs: int, turned: bool
) -> None:
    shapes, strides, pads = [(2, 3, 4, length), (outputs, 3, 2, window)], (1, stride), [(0, 0), padding]
    if turned:
        shapes, strides, pads = [(*s[:2], *s[:1:-1]) for s in shapes], strides[::-1], pads[::-1]
    closed = _meaning(shapes, strides, pads)
    rng = np.random.default_rng(window)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    (wanted,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x.astype(np.float64), w.astype(np.float64))
    with jax.enable_x64(False):
        (got,) = narrow.narrowed(closed, lax.Precision.HIGHEST)(x, w)
        text = hlo.stablehlo(narrow.narrowed(closed, lax.Precision.HIGHEST), closed.in_avals, "tpu", "long")
    wanted = np.asarray(wanted)
    assert np.abs(got - wanted).max() <= 4e-6 * np.sqrt(3 * 2 * window)
    (operand,) = re.findall(r"stablehlo.convolution.*: \(tensor<[^>]*>, tensor<([\dx]+)xf32>\)", text)
    assert max(int(n) for n in operand.split("x")[2:]) <= windows.SHORT


# image, window, stride, padding, and what is left of the window: places of the longest axis are up to 128 channels
IMAGES = [
    ((2, 8, 9, 60), (4, 8, 3, 39), (1, 1), [(1, 1), (19, 19)], (104, 3, 3)),
    ((1, 1, 20, 31), (5, 1, 7, 7), (2, 3), [(3, 3), (2, 2)], (8, 1, 7)),
    ((1, 32, 9, 8), (1, 32, 7, 3), (1, 1), [(3, 3), (1, 1)], (128, 2, 3)),
    ((1, 3, 21, 20), (4, 3, 5, 5), (2, 2), [(0, 1), (1, 0)], (18, 1, 5)),
]


@pytest.mark.parametrize(("image", "window", "strides", "padding", "left"), IMAGES)
def test_places_of_an_image_are_channels(image, window, strides, padding, left) -> None:
    closed = _meaning([image, window], strides, padding)
    rng = np.random.default_rng(image[-1])
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (image, window))
    (wanted,) = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x.astype(np.float64), w.astype(np.float64))
    with jax.enable_x64(False):
        (got,) = narrow.narrowed(closed, lax.Precision.HIGHEST)(x, w)
        text = hlo.stablehlo(narrow.narrowed(closed, lax.Precision.HIGHEST), closed.in_avals, "tpu", "image")
    assert np.abs(got - np.asarray(wanted)).max() <= 4e-6 * np.sqrt(np.prod(window[1:]))
    (operand,) = re.findall(r"stablehlo.convolution.*: \(tensor<[^>]*>, tensor<([\dx]+)xf32>\)", text)
    channels, *places = map(int, operand.split("x")[1:])
    assert (channels, *sorted(places)) == left


@pytest.mark.parametrize(
    ("shapes", "more"),
    [
        ([(1, 3, 4, 80), (2, 3, 3, 5)], {}),
        ([(1, 96, 4, 80), (2, 96, 2, 64)], {}),
        ([(1, 4, 4, 80), (4, 2, 2, 64)], {"feature_group_count": 2}),
        ([(1, 3, 4, 200), (2, 3, 2, 64)], {"rhs_dilation": (1, 2)}),
    ],
    ids=["short", "many channels", "groups", "dilated"],
)
def test_others_stay_as_they_are(shapes: list[tuple[int, ...]], more: dict) -> None:
    closed = _meaning(shapes, (1, 1), [(0, 0), (0, 0)], **more)
    (equation,) = closed.jaxpr.eqns
    assert windows.long(*closed.in_avals, equation.params) is None
