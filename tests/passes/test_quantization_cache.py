"""A cache in few bits: what attention reads is what the cache holds, over a prefill and the steps after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.check import draw
from porter.device import load_device
from porter.errors import PorterError
from porter.graph import Model
from porter.pipeline.text import parse

FOLDER = Path(__file__).parents[1] / "models" / "decoder"
DEVICE = load_device("gpu:h200")
KEPT = {"fp8": 2.0**-4, "mxfp8": 2.0**-4, "mxfp4": 0.26, "nvfp4": 0.26}  # half a step of the format, relative


@pytest.fixture(scope="module")
def prefill() -> Model:
    return graph.load(FOLDER / "prefill.onnx", {"batch": 1, "seq": 12})


@pytest.fixture(scope="module")
def decode() -> Model:
    return graph.load(FOLDER / "decode.onnx", {"batch": 1, "seq": 1, "past": 12})


def rounded(model: Model, format: str, device=DEVICE, **options: str) -> Model:
    words = ",".join(f"{k}={v}" for k, v in {"format": format, "method": "minmax", **options}.items())
    return pipeline.run(model, f"quantization.cache{{{words}}}", device, checks=False).model


@pytest.mark.parametrize("format", KEPT)
def test_a_cache_that_was_rounded_comes_back_as_it_is(
    prefill: Model, decode: Model, format: str, tmp_path: Path
) -> None:
    """The codes of a cache are a fixed point: the same tokens after one step are the same numbers, though the scales that are
    calibrated (fp8, nvfp4) are each graph's own."""
    tokens = draw(prefill)["input_ids"]
    first = ops.evaluate(rounded(prefill, format), {"input_ids": tokens}, ops.source)
    exact = ops.evaluate(prefill, {"input_ids": tokens}, ops.source)
    for name, value in first.items():
        if name != "logits":
            error = np.sqrt(np.mean((value - exact[name]) ** 2) / np.mean(exact[name] ** 2))
            assert 0 < error < KEPT[format], (name, error)
    past = {n.replace("present", "past"): a for n, a in first.items() if n != "logits"}
    np.savez(tmp_path / "step.npz", input_ids=tokens[:, :1], **{n: 3 * a for n, a in past.items()})
    step = rounded(decode, format, calibrate=str(tmp_path / "step.npz"))
    after = ops.evaluate(step, {"input_ids": tokens[:, :1], **past}, ops.source)
    for name in after.keys() - {"logits"}:
        again = after[name][:, :, :12]
        np.testing.assert_allclose(again, past[name.replace("present", "past")], rtol=0, atol=2e-3)


def test_it_is_checked_by_its_contract_and_leaves_names_and_types(prefill: Model) -> None:
    after = pipeline.run(prefill, "cleanup, fusion, quantization.cache, quantization.bf16{db=18}", DEVICE).model
    graph.validate(after)
    assert [v.name for v in after.graph.outputs] == [v.name for v in prefill.graph.outputs]
    held = [n for n in after.graph if n.op_type == "QuantizeLinear"]
    assert len(held) == 12 and {graph.dtype(n.outputs[0]).name for n in held} == {"float8_e4m3fn"}  # type: ignore[union-attr]
    for node in after.graph:
        if node.op_type == "Attention":  # keys and values are decoded into bfloat16, as the queries are
            assert all(v.producer().op_type in ("Cast", "Reshape", "Transpose") for v in node.inputs[:3])  # type: ignore[union-attr]


def test_a_unit_that_ends_at_240_is_not_given_more(prefill: Model) -> None:
    after = rounded(prefill, "fp8", load_device("trainium:trn2"), per="channel")
    seen: list[np.ndarray] = []
    kinds = {n.outputs[0].name for n in after.graph if n.op_type == "QuantizeLinear"}
    sample = dict(draw(prefill, 7))

    def see(name: str, x: np.ndarray) -> None:
        if name in kinds:
            seen.append(np.abs(np.asarray(x, np.float32)).max())

    ops.evaluate(after, sample, ops.source, on_value=see)
    assert len(seen) == 12 and max(seen) <= 240


def test_a_scale_per_channel_keeps_small_channels_beside_large_ones() -> None:
    model = graph.parse("""<ir_version: 10, opset_import: ["": 24]>
    g (float[1,2,64,16] x) => (float[1,2,64,16] present_0_key) { present_0_key = Neg (x) }""")
    x = np.random.default_rng(0).standard_normal((1, 2, 64, 16)).astype(np.float32)
    x[..., 3] *= 1e6
    small = np.arange(16) != 3
    error = {}
    for per in ("head", "channel"):
        words = parse(f"quantization.cache{{per={per},method=minmax}}")
        stages = [replace(s, work=replace(s.work, calibrate=[{"x": x}])) for s in words]
        after = pipeline.run(model, stages, DEVICE, checks=False).model
        got = ops.evaluate(after, {"x": x}, ops.source)["present_0_key"]
        error[per] = np.sqrt(np.mean((got + x)[..., small] ** 2) / np.mean(x[..., small] ** 2))
    assert error["channel"] < 0.04 and error["head"] > 0.2, error


def test_an_unknown_format_is_refused(prefill: Model) -> None:
    with pytest.raises(PorterError, match="fp8, mxfp8, mxfp4, nvfp4"):
        rounded(prefill, "int3")
