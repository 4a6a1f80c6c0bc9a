"""A decoder of as many equal layers as you like, in two spellings: for what must cost as much as one layer."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, TOKENS, WORDS = 16, 2, 6, 23


class _Nodes:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, out: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"/{out}", **attributes))
        return out

    def held(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name


def decoder(layers: int, fused: bool = False, width: int = WIDTH, wrong: int | None = None) -> onnx.ModelProto:
    """Token ids to logits. `fused` spells norms, softmax and Gelu as one operator each, else by their parts; layer
    `wrong` has its softmax over another axis."""
    n, rng = _Nodes(), np.random.default_rng(5)
    n.held("half", np.float32(0.5)), n.held("one", np.float32(1)), n.held("root", np.float32(np.sqrt(2)))
    n.held("two", np.float32(2)), n.held("eps", np.float32(1e-5)), n.held("last", np.array([-1]))
    n.held("scale", np.float32(1 / np.sqrt(width // HEADS)))
    n.held("heads", np.array([1, TOKENS, HEADS, width // HEADS])), n.held("flat", np.array([1, TOKENS, width]))
    h = n("Gather", n.held("table", rng.standard_normal((WORDS, width)).astype(np.float32)), "ids", out="h")
    for i in range(layers):
        h = _layer(n, f"l{i}.", h, rng, fused, width, wrong == i)
    n("MatMul", h, n.held("out", rng.standard_normal((width, WORDS)).astype(np.float32)), out="logits")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, TOKENS])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, TOKENS, WORDS])
    made = helper.make_graph(n.nodes, "decoder", [ids], [logits], n.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _layer(n: _Nodes, at: str, x: str, rng: np.random.Generator, fused: bool, width: int, wrong: bool) -> str:
    def matrix(name: str, rows: int, columns: int) -> str:
        return n.held(at + name, (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32))

    normed = _norm(n, at + "norm", x, n.held(at + "g1", np.abs(rng.standard_normal(width)).astype(np.float32)), fused)
    parts = {}
    for name in "qkv":
        y = n("MatMul", normed, matrix(f"w{name}", width, width), out=f"{at}{name}")
        y = n("Reshape", y, "heads", out=f"{at}{name}r")
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        parts[name] = n("Transpose", y, out=f"{at}{name}t", perm=perm)
    scores = n("MatMul", parts["q"], parts["k"], out=at + "raw")
    scores = n("Mul", scores, "scale", out=at + "scores")
    if fused or wrong:
        p = n("Softmax", scores, out=at + "p", axis=-2 if wrong else -1)
    else:
        top = n("ReduceMax", scores, "last", out=at + "top")
        e = n("Exp", n("Sub", scores, top, out=at + "below"), out=at + "e")
        p = n("Div", e, n("ReduceSum", e, "last", out=at + "sum"), out=at + "p")
    o = n("MatMul", p, parts["v"], out=at + "o")
    o = n("Reshape", n("Transpose", o, out=at + "ot", perm=[0, 2, 1, 3]), "flat", out=at + "of")
    x = n("Add", x, n("MatMul", o, matrix("wo", width, width), out=at + "proj"), out=at + "mid")
    normed = _norm(n, at + "norm2", x, n.held(at + "g2", np.abs(rng.standard_normal(width)).astype(np.float32)), fused)
    u = n("MatMul", normed, matrix("up", width, 2 * width), out=at + "up_out")
    if fused:
        g = n("Gelu", u, out=at + "gelu")
    else:
        e = n("Add", n("Erf", n("Div", u, "root", out=at + "d"), out=at + "erf"), "one", out=at + "plus")
        g = n("Mul", n("Mul", u, e, out=at + "ue"), "half", out=at + "gelu")
    return n("Add", x, n("MatMul", g, matrix("down", 2 * width, width), out=at + "down_out"), out=at + "end")


def _norm(n: _Nodes, at: str, x: str, gain: str, fused: bool) -> str:
    if fused:
        return n("RMSNormalization", x, gain, out=at, epsilon=1e-5)
    mean = n("ReduceMean", n("Pow", x, "two", out=at + ".sq"), "last", out=at + ".mean")
    root = n("Sqrt", n("Add", mean, "eps", out=at + ".eps"), out=at + ".root")
    return n("Mul", n("Div", x, root, out=at + ".unit"), gain, out=at)
