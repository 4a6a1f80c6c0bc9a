"""The real models after `cleanup, fusion`: as many of each operator as the architecture has, the same model still."""

from __future__ import annotations

from collections import Counter

import pytest

from porter import graph, pipeline
from porter.passes.quantization.bf16 import is_narrow, is_rounded, stored_inputs

CASES = {
    "llama_gqa/prefill": (
        {"batch": 2, "seq": 8},
        {"Attention": 4, "RMSNormalization": 9, "RotaryEmbedding": 8, "porter.SwiGLU": 4, "Softmax": 0, "Expand": 0},
    ),
    "llama_gqa/decode": (
        {"s25": 2, "s43": 2, "s53": 9, "s15": 8},
        {"Attention": 4, "RMSNormalization": 9, "RotaryEmbedding": 8, "porter.SwiGLU": 4, "Cos": 1, "Sin": 1},
    ),
    "bert_small/model": (
        {"batch": 2, "seq": 8},
        {"Attention": 4, "LayerNormalization": 10, "porter.MatMulAddGelu": 5, "Erf": 0, "IsNaN": 0, "GatherND": 0},
    ),
    "minilm_l6_int8w/model": (
        {"batch": 2, "seq": 8},
        {"Attention": 6, "LayerNormalization": 13, "porter.MatMulAddGelu": 6, "DequantizeLinear": 38, "Expand": 0},
    ),
    "vit_small/model": ({"batch": 2}, {"Attention": 4, "LayerNormalization": 9, "porter.MatMulAddGelu": 4, "Gelu": 0}),
    "resnet_small/model": ({"batch": 2}, {"porter.ConvRelu": 9, "porter.ConvAddRelu": 8, "Conv": 3, "Relu": 0}),
    "mnist_cntk_op8/model": ({}, {"porter.ConvRelu": 2, "Gemm": 1, "Add": 0}),
}


QUICK = ("bert_small/model", "resnet_small/model", "mnist_cntk_op8/model")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", CASES)
def test_operators_after_fusion(models, name):
    dims, wanted = CASES[name]
    result = pipeline.run(graph.load(models / f"{name}.onnx", dims), "cleanup, fusion", no_cache=True)
    found = Counter(f"{node.domain}.{node.op_type}".strip(".") for node in result.model.graph)
    assert {kind: found[kind] for kind in wanted} == wanted
    accumulated = [step.metric["accumulated"]["sqnr_db"] for step in result.steps if "accumulated" in step.metric]
    assert accumulated and min(accumulated) > 110  # float32 keeps about 120 dB through these depths


def test_equal_layers_are_checked_once(models):
    model = graph.load(models / "llama_gqa" / "prefill.onnx", {"batch": 1, "seq": 8})
    watch = pipeline.Check(whole=False)
    pipeline.run(model, "cleanup, fusion", checks=False, instruments=[watch])
    assert watch.regions > 60 and watch.distinct < watch.regions / 2


def test_functions_are_shared_by_the_layers(models):
    model = graph.load(models / "resnet_small" / "model.onnx", {"batch": 1})
    result = pipeline.run(model, "cleanup, fusion", no_cache=True)
    assert sorted(function.name for function in result.model.functions.values()) == ["ConvAddRelu", "ConvRelu"]


def test_channels_last_leaves_one_transpose(models):
    model = graph.load(models / "resnet_small" / "model.onnx", {"batch": 1})
    result = pipeline.run(model, "cleanup, fusion, layout{channels_last=1, packed=1}", no_cache=True)
    assert [node.op_type for node in result.model.graph].count("Transpose") == 1


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_within_its_budget(models, name):
    dims, _ = CASES[name]
    model = graph.load(models / f"{name}.onnx", dims)
    result = pipeline.run(model, "cleanup, fusion, quantization.bf16", no_cache=True)
    step = result.steps[-1]
    assert step.rewrites > 0 and step.metric["accumulated"]["sqnr_db"] >= 30
    read = [(node, node.inputs[i]) for node in result.model.graph for i in stored_inputs(result.model, node)]
    floats = [value for _, value in read if value is not None and graph.dtype(value) == "float32"]
    assert all(is_rounded(value) or is_narrow(value) for value in floats)
