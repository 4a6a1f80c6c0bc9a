"""The shape rules of operators that take parts of tensors, or make tensors of a given shape: Gather, Slice, Range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porter.graph.shape_rules import ONE, moved, read, rule
from porter.graph.sizes import Size
from porter.graph.symbolic import SHORT, Dims, Shapes, count


@rule("Expand")
def expand(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The broadcast of the input with a given shape."""
    moved(shapes, node)
    return [shapes.broadcast(shapes.shape(node.inputs[0]), shapes.data(node.inputs[1]))]


@rule("ConstantOfShape")
def constant_of_shape(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The given shape, full of one number."""
    dims, value = shapes.data(node.inputs[0]), read(node, "value")
    size = count(dims)
    if size is not None and size.number is not None and size.number <= SHORT:
        fill = np.zeros(1, np.float32) if value is None else value.numpy()
        if float(fill[0]).is_integer():
            shapes.numbers[node.outputs[0]] = (Size.of(int(fill[0])),) * size.number
    return [dims]


@rule("Range")
def range_of(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """From start to limit in steps of one."""
    start, limit, delta = (shapes.data(value) for value in node.inputs)
    if not start or not limit or start[0] is None or limit[0] is None or delta != (ONE,):
        return [(None,)]
    shapes.reaches[node.outputs[0]] = (limit[0],)
    return [(limit[0] - start[0],)]


@rule("Gather")
def gather(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The shape of the indices in the place of the axis."""
    dims, indices = shapes.shape(node.inputs[0]), shapes.shape(node.inputs[1])
    data, chosen = shapes.data(node.inputs[0]), shapes.ints(node.inputs[1])
    if data is not None and chosen is not None and all(-len(data) <= i < len(data) for i in chosen):
        shapes.numbers[node.outputs[0]] = tuple(data[i] for i in chosen)
    if not dims or indices is None:
        return [None]
    axis = int(read(node, "axis", 0)) % len(dims)
    reach = shapes.reach(node.inputs[1])
    if reach is not None and len(reach) == 1 and data is None:
        shapes.at_least(dims[axis], reach[0])
    moved(shapes, node)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


@rule("GatherND")
def gather_nd(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The indices without their last axis, then what they leave of the data."""
    dims, indices = shapes.shape(node.inputs[0]), shapes.shape(node.inputs[1])
    depth = indices[-1].number if indices and indices[-1] is not None else None
    if dims is None or indices is None or depth is None:
        return [None]
    first, reach = int(read(node, "batch_dims", 0)), shapes.reach(node.inputs[1])
    if reach is not None and len(reach) == depth:
        for size, end in zip(dims[first:], reach, strict=False):
            shapes.at_least(size, end)
    return [(*indices[:-1], *dims[first + depth :])]


@rule("Slice")
def sliced(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Whole dims stay, parts of known dims are counted; a bound with a name in it may be cut off: nothing follows."""
    moved(shapes, node)
    dims = shapes.shape(node.inputs[0])
    if "starts" in node.attributes:
        starts, ends = list(read(node, "starts")), list(read(node, "ends"))
        axes, steps = read(node, "axes"), None
    else:
        starts, ends = shapes.ints(node.inputs[1]), shapes.ints(node.inputs[2])  # type: ignore[assignment]
        axes = shapes.ints(node.inputs[3]) if len(node.inputs) > 3 else None
        steps = shapes.ints(node.inputs[4]) if len(node.inputs) > 4 else None
        lost = len(node.inputs) > 3 and node.inputs[3] is not None and axes is None
        if lost or (len(node.inputs) > 4 and node.inputs[4] is not None and steps is None):
            return [None]
    if dims is None or (steps is not None and 0 in steps):  # the operator itself refuses a step of 0, by name
        return [None]
    if starts is None or ends is None:
        touched = {axis % len(dims) for axis in axes} if axes is not None else set(range(len(dims)))
        result = [None if axis in touched else size for axis, size in enumerate(dims)]
        if axes is not None and len(axes) == 1 and ends is not None and ends[0] >= 2**31 - 1 and steps in (None, [1]):
            result[axes[0]] = _last(dims[axes[0]], shapes.data(node.inputs[1]))
        return [tuple(result)]
    result = list(dims)
    for axis, start, end, step in zip(
        axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=False
    ):
        result[axis % len(dims)] = _part(dims[axis % len(dims)], start, end, step)
    cells = shapes.grid(node.inputs[0])
    if cells is not None:
        cuts = [slice(None)] * len(dims)
        for axis, start, end, step in zip(
            axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=False
        ):
            cuts[axis % len(dims)] = slice(start, end, step)
        shapes.numbers[node.outputs[0]] = tuple(cells[tuple(cuts)].reshape(-1))
    return [tuple(result)]


def _last(size: Size | None, start: tuple[Size | None, ...] | None) -> Size | None:
    """What is left from a start that is a sum of sizes, `past`, or counted from the end, `total - new`."""
    if size is None or not start or start[0] is None:
        return None
    rest = size - start[0]
    if not rest.terms or any(factor < 0 for _, factor in rest.terms):
        return None
    forward = all(factor > 0 for _, factor in start[0].terms)
    return rest if forward or (size.names and not size.names & rest.names) else None


def _part(size: Size | None, start: int, end: int, step: int) -> Size | None:
    if size is None:
        return None
    if size.number is not None:
        return Size.of(len(range(size.number)[slice(start, end, step)]))
    return size if start == 0 and end >= 2**31 - 1 and step == 1 else None


@rule("Split")
def split(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Given parts, or equal ones."""
    dims = shapes.shape(node.inputs[0])
    if dims is None:
        return [None] * len(node.outputs)
    axis = int(read(node, "axis", 0)) % len(dims)
    given = read(node, "split") or (shapes.ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    if given is not None:
        parts: list[Size | None] = [Size.of(int(v)) for v in given]
    else:
        size = dims[axis]
        parts = [size.over(Size.of(len(node.outputs))) if size is not None else None] * len(node.outputs)
    return [(*dims[:axis], part, *dims[axis + 1 :]) for part in parts]
