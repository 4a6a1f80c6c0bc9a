"""An activation as codes with a scale per block of its last axis, or per token, each from what is seen when it is seen."""

from __future__ import annotations

import numpy as np

from porter.formats import of, scaling
from porter.graph import DataType, Graph, Node, Value, add_initializer, fresh, new_node, new_value, shape
from porter.precision.ranges import Ranges
from porter.precision.schemes import Coding

FLOAT = np.dtype(np.float32)


def in_blocks_coded(
    graph: Graph, value: Value, coding: Coding, ranges: Ranges, used: set[str], *, powers: bool = False
) -> tuple[tuple[Value, Value], list[Node]]:
    """The codes and the scale that DequantizeLinear takes, and the nodes that make them.

    E8M0: each block's largest magnitude over the largest code, upward to a power of two. E4M3, as NVFP4 has it: the same
    over 6 and over a scale of the tensor, which is calibrated; with `powers` upward to a power of two, so that graphs that were
    calibrated apart make the same codes.
    """
    dims = shape(value)
    assert dims is not None
    blocks = (*dims[:-1], dims[-1] // coding.block)
    nodes: list[Node] = []

    def op(kind: str, name: str, dtype: np.dtype, dims: tuple[int, ...], *inputs: Value, **attributes: object) -> Value:
        out = new_value(fresh(f"{value.name}/{name}", used), dtype, dims)
        nodes.append(new_node(kind, list(inputs), attributes, outputs=[out]))
        return out

    def constant(name: str, array: np.ndarray) -> Value:
        return add_initializer(graph, fresh(f"{value.name}/{name}", used), array)

    wide = op(
        "Reshape", "blocks", FLOAT, (*blocks, coding.block), value, constant("cut", np.array((*blocks, coding.block)))
    )
    size = op("Abs", "sizes", FLOAT, (*blocks, coding.block), wide)
    top = op("ReduceMax", "largest", FLOAT, blocks, size, constant("last", np.array([-1])), keepdims=0)
    largest = constant("top", np.asarray(coding.limit or of(coding.format).max, np.float32))
    exact = op("Div", "exact_scale", FLOAT, blocks, top, largest)
    kind, scale_kind = (np.dtype(of(name).dtype) for name in (coding.format, coding.scale))
    if coding.scale == "float8_e8m0fnu":
        to: dict[str, object] = {"to": int(DataType.FLOAT8E8M0), "round_mode": "up"}
        scale = op("Cast", "block_scale", scale_kind, blocks, exact, **to)
        single = op("Cast", "block_scale_float32", FLOAT, blocks, scale, to=int(DataType.FLOAT))
        stands = scale
    else:
        seen = ranges.amax(str(value.name), coding.format, coding.limit)
        most = (coding.limit or of(coding.format).max) * (coding.scale_limit or of(coding.scale).max)
        tensor = max(seen, scaling.SMALLEST) / most
        tensor = float(scaling.power_of_two(np.asarray(tensor))) if powers else tensor
        whole = constant("tensor_scale", np.asarray(tensor, np.float32))
        how: dict[str, object] = {"output_dtype": int(DataType.from_numpy(scale_kind))}
        if coding.scale_limit:  # a device whose casts do not saturate there
            edge = np.asarray(tensor * coding.scale_limit, np.float32)
            ends = (constant("least_scale", np.zeros((), np.float32)), constant("most_scale", edge))
            exact = op("Clip", "scale_within", FLOAT, blocks, exact, *ends)
        scale = op("QuantizeLinear", "block_scale", scale_kind, blocks, exact, whole, **how)
        stands = op("DequantizeLinear", "block_scale_float32", FLOAT, blocks, scale, whole)
        single = op("Max", "block_divisor", FLOAT, blocks, stands, constant("least", np.asarray(2.0**-126, np.float32)))
    # of float4 the zero point makes -0 a 0, so that a code and its number say the same
    zero = [constant("zero", np.zeros(blocks, kind))] if coding.format == "float4_e2m1fn" else []
    codes = op(
        "QuantizeLinear", coding.format, kind, dims, value, single, *zero, axis=-1, block_size=coding.block,
        output_dtype=int(DataType.from_numpy(kind)),
    )  # fmt: skip
    return (codes, stands), nodes


def per_token_coded(
    graph: Graph, value: Value, coding: Coding, axis: int, used: set[str]
) -> tuple[tuple[Value, Value], list[Node]]:
    """The same with one block per token: all of the axis that is summed. Each scale is the token's largest magnitude over the
    largest code, float32.

    The magnitude is max(max x, -min x): what makes x would store abs x beside it. Where the device has fewer codes than ONNX's
    type, what is rounded is clamped to them.
    """
    dims = shape(value)
    assert dims is not None
    one = len(dims) == 1  # a single token: onnxruntime takes no block of a vector
    scales = () if one else tuple(1 if i == axis % len(dims) else n for i, n in enumerate(dims))
    nodes: list[Node] = []

    def op(kind: str, name: str, dtype: np.dtype, dims: tuple[int, ...], *inputs: Value, **attributes: object) -> Value:
        out = new_value(fresh(f"{value.name}/{name}", used), dtype, dims)
        nodes.append(new_node(kind, list(inputs), attributes, outputs=[out]))
        return out

    def constant(name: str, array: np.ndarray) -> Value:
        return add_initializer(graph, fresh(f"{value.name}/{name}", used), array)

    def number(name: str, value: float) -> Value:
        return constant(name, np.asarray(value, np.float32))

    summed = constant("summed", np.array([axis]))
    high = op("ReduceMax", "highest", FLOAT, scales, value, summed, keepdims=int(not one))
    low = op("ReduceMin", "lowest", FLOAT, scales, value, summed, keepdims=int(not one))
    top = op("Max", "largest", FLOAT, scales, high, op("Neg", "lowest_negated", FLOAT, scales, low))
    exact = op("Div", "exact_scale", FLOAT, scales, top, number("top", coding.limit or of(coding.format).max))
    # a token of zeros has codes of 0, not 0 / 0
    scale = op("Max", "token_scale", FLOAT, scales, exact, number("least", scaling.SMALLEST))
    kind = np.dtype(of(coding.format).dtype)
    to: dict[str, object] = {"output_dtype": int(DataType.from_numpy(kind))}
    if coding.limit:
        whole = op("Div", "in_codes", FLOAT, dims, value, scale)
        edges = [number(name, bound) for name, bound in (("low", -coding.limit), ("high", coding.limit))]
        held = op("Clip", "clamped", FLOAT, dims, whole, *edges)
        return (op("QuantizeLinear", coding.format, kind, dims, held, number("one", 1.0), **to), scale), nodes
    to |= {} if one else {"axis": axis, "block_size": dims[axis]}
    return (op("QuantizeLinear", coding.format, kind, dims, value, scale, **to), scale), nodes
