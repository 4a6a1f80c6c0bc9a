"""What a random graph is drawn from: one function per family of operators, each adding a valid node or raising Refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from draft import FLOATS, INTEGERS, Draft, Refused, element

Draw = Callable[[Draft], Any]

# operators of one float, whole lines of them; those that need a range stand in `_ranged`
UNARY = (
    "Relu Sigmoid Tanh Erf Abs Neg Softplus Softsign Elu Selu HardSigmoid LeakyRelu ThresholdedRelu Celu Gelu HardSwish Mish "
    "Swish Sin Cos Atan Asinh Floor Ceil Round Sign Identity Sinh Cosh"
).split()
RANGED = {"Sqrt": (0, 4), "Log": (0.1, 4), "Reciprocal": (0.5, 4), "Exp": (-4, 2), "Asin": (-0.9, 0.9), "Acos": (-0.9, 0.9),
          "Atanh": (-0.9, 0.9), "Acosh": (1.1, 4), "Tan": (-1, 1)}  # fmt: skip


def unary(d: Draft) -> None:
    x = d.pick(*FLOATS)
    op = d.rng.choice(UNARY)
    options = {"alpha": 0.3} if op in ("Elu", "LeakyRelu", "ThresholdedRelu") and d.rng.random() < 0.5 else {}
    d.add(op, [x], **options)


def ranged(d: Draft) -> None:
    """An operator on what is clipped into its range first."""
    op, (low, high) = d.rng.choice(list(RANGED.items()))
    d.add(op, [clipped(d, d.pick(*FLOATS), low, high)])


def clipped(d: Draft, x: str, low: float, high: float) -> str:
    if d.opset < 11:
        return d.add("Clip", [x], min=float(low), max=float(high))[0]
    ends = [d.weight(np.asarray(v, np.float32).astype(_dtype(d, x))) for v in (low, high)]
    return d.add("Clip", [x, *ends])[0]


def _dtype(d: Draft, x: str) -> np.dtype:
    from draft import dtype_of

    return dtype_of(d.kind(x).dtype)


def integer(d: Draft) -> None:
    x = d.pick(*INTEGERS)
    kind = d.kind(x)
    op = d.rng.choice(
        "Add Sub Mul Max Min Abs Neg Sign BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift Mod Div".split()
    )
    if op in ("Abs", "Neg", "Sign", "BitwiseNot"):
        d.add(op, [x])
    elif op == "BitShift":
        d.add(op, [x, d.filled((), kind.dtype, positive=True)], direction=d.rng.choice(["LEFT", "RIGHT"]))
    elif op in ("Mod", "Div"):
        d.add(op, [x, d.filled(_broadcast(d, kind.shape), kind.dtype, positive=True)])
    else:
        d.add(op, _either(d, x, d.like(_broadcast(d, kind.shape), kind.dtype)))


def _either(d: Draft, x: str, y: str) -> list[str]:
    return [x, y] if d.rng.random() < 0.5 else [y, x]


def _broadcast(d: Draft, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """A shape that broadcasts with this one, now and then beyond it."""
    assert shape is not None
    other = tuple(n if d.rng.random() < 0.6 else 1 for n in shape[d.rng.randint(0, len(shape)) :])
    if len(other) == len(shape) < 4 and d.rng.random() < 0.15:
        other = (d.rng.choice([1, 2]), *other)
    return other


def binary(d: Draft) -> None:
    x = d.pick(*FLOATS)
    kind = d.kind(x)
    op = d.rng.choice("Add Sub Mul Max Min Div Pow PRelu Mod Sum Mean Max3".split())
    shape = _broadcast(d, kind.shape)
    if op == "Div":
        d.add(op, [x, d.filled(shape, kind.dtype, positive=True)])
    elif op == "Mod":
        d.add(op, [x, d.filled(shape, kind.dtype, positive=True)], fmod=1)
    elif op == "Pow":
        exponent = d.weight(np.array(d.rng.choice([2, 3]), _dtype(d, x)))
        d.add(op, [x, exponent])
    elif op == "PRelu":
        d.add(op, [x, d.filled(kind.shape[d.rng.randint(0, kind.rank) :] if kind.shape else (), kind.dtype)])
    elif op in ("Sum", "Mean", "Max3"):
        d.add(op.rstrip("3"), [x, d.like(kind.shape or (), kind.dtype), d.like(shape, kind.dtype)])
    else:
        d.add(op, _either(d, x, d.like(shape, kind.dtype)))


def logical(d: Draft) -> None:
    """Comparisons, and what is done with their results."""
    x = d.pick(*FLOATS, "int64", "int32")
    kind = d.kind(x)
    op = d.rng.choice("Greater Less GreaterOrEqual LessOrEqual Equal".split())
    (flag,) = d.add(op, [x, d.like(_broadcast(d, kind.shape), kind.dtype)])
    flags = d.kind(flag)
    what = d.rng.randint(0, 3)
    if what == 0:
        d.add(d.rng.choice("And Or Xor".split()), [flag, d.like(_broadcast(d, flags.shape), "bool")])
    elif what == 1:
        d.add("Not", [flag])
    elif what == 2:
        d.add("Where", [flag, x, d.like(_broadcast(d, kind.shape), kind.dtype)])


def cast(d: Draft) -> None:
    x = d.pick()
    source = d.kind(x).dtype
    wide = source in (*FLOATS, "int64", "int32")
    to = d.rng.choice([*FLOATS, "int32", "int64", "bool"] if wide else ["float32", "int32", "int64", "float16"])
    d.add("Cast", [x], to=element(to))


def matmul(d: Draft) -> None:
    x = d.pick(*FLOATS, least=1)
    kind, n = d.kind(x), d.rng.choice([1, 3, 8, 17])
    assert kind.shape is not None
    k = kind.shape[-1]
    what = d.rng.randint(0, 3)
    scale = 1 / np.sqrt(max(k, 1))
    if what == 0 and kind.rank == 2:
        trans = d.rng.randint(0, 1)
        other = (
            [d.filled((n,) if d.rng.random() < 0.5 else (1, n), kind.dtype)]
            if d.rng.random() < 0.7 or d.opset < 11
            else []
        )
        w = d.filled((n, k) if trans else (k, n), kind.dtype, scale=scale)
        d.add("Gemm", [x, w, *other], transB=trans, alpha=d.rng.choice([1.0, 0.5]))
    elif what == 1 and kind.rank >= 2:
        equation = d.rng.choice(["...ij,jk->...ik", "...ij,jk->...kj" if k == 1 else "...ij,jk->...k"])
        d.add("Einsum", [x, d.filled((k, n), kind.dtype, scale=scale)], equation=equation)
    elif what == 2 and kind.rank >= 2:
        d.add("MatMul", [x, d.filled((*kind.shape[:-2], k, n), kind.dtype, scale=scale)])
    else:
        d.add("MatMul", [x, d.filled((k,) if d.rng.random() < 0.2 else (k, n), kind.dtype, scale=scale)])


def softmax(d: Draft) -> None:
    x = d.pick(*FLOATS, least=1)
    axis = d.axis(x)
    d.add(
        d.rng.choice(["Softmax", "LogSoftmax", "Hardmax"]), [x], axis=axis if d.opset >= 11 else axis % d.kind(x).rank
    )


def reduce(d: Draft) -> None:
    op = d.rng.choice("Sum Mean Max Min L1 L2 SumSquare Prod LogSumExp".split())
    whole = ("int32", "int64") if op in ("Sum", "Max", "Min", "Prod", "L1", "SumSquare") else ()
    x = d.pick("float32", "float16", "float64", *whole, least=1)
    rank, keep = d.kind(x).rank, d.rng.randint(0, 1)
    axes = sorted(d.rng.sample(range(rank), d.rng.randint(1, rank)))
    if d.rng.random() < 0.1:
        d.add(f"Reduce{op}", [x], keepdims=keep)
    elif d.opset >= (13 if op == "Sum" else 18):
        d.add(f"Reduce{op}", [x, d.ints(*axes)], keepdims=keep)
    else:
        d.add(f"Reduce{op}", [x], axes=axes, keepdims=keep)


def best(d: Draft) -> None:
    """The place of the largest, and the largest few."""
    x = d.pick("float32", "float64", "int64", "int32", "float16", least=1)
    axis = d.axis(x) % d.kind(x).rank
    size = (d.kind(x).shape or ())[axis]
    if size < 1:
        raise Refused("an empty axis")
    if d.rng.random() < 0.5:
        options = {"select_last_index": 1} if d.opset >= 12 and d.rng.random() < 0.5 else {}
        d.add(d.rng.choice(["ArgMax", "ArgMin"]), [x], axis=axis, keepdims=d.rng.randint(0, 1), **options)
    elif d.opset >= 10:
        options = {"largest": d.rng.randint(0, 1)} if d.opset >= 11 else {}
        d.add("TopK", [x, d.ints(d.rng.randint(1, size))], 2, axis=axis, **options)


def norm(d: Draft) -> None:
    x = d.pick(*FLOATS, least=2)
    kind = d.kind(x)
    assert kind.shape is not None
    c, last, given = kind.shape[1], kind.shape[-1], lambda n, **o: d.filled((n,), kind.dtype, **o)
    op = d.rng.choice(
        "BatchNormalization InstanceNormalization LayerNormalization RMSNormalization GroupNormalization LpNormalization LRN "
        "MeanVarianceNormalization".split()
    )
    if op == "BatchNormalization":
        d.add(op, [x, given(c), given(c), given(c), given(c, positive=True)], epsilon=1e-2)
    elif op == "InstanceNormalization":
        d.add(op, [x, given(c), given(c)], epsilon=1e-1)
    elif op in ("LayerNormalization", "RMSNormalization"):
        rest = [given(last)] if op[0] == "L" and d.rng.random() < 0.5 else []
        d.add(op, [x, given(last), *rest], epsilon=1e-1)
    elif op == "GroupNormalization":
        groups = d.rng.choice([g for g in (1, 2, 3) if c % g == 0])
        d.add(op, [x, given(c), given(c)], num_groups=groups, epsilon=1e-1)
    elif op == "LRN":
        d.add(op, [x], size=3)
    elif op == "LpNormalization":
        d.add(op, [d.add("Add", [x, d.weight(np.array(4, _dtype(d, x)))])[0]], axis=d.axis(x), p=d.rng.randint(1, 2))
    elif kind.rank == 4:
        d.add(op, [d.add("Mul", [x, d.filled((last,), kind.dtype, positive=True)])[0]])


def conv(d: Draft) -> None:
    x = d.pick("float32", "float64", "float16", least=3, most=4)
    kind = d.kind(x)
    assert kind.shape is not None
    c, space = kind.shape[1], kind.shape[2:]
    kernel = [d.rng.choice([1, 2, 3]) for _ in space]
    options: dict[str, Any] = {"strides": [d.rng.choice([1, 1, 2]) for _ in space]}
    if d.rng.random() < 0.2:
        options["auto_pad"] = d.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    else:
        options["pads"] = [d.rng.randint(0, k - 1) for k in kernel * 2]
        options["dilations"] = [d.rng.choice([1, 1, 2]) for _ in space]
    group = c if d.rng.random() < 0.3 else d.rng.choice([g for g in (1, 2) if c % g == 0])
    scale = 1 / np.sqrt(c / group * np.prod(kernel)) if c else 1.0
    if d.rng.random() < 0.3:
        if options.get("auto_pad", "")[:4] == "SAME" and any(
            s > k for s, k in zip(options["strides"], kernel, strict=True)
        ):
            raise Refused("onnx's inference and the standard disagree about the size")
        many = d.rng.choice([1, 2, 3])
        w = d.filled((c, many, *kernel), kind.dtype, scale=scale)
        bias = [d.filled((many * group,), kind.dtype)] if d.rng.random() < 0.5 else []
        d.add("ConvTranspose", [x, w, *bias], group=group, **options)
        return
    _fit(space, kernel, options)
    out = group * d.rng.choice([1, 2, 3])
    bias = [d.filled((out,), kind.dtype)] if d.rng.random() < 0.5 else []
    d.add("Conv", [x, d.filled((out, c // group, *kernel), kind.dtype, scale=scale), *bias], group=group, **options)


def _fit(space: tuple[int, ...], kernel: list[int], options: dict[str, Any]) -> None:
    """Refuses a window that reaches over the padded image: onnx's inference finds a place for some that do."""
    pads = options.get("pads", [0] * 2 * len(space))
    reach = [(k - 1) * n + 1 for k, n in zip(kernel, options.get("dilations", [1] * len(space)), strict=True)]
    padded = [n + pads[i] + pads[i + len(space)] for i, n in enumerate(space)]
    if not options.get("auto_pad", "").startswith("SAME") and any(r > n for r, n in zip(reach, padded, strict=True)):
        raise Refused("no window fits")


def pool(d: Draft) -> None:
    x = d.pick("float32", "float64", "float16", least=3, most=4)
    space = (d.kind(x).shape or ())[2:]
    op = d.rng.choice("MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool".split())
    if op.startswith("Global"):
        d.add(op, [x])
        return
    kernel = [d.rng.choice([1, 2, 3]) for _ in space]
    options: dict[str, Any] = {"kernel_shape": kernel, "strides": [d.rng.choice([1, 2]) for _ in space]}
    if d.rng.random() < 0.7:
        options["pads"] = [d.rng.randint(0, k - 1) for k in kernel * 2]
    else:
        options["auto_pad"] = d.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    if op != "LpPool" and d.opset >= 10 and d.rng.random() < 0.3 and "pads" in options:
        options["ceil_mode"] = 1
    if op == "AveragePool" and d.rng.random() < 0.5:
        options["count_include_pad"] = 1
    if op == "MaxPool" and d.opset >= 10 and d.rng.random() < 0.3:
        options["dilations"] = [d.rng.choice([1, 2]) for _ in space]
    _fit(space, kernel, options)
    d.add(op, [x], 2 if op == "MaxPool" and d.opset >= 8 and d.rng.random() < 0.3 else 1, **options)


def recurrent(d: Draft) -> None:
    x = d.pick("float32", "float64", least=3, most=3)
    kind = d.kind(x)
    assert kind.shape is not None
    op, hidden = d.rng.choice(["LSTM", "GRU", "RNN"]), d.rng.choice([2, 5])
    gates, way = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], d.rng.choice(["forward", "reverse", "bidirectional"])
    ways = 2 if way == "bidirectional" else 1
    steps, batch, size = kind.shape
    w = d.filled((ways, gates * hidden, size), kind.dtype, scale=0.4)
    r = d.filled((ways, gates * hidden, hidden), kind.dtype, scale=0.4)
    b = d.filled((ways, 2 * gates * hidden), kind.dtype, scale=0.4) if d.rng.random() < 0.7 else ""
    lengths = (
        [d.weight(d.numbers.integers(1, steps + 1, batch).astype(np.int32))] if steps and d.rng.random() < 0.3 else []
    )
    options = {"linear_before_reset": 1} if op == "GRU" and d.rng.random() < 0.5 else {}
    inputs = [x, w, r, b, *lengths]
    while not inputs[-1]:
        inputs.pop()
    d.add(op, inputs, d.rng.randint(1, 3 if op == "LSTM" else 2), hidden_size=hidden, direction=way, **options)


def quantized(d: Draft) -> None:
    """To eight bits and back, per tensor or per channel."""
    x = d.pick("float32", least=1)
    shape = d.kind(x).shape or ()
    codes = d.rng.choice(["uint8", "int8"])
    zero = d.weight(np.array(d.rng.choice([0, 3]), codes))
    scale = d.weight(np.float32(d.rng.choice([0.05, 0.1])))
    options = {}
    if d.opset >= 13 and d.rng.random() < 0.4 and min(shape):
        axis = d.rng.randrange(len(shape))
        scale = d.weight(d.numbers.uniform(0.02, 0.1, shape[axis]).astype(np.float32))
        zero, options = d.weight(d.numbers.integers(0, 4, shape[axis]).astype(codes)), {"axis": axis}
    elif d.opset >= 11 and d.rng.random() < 0.2:
        y, scale, zero = d.add("DynamicQuantizeLinear", [x], 3)
        d.add("DequantizeLinear", [y, scale, zero])
        return
    (q,) = d.add("QuantizeLinear", [x, scale, zero], **options)
    if len(shape) == 2 and not options and d.rng.random() < 0.3:
        d.add("MatMulInteger", [q, d.weight(d.numbers.integers(-5, 5, (shape[1], 3)).astype(np.int8)), zero])
    d.add("DequantizeLinear", [q, scale, zero], **options)


def attention(d: Draft) -> None:
    """Queries of one value against keys and values made of it by two products, heads in the last axis."""
    x = d.pick("float32", "float16", least=3, most=3)
    kind = d.kind(x)
    assert kind.shape is not None
    size = kind.shape[-1]
    heads = d.rng.choice([1, 2])
    made = [
        d.add("MatMul", [x, d.filled((size, heads * 4), kind.dtype, scale=1 / np.sqrt(max(size, 1)))])[0]
        for _ in range(3)
    ]
    options: dict[str, Any] = {"is_causal": 1} if d.rng.random() < 0.5 else {}
    d.add("Attention", made, q_num_heads=heads, kv_num_heads=heads, **options)
