"""Weight methods against plain references and cases that a hand can work out."""

from __future__ import annotations

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.check import draw
from porter.device import load_device
from porter.errors import PorterError
from porter.formats import of, scaling
from porter.graph import Model
from porter.pipeline.text import parse
from porter.precision.calibrate import observe, samples_of, shown
from porter.precision.encoding import DAMPING, encode, gptq
from porter.precision.layers import layers
from porter.precision.moments import Moments
from porter.precision.ranges import Histogram
from porter.precision.schemes import scheme_of
from tests.precision.test_pitfalls import linear

DEVICE = load_device("gpu:b200")


def correlated(rows: int = 4000, n: int = 48, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, n)) @ (random.standard_normal((n, n)) * np.geomspace(1, 0.05, n) / n**0.5)


def plain_gptq(w: np.ndarray, scale: np.ndarray, second: np.ndarray, format: str) -> np.ndarray:
    """Optimal brain quantization in the same order, the slow way: the remaining weights solve least squares anew each time."""
    f, w = of(format), w.copy()
    h = second + DAMPING * np.mean(np.diag(second)) * np.eye(len(second))
    left = list(np.argsort(-np.diag(second), kind="stable"))
    made = np.zeros_like(w)
    while left:
        i, *rest = left
        made[i] = f.round(w[i] / scale[i], saturate=True)
        change = (
            made[i] * scale[i] - w[i]
        )  # with entry i moved by `change`, the others' best move is -H_rr^-1 H_ri change
        if rest:
            w[rest] -= np.linalg.solve(h[np.ix_(rest, rest)], np.outer(h[rest, i], change))
        left = rest
    return made


@pytest.mark.parametrize("format", ["int4", "float4_e2m1fn", "float8_e4m3fn"])
def test_gptq_is_the_slow_least_squares_one(format: str) -> None:
    x = correlated()
    w = np.random.default_rng(1).standard_normal((48, 5))
    made = scaling.blocked(w, format, 0, 16)
    scale = scaling.spread(made.scale.astype(np.float64), w.shape, 0, 16)
    got = gptq(w, made, 0, x.T @ x)
    np.testing.assert_array_equal(got.codes.astype(np.float64), plain_gptq(w, scale, x.T @ x, format))
    assert got.scale is made.scale


def test_gptq_of_inputs_that_do_not_go_together_is_rounding_to_nearest() -> None:
    w = np.random.default_rng(0).standard_normal((64, 8))
    nearest = scaling.blocked(w, "float4_e2m1fn", 0, 32, scale="float8_e8m0fnu")
    np.testing.assert_array_equal(gptq(w, nearest, 0, np.eye(64)).codes, nearest.codes)


def test_gptq_by_hand() -> None:
    """Two inputs that are always equal: 0.4 and 0.4 in steps of 1 are 0 and 0 to nearest, but their sum is nearer to 1."""
    w = np.array([[0.4], [0.4]])
    made = scaling.Scaled(np.zeros((2, 1), np.int8), np.ones(1, np.float32), 1)
    together = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert sorted(gptq(w, made, 0, together * 1000).codes.reshape(-1).tolist()) == [0, 1]
    assert gptq(w, made, 0, np.eye(2)).codes.reshape(-1).tolist() == [0, 0]


@pytest.mark.parametrize("scheme", ["int4w", "mxfp4w", "nvfp4w", "int8w"])
def test_gptq_errs_less_where_it_counts(scheme: str) -> None:
    model, x = linear(), correlated(2000, 64)
    layer = layers(model)[0]
    w = np.asarray(graph.constant(layer.weight), np.float64)
    coding = scheme_of(scheme).weight
    seen = Moments()
    seen.add(x)
    nearest, better = (encode("w", w, coding, layer, "mse", m) for m in (None, seen.second))
    error = [seen.error(made.decode() - w) for made in (nearest, better)]
    assert error[1] < 0.6 * error[0]
    np.testing.assert_allclose(error[0], np.sum((x @ (nearest.decode() - w)) ** 2), rtol=1e-4)


def test_half_a_power_of_two_is_taken_where_it_errs_less() -> None:
    """4.01 of 6 rounds its scale up to 1 in e8m0; the rest of the block lies where steps of a half would be finer."""
    x = np.full((32, 1), 0.25)
    x[0] = 3.1  # up to 6 of the scale 1, up to 3 of the scale 1/2 would do but for 0.1
    usual = scaling.blocked(x, "float4_e2m1fn", 0, 32, scale="float8_e8m0fnu")
    least = scaling.blocked(x, "float4_e2m1fn", 0, 32, scale="float8_e8m0fnu", clip="mse")
    assert (float(usual.scale[0, 0]), float(least.scale[0, 0])) == (1.0, 0.5)
    assert np.sum((least.decode() - x) ** 2) < np.sum((usual.decode() - x) ** 2)


@pytest.mark.parametrize("clip", ["percentile", "entropy", "mse"])
def test_a_channel_is_cut_by_its_own_range(clip: str) -> None:
    model = linear()
    layer = layers(model)[0]
    w = np.random.default_rng(0).standard_normal((40_000, 2)).astype(np.float32)
    w[7, 0] = 60.0
    coding = scheme_of("int8w").weight
    plain, cut = (encode("w", w, coding, layer, c) for c in ("none", clip))
    assert cut.scale[0] < 0.95 * plain.scale[0] and cut.scale[1] > 0.5 * plain.scale[1]


def test_ranges_per_channel_and_per_group() -> None:
    x = np.random.default_rng(0).standard_normal((8, 6, 50)) * np.arange(1, 7)[None, :, None]
    channels, groups = Histogram(axis=1), Histogram(axis=1, group=4)
    for part in x:
        channels.add(part[None])
        groups.add(part[None])
    top = np.abs(x).max(axis=(0, 2))
    np.testing.assert_allclose(channels.range("minmax", "int8"), top, rtol=1e-6)
    np.testing.assert_allclose(groups.range("minmax", "int8"), [top[:4].max(), top[4:].max()], rtol=1e-6)
    assert np.all(channels.range("percentile", "int8") <= channels.range("minmax", "int8"))
    for i in range(6):  # each row is the histogram of its channel
        alone = Histogram()
        for part in x:
            alone.add(part[i])
        np.testing.assert_array_equal(alone.counts[0], channels.counts[i])


NORMED = """<ir_version: 10, opset_import: ["": 24]>
g (float[32,64] x, float[64] gain, float[64,64] q, float[64,64] k) => (float[32,64] a, float[32,64] b) {
  n = RMSNormalization <axis = -1> (x, gain)
  a = MatMul (n, q)
  b = MatMul (n, k)
}"""


def normed(seed: int = 0) -> Model:
    """A normalization whose gain makes four outlier channels, as trained models have them, before two products."""
    model = graph.parse(NORMED)
    random = np.random.default_rng(seed)
    for value in list(model.graph.inputs)[1:]:
        size = graph.shape(value) or ()
        array = random.standard_normal(size).astype(np.float32) / 8 if len(size) == 2 else np.ones(size, np.float32)
        if len(size) == 1:
            array[[3, 17, 30, 44]] = 60.0
        made = graph.add_initializer(model, f"{value.name}/w", array)
        value.replace_all_uses_with(made)
        model.graph.inputs.remove(value)
    ops.infer(model)
    return model


def decibels(before: Model, after: Model) -> float:
    sample = draw(before)
    truth, got = (ops.evaluate(m, dict(sample), xp) for m, xp in ((before, ops.float64), (after, ops.source)))
    return min(10 * np.log10(np.sum(truth[n] ** 2) / np.sum((got[n] - truth[n]) ** 2)) for n in truth)


def test_smoothing_keeps_the_function_and_pays_where_channels_stand_out() -> None:
    before = normed()
    smooth = pipeline.run(before, "quantization.smooth", DEVICE).model  # checked by its contract
    assert decibels(before, smooth) > 110
    plain, better = (
        decibels(before, pipeline.run(m, "quantization.narrow{scheme=int8,method=minmax}", DEVICE, checks=False).model)
        for m in (before, smooth)
    )
    assert better > plain + 6


def test_the_factor_by_hand() -> None:
    """A channel that is 4 times as large as its weights moves by 2 each way, with alpha at a half."""
    before = normed()
    after = pipeline.run(before, "quantization.smooth", DEVICE, checks=False).model
    seen = Moments(products=False)
    name = str(layers(before)[0].activation.name)  # type: ignore[union-attr]
    observe(before, {name: (seen,)}, "")
    w = [np.asarray(graph.constant(x.weight)) for x in layers(before)]
    factor = np.sqrt(seen.largest / np.max([np.abs(a).max(axis=1) for a in w], axis=0))
    for was, now in zip(w, layers(after), strict=True):
        np.testing.assert_allclose(np.asarray(graph.constant(now.weight)), was * factor[:, None], rtol=1e-5)


def test_awq_errs_less_than_rounding_alone() -> None:
    before = normed()
    for scheme in ("int4w", "nvfp4w"):
        text = f"quantization.narrow{{scheme={scheme}}}"
        plain = decibels(before, pipeline.run(before, text, DEVICE, checks=False).model)
        text = f"quantization.smooth{{rule=awq,scheme={scheme}}}, {text}"
        assert decibels(before, pipeline.run(before, text, DEVICE, checks=False).model) > plain + 1


def test_an_activation_that_is_read_elsewhere_is_left_alone() -> None:
    model = normed()
    norm = next(iter(model.graph))
    model.graph.outputs.append(norm.outputs[0])
    after = pipeline.run(model, "quantization.smooth", DEVICE, checks=False).model
    for was, now in zip(layers(model), layers(after), strict=True):
        np.testing.assert_array_equal(graph.constant(was.weight), graph.constant(now.weight))


def test_samples_come_from_an_iterator_a_folder_or_a_stacked_file(tmp_path) -> None:
    model = linear()
    drawn = [dict(draw(model, seed)) for seed in range(3)]
    (tmp_path / "many").mkdir()
    for i, sample in enumerate(drawn):
        np.savez(tmp_path / "many" / f"{i}.npz", **sample)
    np.savez(tmp_path / "stacked.npz", **{n: np.stack([s[n] for s in drawn]) for n in drawn[0]})
    for source in (drawn, (s for s in drawn), str(tmp_path / "many"), str(tmp_path / "stacked.npz")):
        for got, sample in zip(samples_of(model, source), drawn, strict=True):
            np.testing.assert_array_equal(got["x"], sample["x"])


def test_calibration_tells_how_far_it_is_and_wants_a_sample() -> None:
    told: list[tuple[str, int, int]] = []
    with shown(lambda *said: told.append(said)):
        observe(linear(), {}, [draw(linear())] * 2)
    assert told == [("calibration", 1, 2), ("calibration", 2, 2)]
    with pytest.raises(PorterError, match="at least one sample"):
        observe(linear(), {}, iter(()))


@pytest.mark.parametrize(
    "text", ["quantization.narrow{rounding=up}", "quantization.narrow{clip=most}", "quantization.smooth{rule=x}"]
)
def test_an_unknown_method_is_refused_with_those_that_exist(text: str) -> None:
    with pytest.raises(PorterError, match=r"nearest, gptq|none, mse|smoothquant, awq"):
        pipeline.run(linear(), parse(text), DEVICE, checks=False)


def test_a_mapped_weight_is_given_back_and_read_again(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    graph.save(linear(), path, external=True)
    mapped = graph.load(path)
    before = {n: np.array(graph.constant(v)) for n, v in mapped.graph.initializers.items()}
    graph.release(mapped)
    for name, value in mapped.graph.initializers.items():
        np.testing.assert_array_equal(graph.constant(value), before[name])


@pytest.mark.parametrize(("shape", "axis"), [((300, 700), 0), ((300, 700), 1), ((70, 3, 900), 1), ((5,), 0)])
def test_channels_are_rounded_piece_by_piece_as_at_once(shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    made = scaling.per_channel(x, "int8", axis)
    scale = scaling.spread(made.scale.astype(np.float64), shape, axis, 0)
    np.testing.assert_array_equal(made.codes, np.rint(x / scale).astype(np.int8))
