"""Small models as others quantize them: loaded, held against a formula of their own, ported with nothing on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter import graph, ops
from porter.device import load_device
from porter.errors import PorterError
from porter.porting.port import port

RNG = np.random.default_rng(0)
E4M3, E2M1, E8M0 = (np.dtype(getattr(ml_dtypes, n)) for n in ("float8_e4m3fn", "float4_e2m1fn", "float8_e8m0fnu"))
X = RNG.standard_normal((64, 64)).astype(np.float32)
W = RNG.standard_normal((64, 32)).astype(np.float32) / 8

ROUNDING = 2.0**-20  # of the largest element: sums of 64 float32 products in another order


@dataclass(frozen=True)
class Made:
    """A model, its input, and what it must give; `known`: onnxruntime runs it and is asked as well."""

    nodes: list[Any]
    weights: dict[str, np.ndarray]
    truth: np.ndarray
    x: np.ndarray = field(default_factory=lambda: X)
    known: bool = False
    domains: tuple[str, ...] = ()
    opset: int = 21

    def proto(self) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.x.dtype)
        out = helper.np_dtype_to_tensor_dtype(self.truth.dtype)
        g = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", kind, self.x.shape)],
            [helper.make_tensor_value_info("y", out, self.truth.shape)],
            [tensor(n, a) for n, a in self.weights.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in self.domains)]
        return helper.make_model(g, opset_imports=opsets, ir_version=10)


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(array, name)


def node(op: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> Any:
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=f"/{outputs.split()[0]}", domain=domain, **attributes
    )


def nearest(x: np.ndarray, kind: np.dtype) -> np.ndarray:
    """x in a narrow float, the largest code beyond it; float64."""
    top = float(ml_dtypes.finfo(kind).max)
    return np.clip(x, -top, top).astype(np.float32).astype(kind).astype(np.float64)


def int8_qdq() -> Made:
    """Activations per tensor, weights per column, as quantizers of QDQ models write them."""
    s, ws = np.float32(3 / 127), (np.abs(W).max(0) / 127).astype(np.float32)
    codes = np.rint(W / ws).astype(np.int8)
    real = np.clip(np.rint(X / s), -128, 127) * s.astype(np.float64)
    return Made(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
         node("DequantizeLinear", "w ws wz", "dw", axis=1), node("MatMul", "d dw", "y")],
        {"s": s, "z": np.int8(0), "w": codes, "ws": ws, "wz": np.zeros(32, np.int8)},
        (real @ (codes * ws.astype(np.float64))).astype(np.float32), known=True,
    )  # fmt: skip


def int4_groups() -> Made:
    """INT4 in groups of 16 along the sum, as AWQ and GPTQ models are exported."""
    scale = (np.abs(W).reshape(4, 16, 32).max(1) / 7).astype(np.float32)
    wide = np.repeat(scale, 16, 0)
    codes = np.clip(np.rint(W / wide), -8, 7)
    return Made(
        [node("DequantizeLinear", "w s", "d", axis=0, block_size=16), node("MatMul", "x d", "y")],
        {"w": codes.astype(ml_dtypes.int4), "s": scale},
        (X.astype(np.float64) @ (codes * wide.astype(np.float64))).astype(np.float32), known=True,
    )  # fmt: skip


def gguf(bits: int) -> Made:
    """Q4_0 and Q8_0: rows of outputs, groups of 32 with a float16 scale, for 4 bits a code of 8 in the middle."""
    rows = np.ascontiguousarray(W.T)
    top = 2 ** (bits - 1)
    scale = (np.abs(rows).reshape(32, 2, 32).max(2) / (top - 1)).astype(np.float16)
    wide = np.repeat(scale, 32, 1).astype(np.float64)
    codes = np.clip(np.rint(rows / wide), -top, top - 1)
    stored = (codes + 8).astype(ml_dtypes.uint4) if bits == 4 else codes.astype(np.int8)
    zero = {"z": np.full((32, 2), 8).astype(ml_dtypes.uint4)} if bits == 4 else {}
    real = (codes * wide).astype(np.float16).astype(np.float64)
    return Made(
        [node("DequantizeLinear", "w s z" if zero else "w s", "h", axis=1, block_size=32), node("Cast", "h", "f", to=1),
         node("Transpose", "f", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        {"w": stored, "s": scale, **zero}, (X.astype(np.float64) @ real.T).astype(np.float32), known=True,
    )  # fmt: skip


def qlinear_matmul() -> Made:
    """Codes in, codes out: the integers multiply exactly."""
    x = RNG.integers(0, 256, (64, 64)).astype(np.uint8)
    w = RNG.integers(-127, 128, (64, 32)).astype(np.int8)
    whole = (x.astype(np.int64) - 120) @ w.astype(np.int64)
    factor = np.float32(0.02) * np.float32(0.01) / np.float32(1.5)
    y = np.clip(np.rint(whole.astype(np.float32) * factor) + 110, 0, 255).astype(np.uint8)
    return Made(
        [node("QLinearMatMul", "x xs xz w ws wz ys yz", "y")],
        {"xs": np.float32(0.02), "xz": np.uint8(120), "w": w, "ws": np.float32(0.01), "wz": np.int8(0),
         "ys": np.float32(1.5), "yz": np.uint8(110)}, y, x, known=True,
    )  # fmt: skip


def matmul_nbits() -> Made:
    """onnxruntime's MatMulNBits: 4 bits, two codes in a byte, a scale for 32 along K, the middle as zero point."""
    rows = np.ascontiguousarray(W.T)
    scale = (np.abs(rows).reshape(32, 2, 32).max(2) / 7).astype(np.float32)
    wide = np.repeat(scale, 32, 1)
    codes = (np.clip(np.rint(rows / wide), -8, 7) + 8).astype(np.uint8)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).reshape(32, 2, 16)
    real = (codes.astype(np.float64) - 8) * wide
    return Made(
        [node("MatMulNBits", "x w s", "y", "com.microsoft", K=64, N=32, bits=4, block_size=32)],
        {"w": packed, "s": scale.reshape(-1)}, (X.astype(np.float64) @ real.T).astype(np.float32),
        known=True, domains=("com.microsoft",),
    )  # fmt: skip


def gather_quantized() -> Made:
    """A table of embeddings in 4 bits: rows are gathered, then decoded."""
    table = RNG.integers(-8, 8, (40, 64))
    scale = (RNG.random((40, 2)) + 0.5).astype(np.float32)
    ids = RNG.integers(0, 40, (64,)).astype(np.int64)
    real = (table.reshape(40, 2, 32) * scale[:, :, None]).reshape(40, 64)[ids]
    return Made(
        [node("GatherBlockQuantized", "t x s", "y", "com.microsoft", gather_axis=0, quantize_axis=1, block_size=32)],
        {"t": table.astype(ml_dtypes.int4), "s": scale}, real.astype(np.float32), ids, domains=("com.microsoft",),
    )  # fmt: skip


def trt_fp8(as_bytes: bool) -> Made:
    """Model-Optimizer's FP8: TRT_FP8QuantizeLinear around activations, weights held as E4M3 or as its bytes."""
    s, ws = np.float32(4 / 448), np.float32(np.abs(W).max() / 448)
    codes = (W / ws).astype(E4M3)
    real = nearest(X / s, E4M3) * np.float64(s)
    return Made(
        [node("TRT_FP8QuantizeLinear", "x s", "q", "trt"), node("TRT_FP8DequantizeLinear", "q s", "d", "trt"),
         node("TRT_FP8DequantizeLinear", "w ws", "dw", "trt"), node("MatMul", "d dw", "y")],
        {"s": s, "w": codes.view(np.uint8) if as_bytes else codes, "ws": ws},
        (real @ (codes.astype(np.float64) * np.float64(ws))).astype(np.float32), domains=("trt",),
    )  # fmt: skip


def standard_fp8() -> Made:
    """The same in the standard's operators, as newer exporters have it."""
    old = trt_fp8(False)
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s", "d"),
             node("DequantizeLinear", "w ws", "dw"), node("MatMul", "d dw", "y")]  # fmt: skip
    return Made(nodes, {**old.weights, "z": np.zeros((), E4M3)}, old.truth)


def nvfp4() -> Made:
    """Model-Optimizer's NVFP4: weights decoded in two levels, activations quantized as they come."""
    whole, seen = np.float32(np.abs(W).max() / (6 * 448)), np.float32(4 / (6 * 448))
    ws = nearest(np.abs(W).reshape(4, 16, 32).max(1) / 6 / whole, E4M3).astype(E4M3)
    wide = np.repeat(ws.astype(np.float32) * whole, 16, 0)
    codes = nearest(W / wide, E2M1).astype(E2M1)
    sx = nearest(np.abs(X).reshape(64, 4, 16).max(2) / np.float32(6) / seen, E4M3).astype(np.float32) * seen
    wide_x = np.repeat(sx, 16, 1)
    real = nearest(X / wide_x, E2M1) * wide_x
    return Made(
        [node("TRT_FP4DynamicQuantize", "x g", "q sq", "trt", axis=-1, block_size=16, scale_type=17),
         node("DequantizeLinear", "sq g", "sx"), node("DequantizeLinear", "q sx", "d", axis=-1, block_size=16),
         node("DequantizeLinear", "ws wg", "sw"), node("DequantizeLinear", "w sw", "dw", axis=0, block_size=16),
         node("MatMul", "d dw", "y")],
        {"g": seen, "w": codes, "ws": ws, "wg": whole}, (real @ (codes.astype(np.float64) * wide)).astype(np.float32),
        domains=("trt",), opset=23,
    )  # fmt: skip


def mxfp8() -> Made:
    """Model-Optimizer's MXFP8: E8M0 scales in bytes, for weights in the file, for activations as they come."""

    def scales(blocks: np.ndarray) -> np.ndarray:
        return np.exp2(np.ceil(np.log2(blocks / np.float32(448)))).astype(E8M0)

    ws, sx = scales(np.abs(W).reshape(2, 32, 32).max(1)), scales(np.abs(X).reshape(64, 2, 32).max(2))
    wide, wide_x = np.repeat(ws.astype(np.float64), 32, 0), np.repeat(sx.astype(np.float64), 32, 1)
    codes = (W / wide).astype(np.float32).astype(E4M3)
    return Made(
        [node("TRT_MXFP8DynamicQuantize", "x", "q sx", "trt", axis=-1, block_size=32, output_dtype=17),
         node("TRT_MXFP8DequantizeLinear", "q sx", "d", "trt", axis=-1, block_size=32, output_dtype=1),
         node("TRT_MXFP8DequantizeLinear", "w ws", "dw", "trt", axis=0, block_size=32, output_dtype=1),
         node("MatMul", "d dw", "y")],
        {"w": codes, "ws": ws.view(np.uint8)},
        ((nearest(X / wide_x, E4M3) * wide_x) @ (codes.astype(np.float64) * wide)).astype(np.float32), domains=("trt",),
    )  # fmt: skip


MODELS: dict[str, Callable[[], Made]] = {
    "int8 QDQ": int8_qdq, "int4 in groups": int4_groups, "Q4_0 as DequantizeLinear": lambda: gguf(4),
    "Q8_0 as DequantizeLinear": lambda: gguf(8), "QLinearMatMul": qlinear_matmul, "MatMulNBits": matmul_nbits,
    "GatherBlockQuantized": gather_quantized, "TRT FP8": lambda: trt_fp8(False), "TRT FP8 in bytes": lambda: trt_fp8(True),
    "FP8 QDQ": standard_fp8, "NVFP4 in two levels": nvfp4, "TRT MXFP8": mxfp8,
}  # fmt: skip


def apart(got: np.ndarray, made: Made) -> float:
    """The largest difference, in units of the largest element; steps for integers."""
    unit = 1.0 if made.truth.dtype.kind in "iu" else float(np.abs(made.truth).max())
    return float(np.abs(got.astype(np.float64) - made.truth.astype(np.float64)).max()) / unit


@pytest.mark.parametrize("kind", MODELS)
def test_what_others_quantized_means_what_its_formula_says(kind: str) -> None:
    made = MODELS[kind]()
    loaded = graph.load(made.proto())
    assert loaded.opset_imports == {"": graph.HOME_OPSET}
    allowed = 1 if made.truth.dtype.kind in "iu" else ROUNDING
    assert apart(ops.evaluate(loaded, {"x": made.x}, ops.source)["y"], made) <= allowed


@pytest.mark.parametrize("kind", [k for k in MODELS if MODELS[k]().known])
def test_onnxruntime_means_the_same(kind: str) -> None:
    made = MODELS[kind]()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        made.proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    allowed = 1 if made.truth.dtype.kind in "iu" else ROUNDING
    assert apart(session.run(None, {"x": made.x})[0], made) <= allowed


@pytest.mark.parametrize("target", [
    "gpu:h200", *(pytest.param(t, marks=pytest.mark.slow) for t in ("tpu:v6e", "trainium:trn2", "maia:200"))
])  # fmt: skip
@pytest.mark.parametrize("kind", MODELS)
def test_and_is_ported_with_nothing_on_the_host(tmp_path: Path, kind: str, target: str) -> None:
    made = MODELS[kind]()
    onnx.save(made.proto(), tmp_path / "m.onnx")
    result = port(tmp_path / "m.onnx", targets=[load_device(target)], out=tmp_path / "out")
    found = result.to_json()["targets"][0]
    if (kind, target) == ("TRT MXFP8", "trainium:trn2"):  # scales computed from 448 as they come
        assert found["message"].startswith("trainium:trn2: what layer /q quantizes to E4M3\n  expected a clamp at 240")
        return
    assert found["status"] == "ok", found["message"]
    assert found["kernels"]["host_ops"] == {}


def test_blocks_along_another_axis_than_the_last_are_refused_where_they_are_made_dynamically() -> None:
    made = mxfp8()
    made.nodes[0] = node("TRT_MXFP8DynamicQuantize", "x", "q sx", "trt", axis=0, block_size=32, output_dtype=17)
    with pytest.raises(PorterError) as error:
        graph.load(made.proto())
    assert str(error.value).splitlines() == [
        "node '/q' (trt.TRT_MXFP8DynamicQuantize)", "  expected attribute 'axis' of -1, the last", "  found 0",
    ]  # fmt: skip
