"""The shape rules of `com.microsoft`, over named sizes: for finding which dims depend on each other, and for inference.

An output has the element type of the input that `types` names, or the type that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir

from porter.graph.shape_rules import read
from porter.graph.sizes import Size
from porter.graph.symbolic import RULES, Dims, Rule, Shapes

DOMAIN = "com.microsoft"
TYPES: dict[str, tuple[int | ir.DataType, ...]] = {}
"""For each operator, where the element types of its outputs come from; the last holds for all that follow."""

_FLOAT = ir.DataType.FLOAT


def rule(*op_types: str, types: tuple[int | ir.DataType, ...] = (0,)) -> Callable[[Rule], Rule]:
    """Enters a function as the rule of some operators."""

    def enter(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[f"{DOMAIN}.{op_type}"] = function
            TYPES[op_type] = types
        return function

    return enter


def _shape(shapes: Shapes, node: ir.Node, index: int) -> Dims | None:
    return shapes.shape(node.inputs[index]) if index < len(node.inputs) else None


def _plus(left: Size | None, right: Size | None) -> Size | None:
    return None if left is None or right is None else left + right


def same(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The shape of the first input."""
    return [_shape(shapes, node, 0)]


rule(
    "BiasAdd", "BiasGelu", "FastGelu", "Gelu", "QuickGelu", "MoE", "QMoE", "RotaryEmbedding", "QLinearLeakyRelu",
    "QLinearSigmoid", "QLinearSoftmax",
)(same)  # fmt: skip
rule("LayerNormalization", types=(0, _FLOAT))(same)
rule("SimplifiedLayerNormalization", types=(1, _FLOAT))(same)
rule("QuantizeLinear", types=(2,))(same)
rule("DequantizeLinear", types=(1,))(same)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", types=(0, _FLOAT, _FLOAT, 0))
def skip(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The sum of input and skip."""
    total = shapes.broadcast(_shape(shapes, node, 0), _shape(shapes, node, 1))
    return [total, None, None, total]


@rule("EmbedLayerNormalization", types=(2, ir.DataType.INT32, 2))
def embed(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A row of the table per id; segments and mask are as long as the ids."""
    ids, table = _shape(shapes, node, 0), _shape(shapes, node, 2)
    if ids is None or table is None:
        return [None]
    for index in (1, 7, 8):
        other = _shape(shapes, node, index)
        if other is not None and len(other) == 2 == len(ids):
            if index == 8:
                shapes.broadcast(ids, other)
            else:
                shapes.equal(ids[0], other[0])
                shapes.equal(ids[1], other[1])
    return [(*ids, table[-1]), ids[:1], (*ids, table[-1])]


@rule("QLinearAdd", "QLinearMul")
def arithmetic(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The broadcast of both."""
    return [shapes.broadcast(_shape(shapes, node, 0), _shape(shapes, node, 3))]


@rule("QLinearWhere", types=(1,))
def where(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The broadcast of condition and both choices."""
    return [shapes.broadcast(*(_shape(shapes, node, index) for index in (0, 1, 4)))]


@rule("QLinearConcat", types=(2,))
def concat(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The sizes add up along the axis and are equal along all others."""
    parts = [_shape(shapes, node, index) for index in range(2, len(node.inputs), 3)]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts) or not known:
        return [None]
    axis = int(read(node, "axis", 0)) % len(known[0])
    result = list(known[0])
    for part in known[1:]:
        for index, size in enumerate(part):
            here = result[index]
            result[index] = _plus(here, size) if index == axis else shapes.equal(here, size)
    return [tuple(result)]


@rule("QLinearReduceMean")
def reduce_mean(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Without the reduced axes, or with ones in their place."""
    dims = _shape(shapes, node, 0)
    if dims is None:
        return [None]
    gone = {int(axis) % len(dims) for axis in read(node, "axes", ())}
    kept = read(node, "keepdims", 1)
    return [tuple(Size.of(1) if i in gone else size for i, size in enumerate(dims) if i not in gone or kept)]


@rule("QLinearGlobalAveragePool")
def global_pool(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """An image of one pixel."""
    dims = _shape(shapes, node, 0)
    if dims is None:
        return [None]
    ones = (Size.of(1),) * (len(dims) - 2)
    return [(dims[0], *ones, dims[-1]) if read(node, "channels_last", 0) else (*dims[:2], *ones)]


@rule("QLinearAveragePool")
def pool(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Batch and channels stay; the image is not followed."""
    dims = _shape(shapes, node, 0)
    if dims is None:
        return [None]
    last = read(node, "channels_last", 0)
    return [(dims[0], *(None for _ in dims[2:]), dims[-1]) if last else (*dims[:2], *(None for _ in dims[2:]))]


@rule("QLinearConv", types=(7,))
def conv(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The batch stays, the channels are the rows of the weight; the image is not followed."""
    dims, weight = _shape(shapes, node, 0), _shape(shapes, node, 3)
    if dims is None:
        return [None]
    channels = weight[0] if weight else None
    image = (None for _ in dims[2:])
    return [(dims[0], *image, channels) if read(node, "channels_last", 0) else (dims[0], channels, *image)]


@rule("FusedMatMul", "TransposeMatMul")
def fused_matmul(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A matrix product of operands that are transposed first."""
    sides = [_transposed(_shape(shapes, node, i), node, side) for i, side in enumerate("AB")]
    return [_product(shapes, *sides)]


def _transposed(dims: Dims | None, node: ir.Node, side: str) -> Dims | None:
    if dims is not None and len(dims) > 2 and read(node, f"transBatch{side}", 0):
        dims = (*dims[1:-1], dims[0], dims[-1])
    if dims is not None and len(dims) > 1 and read(node, f"trans{side}", 0):
        dims = (*dims[:-2], dims[-1], dims[-2])
    return dims


def _product(shapes: Shapes, left: Dims | None, right: Dims | None) -> Dims | None:
    if not left or not right:
        return None
    shapes.equal(left[-1], right[-2] if len(right) > 1 else right[-1])
    lead = shapes.broadcast(left[:-2], right[:-2])
    rows, columns = left[-2:-1] if len(left) > 1 else (), right[-1:] if len(right) > 1 else ()
    return None if lead is None else (*lead, *rows, *columns)


@rule("FusedGemm")
def fused_gemm(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A product of two matrices."""
    sides = [_transposed_matrix(_shape(shapes, node, i), node, side) for i, side in enumerate("AB")]
    return [_product(shapes, *sides)]


def _transposed_matrix(dims: Dims | None, node: ir.Node, side: str) -> Dims | None:
    return dims[::-1] if dims is not None and read(node, f"trans{side}", 0) else dims


@rule("MatMulIntegerToFloat", types=(2,))
@rule("DynamicQuantizeMatMul")
def integer_matmul(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A matrix product."""
    return [_product(shapes, _shape(shapes, node, 0), _shape(shapes, node, 1))]


@rule("MatMulNBits")
def matmul_n_bits(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A product with a matrix of N rows of K codes."""
    dims = _shape(shapes, node, 0)
    if dims is None:
        return [None]
    shapes.equal(dims[-1], Size.of(int(read(node, "K", 0))))
    return [(*dims[:-1], Size.of(int(read(node, "N", 0))))]


@rule("GatherBlockQuantized", types=(2,))
def gather_block_quantized(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The indices in the place of the axis; codes below a byte are packed along the last axis."""
    dims, indices = _shape(shapes, node, 0), _shape(shapes, node, 1)
    if not dims or indices is None:
        return [None]
    data = node.inputs[0]
    if data is not None and data.dtype == ir.DataType.UINT8:
        last = dims[-1]
        bits = int(read(node, "bits", 4))
        dims = (*dims[:-1], None if last is None else last * Size.of(8 // bits))
    axis = int(read(node, "gather_axis", 0)) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


@rule("Attention")
def attention(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A mask is as long as the past with what is new; the present is, too."""
    x, weights, mask, past = (_shape(shapes, node, index) for index in (0, 1, 3, 4))
    if x is None or len(x) != 3:
        return [None]
    sizes, heads = read(node, "qkv_hidden_sizes"), int(read(node, "num_heads", 1))
    width = weights[1] if weights is not None else None
    size = Size.of(int(sizes[2])) if sizes else width.over(Size.of(3)) if width is not None else None
    total = x[1]
    if past is not None and len(past) == 5:
        shapes.equal(x[0], past[1])
        total = _plus(past[3], x[1])
    _masked(shapes, mask, x[0], x[1], total)
    each = size.over(Size.of(heads)) if size is not None else None
    return [(x[0], x[1], size), (Size.of(2), x[0], Size.of(heads), total, each)]


def _masked(shapes: Shapes, mask: Dims | None, batch: Size | None, length: Size | None, total: Size | None) -> None:
    if mask is None or len(mask) not in (2, 3):
        return
    shapes.equal(batch, mask[0])
    shapes.equal(total, mask[-1])
    if len(mask) == 3:
        shapes.equal(length, mask[1])


@rule("MultiHeadAttention", types=(0,))
def multi_head_attention(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Keys and values are equally long, with what is past; all have one batch."""
    query, key, value, mask, past = (_shape(shapes, node, index) for index in (0, 1, 2, 4, 6))
    heads = Size.of(int(read(node, "num_heads", 1)))
    if query is None:
        return [None]
    if len(query) == 5:  # queries, keys and values packed
        width = None if query[4] is None else heads * query[4]
        key = value = query = (query[0], query[1], width)
    elif key is not None and len(key) == 5:
        key = value = (key[0], key[1], None if key[4] is None else heads * key[4])
    if key is None or value is None:
        return [None]
    by_head = len(key) == 4
    length = key[2] if by_head else key[1]
    shapes.equal(query[0], key[0])
    shapes.equal(length, value[2] if by_head else value[1])
    if by_head:
        size, width = value[3], None if value[3] is None else heads * value[3]
    else:
        size, width = None if value[2] is None else value[2].over(heads), value[2]
    total = length if past is None else _plus(past[2], length)
    if past is not None:
        shapes.equal(query[0], past[0])
    _masked(shapes, mask, query[0], query[1], total)
    own = key[3] if by_head else None if key[2] is None else key[2].over(heads)
    present = (query[0], heads, total)
    return [(query[0], query[1], width), (*present, own), (*present, size), (query[0], heads, query[1], total)]


@rule("GroupQueryAttention", types=(0, 0, 0, 0))
def group_query_attention(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """One batch; the cache grows to the longest sequence, if it is not long enough."""
    query, key, past, lengths = (_shape(shapes, node, index) for index in (0, 1, 3, 5))
    if query is None or len(query) != 3:
        return [None]
    heads, shared = int(read(node, "num_heads", 1)), int(read(node, "kv_num_heads", 1))
    batch, length, width = query
    size = None if width is None else width.over(Size.of(heads if key is not None else heads + 2 * shared))
    if key is not None:
        shapes.equal(batch, key[0])
        shapes.equal(length, key[1])
    for index in (3, 4):
        other = _shape(shapes, node, index)
        if other is not None and past is not None:
            shapes.equal(batch, other[0])
            shapes.equal(past[2], other[2])
    if lengths is not None and len(lengths) == 1:
        shapes.equal(batch, lengths[0])
    data = shapes.data(node.inputs[6]) if len(node.inputs) > 6 else None
    total = data[0] if data else None
    before = Size.of(0) if past is None else past[2]
    rows: Size | None = None
    if total is not None and before is not None:
        if total.number is not None and before.number is not None:
            rows = Size.of(max(total.number, before.number))
        elif (total - before).number is None and total == _plus(before, length):
            rows = total
    present = (batch, Size.of(shared), rows, size)
    return [(batch, length, None if size is None else size * Size.of(heads)), present, present]


@contextmanager
def known_to_onnx(op_types: set[str]) -> Iterator[None]:
    """Inside, the standard's shape inference knows these operators of `com.microsoft`; they are taken back after it."""
    formal = onnx.defs.OpSchema.FormalParameter
    every = onnx.defs.OpSchema.FormalParameterOption.Variadic
    entered: list[str] = []
    try:
        for op_type in sorted(op_types & TYPES.keys()):
            if onnx.defs.has(op_type, DOMAIN):  # somebody else has described it
                continue
            definition = onnx.defs.OpSchema(
                op_type, DOMAIN, 1, type_constraints=[("T", ["tensor(float)"], ""), ("U", ["tensor(float)"], "")],
                inputs=[formal("x", "T", param_option=every, is_homogeneous=False, min_arity=0)],
                outputs=[formal("y", "U", param_option=every, is_homogeneous=False, min_arity=0)],
            )  # fmt: skip
            definition.set_type_and_shape_inference_function(_inferrer(op_type))
            onnx.defs.register_schema(definition)
            entered.append(op_type)
        yield
    finally:
        for op_type in entered:
            onnx.defs.deregister_schema(op_type, 1, DOMAIN)


_READ = (
    "K", "N", "axes", "axis", "bits", "channels_last", "gather_axis", "keepdims", "kv_num_heads", "num_heads",
    "qkv_hidden_sizes", "transA", "transB", "transBatchA", "transBatchB",
)  # fmt: skip
"""The attributes that shapes depend on; the library gives them by name only."""


def _inferrer(op_type: str) -> Callable[[onnx.shape_inference.InferenceContext], None]:
    """The rule of an operator, for the inference of the `onnx` library."""

    def infer(context: onnx.shape_inference.InferenceContext) -> None:
        shapes = Shapes()
        values = [_value(shapes, context, index) for index in range(context.get_num_inputs())]
        given = [attribute for name in _READ if (attribute := context.get_attribute(name)) is not None]
        node = ir.Node(DOMAIN, op_type, values, [ir.serde.deserialize_attribute(attribute) for attribute in given])
        results = RULES[f"{DOMAIN}.{op_type}"](shapes, node)
        sources = TYPES[op_type]
        for index in range(context.get_num_outputs()):
            kind = _kind(sources[min(index, len(sources) - 1)], values)
            if kind not in (None, ir.DataType.UNDEFINED):
                context.set_output_type(index, _described(kind, results[index] if index < len(results) else None))

    return infer


def _kind(source: int | ir.DataType, values: Sequence[ir.Value | None]) -> ir.DataType | None:
    if isinstance(source, ir.DataType):
        return source
    value = values[source] if source < len(values) else None
    return None if value is None else value.dtype


def _value(shapes: Shapes, context: onnx.shape_inference.InferenceContext, index: int) -> ir.Value | None:
    """An input as far as the library knows it: type, shape, and data."""
    described = context.get_input_type(index) if context.has_input(index) else None
    if described is None:
        return None
    kind = described.tensor_type
    value = ir.Value(name=str(index), type=ir.TensorType(ir.DataType(kind.elem_type)))
    if kind.HasField("shape"):
        shapes.shapes[value] = tuple(
            Size.of(dim.dim_value) if dim.HasField("dim_value") else Size.of(dim.dim_param) if dim.dim_param else None
            for dim in kind.shape.dim
        )
    dims = shapes.shapes.get(value)
    if dims is None or len(dims) > 1 or kind.elem_type not in (ir.DataType.INT32, ir.DataType.INT64):
        return value
    if any(size is None or size.number is None or size.number > 64 for size in dims):  # no shape, and maybe a stub
        return value
    data = context.get_input_data(index)
    if data is not None:
        shapes.numbers[value] = tuple(Size.of(int(n)) for n in np.ravel(onnx.numpy_helper.to_array(data)))
    elif (symbolic := context.get_symbolic_input(index)) is not None:
        shapes.numbers[value] = tuple(
            Size.of(dim.dim_value) if dim.HasField("dim_value") else None for dim in symbolic.dim
        )
    return value


def _described(kind: ir.DataType, dims: Dims | None) -> onnx.TypeProto:
    shape = None if dims is None else [None if size is None else size.number for size in dims]
    return onnx.helper.make_tensor_type_proto(int(kind), shape)
