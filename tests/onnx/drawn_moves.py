"""What a random graph is drawn from, continued: movement, indices, shapes, and control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
from draft import FLOATS, Draft, Kind, Refused, element, graph_of
from drawn import binary, clipped, logical, ranged, unary
from onnx import TensorProto, helper


def transpose(d: Draft) -> None:
    x = d.pick(least=1)
    d.add("Transpose", [x], perm=d.rng.sample(range(d.kind(x).rank), d.kind(x).rank))


def reshape(d: Draft) -> None:
    x = d.pick()
    kind = d.kind(x)
    size = kind.size
    divisors = [k for k in range(1, size + 1) if size % k == 0] or [1]
    a = d.rng.choice(divisors)
    b = d.rng.choice([k for k in divisors if (size // a) % k == 0] or [1])
    rest = size // a // b
    what = d.rng.randint(0, 6)
    if not size:
        d.add("Reshape", [x, d.ints(*(kind.shape or ()), 1)], **({"allowzero": 1} if d.opset >= 14 else {}))
    elif what == 0:
        d.add("Flatten", [x], axis=d.rng.randint(0, kind.rank))
    elif what == 1 and kind.rank:
        d.add("Reshape", [x, d.ints(0, *[1] * d.rng.randint(0, 1), -1)])
    elif what == 2:  # the shape of another value, as exporters write it
        (shape,) = d.add("Shape", [x])
        d.add("Reshape", [x, shape])
    else:
        d.add("Reshape", [x, d.ints(*d.rng.choice([(size,), (a, size // a), (b, rest, a), (1, b, a, rest)]))])


def unit(d: Draft) -> None:
    """Dims of one come and go; others grow out of them."""
    x = d.pick()
    kind = d.kind(x)
    assert kind.shape is not None
    what = d.rng.randint(0, 3)
    ones = [i for i, n in enumerate(kind.shape) if n == 1]
    if what == 0 and ones:
        axes = d.rng.sample(ones, d.rng.randint(1, len(ones)))
        _with_axes(d, "Squeeze", x, sorted(axes))
    elif what == 1 and kind.rank < 4:
        _with_axes(d, "Unsqueeze", x, [d.rng.randint(0, kind.rank)])
    elif what == 2 and d.opset >= 8:
        wide = [d.rng.choice([2, 3]) if n == 1 and d.rng.random() < 0.5 else n for n in kind.shape]
        d.add("Expand", [x, d.ints(*([d.rng.choice([1, 2])] if kind.rank < 4 and d.rng.random() < 0.4 else []), *wide)])
    else:
        d.add("Tile", [x, d.ints(*(d.rng.choice([1, 1, 2]) for _ in kind.shape))])


def _with_axes(d: Draft, op: str, x: str, axes: list[int]) -> None:
    if d.opset >= 13:
        d.add(op, [x, d.ints(*axes)])
    else:
        d.add(op, [x], axes=axes)


def slice_(d: Draft) -> None:
    x = d.pick(least=1)
    axis = d.axis(x) % d.kind(x).rank
    size = (d.kind(x).shape or ())[axis]
    low, high = sorted(d.rng.choices(range(size + 1), k=2))
    if d.opset < 10:
        d.add("Slice", [x], starts=[low], ends=[high + 1], axes=[axis])
        return
    step = d.rng.choice([1, 1, 2, 3, -1, -2])
    ends = (low, high + 1) if step > 0 else d.rng.choice([(-1, -(2**31)), (high, low - size - 1)])
    d.add("Slice", [x, *(d.ints(v) for v in (*ends, axis, step))])


def concat(d: Draft) -> None:
    x = d.pick(least=1)
    kind = d.kind(x)
    assert kind.shape is not None
    axis = d.axis(x) % kind.rank
    other = tuple(d.rng.choice([1, n]) if i == axis else n for i, n in enumerate(kind.shape))
    d.add("Concat", [x, d.like(other, kind.dtype), *([x] if d.rng.random() < 0.2 else [])], axis=axis)


def split(d: Draft) -> None:
    x = d.pick(least=1)
    axis = d.axis(x) % d.kind(x).rank
    size = (d.kind(x).shape or ())[axis]
    if size < 2:
        raise Refused("nothing to split")
    cut = d.rng.randint(1, size - 1)
    if d.opset >= 13:
        d.add("Split", [x, d.ints(cut, size - cut)], 2, axis=axis)
    else:
        d.add("Split", [x], 2, axis=axis, split=[cut, size - cut])


def pad(d: Draft) -> None:
    x = d.pick("float32", "float64", "float16", "int32", "int64", least=1)
    shape = d.kind(x).shape or ()
    mode = d.rng.choice(["constant", "constant", "reflect", "edge", "wrap"])
    widths = [d.rng.randint(0, 2) if mode == "constant" else d.rng.randint(0, min(1, max(n - 1, 0))) for n in shape * 2]
    if d.opset < 11:
        d.add("Pad", [x], pads=widths, mode=mode, **({"value": 0.5} if mode == "constant" else {}))
        return
    value = (
        [d.weight(np.asarray(2, np.float32).astype(d.kind(x).dtype))]
        if mode == "constant" and d.rng.random() < 0.5
        else []
    )
    d.add("Pad", [x, d.ints(*widths), *value], mode=mode)


def gather(d: Draft) -> None:
    x = d.pick(least=1)
    kind = d.kind(x)
    assert kind.shape is not None
    axis = d.axis(x) % kind.rank
    size = kind.shape[axis]
    if not kind.size:
        raise Refused("nothing to gather")
    low = -size if d.opset >= 11 and d.rng.random() < 0.5 else 0
    what = d.rng.randint(0, 2)
    index = lambda shape, n, low: d.weight(d.numbers.integers(low, n, shape).astype(d.rng.choice([np.int64, np.int32])))
    if what == 0:
        d.add("Gather", [x, index(d.rng.choice([(), (3,), (2, 2), (1,)]), size, low)], axis=axis)
    elif what == 1:
        shape = tuple(d.rng.randint(1, n) for n in kind.shape)
        d.add("GatherElements", [x, index(shape, size, low)], axis=axis)
    else:
        depth = d.rng.randint(1, kind.rank)
        places = np.stack([d.numbers.integers(0, n, 3) for n in kind.shape[:depth]], 1)
        d.add("GatherND", [x, d.weight(places.astype(np.int64))])


def scatter(d: Draft) -> None:
    x = d.pick("float32", "float64", "int32", "int64", least=1)
    kind = d.kind(x)
    assert kind.shape is not None
    if not kind.size:
        raise Refused("nowhere to scatter")
    reduction = d.rng.choice(["add", "mul"]) if d.opset >= 16 else ""
    reduction = d.rng.choice(["max", "min"]) if d.opset >= 18 and d.rng.random() < 0.5 else reduction
    options: dict[str, Any] = {"reduction": reduction} if reduction else {}
    many = kind.shape[0] if not reduction else 4  # without a reduction no place is written twice
    rows = d.numbers.permutation(kind.shape[0])[:many] if not reduction else d.numbers.integers(0, kind.shape[0], many)
    if d.rng.random() < 0.5:
        updates = d.filled((len(rows), *kind.shape[1:]), kind.dtype)
        d.add("ScatterND", [x, d.weight(rows.reshape(-1, 1).astype(np.int64)), updates], **options)
        return
    index = np.broadcast_to(rows.reshape(-1, *[1] * (kind.rank - 1)), (len(rows), *kind.shape[1:])).astype(np.int64)
    d.add("ScatterElements", [x, d.weight(index), d.filled(index.shape, kind.dtype)], axis=0, **options)


def various(d: Draft) -> None:
    """Operators with one thing to say each."""
    x = d.pick("float32", "float64", "float16", "int32", "int64", least=1)
    kind = d.kind(x)
    assert kind.shape is not None
    op = d.rng.choice(
        "CumSum Trilu OneHot Range ConstantOfShape Size EyeLike DepthToSpace SpaceToDepth Resize Reverse".split()
    )
    if op == "CumSum":
        where = d.weight(np.array(d.axis(x), np.int64))
        d.add(op, [x, where], exclusive=d.rng.randint(0, 1), reverse=d.rng.randint(0, 1))
    elif op == "Trilu":
        d.add(op, [x, d.weight(np.array(d.rng.randint(-2, 2), np.int64))], upper=d.rng.randint(0, 1))
    elif op == "OneHot":
        index = d.pick("int64", "int32")
        d.add(op, [index, d.weight(np.array([5], np.int64)), d.weight(np.array([0.5, 2], np.float32))], axis=-1)
    elif op == "Range":
        ends = [
            d.weight(np.array(v, np.int64)) for v in (d.rng.randint(-2, 1), d.rng.randint(2, 6), d.rng.choice([1, 2]))
        ]
        d.add(op, ends)
    elif op == "ConstantOfShape":
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.5])
        d.add(op, [d.add("Shape", [x])[0]], value=value)
    elif op == "Size":
        d.add("Cast", [d.add(op, [x])[0]], to=element("float32"))
    elif op == "EyeLike":
        d.add(op, [x], k=d.rng.choice([0, 1]))
    elif op in ("DepthToSpace", "SpaceToDepth"):
        if op[0] == "S" and any(n % 2 for n in kind.shape[2:]):
            raise Refused("blocks of two")
        if op[0] == "D" and (kind.rank != 4 or kind.shape[1] % 4):
            raise Refused("four channels make a block")
        d.add(
            op, [x], blocksize=2, **({"mode": d.rng.choice(["DCR", "CRD"])} if op[0] == "D" and d.opset >= 11 else {})
        )
    elif op == "Resize" and d.opset >= 11 and kind.dtype == "float32" and kind.rank >= 3:
        sizes = d.weight(np.array([1, 1, *(d.rng.choice([1.0, 2.0]) for _ in kind.shape[2:])], np.float32))
        mode = d.rng.choice(["nearest", "linear"])
        where = d.rng.choice(["asymmetric", "half_pixel", "align_corners"])
        nearest = {"nearest_mode": d.rng.choice(["floor", "round_prefer_floor"])} if mode == "nearest" else {}
        d.add(op, [x, "" if d.opset >= 13 else d.weight(np.zeros(0, np.float32)), sizes], mode=mode,
              coordinate_transformation_mode=where, **nearest)  # fmt: skip
    elif op == "Reverse" and kind.rank >= 2 and kind.shape[0]:
        lengths = d.weight(d.numbers.integers(1, kind.shape[0] + 1, kind.shape[1]).astype(np.int64))
        d.add("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)


def loose(d: Draft) -> None:
    """A shape that depends on data; nothing is drawn on it further."""
    x = d.pick("float32", "int64", "int32", least=1)
    op = d.rng.choice(["NonZero", "Compress", "Unique"])
    if op == "NonZero":
        d.add(op, [x])
    elif op == "Unique":
        d.add(op, [x], d.rng.choice([1, 4]))
    else:
        flags = d.weight(d.numbers.integers(0, 2, (d.kind(x).shape or (0,))[0]).astype(bool))
        d.add(op, [x, flags], axis=0)


def _inside(d: Draft, prefix: str) -> Draft:
    return Draft(d.opset, d.rng, d.numbers, f"{prefix}_", d, functions=d.functions)


def _steps(inner: Draft, x: str, kind: Kind, many: int) -> str:
    """A few operators that end in a value of the kind of x."""
    inner.values.setdefault(x, kind)
    for _ in range(many):
        step = inner.rng.choice([unary, unary, binary, ranged, logical])
        before = (len(inner.nodes), dict(inner.values))
        try:
            step(inner)
        except Refused:
            del inner.nodes[before[0] :]
            inner.values = before[1]
    same = [n for n, k in inner.values.items() if k == kind and n != x]
    if same and inner.rng.random() < 0.8:
        return inner.add("Tanh" if kind.dtype in FLOATS else "Identity", [same[-1]])[0]
    if kind.dtype not in FLOATS:
        return inner.add("Identity", [x])[0]
    other = inner.filled((), kind.dtype)
    return clipped(inner, inner.add("Add", [x, other])[0], -3, 3)


def branch(d: Draft) -> None:
    """An If on what is computed, given, or known."""
    x = d.pick("float32", "float64", "int64")
    kind = d.kind(x)
    assert kind.shape is not None
    if d.rng.random() < 0.3:
        flag = d.weight(np.array(d.rng.random() < 0.5))
    else:
        (total,) = d.add("ReduceMax", [x], keepdims=0)
        (flag,) = d.add("Greater", [total, d.weight(np.array(0.5 if kind.dtype in FLOATS else 1, kind.dtype))])
    graphs = {}
    for name in ("then_branch", "else_branch"):
        inner = _inside(d, d.fresh("b"))
        (first,) = inner.add("Identity", [x])
        end = _steps(inner, first, kind, d.rng.randint(0, 2))
        graphs[name] = graph_of(inner, inner.prefix, {}, [end])
    out = d.fresh("v")
    d.take(helper.make_node("If", [flag], [out], name=d.fresh("n"), **graphs), {out: kind})


def loop(d: Draft) -> None:
    """A Loop of a few turns that carries one value, collects another, and may stop early."""
    x = d.pick("float32", "float64", "int64", most=3)
    kind = d.kind(x)
    assert kind.shape is not None
    inner = _inside(d, d.fresh("l"))
    turn, going, state = (inner.fresh(s) for s in ("i", "go", "s"))
    inputs = {turn: Kind("int64", ()), going: Kind("bool", ()), state: kind}
    inner.values.update(inputs)
    end = _steps(inner, state, kind, d.rng.randint(1, 3))
    stops = kind.dtype in FLOATS and d.rng.random() < 0.3
    if stops:
        (total,) = inner.add("ReduceMax", [end], keepdims=0)
        (flag,) = inner.add("Less", [total, inner.weight(np.array(0.9, kind.dtype))])
    else:
        (flag,) = inner.add("Identity", [going])
    (row,) = inner.add("Identity", [end])
    body = graph_of(inner, inner.prefix, inputs, [flag, end, row])
    turns = d.rng.choice([0, 1, 2, 3, 4])
    last, rows = d.fresh("v"), d.fresh("v")
    many = d.weight(np.array(turns, np.int64))
    start = "" if d.rng.random() < 0.5 else d.weight(np.array(True))
    node = helper.make_node("Loop", [many, start, x], [last, rows], name=d.fresh("n"), body=body)
    shape = None if stops else (turns, *kind.shape)
    d.take(node, {last: kind, rows: Kind(kind.dtype, shape, kind.rank + 1)})


def scan(d: Draft) -> None:
    """A Scan over the rows of a value, from a state that is a weight."""
    if d.opset < 9:
        raise Refused("the Scan of opset 8 has a batch axis")
    x = d.pick("float32", "float64", least=1, most=3)
    kind = d.kind(x)
    if not kind.shape or not kind.shape[0]:
        raise Refused("no rows")
    row = Kind(kind.dtype, kind.shape[1:])
    inner = _inside(d, d.fresh("s"))
    state, line = inner.fresh("h"), inner.fresh("r")
    inner.values.update({state: row, line: row})
    (mixed,) = inner.add("Add", [state, line])
    end = _steps(inner, mixed, row, d.rng.randint(0, 2))
    (out,) = inner.add("Identity", [end])
    body = graph_of(inner, inner.prefix, {state: row, line: row}, [end, out])
    last, rows = d.fresh("v"), d.fresh("v")
    options = {"scan_input_directions": [d.rng.randint(0, 1)]} if d.rng.random() < 0.5 else {}
    start = d.filled(row.shape or (), kind.dtype)
    node = helper.make_node(
        "Scan", [start, x], [last, rows], name=d.fresh("n"), body=body, num_scan_inputs=1, **options
    )
    d.take(node, {last: row, rows: kind})


def call(d: Draft) -> None:
    """A function of the model, called with an attribute; the same one again, now and then."""
    if d.opset < 13 or d.outer is not None:
        raise Refused("functions came later")
    x = d.pick("float32")
    if not d.functions:
        alpha = helper.make_node("LeakyRelu", ["a"], ["b"])
        attribute = alpha.attribute.add(name="alpha", ref_attr_name="slope", type=1)
        assert attribute.ref_attr_name
        nodes = [alpha, helper.make_node("Tanh", ["b"], ["t"]), helper.make_node("Add", ["t", "a"], ["c"])]
        imports = [helper.make_opsetid("", d.opset)]
        d.functions.append(helper.make_function("local", "Bent", ["a"], ["c"], nodes, imports, ["slope"]))
    out = d.fresh("v")
    node = helper.make_node("Bent", [x], [out], name=d.fresh("n"), domain="local", slope=d.rng.choice([0.1, 0.5]))
    d.take(node, {out: d.kind(x)})
