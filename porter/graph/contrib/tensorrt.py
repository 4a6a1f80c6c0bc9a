"""TensorRT's quantized operators (`trt`), as Model-Optimizer and Transformer Engine write them, in the standard's words.

    TRT_FP8QuantizeLinear, TRT_FP8DequantizeLinear     E4M3 with one scale; codes may be declared as bytes
    TRT_INT4QuantizeLinear, TRT_INT4DequantizeLinear   4 bits, in blocks
    TRT_FP4DynamicQuantize                             NVFP4: E2M1 in blocks of 16, their E4M3 scales, a scale of those
    TRT_MXFP8DynamicQuantize, ...DequantizeLinear      MXFP8: E4M3 in blocks of 32, E8M0 scales in bytes
    DequantizeLinear                                   the standard's

TensorRT's own importer (onnx-tensorrt, onnxOpImporters.cpp) reads them so. Scales of a file are kept as they are; those of
dynamic blocks follow NVIDIA's rule, upward to a power of two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.spelling import Spelling, Table, spells

DOMAIN = "trt"
SPELLINGS: Table = {}
E4M3, E8M0, E2M1 = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E8M0, ir.DataType.FLOAT4E2M1)
LARGEST = {E4M3: 448.0, E2M1: 6.0}


def _held(s: Spelling, index: int, kind: ir.DataType) -> ir.Value:
    """An input of codes: a weight declared as bytes under its own type, everything else as it is."""
    value = s.required(index)
    array = value.const_value.numpy() if value.const_value is not None else None
    if array is None or array.dtype != np.uint8:
        return value
    return s.constant(array.view(kind.numpy()), "codes")


@spells(SPELLINGS, "TRT_FP8QuantizeLinear")
def fp8(s: Spelling) -> None:
    """x / scale in E4M3, beyond 448 the largest."""
    s.finish(s.op("QuantizeLinear", s.required(0), s.required(1), output_dtype=int(E4M3)))


@spells(SPELLINGS, "TRT_INT4QuantizeLinear")
def int4(s: Spelling) -> None:
    """x / scale in 4 bits, a scale for each block along an axis."""
    axis, block = s.attribute("axis"), s.attribute("block_size")
    kind = int(ir.DataType.INT4)
    s.finish(s.op("QuantizeLinear", s.required(0), s.required(1), axis=axis, block_size=block, output_dtype=kind))


@spells(SPELLINGS, "DequantizeLinear", "TRT_FP8DequantizeLinear", "TRT_INT4DequantizeLinear")
def decoded(s: Spelling) -> None:
    """codes * scale."""
    kind = E4M3 if s.node.op_type == "TRT_FP8DequantizeLinear" else E2M1
    axis, block = s.attribute("axis"), s.attribute("block_size")
    codes = _held(s, 0, kind) if s.node.op_type != "TRT_INT4DequantizeLinear" else s.required(0)
    s.finish(s.op("DequantizeLinear", codes, s.required(1), s.input(2), axis=axis, block_size=block))


@spells(SPELLINGS, "TRT_MXFP8QuantizeLinear", "TRT_MXFP8DequantizeLinear")
def mxfp8(s: Spelling) -> None:
    """By E8M0 scales that lie in bytes."""
    axis, block = s.attribute("axis", -1), int(s.attribute("block_size", 32))
    scale = _held(s, 1, E8M0)
    if s.node.op_type == "TRT_MXFP8QuantizeLinear":
        wide = s.op("Cast", scale, to=int(ir.DataType.FLOAT))
        s.finish(s.op("QuantizeLinear", s.required(0), wide, axis=axis, block_size=block, output_dtype=int(E4M3)))
        return
    kind = int(s.attribute("output_dtype", int(ir.DataType.FLOAT)))
    codes = _held(s, 0, E4M3)
    s.finish(s.op("DequantizeLinear", codes, scale, axis=axis, block_size=block, output_dtype=kind))


@spells(SPELLINGS, "TRT_MXFP8DynamicQuantize")
def mxfp8_dynamic(s: Spelling) -> None:
    """Codes and E8M0 scales of what is seen: each block's largest magnitude over 448, upward to a power of two."""
    block = int(s.attribute("block_size", 32))
    x = s.op("Cast", s.required(0), to=int(ir.DataType.FLOAT))
    exact = s.op("Div", _largest(s, x, block), s.constant(np.asarray(LARGEST[E4M3], np.float32), "largest"))
    scale = s.op("Cast", exact, to=int(E8M0), round_mode="up")
    wide = s.op("Cast", scale, to=int(ir.DataType.FLOAT))
    codes = s.op("QuantizeLinear", x, wide, axis=-1, block_size=block, output_dtype=int(E4M3))
    s.finish(codes, scale)


@spells(SPELLINGS, "TRT_FP4DynamicQuantize")
def nvfp4_dynamic(s: Spelling) -> None:
    """E2M1 codes and E4M3 scales of what is seen; the scale of the scales is given."""
    block = int(s.attribute("block_size", 16))
    s.only("scale_type", int(E4M3), default=int(E4M3))
    x = s.op("Cast", s.required(0), to=int(ir.DataType.FLOAT))
    whole = s.op("Cast", s.required(1), to=int(ir.DataType.FLOAT))
    exact = s.op("Div", _largest(s, x, block), s.constant(np.asarray(LARGEST[E2M1], np.float32), "largest"))
    scale = s.op("QuantizeLinear", exact, whole, output_dtype=int(E4M3))
    wide = s.op("DequantizeLinear", scale, whole)
    # a block of zeros has scale 0: any other divides its zeros as well
    tiny = s.constant(np.asarray(np.finfo(np.float32).tiny, np.float32), "least")
    codes = s.op(
        "QuantizeLinear", x, s.op("Max", wide, tiny), axis=-1, block_size=block, output_dtype=int(E2M1)
    )  # fmt: skip
    s.finish(codes, scale)


def _largest(s: Spelling, x: ir.Value, block: int) -> ir.Value:
    """The largest magnitude of each block along the last axis."""
    axis = int(s.attribute("axis", -1))
    rank = s.rank(x)
    if axis != -1 and axis != (rank or 0) - 1:
        s.refuse("attribute 'axis' of -1, the last", str(axis))
    blocks = s.reshape(s.op("Abs", x), -1, block)
    largest = s.op("ReduceMax", blocks, s.ints(1, name="axes"), keepdims=0)
    sizes = s.op("Concat", s.op("Shape", x, end=-1), s.ints(-1), axis=0)
    return s.op("Reshape", largest, sizes)
