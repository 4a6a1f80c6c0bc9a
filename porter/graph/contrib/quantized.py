"""Operators on quantized tensors: dequantize, compute, quantize; scales and zero points hold for whole tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}


def _real(s: Spelling, index: int) -> ir.Value:
    """The real numbers of a quantized input, which its scale and zero point follow."""
    return s.op("DequantizeLinear", s.required(index), s.required(index + 1), s.input(index + 2))


def _store(s: Spelling, real: ir.Value, index: int, like: ir.Value | None = None) -> None:
    """Quantizes the result by the scale and zero point from an input on; a missing zero point is 0 of like's type."""
    zero = s.input(index + 1)
    if zero is None:
        kind = (like if like is not None else s.required(0)).dtype
        zero = s.constant(np.zeros((), kind.numpy() if kind is not None else np.uint8), "zero_point")
    s.finish(s.op("QuantizeLinear", real, s.required(index), zero))


@spells(SPELLINGS, "QLinearAdd", "QLinearMul")
def arithmetic(s: Spelling) -> None:
    """Sum or product of two tensors."""
    _store(s, s.op(s.node.op_type.removeprefix("QLinear"), _real(s, 0), _real(s, 3)), 6)


@spells(SPELLINGS, "QLinearSigmoid")
def sigmoid(s: Spelling) -> None:
    """1 / (1 + exp(-x))."""
    _store(s, s.op("Sigmoid", _real(s, 0)), 3)


@spells(SPELLINGS, "QLinearLeakyRelu")
def leaky_relu(s: Spelling) -> None:
    """x, or alpha * x below 0."""
    _store(s, s.op("LeakyRelu", _real(s, 0), alpha=float(s.attribute("alpha", 0.01))), 3)


@spells(SPELLINGS, "QLinearSoftmax")
def softmax(s: Spelling) -> None:
    """Along one axis, or before opset 13 over all axes from one on."""
    x, axis = _real(s, 0), int(s.attribute("axis", -1))
    rank = s.need_rank(s.required(0))
    if int(s.attribute("opset")) >= 13 or axis % rank == rank - 1:
        y = s.op("Softmax", x, axis=axis)
    else:
        y = s.op("Reshape", s.op("Softmax", s.op("Flatten", x, axis=axis), axis=-1), s.op("Shape", x), allowzero=1)
    _store(s, y, 3)


@spells(SPELLINGS, "QLinearReduceMean")
def reduce_mean(s: Spelling) -> None:
    """The mean along some axes."""
    axes = s.ints(*s.attribute("axes", ()), name="axes")
    _store(s, s.op("ReduceMean", _real(s, 0), axes, keepdims=int(s.attribute("keepdims", 1))), 3)


@spells(SPELLINGS, "QLinearConcat")
def concat(s: Spelling) -> None:
    """Tensors with scales of their own in one, along an axis; the result's scale stands first."""
    parts = [_real(s, index) for index in range(2, len(s.node.inputs), 3)]
    _store(s, s.op("Concat", *parts, axis=int(s.attribute("axis"))), 0, s.required(2))


@spells(SPELLINGS, "QLinearWhere")
def where(s: Spelling) -> None:
    """One or the other, as a condition says."""
    _store(s, s.op("Where", s.required(0), _real(s, 1), _real(s, 4)), 7, s.required(1))


@spells(SPELLINGS, "QLinearGlobalAveragePool")
def global_average_pool(s: Spelling) -> None:
    """The mean over the image."""
    _store(s, _channels_first(s, "GlobalAveragePool", _real(s, 0)), 3)


@spells(SPELLINGS, "QLinearAveragePool")
def average_pool(s: Spelling) -> None:
    """The mean over windows of the image."""
    names = ("ceil_mode", "pads", "auto_pad", "strides", "kernel_shape", "count_include_pad")
    _store(s, _channels_first(s, "AveragePool", _real(s, 0), **{name: s.attribute(name) for name in names}), 3)


def _channels_first(s: Spelling, op_type: str, x: ir.Value, *more: ir.Value, **options: Any) -> ir.Value:
    """The operator on channels first, where the node may have them last."""
    if not s.attribute("channels_last", 0):
        return s.op(op_type, x, *more, **options)
    rank = s.need_rank(s.required(0))
    y = s.op(op_type, s.transpose(x, 0, rank - 1, *range(1, rank - 1)), *more, **options)
    return s.transpose(y, 0, *range(2, rank), 1)


@spells(SPELLINGS, "QLinearConv")
def conv(s: Spelling) -> None:
    """The standard's, where channels may also come last."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    rest = [s.input(index) for index in range(1, 9)]
    options = {name: s.attribute(name) for name in names}
    s.finish(_channels_first(s, "QLinearConv", s.required(0), *rest, **options))  # type: ignore[arg-type]


@spells(SPELLINGS, "QuantizeLinear", "DequantizeLinear")
def one_step(s: Spelling) -> None:
    """As the standard's, which by now has all of its types."""
    options = {"axis": s.attribute("axis"), "block_size": s.attribute("block_size")}
    y = s.op(s.node.op_type, s.required(0), s.required(1), s.input(2), **options)
    s.finish(y)


@spells(SPELLINGS, "MatMulIntegerToFloat")
def matmul_integer_to_float(s: Spelling) -> None:
    """The product of quantized matrices in real numbers, plus a bias."""
    whole = s.op("MatMulInteger", s.required(0), s.required(1), s.input(4), s.input(5))
    _scaled(s, whole, s.op("Mul", s.required(2), s.required(3)), s.input(6))


@spells(SPELLINGS, "DynamicQuantizeMatMul")
def dynamic_quantize_matmul(s: Spelling) -> None:
    """As MatMulIntegerToFloat, of a left side that is quantized when it is seen."""
    codes, scale, zero = s.several(3, "DynamicQuantizeLinear", s.required(0))
    whole = s.op("MatMulInteger", codes, s.required(1), zero, s.input(3))
    _scaled(s, whole, s.op("Mul", scale, s.required(2)), s.input(4))


def _scaled(s: Spelling, whole: ir.Value, scale: ir.Value, bias: ir.Value | None) -> None:
    y = s.op("Mul", s.op("Cast", whole, to=int(ir.DataType.FLOAT)), scale)
    s.finish(y if bias is None else s.op("Add", y, bias))
