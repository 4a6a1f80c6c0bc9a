"""A scale per token: found as the token comes, along the axis that is summed, and behind the product in the kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from porter import graph, ops, pipeline
from porter.check import draw
from porter.check.ledger import EXPLAINED_DB
from porter.device import load_device
from porter.graph import Model
from porter.pipeline.text import Stage
from porter.precision.contract import Formats
from porter.precision.layers import layers
from porter.precision.ledger import ledger
from porter.precision.schemes import least, of_operand, scheme_of
from porter.precision.search import seconds
from porter.precision.stages import stages
from tests.precision.test_faults import one_weight
from tests.precision.test_kernels import audit_of, ported, weighted, wide

H200 = load_device("gpu:h200")
#: x @ w, w @ x, a Gemm of x transposed, and a vector: each axis that may be summed
PLACES = {
    "last": ("y = MatMul (x, w)", "3,5,64", (64, 48), "3,5,48"),
    "last but one": ("y = MatMul (w, x)", "3,64,5", (48, 64), "3,48,5"),
    "first": ("y = Gemm <transA=1> (x, w)", "64,5", (64, 48), "5,48"),
    "only": ("y = MatMul (x, w)", "64", (64, 48), "48"),
}


def narrow(model: Model, scheme: str, device: str = "gpu:h200") -> Model:
    return pipeline.run(model, f"quantization.narrow{{scheme={scheme}}}", load_device(device), checks=False).model


@pytest.mark.parametrize("place", PLACES)
def test_each_token_is_rounded_in_steps_of_its_own_largest_magnitude(place: str) -> None:
    """Held against the formula, and against onnxruntime, which runs the step as it stands."""
    model = one_weight(*PLACES[place])
    after = narrow(model, "int8t")
    graph.validate(after)
    (layer,) = layers(model)
    x = dict(draw(model))["x"]
    decoded = next(n.inputs[layer.position].name for n in after.graph if n.op_type in ("MatMul", "Gemm"))
    scale = np.abs(x).max(axis=layer.axis, keepdims=True) / np.float32(127)
    got = ops.evaluate(after, {"x": x}, ops.source, want=[decoded])[decoded]
    np.testing.assert_array_equal(got, np.rint(x / scale) * scale)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.to_proto(after).SerializeToString(), options)
    want = ops.evaluate(after, {"x": x}, ops.source)["y"]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=0, atol=64 * 2.0**-23 * np.abs(want).max())


def test_an_outlier_costs_other_tokens_nothing() -> None:
    model = one_weight(*PLACES["last"])
    x = dict(draw(model))["x"]
    loud = x.copy()
    loud[0, 0] *= 1000
    for scheme, alike in (("int8t", True), ("int8", False)):
        after = pipeline.run(model, _calibrated(scheme, loud), H200, checks=False).model
        quiet, beside = (ops.evaluate(after, {"x": v}, ops.source)["y"] for v in (x, loud))
        assert np.array_equal(quiet[1:], beside[1:])  # the same model, and no token looks at another
        truth = ops.evaluate(model, {"x": loud}, ops.float64)["y"][1:]
        error = 10 * np.log10(np.sum(truth**2) / np.sum((beside[1:] - truth) ** 2))
        assert bool(error > least(scheme)) is alike, (scheme, error)


def _calibrated(scheme: str, x: np.ndarray) -> tuple[Stage, ...]:
    found = stages(Formats(scheme, methods={"ranges": "minmax"}), (), [{"x": x}])
    return tuple(s for s in found if s.name == "quantization.narrow")


def test_a_token_of_zeros_stays_one() -> None:
    model = one_weight(*PLACES["last"])
    x = dict(draw(model))["x"]
    x[1, 2] = 0
    for device, scheme in (("gpu:h200", "int8t"), ("gpu:h200", "fp8t"), ("trainium:trn2", "fp8t")):
        got = ops.evaluate(narrow(model, scheme, device), {"x": x}, ops.source)["y"]
        assert np.isfinite(got).all() and not got[1, 2].any()


def test_a_convolution_gets_one_scale_for_the_tensor() -> None:
    model = one_weight("y = Conv (x, w)", "2,16,8,8", (32, 16, 3, 3), "2,32,6,6")
    (layer,) = layers(model)
    coding = scheme_of("int8t").activation
    assert coding is not None and of_operand(layer, coding).per == "tensor"
    kinds = [n.op_type for n in narrow(model, "int8t").graph]
    assert "ReduceMax" not in kinds and kinds.count("QuantizeLinear") == 1


def test_layers_that_read_the_same_share_its_codes() -> None:
    model = weighted("""<ir_version: 10, opset_import: ["": 24]>
    g (float[8,64] x, float[64,64] w1, float[64,64] w2) => (float[8,64] y) {
      a = MatMul (x, w1)
      b = MatMul (x, w2)
      y = Add (a, b)
    }""")
    assert [n.op_type for n in narrow(model, "int8t").graph].count("QuantizeLinear") == 1


@pytest.mark.parametrize("place", ["last", "last but one", "first"])
def test_what_the_codes_must_cost_is_taken_per_token(place: str) -> None:
    model = one_weight(*PLACES[place])
    x = dict(draw(model))["x"]
    loud = np.moveaxis(x.copy(), layers(model)[0].axis, -1)
    loud[0] *= 1000
    x = np.moveaxis(loud, -1, layers(model)[0].axis)
    (entry,) = ledger(model, narrow(model, "int8t"), Formats("int8t"), H200, {"x": x}).entries
    assert abs(entry.excess_db) < EXPLAINED_DB


@pytest.mark.parametrize("target, scheme, product", [
    ("gpu:h200", "int8t", "int8"), ("gpu:h200", "fp8t", "float8_e4m3fn"), ("tpu:v6e", "int8t", "int8"),
    ("trainium:trn2", "fp8t", "float8_e4m3"), ("maia:200", "fp8t", "float8_e4m3fn"),
])  # fmt: skip
def test_codes_meet_as_they_lie_and_their_scales_are_behind_the_product(
    target: str, scheme: str, product: str, tmp_path: Path
) -> None:
    document, _ = ported(tmp_path, target, scheme, wide(64))
    found = audit_of(document)
    assert found["multiply_adds"] == {product: 1.0} and not found["by_rule"] and document["kernels"]["host"] == 0


def test_the_predicted_time_counts_the_reading_that_finds_the_scales() -> None:
    group = layers(wide(4096))
    assert seconds(group, "int8t", H200) - seconds(group, "int8", H200) == pytest.approx(
        2 * 4096 * 128 * 4 / H200["memory.hbm.bytes_per_s"]
    )
