"""One spelling for views: reshapes and transposes merged, indexing that only broadcasts written as such."""

from __future__ import annotations

from math import prod

from porter.graph import shape
from porter.passes.cleanup import identity
from porter.passes.cleanup._grids import grid_of
from porter.pipeline import exact
from porter.rewrite import rewrite

contract = exact
after = ("identity",)


#: operators of two operands that broadcast
BROADCASTING = "Add Sub Mul Div And Or Greater Less Equal GreaterOrEqual LessOrEqual".split()


def static(value):
    """The shape of a value, None where a dim is not known."""
    return None if value is None else shape(value)


@rewrite
def reshape_chain(op, x, inner, outer):
    """A view of a view is one view."""
    return op.Reshape(op.shared(op.Reshape(x, inner)), outer)


@reshape_chain.to
def one_reshape(op, x, m):
    target = static(m.outputs[0])
    return (
        op.Reshape(x, list(target), allowzero=1 if 0 in target else None)
        if target is not None
        else m.refuse("the shape is not static")
    )


@rewrite
def as_reshape(op, x, axes=None, **options):
    """Squeeze, Unsqueeze, Flatten, and a Reshape that leaves a dim open, as a Reshape to a shape in full."""
    return op.either(
        op.Unsqueeze(x, axes), op.Squeeze(x, axes), op.Flatten(x, **options), op.Reshape(x, axes, **options)
    )


@as_reshape.when
def not_in_full(m):
    target = static(m.outputs[0])
    if target is None:
        return m.refuse("the shape is not static")
    given = m.constant("axes")
    in_full = m.node.op_type == "Reshape" and given is not None and tuple(given.tolist()) == target
    return not in_full or m.refuse("the shape is in full already")


@as_reshape.to
def in_full(op, x, m):
    target = static(m.outputs[0])
    return op.Reshape(x, list(target), allowzero=1 if 0 in target else None)


@rewrite
def transpose_pair(op, x, *, p, q):
    """Two transposes are one."""
    return op.Transpose(op.shared(op.Transpose(x, perm=p)), perm=q)


@transpose_pair.to
def one_transpose(op, x, *, p, q):
    return op.Transpose(x, perm=tuple(p[i] for i in q))


@rewrite
def transpose_of_merged(op, x, inner, outer, *, p):
    """Reshape, Transpose, Reshape that only merge axes on the way are one Transpose.

    [b, h, s, d] merged to [b h, s, d], transposed, and split again: exporters write the transpose of keys so.
    """
    return op.Reshape(op.shared(op.Transpose(op.shared(op.Reshape(x, inner)), perm=p)), outer)


@transpose_of_merged.to
def one_transpose_of_all(op, x, m, *, p):
    source, middle, target = m.shape("x"), static(m.node.inputs[0].producer().inputs[0]), static(m.outputs[0])
    if source is None or middle is None or target is None:
        return m.refuse("a shape is not static")
    groups = grouping(source, middle)
    if groups is None:
        return m.refuse(f"{list(source)} to {list(middle)} does more than merge neighbouring axes")
    perm = tuple(axis for i in p for axis in groups[i])
    if tuple(source[axis] for axis in perm) != target:
        return m.refuse("the axes are not split as they were merged")
    return op.Transpose(x, perm=perm)


def grouping(source, merged):
    """For each dim of `merged` the axes of `source` that it consists of; None where a dim is no product of
    neighbours.
    """
    groups, axis = [], 0
    for dim in merged:
        group: list[int] = []
        size = 1
        while axis < len(source) and (size < dim or (not group and source[axis] == dim)):
            size *= source[axis]
            group.append(axis)
            axis += 1
        if size != dim:
            return None
        groups.append(group)
    rest = list(range(axis, len(source)))
    if any(source[i] != 1 for i in rest) or (rest and not groups):
        return None
    if rest:
        groups[-1] += rest
    return groups if prod(source) else None


@rewrite
def softmax_of_flattened(op, x, inner, outer):
    """Softmax of rows that were only stacked: what older opsets flattened to."""
    rows = op.Reshape(x, inner)
    return op.Reshape(op.either(op.Softmax(rows, axis=-1), op.LogSoftmax(rows, axis=-1)), outer)


@softmax_of_flattened.to
def softmax_of_rows(op, x, m):
    inside = m.node.inputs[0].producer()
    source, rows, target = m.shape("x"), static(inside.inputs[0]), static(m.outputs[0])
    if source is None or rows is None or source != target or source[-1:] != rows[-1:]:
        return m.refuse(f"rows of {source} are flattened to {rows}")
    return getattr(op, inside.op_type)(x, axis=-1)


@rewrite
def gather_of_grid(op, x, indices):
    """GatherND whose indices count along the axes of the result is a Slice, a Transpose and a broadcast."""
    return op.GatherND(x, indices, batch_dims=0)


@gather_of_grid.to
def sliced(op, x, m):
    indices, source, target = m.constant("indices"), m.shape("x"), static(m.outputs[0])
    if indices is None or source is None or target is None:
        return m.refuse("the indices are not constant")
    grid = grid_of(indices, source)
    if grid is None:
        return m.refuse("the indices do not count along the axes of the result")
    if grid.starts != (0,) * len(grid.starts) or grid.stops != source[: len(grid.stops)]:
        x = op.Slice(x, list(grid.starts), list(grid.stops), list(range(len(grid.starts))), [1] * len(grid.starts))
    if grid.perm != tuple(range(len(source))):
        x = op.Transpose(x, perm=grid.perm)
    kept = grid.kept + tuple(source[len(grid.starts) :])
    x = op.Reshape(x, list(kept))
    return x if kept == target else op.Expand(x, list(target))


@rewrite
def expanded_operand(op, x, y, shape):
    """An Expand whose reader broadcasts anyway."""
    expanded = op.shared(op.Expand(x, shape))
    return op.either(*(getattr(op, name)(a, b) for name in BROADCASTING for a, b in ((expanded, y), (y, expanded))))


@expanded_operand.to
def broadcast(op, x, y, m):
    before, other, result = m.shape("x"), m.shape("y"), static(m.outputs[0])
    if before is None or other is None or broadcast_shape(before, other) != result:
        return m.refuse("the result needs the expanded shape")
    node = m.node
    return getattr(op, node.op_type)(*((y, x) if node.inputs[0] is m.value("y") else (x, y)))


def broadcast_shape(a, b):
    """The shape of a and b broadcast together; None where they do not fit."""
    size = max(len(a), len(b))
    pairs = list(zip((1,) * (size - len(a)) + a, (1,) * (size - len(b)) + b, strict=True))
    return (
        tuple(max(p, q) if 0 not in (p, q) else 0 for p, q in pairs)
        if all(p == q or 1 in (p, q) for p, q in pairs)
        else None
    )


rules = (
    as_reshape,
    transpose_of_merged,
    reshape_chain,
    transpose_pair,
    softmax_of_flattened,
    gather_of_grid,
    expanded_operand,
    identity.identity,
    identity.reshape_to_itself,
    identity.transpose_by_nothing,
    identity.where_known,
    identity.and_true,
)
