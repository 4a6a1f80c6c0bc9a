"""The shape rules of operators over named sizes, for finding which free dims depend on each other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from porter.graph.sizes import Size, product
from porter.graph.symbolic import RULES, Dims, Rule, Shapes, count

ONE = Size.of(1)


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Enters a function as the rule of some operators."""

    def enter(function: Rule) -> Rule:
        for op_type in op_types:
            RULES[op_type] = function
        return function

    return enter


def read(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute that stands in the node itself."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else attribute.value


def _axes(shapes: Shapes, node: ir.Node, index: int = 1) -> list[int] | None:
    """The axes of a node, an attribute in old opsets and an input in new ones; None where there are none."""
    given = read(node, "axes")
    if given is not None:
        return [int(axis) for axis in given]
    return shapes.ints(node.inputs[index]) if len(node.inputs) > index else None


@rule(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitwiseNot", "Cast",
    "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "Mish", "Neg", "Not", "QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu",
    "RotaryEmbedding", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu",
)  # fmt: skip
def same(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The shape of the first input."""
    data = shapes.data(node.inputs[0])
    if node.op_type == "Not" and data is not None:
        shapes.numbers[node.outputs[0]] = tuple(None if size is None else _opposite(size) for size in data)
    if node.op_type in ("Cast", "Identity"):
        if data is not None:
            shapes.numbers[node.outputs[0]] = data
        reach = shapes.reach(node.inputs[0])
        if reach is not None:
            shapes.reaches[node.outputs[0]] = reach
    return [shapes.shape(node.inputs[0])]


def moved(shapes: Shapes, node: ir.Node) -> None:
    """The elements are those of the first input, or some of them: what bounds them all bounds the result."""
    reach = shapes.reach(node.inputs[0])
    if reach is not None and len(reach) == 1:
        shapes.reaches[node.outputs[0]] = reach


def _opposite(flag: Size) -> Size | None:
    return None if flag.number is None else Size.of(int(not flag.number))


def _sign(difference: Size) -> int | None:
    """Below, at or above zero, where that is the same for all sizes of 1 or more; None where it is not."""
    if difference.number is not None:
        return (difference.number > 0) - (difference.number < 0)
    factors = [factor for _, factor in difference.terms]
    return 1 if min(factors) > 0 else -1 if max(factors) < 0 else None


_COMPARISONS = {
    "Equal": (0,), "Less": (-1,), "LessOrEqual": (-1, 0), "Greater": (1,), "GreaterOrEqual": (0, 1),
}  # fmt: skip
_LOGIC = {"And": all, "Or": any}


def _decided(shapes: Shapes, op_type: str, left: Size, right: Size) -> Size | None:
    """1 where the relation of two sizes, or of two flags, holds, 0 where it does not; None where that is open."""
    if op_type in _LOGIC:
        flags = [size.at(shapes.given).number for size in (left, right)]
        known = [bool(flag) for flag in flags if flag is not None]
        if len(known) == 2 or (known and known[0] is (op_type == "Or")):
            return Size.of(int(_LOGIC[op_type](known)))
        return None
    sign = _sign((left - right).at(shapes.given))
    return None if sign is None else Size.of(int(sign in _COMPARISONS[op_type]))


_ARITHMETIC = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": Size.over}


@rule(
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
def elementwise(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The broadcast of all inputs; the four species of arithmetic are followed by value."""
    if read(node, "axis") is not None:  # broadcasting of opsets before 7
        return [shapes.shape(node.inputs[0])]
    compute: Callable[[Size, Size], Size | None] | None = _ARITHMETIC.get(node.op_type)
    if node.op_type in _COMPARISONS or node.op_type in _LOGIC:
        compute = lambda a, b: _decided(shapes, node.op_type, a, b)
    if compute is not None and len(node.inputs) == 2:
        left, right = (shapes.data(value) for value in node.inputs)
        if left is not None and right is not None and (len(left) == len(right) or 1 in (len(left), len(right))):
            if len(left) != len(right):  # the one of length 1 is repeated
                left, right = (left * len(right), right) if len(left) == 1 else (left, right * len(left))
            pairs = zip(left, right, strict=True)
            shapes.numbers[node.outputs[0]] = tuple(None if a is None or b is None else compute(a, b) for a, b in pairs)
        elif node.op_type == "Add":
            _shifted(shapes, node)
    return [shapes.broadcast(*(shapes.shape(value) for value in node.inputs))]


def _shifted(shapes: Shapes, node: ir.Node) -> None:
    """Elements of known range, and one size added to all of them."""
    for value, other in (node.inputs, reversed(node.inputs)):
        reach, data = shapes.reach(value), shapes.data(other)
        if reach is not None and data is not None and len(data) == 1 and data[0] is not None:
            shapes.reaches[node.outputs[0]] = tuple(None if r is None else r + data[0] for r in reach)
            return


@rule("Shape")
def shape_of(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The dims, or a part of them, as numbers."""
    dims = shapes.shape(node.inputs[0])
    if dims is None:
        return [None]
    part = dims[slice(read(node, "start", 0), read(node, "end"))]
    shapes.numbers[node.outputs[0]] = part
    return [(Size.of(len(part)),)]


@rule("Size")
def size_of(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The number of elements."""
    shapes.numbers[node.outputs[0]] = (count(shapes.shape(node.inputs[0])),)
    return [()]


@rule("Concat")
def concat(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The sizes add up along the axis and are equal along all others."""
    parts = [shapes.shape(value) for value in node.inputs]
    datas = [shapes.data(value) for value in node.inputs]
    if all(data is not None for data in datas):
        shapes.numbers[node.outputs[0]] = tuple(size for data in datas for size in data or ())
    known = [part for part in parts if part is not None]
    if not known or any(len(part) != len(known[0]) for part in known):
        return [None]
    axis = int(read(node, "axis", 1)) % len(known[0])
    if axis == len(known[0]) - 1:
        _side_by_side(shapes, node, parts)
    result = list(known[0])
    for part in known[1:]:
        for index, size in enumerate(part):
            if index != axis:
                result[index] = shapes.equal(result[index], size)
    along = [part[axis] if part is not None else None for part in parts]
    result[axis] = None if None in along else sum((s for s in along if s is not None), Size.of(0))
    return [tuple(result)]


def _side_by_side(shapes: Shapes, node: ir.Node, parts: Sequence[Dims | None]) -> None:
    """Indices of several axes, each of known range, one behind the other."""
    total: list[Size | None] = []
    for value, part in zip(node.inputs, parts, strict=True):
        width, reach = part[-1].number if part and part[-1] is not None else None, shapes.reach(value)
        if width is None or width > 8:
            return
        total += reach if reach is not None and len(reach) == width else (reach or (None,))[:1] * width
    if any(size is not None for size in total):
        shapes.reaches[node.outputs[0]] = tuple(total)


@rule("MatMul")
def matmul(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The contracted sizes are equal, the leading ones broadcast."""
    left, right = (shapes.shape(value) for value in node.inputs)
    if not left or not right:
        return [None]
    inner = right[-2] if len(right) > 1 else right[-1]
    shapes.equal(left[-1], inner)
    lead = shapes.broadcast(left[:-2], right[:-2])
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    return [None if lead is None else (*lead, *rows, *columns)]


@rule("Gemm")
def gemm(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A matrix product of two matrices, either of them transposed."""
    left, right = (shapes.shape(value) for value in node.inputs[:2])
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    left = left[::-1] if read(node, "transA", 0) else left
    right = right[::-1] if read(node, "transB", 0) else right
    shapes.equal(left[1], right[0])
    return [(left[0], right[1])]


@rule("Transpose")
def transpose(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The dims in another order."""
    moved(shapes, node)
    dims, cells = shapes.shape(node.inputs[0]), shapes.grid(node.inputs[0])
    if dims is None:
        return [None]
    order = read(node, "perm") or range(len(dims))[::-1]
    if cells is not None:
        shapes.numbers[node.outputs[0]] = tuple(cells.transpose(order).reshape(-1))
    return [tuple(dims[axis] for axis in order)]


@rule("Unsqueeze")
def unsqueeze(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """New dims of one."""
    moved(shapes, node)
    dims, axes = shapes.shape(node.inputs[0]), _axes(shapes, node)
    data = shapes.data(node.inputs[0])
    if data is not None:
        shapes.numbers[node.outputs[0]] = data
    if dims is None or axes is None:
        return [None]
    rank = len(dims) + len(axes)
    new, old = {axis % rank for axis in axes}, iter(dims)
    return [tuple(ONE if axis in new else next(old) for axis in range(rank))]


@rule("Squeeze")
def squeeze(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Without dims of one."""
    moved(shapes, node)
    dims, axes = shapes.shape(node.inputs[0]), _axes(shapes, node)
    data = shapes.data(node.inputs[0])
    if data is not None:
        shapes.numbers[node.outputs[0]] = data
    if dims is None:
        return [None]
    if axes is None:
        if any(size is None or size.number is None for size in dims):
            return [None]
        return [tuple(size for size in dims if size != ONE)]
    gone = {axis % len(dims) for axis in axes}
    return [tuple(size for axis, size in enumerate(dims) if axis not in gone)]


@rule("Reshape")
def reshape(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The same elements in another shape: 0 keeps a dim, -1 is what is left over."""
    moved(shapes, node)
    dims, data = shapes.shape(node.inputs[0]), shapes.data(node.inputs[0])
    if data is not None:
        shapes.numbers[node.outputs[0]] = data
    given = read(node, "shape")  # before opset 5
    wanted: Dims | None = tuple(Size.of(int(v)) for v in given) if given is not None else None
    if wanted is None and len(node.inputs) > 1:
        wanted = shapes.data(node.inputs[1])
    if wanted is None:
        return [None]
    result = list(wanted)
    for axis, size in enumerate(wanted):
        if size is not None and size.number == 0 and not read(node, "allowzero", 0):
            result[axis] = dims[axis] if dims is not None and axis < len(dims) else None
    total: Size | None = count(dims)
    open_axes = [axis for axis, size in enumerate(result) if size is not None and size.number == -1]
    rest = [size for axis, size in enumerate(result) if axis not in open_axes]
    if any(size is None for size in rest):
        return [tuple(None if axis in open_axes else size for axis, size in enumerate(result))]
    others = product(size for size in rest if size is not None)
    if open_axes:
        result[open_axes[0]] = None if total is None else total.over(others)
    else:
        shapes.equal(total, others)
    return [tuple(result)]


@rule("Flatten")
def flatten(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """A matrix of the dims before the axis and the dims from it on."""
    moved(shapes, node)
    dims = shapes.shape(node.inputs[0])
    if dims is None:
        return [None]
    axis = int(read(node, "axis", 1))
    axis = axis + len(dims) if axis < 0 else axis
    return [(count(dims[:axis]), count(dims[axis:]))]


@rule(
    "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduce(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Without the reduced axes, or with ones in their place."""
    dims = shapes.shape(node.inputs[0])
    if node.op_type.startswith("Arg"):
        axes: list[int] | None = [int(read(node, "axis", 0))]
    else:
        axes = _axes(shapes, node)
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            return [None]
    if dims is None or (not axes and read(node, "noop_with_empty_axes", 0)):
        return [dims]
    gone = {axis % len(dims) for axis in axes} if axes else set(range(len(dims)))
    kept = read(node, "keepdims", 1)
    return [tuple(ONE if i in gone else size for i, size in enumerate(dims) if i not in gone or kept)]


@rule("Conv", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "ConvTranspose")
def windows(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The batch stays; an image has as many places as windows fit, where that is a sum of sizes."""
    dims = shapes.shape(node.inputs[0])
    if dims is None or len(dims) < 2:
        return [None]
    channels, image = dims[1], dims[2:]
    if node.op_type.startswith("Global"):
        return [(dims[0], channels, *(ONE for _ in image))]
    kernel = read(node, "kernel_shape")
    if node.op_type.startswith("Conv"):
        weight = shapes.shape(node.inputs[1])
        channels = weight[0] if weight and node.op_type == "Conv" else None
        known = [size.number for size in weight[2:] if size is not None] if weight else []
        kernel = known if len(known) == len(image) and None not in known else None
    strides, dilations = (read(node, name) or [1] * len(image) for name in ("strides", "dilations"))
    if kernel is None or node.op_type == "ConvTranspose" or min(strides, default=1) < 1:
        return [(dims[0], channels, *(None for _ in image))]
    pads = read(node, "pads") or [0] * (2 * len(image))
    auto, up = read(node, "auto_pad", "NOTSET"), bool(read(node, "ceil_mode", 0))
    places = []
    for i, size in enumerate(image):
        if auto in ("SAME_UPPER", "SAME_LOWER"):  # as many places as strides begin in the image
            beyond = 1
        else:
            around = int(pads[i]) + int(pads[i + len(image)]) if auto in ("NOTSET", "") else 0
            beyond = (int(kernel[i]) - 1) * int(dilations[i]) + 1 - around
        room = None if size is None else size - Size.of(beyond)
        fitting = None if room is None else _fitting(room, int(strides[i]), up)
        if room is not None and fitting is None:  # not the same sum for all numbers: that of these
            fitting = _fitting(room.at(shapes.given), int(strides[i]), up)
        places.append(fitting)
    return [(dims[0], channels, *places)] * len(node.outputs)


def _fitting(room: Size, stride: int, up: bool) -> Size | None:
    """room / stride + 1, rounded down; None where a name in it is not divided evenly, or it is rounded up."""
    if room.number is not None:
        return Size.of((-(-room.number // stride) if up else room.number // stride) + 1)
    constant = dict(room.terms).get((), 0)
    rest = (room - Size.of(constant)).over(Size.of(stride))
    if rest is None or (up and constant % stride):
        return None
    return rest + Size.of(constant // stride + 1)


@rule("Pad")
def pad(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The dims with what is put before and behind."""
    dims = shapes.shape(node.inputs[0])
    pads = read(node, "pads") or (shapes.ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    if dims is None or pads is None or len(pads) != 2 * len(dims):
        return [None if dims is None else tuple(None for _ in dims)]
    return [
        tuple(
            None if size is None else size + Size.of(int(pads[axis]) + int(pads[axis + len(dims)]))
            for axis, size in enumerate(dims)
        )
    ]


@rule("Tile")
def tile(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Each dim times its repeats."""
    moved(shapes, node)
    dims, repeats = shapes.shape(node.inputs[0]), shapes.data(node.inputs[1])
    if dims is None or repeats is None or len(repeats) != len(dims):
        return [None]
    return [tuple(None if a is None or b is None else a * b for a, b in zip(dims, repeats, strict=True))]


@rule("Attention")
def attention(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Keys and values are equally long, with what is past; all have one batch."""
    query, key, value = (shapes.shape(v) for v in node.inputs[:3])
    if query is None or key is None or value is None or len(query) != len(key) or len(query) < 3:
        return [None]
    shapes.equal(query[0], key[0])
    shapes.equal(key[0], value[0])
    shapes.equal(key[-2], value[-2])
    past = [shapes.shape(node.inputs[i]) if len(node.inputs) > i else None for i in (4, 5)]
    present: list[Dims | None] = [None, None]
    if past[0] is not None and past[1] is not None:
        shapes.equal(past[0][0], query[0])
        shapes.equal(past[0][2], past[1][2])
        for i, (old, new) in enumerate(zip(past, (key, value), strict=True)):
            if old is not None and old[2] is not None and new[-2] is not None:
                present[i] = (old[0], old[1], old[2] + new[-2], old[3])
    mask = shapes.shape(node.inputs[3]) if len(node.inputs) > 3 else None
    total = present[0][2] if present[0] is not None else key[-2]
    if mask and mask[-1] is not None and total is not None:
        if past[0] is None:
            shapes.broadcast((mask[-1],), (total,))
        else:
            shapes.at_least(total, mask[-1])
    last = value[-1] if len(query) == 4 else None
    return [(*query[:-1], last), *present]
