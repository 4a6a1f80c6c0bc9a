"""Weights of 2, 4 or 8 bits in blocks: MatMulNBits and GatherBlockQuantized by the standard's DequantizeLinear.

The bytes of the weights are kept as they are, and mapped: two codes of 4 bits lie in a byte here as in the standard,
low bits first. Codes of 2 bits, for which the home opset has no type, are kept in 4.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.spelling import Spelling, Table, spells
from porter.graph.edit import fresh

SPELLINGS: Table = {}


def codes(packed: np.ndarray, bits: int) -> np.ndarray:
    """The codes in bytes, low bits first, along a last axis that is 8 / bits times as long."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & ((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


def stored(s: Spelling, array: np.ndarray, bits: int, shape: tuple[int, ...], name: str) -> ir.Value:
    """A weight of codes of 4 or 8 bits, from the bytes that hold codes of `bits`, under a shape in codes."""
    if bits == 2:
        wide = codes(array, 2).reshape(-1, 2)
        array, bits = wide[:, 0] | wide[:, 1] << 4, 4
    label = fresh(f"{s.node.name or s.node.op_type}/{name}", s.used)
    if bits == 8:
        tensor: ir.TensorProtocol = ir.tensor(array.reshape(shape), name=label)
    else:
        tensor = ir.PackedTensor(array.reshape(-1), ir.DataType.UINT4, shape=ir.Shape(shape), name=label)
    if s.in_function:
        return s.before("Constant", [], {"value": ir.AttrTensor("value", tensor)}, name=name)[0]
    value = ir.Value(name=label, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape), const_value=tensor)
    s.graph.register_initializer(value)
    return value


def repacked(points: np.ndarray, bits: int) -> np.ndarray:
    """Codes, one in a byte, as bytes of 4 bits (for 2 and 4) or 8."""
    flat = points.reshape(-1)
    if bits == 8:
        return flat
    flat = np.append(flat, 0).astype(np.uint8) if flat.size % 2 else flat.astype(np.uint8)
    return flat[::2] | flat[1::2] << 4


def bits_of(s: Spelling, name: str, default: int = 4) -> int:
    """The width of a code."""
    return int(s.only(name, 2, 4, 8, default=default))


@spells(SPELLINGS, "MatMulNBits")
def matmul_n_bits(s: Spelling) -> None:
    """A @ W.T + bias, W of N rows of K codes, with a scale and a zero point for each block of a row."""
    s.only("weight_prepacked", 0)
    bits, block = bits_of(s, "bits"), int(s.attribute("block_size"))
    rows, width = int(s.attribute("N")), int(s.attribute("K"))
    blocks = math.ceil(width / block)
    order = s.known(4)
    if s.input(4) is not None and (order is None or not np.array_equal(order, np.arange(order.size) // block)):
        s.refuse("an input 'g_idx' of blocks in order", "another order")
    weight = stored(s, s.need_constant(1), bits, (rows, blocks * block), "codes")
    scale = s.required(2)
    if s.dim(scale, 1) != blocks or s.rank(scale) != 2:
        scale = s.reshape(scale, rows, blocks)
    points = s.input(3)
    if points is None or points.dtype == ir.DataType.UINT8:
        zero = _zero_points(s, 3, bits, rows, blocks)
        real = s.op("DequantizeLinear", weight, scale, zero, axis=1, block_size=block)
    else:  # zero points that are not codes: (w - zero) * scale
        one = s.constant(np.ones((), scale.dtype.numpy() if scale.dtype is not None else np.float32), "one")
        plain = s.reshape(s.op("DequantizeLinear", weight, one), rows, blocks, block)
        moved = s.op("Sub", plain, s.reshape(points, rows, blocks, 1))
        real = s.reshape(s.op("Mul", moved, s.unsqueeze(scale, 2)), rows, blocks * block)
    if blocks * block != width:
        real = s.part(real, 0, width, 1)
    y = s.op("MatMul", s.required(0), s.transpose(real, 1, 0))
    bias = s.input(5)
    s.finish(y if bias is None else s.op("Add", y, bias))


def _zero_points(s: Spelling, index: int, bits: int, rows: int, blocks: int) -> ir.Value:
    """A zero point per block: each row's are packed into whole bytes; without any it is the middle code."""
    if s.input(index) is None:
        points = np.full((rows, blocks), 1 << bits - 1, np.uint8)
    else:
        points = codes(s.need_constant(index).reshape(rows, -1), bits)[:, :blocks]
    return stored(s, repacked(points, bits), max(bits, 4), (rows, blocks), "zero_points")


@spells(SPELLINGS, "GatherBlockQuantized")
def gather_block_quantized(s: Spelling) -> None:
    """Gathers bytes, scales and zero points, then dequantizes what was gathered; indices stay within the data."""
    data, indices, scales = s.required(0), s.required(1), s.required(2)
    rank, places = s.need_rank(data), s.need_rank(indices)
    take = int(s.attribute("gather_axis", 0)) % rank
    along, block = int(s.attribute("quantize_axis", 1)) % rank, int(s.attribute("block_size", 128))
    narrow = data.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    if data.dtype != ir.DataType.UINT8 and not narrow:
        s.refuse("input 'data' of type uint8, int4 or uint4", str(data.dtype))
    if take == along:
        s.refuse(f"attribute 'gather_axis' other than 'quantize_axis' {along}", str(take))
    bits = 4 if narrow else bits_of(s, "bits")
    points = s.input(3)
    if narrow:  # codes in order of their value, one in a byte, with zero in the middle where they have a sign
        shift = 8 if data.dtype == ir.DataType.INT4 else 0
        table = _bytes(s, s.need_constant(0).astype(np.int16) + shift, "codes")
        zero = None if points is None else _bytes(s, s.need_constant(3).astype(np.int16) + shift, "zero_points")
        default = shift
    else:
        array = s.need_constant(0)
        table = _bytes(s, array, "codes")
        zero = None if points is None else _bytes(s, codes(s.need_constant(3), bits)[..., : s.need_dim(scales, -1)])
        default = 1 << bits - 1

    def gathered(value: ir.Value) -> ir.Value:
        return s.op("Gather", value, indices, axis=take)

    chosen = gathered(table)
    if not narrow and bits < 8:
        chosen = _unpack(s, chosen, bits, rank - 1 + places)
    scale = gathered(scales)
    point = s.constant(np.asarray(default, np.uint8), "middle") if zero is None else gathered(zero)
    if zero is None:
        point = s.op("Expand", point, s.op("Shape", scale))
    axis = along if along < take else along + places - 1
    s.finish(s.op("DequantizeLinear", chosen, scale, point, axis=axis, block_size=block))


def _bytes(s: Spelling, array: np.ndarray, name: str = "zero_points") -> ir.Value:
    return stored(s, array.astype(np.uint8, copy=False), 8, array.shape, name)


def _unpack(s: Spelling, packed: ir.Value, bits: int, rank: int) -> ir.Value:
    """Codes in bytes, low bits first, as bytes of one code each along the last axis."""
    mask = s.constant(np.asarray((1 << bits) - 1, np.uint8), "mask")
    parts = []
    for shift in range(0, 8, bits):
        moved = packed
        if shift:
            moved = s.op("BitShift", packed, s.constant(np.asarray(shift, np.uint8), "shift"), direction="RIGHT")
        parts.append(s.unsqueeze(s.op("BitwiseAnd", moved, mask), rank))
    return s.reshape(s.op("Concat", *parts, axis=rank), *(0,) * (rank - 1), -1)
