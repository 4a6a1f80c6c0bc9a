"""A BERT sentence encoder as ONNX, written node by node from its weights, in the shape that exporters give it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open

OPSET = 20


class Writer:
    """Collects nodes and initializers; each method returns the name of its output."""

    def __init__(self, weights: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.weights = safe_open(weights, "numpy")

    def op(self, op_type: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name + "_out"], name, **attributes))
        return name + "_out"

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"number_{value:g}", np.float32(value))

    def weight(self, name: str, *, transposed: bool = False) -> str:
        array = self.weights.get_tensor(name)
        return self.constant(name, array.T if transposed else array)

    def linear(self, x: str, source: str, name: str) -> str:
        product = self.op("MatMul", x, self.weight(source + ".weight", transposed=True), name=name + "/MatMul")
        return self.op("Add", product, self.weight(source + ".bias"), name=name + "/Add")

    def norm(self, x: str, source: str, name: str, epsilon: float) -> str:
        scale, bias = self.weight(source + ".weight"), self.weight(source + ".bias")
        return self.op("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=epsilon)

    def gelu(self, x: str, name: str) -> str:
        """x / 2 * (1 + erf(x / sqrt(2))), spelled out as PyTorch exports it."""
        inner = self.op("Erf", self.op("Div", x, self.number(2**0.5), name=name + "/Div"), name=name + "/Erf")
        gate = self.op("Add", inner, self.number(1.0), name=name + "/Add")
        half = self.op("Mul", x, self.number(0.5), name=name + "/Mul")
        return self.op("Mul", half, gate, name=name + "/Mul_1")


def build(folder: Path) -> onnx.ModelProto:
    """The encoder of a folder with config.json and model.safetensors.

    Inputs input_ids and attention_mask, int64[batch, seq]; output sentence_embedding, float32[batch, hidden], the mean
    of the last hidden state over the unmasked tokens, normalized to length one.
    """
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        raise ValueError(f"not a BERT with gelu: {config['model_type']}, {config['hidden_act']}")
    hidden, heads, epsilon = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    w = Writer(folder / "model.safetensors")

    words = w.op("Gather", w.weight("embeddings.word_embeddings.weight"), "input_ids", name="/embeddings/words")
    length = w.op("Shape", "input_ids", name="/embeddings/Shape", start=1, end=2)
    table = w.weight("embeddings.position_embeddings.weight")
    places = w.op("Slice", table, w.ints(0), length, w.ints(0), name="/embeddings/positions")
    kind = w.constant("embeddings.type_0", w.weights.get_tensor("embeddings.token_type_embeddings.weight")[0])
    x = w.op("Add", w.op("Add", words, places, name="/embeddings/Add"), kind, name="/embeddings/Add_1")
    x = w.norm(x, "embeddings.LayerNorm", "/embeddings/LayerNorm", epsilon)

    mask = w.op("Cast", "attention_mask", name="/mask/Cast", to=TensorProto.FLOAT)
    wide = w.op("Unsqueeze", mask, w.ints(1, 2), name="/mask/Unsqueeze")
    away = w.op("Sub", w.number(1.0), wide, name="/mask/Sub")
    bias = w.op("Mul", away, w.number(-10000.0), name="/mask/Mul")
    for i in range(config["num_hidden_layers"]):
        x = _layer(w, x, bias, f"encoder.layer.{i}", f"/layer.{i}", heads, hidden // heads, epsilon)

    tokens = w.op("Unsqueeze", mask, w.ints(2), name="/pool/Unsqueeze")
    kept = w.op("Mul", x, tokens, name="/pool/Mul")
    total = w.op("ReduceSum", kept, w.ints(1), name="/pool/ReduceSum", keepdims=0)
    count = w.op("ReduceSum", tokens, w.ints(1), name="/pool/ReduceSum_1", keepdims=0)
    mean = w.op("Div", total, count, name="/pool/Div")
    size = w.op("ReduceL2", mean, w.ints(1), name="/normalize/ReduceL2", keepdims=1)
    w.nodes.append(helper.make_node("Div", [mean, size], ["sentence_embedding"], "/normalize/Div"))

    tokens_type = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"]) for n in ("input_ids", "attention_mask")
    ]
    embedding = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", hidden])
    graph = helper.make_graph(w.nodes, "sentence_encoder", tokens_type, [embedding], list(w.initializers.values()))
    model = helper.make_model(graph, producer_name="porter demo", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def _layer(w: Writer, x: str, bias: str, source: str, name: str, heads: int, width: int, epsilon: float) -> str:
    """One encoder layer: attention over all heads, then the feed-forward half, each with residual and norm."""

    def head(kind: str, perm: list[int]) -> str:
        flat = w.linear(x, f"{source}.attention.self.{kind}", f"{name}/attention/{kind}")
        split = w.op("Reshape", flat, w.ints(0, 0, heads, width), name=f"{name}/attention/{kind}/Reshape")
        return w.op("Transpose", split, name=f"{name}/attention/{kind}/Transpose", perm=perm)

    q, k, v = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]), head("value", [0, 2, 1, 3])
    scores = w.op("MatMul", q, k, name=f"{name}/attention/scores")
    scaled = w.op("Div", scores, w.number(width**0.5), name=f"{name}/attention/Div")
    masked = w.op("Add", scaled, bias, name=f"{name}/attention/Add")
    weights = w.op("Softmax", masked, name=f"{name}/attention/Softmax", axis=-1)
    mixed = w.op("MatMul", weights, v, name=f"{name}/attention/mix")
    joined = w.op("Transpose", mixed, name=f"{name}/attention/Transpose", perm=[0, 2, 1, 3])
    flat = w.op("Reshape", joined, w.ints(0, 0, heads * width), name=f"{name}/attention/Reshape")
    out = w.linear(flat, f"{source}.attention.output.dense", f"{name}/attention/output")
    x = w.op("Add", out, x, name=f"{name}/attention/residual")
    x = w.norm(x, f"{source}.attention.output.LayerNorm", f"{name}/attention/LayerNorm", epsilon)
    inner = w.gelu(w.linear(x, f"{source}.intermediate.dense", f"{name}/intermediate"), f"{name}/gelu")
    out = w.linear(inner, f"{source}.output.dense", f"{name}/output")
    return w.norm(
        w.op("Add", out, x, name=f"{name}/residual"), f"{source}.output.LayerNorm", f"{name}/LayerNorm", epsilon
    )
