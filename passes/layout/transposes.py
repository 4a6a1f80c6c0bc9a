"""Transposes moved towards the outputs, through whatever works element by element, until two meet and cancel."""

from __future__ import annotations

from porter.graph import shape
from porter.passes.cleanup.identity import transpose_by_nothing
from porter.passes.cleanup.shapes import transpose_pair
from porter.pipeline import exact
from porter.rewrite import rewrite

contract = exact
after = ("channels_last",)

UNARY = (
    "Relu LeakyRelu Sigmoid HardSigmoid Tanh Gelu Swish HardSwish Mish Elu Selu Celu Softplus Softsign Erf Exp Log "
    "Sqrt Reciprocal Neg Abs Floor Ceil Round Sign Cast Not"
).split()
BINARY = "Add Sub Mul Div Pow Max Min And Or Greater Less Equal GreaterOrEqual LessOrEqual".split()


@rewrite
def through_unary(op, x, *, perm, **attributes):
    """f(transposed x) is f(x), transposed."""
    turned = op.Transpose(x, perm=perm)
    return op.either(*(getattr(op, name)(turned, **attributes) for name in UNARY))


@through_unary.to
def transposed_result(op, x, m, *, perm, attributes):
    return op.Transpose(getattr(op, m.node.op_type)(x, **attributes), perm=perm)


@rewrite
def through_binary(op, x, y, *, perm):
    """f of two values transposed alike is f of the values, transposed."""
    a, b = op.Transpose(x, perm=perm), op.Transpose(y, perm=perm)
    return op.either(*(getattr(op, name)(a, b) for name in BINARY))


@through_binary.to
def transposed_pair(op, x, y, m, *, perm):
    first = m.node.inputs[0].producer().inputs[0]
    operands = (x, y) if first is m.value("x") else (y, x)
    return op.Transpose(getattr(op, m.node.op_type)(*operands), perm=perm)


@rewrite
def through_constant(op, x, c, *, perm):
    """f of a transposed value and a constant: the constant is transposed the other way."""
    turned = op.Transpose(x, perm=perm)
    return op.either(
        *(getattr(op, name)(turned, c) for name in BINARY), *(getattr(op, name)(c, turned) for name in BINARY)
    )


@through_constant.to
def constant_turned(op, x, c, m, *, perm):
    constant, dims = m.constant("c"), m.shape("x")
    if constant is None or dims is None or constant.ndim > len(dims):
        return m.refuse("the other operand is neither transposed alike nor a constant")
    whole = constant.reshape((1,) * (len(dims) - constant.ndim) + constant.shape)
    inverse = sorted(range(len(perm)), key=lambda i: perm[i])
    turned = whole.transpose(inverse) if constant.size > 1 else constant
    left = m.node.inputs[0] is m.value("c")
    operands = (turned, x) if left else (x, turned)
    return op.Transpose(getattr(op, m.node.op_type)(*operands), perm=perm)


@rewrite
def through_concat(op, a, b, *, perm, axis):
    """Two values transposed alike and joined are joined and transposed."""
    return op.Concat(op.Transpose(a, perm=perm), op.Transpose(b, perm=perm), axis=axis)


@through_concat.to
def joined(op, a, b, m, *, perm, axis):
    return op.Transpose(op.Concat(a, b, axis=perm[axis % len(perm)]), perm=perm)


@rewrite
def through_pad(op, x, pads, value=None, *, perm, mode):
    """A transposed value padded is the value padded and transposed."""
    return op.Pad(op.Transpose(x, perm=perm), pads, value, mode=mode)


@through_pad.to
def padded(op, x, value, m, *, perm, mode):
    pads, rank = m.constant("pads"), len(perm)
    if pads is None or pads.size != 2 * rank or shape(m.outputs[0]) is None:
        return m.refuse("the pads are not constant")
    moved = [0] * (2 * rank)
    for axis, source in enumerate(perm):
        moved[source], moved[source + rank] = int(pads[axis]), int(pads[axis + rank])
    return op.Transpose(op.Pad(x, moved, value, mode=mode), perm=perm)


rules = (
    transpose_pair,
    transpose_by_nothing,
    through_unary,
    through_binary,
    through_constant,
    through_concat,
    through_pad,
)
