"""Real models against what PyTorch and onnxruntime returned for them."""

from __future__ import annotations

import importlib.util
import sys
import time

import numpy as np
import pytest

from porter import graph, ops

# Recorded by PyTorch, inputs and outputs in one file each.
RECORDED = [
    "resnet_small/model", "bert_small/model", "minilm_l6_int8w/model", "vit_small/model", "llama_gqa/prefill",
    "llama_gqa/decode", "loop_generate_op21/model", "resnet_small_qdq/model",
]  # fmt: skip
# Recorded by onnxruntime: sampled elements, inputs made from a seed.
SAMPLED = [
    "bert_toy_op12", "cct_op20", "gpt2_past_op11", "magika_v3_3_op15", "micro_kws_qdq_op15", "mixed_ops_dyn_batch_op9",
    "mnist_cntk_op8", "ppocr_v2_cls_op11", "scan_lstm_op9", "silero_vad_op16", "tinyvad_mel_op14",
    "tts_code_predictor_op24",
]  # fmt: skip
LARGE = ["basic_pitch_op15", "deeplabv3_mnv2_op9", "ppocr_v3_det_en_op11", "super_resolution_op10",
         "ultraface_rfb320_op9", "yolox_nano_op11"]  # fmt: skip


@pytest.fixture(scope="session")
def recipes(models):
    """The folder's own description of inputs and recorded outputs."""
    spec = importlib.util.spec_from_file_location("model_inputs", models / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_inputs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_are_those_of_pytorch(models, name):
    model = graph.read(models / f"{name}.onnx")
    found = sorted(models.glob(f"{name}.io_*.npz"))
    assert found
    for place in found:
        with np.load(place) as recorded:
            feeds = {v.name: recorded[f"in|{v.name}"] for v in model.graph.inputs}
            wanted = {v.name: recorded[f"out|{v.name}"] for v in model.graph.outputs}
        exact = ops.evaluate(model, feeds, ops.float64)
        for results in (ops.evaluate(model, feeds, ops.source), ops.reference(model, feeds)):
            for key, want in wanted.items():
                assert (results[key].dtype, results[key].shape) == (want.dtype, want.shape)
                # float32 on both sides: PyTorch's own error against float64 is the measure, or one step of the largest
                theirs = np.abs(want.astype(np.float64) - exact[key]).max()
                step = np.finfo(np.float32).eps * np.abs(exact[key]).max()
                assert np.abs(results[key].astype(np.float64) - want).max() <= 5 * max(theirs, step)


@pytest.mark.parametrize("name", [*SAMPLED, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_outputs_are_those_of_onnxruntime(models, recipes, name):
    model = graph.read(models / name / "model.onnx")
    for feeds, golden in recipes.cases(name):
        assert recipes.check(ops.evaluate(model, feeds, ops.source), golden) == []


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("mnist_cntk_op8", {}),
        ("bert_small", {"batch": 2, "seq": 16}),
        ("minilm_l6_int8w", {"batch": 2, "seq": 16}),
        ("vit_small", {"batch": 2}),
    ],
)
def test_every_shape_is_known_once_dims_are_bound(models, name, dims):
    model = graph.load(models / name / "model.onnx", dims)
    ops.infer(model)
    values = [v for node in model.graph for v in node.outputs]
    assert [v.name for v in values if graph.shape(v) is None or graph.dtype(v) is None] == []


def test_a_model_of_two_hundred_nodes_runs_within_a_second(models):
    model = graph.read(models / "bert_small" / "model.onnx")
    with np.load(models / "bert_small" / "model.io_0.npz") as recorded:
        feeds = {v.name: recorded[f"in|{v.name}"] for v in model.graph.inputs}
    ops.evaluate(model, feeds, ops.source)
    start = time.perf_counter()
    ops.evaluate(model, feeds, ops.source)
    # 12 ms on one core of 2026; the bound is for machines that do something else meanwhile
    assert time.perf_counter() - start < 1
