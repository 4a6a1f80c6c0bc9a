"""The shape rules of operators with bodies, If, Loop and Scan, and of the recurrent layers that have theirs built in."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porter.graph.shape_rules import read, rule
from porter.graph.sizes import Size
from porter.graph.symbolic import Dims, Equation, Shapes, forget, suggested


def _enter(shapes: Shapes, body: ir.Graph, inputs: Sequence[Dims | None]) -> tuple[list[Equation], list[Dims | None]]:
    """What the body asks for where its inputs have these shapes, and the shapes of its outputs."""
    outer, shapes.equations, node = shapes.equations, [], shapes.node
    forget(body, shapes)
    shapes.shapes.update(zip(body.inputs, inputs, strict=False))
    shapes.follow(body)
    asked, shapes.equations, shapes.node = shapes.equations, outer, node
    return asked, [shapes.shape(value) for value in body.outputs]


def _common(left: Dims | None, right: Dims | None) -> Dims | None:
    """What two shapes agree on."""
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple(a if a == b else None for a, b in zip(left, right, strict=True))


@rule("If")
def if_(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The branch that the condition chooses; where it is open, what both agree on."""
    flag, branches = shapes.truth(node.inputs[0]), [read(node, "then_branch"), read(node, "else_branch")]
    if any(branch is None for branch in branches):
        return []
    if flag is None:
        shapes.undecided = True
        flag = True if shapes.assume else None
    if flag is not None:
        branch = branches[0 if flag else 1]
        asked, results = _enter(shapes, branch, ())
        shapes.equations += asked
        for outer, inner in zip(node.outputs, branch.outputs, strict=False):
            data = shapes.data(inner)
            if data is not None:
                shapes.numbers[outer] = data
        return results
    (first, ours), (second, theirs) = (_enter(shapes, branch, ()) for branch in branches)
    others = {(e.left, e.right, e.kind) for e in second}
    shapes.equations += [e for e in first if (e.left, e.right, e.kind) in others]
    return [_common(a, b) for a, b in zip(ours, theirs, strict=False)]


@rule("Loop")
def loop(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """State that a turn does not change in shape keeps it; rows are as many as there are turns, if all are run."""
    body = read(node, "body")
    if body is None:
        return []
    state = [shapes.shape(value) for value in node.inputs[2:]]
    everything: list[Equation] = []  # of the first turn, and of any
    while True:
        asked, results = _enter(shapes, body, [(), (), *state])
        everything += asked
        after = [_common(a, b) for a, b in zip(state, results[1:], strict=False)]
        if after == state:
            break
        state = after
    turns = shapes.data(node.inputs[0])
    count = turns[0] if turns and len(turns) == 1 else None
    flag = node.inputs[1] if len(node.inputs) > 1 else None
    sure = (flag is None or shapes.truth(flag)) and count is not None and all(factor > 0 for _, factor in count.terms)
    shapes.equations += everything if sure and count != Size.of(0) else suggested(everything)
    again = body.outputs[0]
    producer = again.producer()
    passed = producer.inputs[0] if producer is not None and producer.op_type == "Identity" else again
    whole = sure and (passed is body.inputs[1] or shapes.truth(again))
    rows = [None if dims is None else (count if whole else None, *dims) for dims in results[1 + len(state) :]]
    return [*state, *rows]


@rule("Scan")
def scan(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """The scanned axes are equally long, and a turn keeps the shapes of the state."""
    body, scanned = read(node, "body"), int(read(node, "num_scan_inputs", 0))
    if body is None or len(node.inputs) != len(body.inputs):  # before opset 9 it was another operator
        return []
    carried = len(node.inputs) - scanned
    state = [shapes.shape(value) for value in node.inputs[:carried]]
    length: Size | None = None
    slices: list[Dims | None] = []
    along = read(node, "scan_input_axes") or [0] * scanned
    for value, axis in zip(node.inputs[carried:], along, strict=False):
        dims = shapes.shape(value)
        if not dims:
            slices.append(None)
            continue
        place = int(axis) % len(dims)
        length = shapes.equal(length, dims[place])
        slices.append((*dims[:place], *dims[place + 1 :]))
    asked, results = _enter(shapes, body, [*state, *slices])
    shapes.equations += asked
    for before, after in zip(state, results, strict=False):
        if before is not None and after is not None and len(before) == len(after):
            for a, b in zip(before, after, strict=True):
                shapes.equal(a, b)
    rows: list[Dims | None] = []
    out = read(node, "scan_output_axes") or [0] * (len(results) - carried)
    for dims, axis in zip(results[carried:], out, strict=False):
        if dims is None:
            rows.append(None)
        else:
            place = int(axis) % (len(dims) + 1)
            rows.append((*dims[:place], length, *dims[place:]))
    return [*state, *rows]


@rule("LSTM", "GRU", "RNN")
def recurrent(shapes: Shapes, node: ir.Node) -> Sequence[Dims | None]:
    """Input, lengths and states have one batch; the weights say how wide input and states are."""
    x, w, r = (shapes.shape(value) for value in node.inputs[:3])
    if x is None or len(x) != 3:
        return []
    first = bool(read(node, "layout", 0))
    steps, batch = (x[1], x[0]) if first else (x[0], x[1])
    directions, hidden = (r[0], r[2]) if r is not None and len(r) == 3 else (None, None)
    if w is not None and len(w) == 3:
        shapes.equal(x[2], w[2])
    given = [*node.inputs, *[None] * 8]
    lengths = shapes.shape(given[4])
    if lengths is not None and len(lengths) == 1:
        batch = shapes.equal(batch, lengths[0])
    for value in given[5:7]:
        dims = shapes.shape(value)
        if dims is not None and len(dims) == 3:
            batch = shapes.equal(batch, dims[0 if first else 1])
            directions, hidden = shapes.equal(directions, dims[1 if first else 0]), shapes.equal(hidden, dims[2])
    if first:
        last: Dims = (batch, directions, hidden)
        return [(batch, steps, directions, hidden), last, last]
    last = (directions, batch, hidden)
    return [(steps, directions, batch, hidden), last, last]
