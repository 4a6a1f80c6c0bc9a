"""Mixtures of experts: every expert computes for every token, and a router's weight, 0 for most, brings them together.

Which of two experts with equal probability is among the first k is not defined.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.blocked import bits_of, codes, repacked, stored
from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}

Weight = Callable[[int], ir.Value | None]
"""The weight of projection 1, 2 or 3, (experts, out, in) in real numbers; None where the layer has none."""


@spells(SPELLINGS, "MoE")
def mixture_of_experts(s: Spelling) -> None:
    """Experts with weights in the type of the activations."""

    def weight(number: int) -> ir.Value | None:
        return s.input(2 * number)

    _mixture(s, weight, lambda number: s.input(2 * number + 1), None)


@spells(SPELLINGS, "QMoE")
def quantized_mixture_of_experts(s: Spelling) -> None:
    """Experts with weights of 2, 4 or 8 bits."""
    s.only("quant_type", "int", default="int")
    s.only("weights_prepacked", 0, -1, default=-1)
    for index, name in enumerate(("global_scale", "global_scale", "act_scale", "act_scale", "block_scale"), 15):
        s.absent(index, name)

    def weight(number: int) -> ir.Value | None:
        return _dequantized(s, number) if s.input(3 * number - 1) is not None else None

    _mixture(s, weight, lambda number: s.input(3 * number + 1), s.input(14))


def _dequantized(s: Spelling, number: int) -> ir.Value:
    array, scales = s.need_constant(3 * number - 1), s.required(3 * number)
    bits = bits_of(s, f"fc{number}_expert_weight_bits", bits_of(s, "expert_weight_bits"))
    experts, out, packed = array.shape
    width = packed * 8 // bits
    weight = stored(s, array, bits, (experts, out, width), f"fc{number}")
    blocks = s.need_dim(scales, 2) if s.rank(scales) == 3 else 1
    given = 10 + number
    if s.input(given) is None:
        points = np.full((experts, out, blocks), 1 << bits - 1, np.uint8)
    elif s.rank(scales) == 3:
        points = codes(s.need_constant(given), bits).reshape(experts, out, -1)[..., :blocks]
    else:
        points = codes(s.need_constant(given), bits).reshape(experts, -1)[:, :out, None]
    zero = stored(s, repacked(points, bits), max(bits, 4), (experts, out, blocks), f"fc{number}_zero_points")
    if s.rank(scales) == 2:
        scales = s.unsqueeze(scales, 2)
    real = s.op("DequantizeLinear", weight, scales, zero, axis=2, block_size=width // blocks)
    kind = s.required(0).dtype
    return real if kind is None or scales.dtype == kind else s.op("Cast", real, to=int(kind))


def _mixture(s: Spelling, weight: Weight, bias: Weight, mixing: ir.Value | None) -> None:
    s.only("use_sparse_mixer", 0)
    x = s.required(0)
    tokens = s.unsqueeze(s.reshape(x, -1, s.need_dim(x, -1)), 0)

    def project(number: int, value: ir.Value) -> ir.Value:
        matrix, offset = weight(number), bias(number)
        if matrix is None:
            s.refuse(f"weights of projection {number}", "none")
        y = s.op("MatMul", value, s.transpose(matrix, 0, 2, 1), name=f"fc{number}")
        return y if offset is None else s.op("Add", y, s.unsqueeze(offset, 1))

    inner = _activated(s, project, tokens)
    y = project(2, inner)  # (experts, tokens, hidden)
    share = s.unsqueeze(s.transpose(_routing(s, mixing), 1, 0), 2)
    total = s.op("ReduceSum", s.op("Mul", y, share), s.ints(0, name="axes"), keepdims=0)
    s.finish(total if s.rank(x) == 2 else s.op("Reshape", total, _shape(s, x)))


def _shape(s: Spelling, x: ir.Value) -> ir.Value:
    sizes = [s.dim(x, axis) for axis in range(s.need_rank(x))]
    known = [size for size in sizes if size is not None]
    return s.ints(*known, name="shape") if len(known) == len(sizes) else s.op("Shape", x)


def _routing(s: Spelling, mixing: ir.Value | None) -> ir.Value:
    """The share of each expert in each token, (tokens, experts): the k most probable, the others 0.

    The shares of QMoE always add up to 1, unless another input gives them.
    """
    whole = s.attribute("normalize_routing_weights", 0) or (s.node.op_type == "QMoE" and mixing is None)
    logits = s.required(1)
    probabilities = s.op("Softmax", logits, axis=-1)
    chosen, experts = s.several(2, "TopK", probabilities, s.ints(int(s.attribute("k", 1)), name="k"), axis=-1)
    if mixing is not None:
        chosen = s.op("GatherElements", mixing, experts, axis=-1)
    if whole:
        chosen = s.op("Div", chosen, s.op("ReduceSum", chosen, s.ints(-1, name="axes"), keepdims=1))
    every = s.constant(np.arange(s.need_dim(logits, 1), dtype=np.int64), "every")
    mine = s.op("Equal", s.unsqueeze(experts, 2), every)  # (tokens, k, experts)
    shares = s.op("Where", mine, s.unsqueeze(chosen, 2), s.scalar_like(0.0, logits, "none"))
    return s.op("ReduceSum", shares, s.ints(1, name="axes"), keepdims=0)


def _activated(s: Spelling, project: Callable[[int, ir.Value], ir.Value], tokens: ir.Value) -> ir.Value:
    """What goes into the second projection: the activation of the first, times the third where there is one."""
    kind = s.attribute("activation_type", "relu")
    first = project(1, tokens)
    third = project(3, tokens) if s.input(6 if s.node.op_type == "MoE" else 8) is not None else None
    match kind:
        case "relu":
            y = s.op("Relu", first)
        case "gelu":
            y = s.op("Gelu", first, approximate="tanh")
        case "silu":
            y = s.op("Swish", first)
        case "identity":
            y = first
        case "swiglu":
            return _swiglu(s, first, third)
        case _:
            s.refuse("attribute 'activation_type' of relu, gelu, silu, swiglu or identity", str(kind))
    return y if third is None else s.op("Mul", y, third)


def _swiglu(s: Spelling, first: ir.Value, third: ir.Value | None) -> ir.Value:
    """G * sigmoid(alpha * G) * (L + beta); gate and linear part lie apart, interleaved, or one behind the other."""
    x = s.required(0)
    match int(s.only("swiglu_fusion", 0, 1, 2)):
        case 0 if third is not None:
            gate, linear = first, third
        case 1:
            pairs = s.reshape(first, 0, 0, -1, 2)
            gate, linear = (s.squeeze(part, 3) for part in s.split(pairs, (1, 1), 3))
        case 2:
            gate, linear = s.several(2, "Split", first, axis=2, num_outputs=2)
        case _:
            s.refuse("attribute 'swiglu_fusion' of 1 or 2, or a third projection", "neither")
    limit = s.attribute("swiglu_limit")
    if limit is not None:
        high, low = s.scalar_like(float(limit), x, "limit"), s.scalar_like(-float(limit), x, "low")
        gate, linear = s.op("Min", gate, high), s.op("Clip", linear, low, high)
    gate = s.op("Swish", gate, alpha=float(s.attribute("activation_alpha", 1.0)))
    beta = float(s.attribute("activation_beta", 0.0))
    return s.op("Mul", gate, linear if beta == 0.0 else s.op("Add", linear, s.scalar_like(beta, x, "beta")))
