"""Static int8 of a transformer with 8 samples: porter and onnxruntime's quantizer side by side, each in a process of its own.

`quantize.py [--megabytes 300]` writes a seeded encoder of that size, has both quantize it (per channel, symmetric, calibrated on
the same samples, checks off in both), and prints seconds, peak memory of the process, and how near each result's output is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

WIDTH, LENGTH, SAMPLES, HEADS = 1024, 128, 8, 16
LAYER = 12 * WIDTH * WIDTH * 4  # bytes of a layer's weights


def build(folder: Path, megabytes: int) -> Path:
    """A post-norm encoder, float32[1, 128, 1024] to the same, its weights in one file beside it."""
    random, nodes, held = np.random.default_rng(0), [], []
    path, weights = folder / "model.onnx", folder / "weights.bin"

    def tensor(name: str, shape: tuple[int, ...], array: np.ndarray) -> str:
        made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", weights.name), ("offset", file.tell()), ("length", array.nbytes)):
            made.external_data.add(key=key, value=str(value))
        file.write(array.tobytes())
        held.append(made)
        return name

    def op(kind: str, *inputs: str, name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [name + "_out"], name, **attributes))
        return name + "_out"

    def linear(x: str, rows: int, columns: int, name: str) -> str:
        w = (random.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)).astype(np.float32)
        product = op("MatMul", x, tensor(name + ".weight", (rows, columns), w), name=name + "/MatMul")
        return op("Add", product, tensor(name + ".bias", (columns,), np.zeros(columns, np.float32)), name=name + "/Add")

    def norm(x: str, name: str) -> str:
        gain, bias = (
            tensor(f"{name}.{k}", (WIDTH,), np.full(WIDTH, v, np.float32)) for k, v in (("gain", 1), ("bias", 0))
        )
        return op("LayerNormalization", x, gain, bias, name=name, axis=-1)

    with open(weights, "wb") as file:
        x = "x"
        split = helper.make_tensor("split", TensorProto.INT64, [4], [1, LENGTH, HEADS, WIDTH // HEADS])
        joined = helper.make_tensor("joined", TensorProto.INT64, [3], [1, LENGTH, WIDTH])
        scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [(WIDTH // HEADS) ** -0.5])
        for i in range(max(1, round(megabytes * 1e6 / LAYER))):
            at = f"/layer.{i}"
            parts = [
                op("Reshape", linear(x, WIDTH, WIDTH, f"{at}/{p}"), "split", name=f"{at}/{p}/Reshape") for p in "qkv"
            ]
            q, k, v = (
                op("Transpose", part, name=f"{at}/{p}/Transpose", perm=[0, 2, 3, 1] if p == "k" else [0, 2, 1, 3])
                for p, part in zip("qkv", parts, strict=True)
            )
            scores = op("Mul", op("MatMul", q, k, name=at + "/scores"), "scale", name=at + "/scaled")
            mixed = op("MatMul", op("Softmax", scores, name=at + "/Softmax", axis=-1), v, name=at + "/mixed")
            back = op("Transpose", mixed, name=at + "/Transpose", perm=[0, 2, 1, 3])
            out = linear(op("Reshape", back, "joined", name=at + "/Reshape"), WIDTH, WIDTH, at + "/o")
            x = norm(op("Add", x, out, name=at + "/Add"), at + "/norm")
            up = op("Relu", linear(x, WIDTH, 4 * WIDTH, at + "/up"), name=at + "/Relu")
            x = norm(op("Add", x, linear(up, 4 * WIDTH, WIDTH, at + "/down"), name=at + "/Add_1"), at + "/norm_1")
    nodes[-1].output[0] = "y"
    shape = [1, LENGTH, WIDTH]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [*held, split, joined, scale],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(made.SerializeToString())
    return path


def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((1, LENGTH, WIDTH), np.float32)} for _ in range(SAMPLES)]


def porter(path: Path, out: Path) -> None:
    from porter import graph, pipeline
    from porter.pipeline.text import parse
    from porter.precision.calibrate import kept

    folder = out.with_suffix(".samples")
    folder.mkdir()
    text = f"quantization.narrow{{scheme=int8,method=minmax,calibrate={kept(samples(), folder)}}}"
    graph.save(pipeline.run(graph.load(path), parse(text), None, checks=False).model, out, external=True)


def onnxruntime(path: Path, out: Path) -> None:
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    logging.disable(logging.WARNING)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        given = iter(samples())

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.given, None)

    quantize_static(
        path, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["MatMul"],
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, use_external_data_format=True,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip


def child(how: str, path: Path, out: Path) -> None:
    began = time.perf_counter()
    {"porter": porter, "onnxruntime": onnxruntime}[how](path, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time(), "peak": peak}))


def decibels(path: Path, out: Path) -> float:
    """Of signal to error of the quantized model's output, both run by onnxruntime."""
    import onnxruntime as ort

    given = samples()[0]
    truth, got = (ort.InferenceSession(str(p)).run(None, given)[0].astype(np.float64) for p in (path, out))
    return float(10 * np.log10(np.sum(truth**2) / np.sum((got - truth) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--child", nargs=3, metavar=("HOW", "MODEL", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return child(asked.child[0], Path(asked.child[1]), Path(asked.child[2]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = build(folder, asked.megabytes)
        size = (folder / "weights.bin").stat().st_size
        print(
            f"{size / 1e6:.0f} MB of weights, {SAMPLES} samples of {LENGTH} x {WIDTH}; wants 10 s and {1.5 * size / 1e6:.0f} MB"
        )
        for how in ("porter", "onnxruntime"):
            out = folder / f"{how}.onnx"
            ran = subprocess.run(
                [sys.executable, __file__, "--child", how, str(path), str(out)],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ,
            )
            if ran.returncode:
                print(f"{how}: failed\n{ran.stderr[-2000:]}")
                continue
            found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
            spent = f"{found['seconds']:6.1f} s ({found['cpu']:.1f} s of a core)"
            peak = f"peak {found['peak'] / 1e6:6.0f} MB = {found['peak'] / size:.2f} x weights"
            print(f"{how:12} {spent}  {peak}  {decibels(path, out):.1f} dB")


if __name__ == "__main__":
    main()
