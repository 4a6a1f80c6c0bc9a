"""A decoder of any size as two ONNX graphs whose weights are only shapes: the external file they name is not written.

    python bench/decoder.py DIR --size 70b
    porter compare DIR --target all --weights shapes --precision bf16 --batch 8 --context 2048 --output 256

Llama's architecture in plain ONNX operators: RMS norms, rotary embedding, grouped attention with a cache, SwiGLU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

EXTERNAL = "weights.bin"  # what the weights name as their data


@dataclass(frozen=True)
class Shape:
    """The numbers that make a decoder. `heads` and `kv_heads` are of `head` numbers each."""

    layers: int = 80
    hidden: int = 8192
    heads: int = 64
    kv_heads: int = 8
    head: int = 128
    inner: int = 28672
    vocabulary: int = 128256
    positions: int = 131072

    @property
    def parameters(self) -> int:
        """Weights of all products, norms and both ends of the vocabulary; the tables of the rotation are none."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.inner + 2 * self.hidden
        return self.layers * layer + 2 * self.vocabulary * self.hidden + self.hidden


SIZES = {
    "8b": Shape(layers=32, hidden=4096, heads=32, inner=14336),
    "70b": Shape(),
    "405b": Shape(layers=126, hidden=16384, heads=128, inner=53248),
}


class Drawing:
    """Nodes and weights of one graph as they are added."""

    def __init__(self, shape: Shape, dtype: int) -> None:
        self.shape, self.dtype = shape, dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], outputs: str | list[str], **attributes: object) -> str:
        names = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(op, inputs, names, names[0].replace(".", "/"), **attributes))
        return names[0]

    def weight(self, name: str, *dims: int) -> str:
        """A tensor that says where its data would be."""
        tensor = TensorProto(name=name, data_type=self.dtype, dims=dims, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=EXTERNAL)
        self.weights.append(tensor)
        return name

    def product(self, x: str, name: str, rows: int, columns: int) -> str:
        return self.node("MatMul", [x, self.weight(f"{name}.weight", rows, columns)], f"{name}.out")

    def norm(self, x: str, name: str) -> str:
        return self.node("RMSNormalization", [x, self.weight(f"{name}.weight", self.shape.hidden)], f"{name}.out")

    def layer(self, x: str, i: int, past: bool) -> str:
        s = self.shape
        n = f"layer.{i}"
        h = self.norm(x, f"{n}.norm")
        q, k, v = (
            self.product(h, f"{n}.{w}", s.hidden, heads * s.head)
            for w, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads))
        )
        q, k = (
            self.node("RotaryEmbedding", [y, "cos", "sin", "position_ids"], f"{n}.{w}.turned", num_heads=heads)
            for w, y, heads in (("q", q, s.heads), ("k", k, s.kv_heads))
        )
        cache = [f"past.{i}.key", f"past.{i}.value"] if past else ["", ""]
        self.node("Attention", [q, k, v, "", *cache], [f"{n}.attention", f"present.{i}.key", f"present.{i}.value"],
                  q_num_heads=s.heads, kv_num_heads=s.kv_heads, is_causal=0 if past else 1)  # fmt: skip
        x = self.node("Add", [x, self.product(f"{n}.attention", f"{n}.o", s.heads * s.head, s.hidden)], f"{n}.mixed")
        h = self.norm(x, f"{n}.mlp_norm")
        gate, up = (self.product(h, f"{n}.{w}", s.hidden, s.inner) for w in ("gate", "up"))
        gate = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{n}.sigmoid")], f"{n}.silu")
        down = self.product(self.node("Mul", [gate, up], f"{n}.gated"), f"{n}.down", s.inner, s.hidden)
        return self.node("Add", [x, down], f"{n}.out")


def graph(shape: Shape, past: bool, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The step graph (`past`), or the prompt graph."""
    d = Drawing(shape, dtype)
    tokens = 1 if past else "seq"
    d.weight("cos", shape.positions, shape.head // 2)
    d.weight("sin", shape.positions, shape.head // 2)
    x = d.node("Gather", [d.weight("embed.weight", shape.vocabulary, shape.hidden), "input_ids"], "embed.out")
    for i in range(shape.layers):
        x = d.layer(x, i, past)
    if not past:  # who serves asks the prompt for one token
        d.nodes.append(helper.make_node("Constant", [], ["last"], value_ints=[-1]))
        x = d.node("Gather", [x, "last"], "last.out", axis=1)
    d.node("MatMul", [d.norm(x, "norm"), d.weight("head.weight", shape.hidden, shape.vocabulary)], "logits")
    info = helper.make_tensor_value_info
    names = [f"{i}.{w}" for i in range(shape.layers) for w in ("key", "value")]
    inputs = [info(n, TensorProto.INT64, ["batch", tokens]) for n in ("input_ids", "position_ids")]
    if past:
        inputs += [info(f"past.{n}", dtype, ["batch", shape.kv_heads, "past", shape.head]) for n in names]
    total = "past + 1" if past else tokens
    outputs = [info("logits", dtype, ["batch", 1, shape.vocabulary])]
    outputs += [info(f"present.{n}", dtype, ["batch", shape.kv_heads, total, shape.head]) for n in names]
    made = helper.make_graph(d.nodes, "decoder", inputs, outputs, d.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def write(folder: Path, shape: Shape, dtype: int = TensorProto.FLOAT) -> Path:
    """prefill.onnx and decode.onnx in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, past in (("prefill", False), ("decode", True)):
        (folder / f"{name}.onnx").write_bytes(graph(shape, past, dtype).SerializeToString())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="70b")
    parser.add_argument("--layers", type=int, help="fewer or more than the size has")
    given = parser.parse_args()
    from dataclasses import replace

    shape = SIZES[given.size] if given.layers is None else replace(SIZES[given.size], layers=given.layers)
    print(f"{write(given.folder, shape)}: {shape.parameters:,} parameters")


if __name__ == "__main__":
    main()
