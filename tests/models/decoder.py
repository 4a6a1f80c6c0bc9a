"""The small decoder: its shape, its parameters by name, and how it is written as ONNX over one file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
WEIGHTS = "weights.bin"
POSITIONS = 512  # rows of the rotary tables: the longest sequence, cache included
Parameters = dict[str, np.ndarray]


@dataclass(frozen=True)
class Decoder:
    vocabulary: int = 256
    width: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head: int = 32
    hidden: int = 768
    base: float = 10000.0
    epsilon: float = 1e-5

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Every parameter and its shape; a product is x @ w."""
        w, kv, h = self.width, self.kv_heads * self.head, self.hidden
        layer = {
            "attention_norm": (w,),
            "q_proj": (w, self.heads * self.head),
            "k_proj": (w, kv),
            "v_proj": (w, kv),
            "o_proj": (self.heads * self.head, w),
            "mlp_norm": (w,),
            "gate_proj": (w, h),
            "up_proj": (w, h),
            "down_proj": (h, w),
        }
        inner = {f"layers.{i}.{name}": size for i in range(self.layers) for name, size in layer.items()}
        return {"embed": (self.vocabulary, w)} | inner | {"norm": (w,), "head": (w, self.vocabulary)}

    def rotary(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine of every position's angles, [length, head / 2]."""
        angles = np.arange(length)[:, None] * self.base ** (-np.arange(0, self.head, 2) / self.head)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


DECODER = Decoder()


def save(parameters: Parameters, shape: Decoder, folder: Path) -> None:
    """prefill.onnx and decode.onnx of a folder, and weights.bin that both read: bfloat16, cast to float32 in the graph."""
    folder.mkdir(parents=True, exist_ok=True)
    narrow = {
        name: np.ascontiguousarray(array, np.float32).astype(ml_dtypes.bfloat16) for name, array in parameters.items()
    }
    offsets, end = {}, 0
    with open(folder / WEIGHTS, "wb") as file:
        for name, array in narrow.items():
            offsets[name] = end
            end += file.write(array.tobytes())
    for stem, past in (("prefill", False), ("decode", True)):
        writer = Writer(shape)
        model = writer.model(past)
        for name, array in narrow.items():
            model.graph.initializer.append(_outside(name, array, offsets[name]))
        (folder / f"{stem}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _outside(name: str, array: np.ndarray, offset: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name, data_type=TensorProto.BFLOAT16, dims=array.shape, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


class Writer:
    """The decoder node by node, spelled as PyTorch exports it; each method returns the name of its output."""

    def __init__(self, shape: Decoder) -> None:
        self.shape, self.nodes = shape, []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, name: str, out: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out or name + "_out"], name, **attributes))
        return out or name + "_out"

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(f"number_{value:g}", np.array(value, np.float32))

    def weight(self, name: str) -> str:
        return self.op("Cast", name, name=f"/{name}/Cast", to=TensorProto.FLOAT)

    def linear(self, x: str, weight: str, out: str = "") -> str:
        wide = self.weight(weight)
        return self.op("MatMul", x, wide, name=f"/{weight.replace('.', '/')}/MatMul", out=out)

    def norm(self, x: str, weight: str) -> str:
        """x / sqrt(mean(x**2) + epsilon) * gain."""
        at = f"/{weight.replace('.', '/')}"
        square = self.op("Pow", x, self.number(2.0), name=at + "/Pow")
        mean = self.op("ReduceMean", square, self.ints(-1), name=at + "/ReduceMean", keepdims=1)
        root = self.op(
            "Sqrt", self.op("Add", mean, self.number(self.shape.epsilon), name=at + "/Add"), name=at + "/Sqrt"
        )
        return self.op(
            "Mul",
            self.weight(weight),
            self.op("Mul", x, self.op("Reciprocal", root, name=at + "/Reciprocal"), name=at + "/Mul"),
            name=at + "/Mul_1",
        )

    def heads(self, x: str, count: int, name: str, out: str = "") -> str:
        split = self.op("Reshape", x, self.ints(0, 0, count, self.shape.head), name=name + "/Reshape")
        return self.op("Transpose", split, name=name + "/Transpose", out=out, perm=[0, 2, 1, 3])

    def rotated(self, x: str, name: str, out: str = "") -> str:
        half, end = self.shape.head // 2, 2**31 - 1
        left = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3), name=name + "/Slice")
        right = self.op("Slice", x, self.ints(half), self.ints(end), self.ints(3), name=name + "/Slice_1")
        turned = self.op("Concat", self.op("Neg", right, name=name + "/Neg"), left, name=name + "/Concat", axis=-1)
        straight = self.op("Mul", x, "cosine", name=name + "/Mul")
        return self.op(
            "Add", straight, self.op("Mul", turned, "sine", name=name + "/Mul_1"), name=name + "/Add", out=out
        )

    def repeated(self, x: str, name: str) -> str:
        """Each head of keys or values once per query head of its group."""
        s = self.shape
        apart = self.op("Unsqueeze", x, self.ints(2), name=name + "/Unsqueeze")
        wide = self.op("Expand", apart, self.ints(1, 1, s.heads // s.kv_heads, 1, 1), name=name + "/Expand")
        length = self.op("Shape", x, name=name + "/Shape", start=2, end=3)
        size = self.op(
            "Concat", "batch_size", self.ints(s.heads), length, self.ints(s.head), name=name + "/Concat", axis=0
        )
        return self.op("Reshape", wide, size, name=name + "/Reshape")

    def attention(self, h: str, i: int, past: bool) -> str:
        at, s = f"/layers/{i}/attention", self.shape
        q, k, v = (self.linear(h, f"layers.{i}.{part}_proj") for part in "qkv")
        q = self.rotated(self.heads(q, s.heads, at + "/q"), at + "/q_rotary")
        key, value = f"present.{i}.key", f"present.{i}.value"
        k = self.rotated(self.heads(k, s.kv_heads, at + "/k"), at + "/k_rotary", "" if past else key)
        v = self.heads(v, s.kv_heads, at + "/v", "" if past else value)
        if past:
            k = self.op("Concat", f"past.{i}.key", k, name=at + "/cache_key", out=key, axis=2)
            v = self.op("Concat", f"past.{i}.value", v, name=at + "/cache_value", out=value, axis=2)
        turned = self.op(
            "Transpose", self.repeated(k, at + "/k_repeat"), name=at + "/k_repeat/Transpose", perm=[0, 1, 3, 2]
        )
        scores = self.op("MatMul", q, turned, name=at + "/scores")
        scaled = self.op("Mul", scores, self.number(s.head**-0.5), name=at + "/scale")
        weights = self.op("Softmax", self.op("Add", scaled, "mask", name=at + "/mask"), name=at + "/Softmax", axis=-1)
        mixed = self.op("MatMul", weights, self.repeated(v, at + "/v_repeat"), name=at + "/mix")
        back = self.op("Transpose", mixed, name=at + "/Transpose", perm=[0, 2, 1, 3])
        return self.linear(
            self.op("Reshape", back, self.ints(0, 0, s.heads * s.head), name=at + "/Reshape"), f"layers.{i}.o_proj"
        )

    def mlp(self, h: str, i: int) -> str:
        at = f"/layers/{i}/mlp"
        gate = self.linear(h, f"layers.{i}.gate_proj")
        swish = self.op("Mul", gate, self.op("Sigmoid", gate, name=at + "/Sigmoid"), name=at + "/Mul")
        return self.linear(
            self.op("Mul", swish, self.linear(h, f"layers.{i}.up_proj"), name=at + "/Mul_1"), f"layers.{i}.down_proj"
        )

    def places(self, past: bool) -> None:
        """Cosine and sine of the new tokens' positions, and the causal mask over the cache and them."""
        new = self.op("Shape", "input_ids", name="/Shape", start=1, end=2)
        self.op("Shape", "input_ids", name="/Shape_1", out="batch_size", start=0, end=1)
        before = self.op("Shape", "past.0.key", name="/Shape_2", start=2, end=3) if past else self.ints(0)
        total = self.op("Add", before, new, name="/Add") if past else new
        for word, table in zip(("cosine", "sine"), self.shape.rotary(POSITIONS), strict=True):
            whole = self.constant(f"{word}_table", np.concatenate([table, table], 1))
            self.op("Slice", whole, before, total, self.ints(0), name=f"/{word}", out=word)
        zero, one = (self.constant(f"scalar_{n}", np.array(n, np.int64)) for n in (0, 1))
        limit = self.op("Squeeze", total, self.ints(0), name="/Squeeze")
        columns = self.op("Range", zero, limit, one, name="/Range")
        start = self.op("Squeeze", before, self.ints(0), name="/Squeeze_1")
        rows = self.op("Range", start, limit, one, name="/Range_1")
        seen = self.op("LessOrEqual", self.op("Unsqueeze", columns, self.ints(0), name="/Unsqueeze"),
                       self.op("Unsqueeze", rows, self.ints(1), name="/Unsqueeze_1"), name="/LessOrEqual")  # fmt: skip
        self.op("Where", seen, self.number(0.0), self.number(-1e9), name="/Where", out="mask")

    def model(self, past: bool) -> onnx.ModelProto:
        """Input input_ids [batch, seq], and of decode the cache; outputs logits and the cache with the new tokens."""
        s = self.shape
        self.places(past)
        x = self.op("Gather", self.weight("embed"), "input_ids", name="/embed/Gather")
        for i in range(s.layers):
            x = self.op(
                "Add", x, self.attention(self.norm(x, f"layers.{i}.attention_norm"), i, past), name=f"/layers/{i}/Add"
            )
            x = self.op("Add", x, self.mlp(self.norm(x, f"layers.{i}.mlp_norm"), i), name=f"/layers/{i}/Add_1")
        self.linear(self.norm(x, "norm"), "head", out="logits")
        names = [f"{i}.{part}" for i in range(s.layers) for part in ("key", "value")]

        def cache(word: str, length: str) -> list[onnx.ValueInfoProto]:
            return [_value(f"{word}.{n}", ["batch", s.kv_heads, length, s.head]) for n in names]

        inputs = [_value("input_ids", ["batch", "seq"], TensorProto.INT64)] + (cache("past", "past") if past else [])
        outputs = [_value("logits", ["batch", "seq", s.vocabulary])] + cache("present", "total" if past else "seq")
        graph = helper.make_graph(self.nodes, "decoder", inputs, outputs, list(self.constants.values()))
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="train_decoder")


def _value(name: str, dims: list[str | int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)
