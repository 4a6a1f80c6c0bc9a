"""onnxruntime's own quantizers on the same models, calibrated on the same samples and run by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from subjects import Arrays, Subject


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Sequence[Arrays]) -> None:
        self.samples = iter([dict(s) for s in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.samples, None)


def all_of(subject: Subject, folder: Path) -> Iterator[tuple[str, list[np.ndarray], int]]:
    """Name, first output per sample, and bytes of each quantizer's model."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    plain = folder / "plain.onnx"
    onnx.save(widened(onnx.load(str(subject.path))), plain)
    static, dynamic, four = (folder / f"{n}.onnx" for n in ("static", "dynamic", "four"))
    for what, kinds in (("", None), (" of products alone", ["MatMul", "Gemm", "Conv"])):
        quantize_static(
            plain, static, Reader(subject.calibration), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=kinds,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )  # fmt: skip
        yield f"onnxruntime, static int8 per channel{what}", ran(static, subject), _bytes(static)
    quantize_dynamic(plain, dynamic, per_channel=True, weight_type=QuantType.QInt8)
    yield "onnxruntime, dynamic int8 per channel", ran(dynamic, subject), _bytes(dynamic)
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(plain)), block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, four)
    yield "onnxruntime, int4 blocks of 32, weights alone", ran(four, subject), _bytes(four)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights that are stored narrow and cast in the graph, as float32: these quantizers look for nothing else."""
    held = {t.name: t for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] in held]:
        array = numpy_helper.to_array(held[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        model.graph.node.remove(node)
    read = {i for n in model.graph.node for i in n.input}
    for tensor in [t for t in model.graph.initializer if t.name not in read]:
        model.graph.initializer.remove(tensor)
    return model


def ran(path: Path, subject: Subject) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0].name
    return [session.run([first], dict(x))[0] for x in subject.samples]


def _bytes(path: Path) -> int:
    """Of all initializers, as stored."""
    return sum(len(t.raw_data) or numpy_helper.to_array(t).nbytes for t in onnx.load(str(path)).graph.initializer)
