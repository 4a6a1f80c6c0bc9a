"""`make fuzz`: random valid graphs; interpreter, jax and onnxruntime compared, and ports to every target held against them.

python tests/onnx/fuzz.py [--graphs N] [--seed S] [--target toy ...] [--text N]

A graph is drawn from a seed: a few inputs, then operators on values that exist, with attributes and broadcasts that are valid for
their shapes. Values stay moderate (denominators are kept from zero, exponents small), so that float32 results can be compared.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RELATIVE = 2e-4  # of the largest value of an output: sums of a few hundred float32 numbers in another order
OPSET = 21


@dataclass
class Draft:
    """A graph being drawn: what exists, with its shape and type."""

    rng: random.Random
    numbers: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    values: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def name(self) -> str:
        return f"v{len(self.values)}"

    def pick(self, dtype: str = "float32", least: int = 0) -> str | None:
        found = [n for n, (s, d) in self.values.items() if d == dtype and len(s) >= least]
        return self.rng.choice(found) if found else None

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], dtype: str = "float32", **attributes: Any) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.values[name] = (tuple(shape), dtype)
        return name


def _unary(d: Draft) -> None:
    x = d.pick()
    assert x is not None
    names = "Relu Sigmoid Tanh Erf Abs Neg Softplus Softsign Elu HardSigmoid LeakyRelu Gelu Sin Cos Floor Identity"
    d.add(d.rng.choice(names.split()), [x], d.values[x][0])


def _binary(d: Draft) -> None:
    x = d.pick()
    assert x is not None
    shape = d.values[x][0]
    other = tuple(n if d.rng.random() < 0.6 else 1 for n in shape[d.rng.randint(0, len(shape)) :]) if shape else ()
    same = [n for n, (s, t) in d.values.items() if s == shape and t == "float32"]
    y = d.rng.choice(same) if d.rng.random() < 0.5 else d.weight(d.numbers.standard_normal(other).astype(np.float32))
    d.add(d.rng.choice("Add Sub Mul Max Min".split()), [x, y], shape)


def _matmul(d: Draft) -> None:
    x = d.pick(least=2)
    if x is None:
        return
    shape, n = d.values[x][0], d.rng.choice([1, 3, 8, 17])
    scale = np.sqrt(shape[-1])
    d.add(
        "MatMul",
        [x, d.weight((d.numbers.standard_normal((shape[-1], n)) / scale).astype(np.float32))],
        (*shape[:-1], n),
    )


def _softmax(d: Draft) -> None:
    x = d.pick(least=1)
    if x is not None:
        d.add(
            d.rng.choice(["Softmax", "LogSoftmax"]),
            [x],
            d.values[x][0],
            axis=d.rng.randrange(-len(d.values[x][0]), len(d.values[x][0])),
        )


def _reduce(d: Draft) -> None:
    x = d.pick(least=1)
    if x is None:
        return
    shape = d.values[x][0]
    axes = sorted(d.rng.sample(range(len(shape)), d.rng.randint(1, len(shape))))
    keep = d.rng.random() < 0.5
    out = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
    op = d.rng.choice("ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare".split())
    d.add(op, [x, d.weight(np.array(axes, np.int64))], out, keepdims=int(keep))


def _transpose(d: Draft) -> None:
    x = d.pick(least=2)
    if x is not None:
        shape = d.values[x][0]
        perm = d.rng.sample(range(len(shape)), len(shape))
        d.add("Transpose", [x], tuple(shape[p] for p in perm), perm=perm)


def _reshape(d: Draft) -> None:
    x = d.pick()
    assert x is not None
    size = int(np.prod(d.values[x][0], dtype=int))
    divisors = [k for k in range(1, size + 1) if size % k == 0]
    a = d.rng.choice(divisors)
    b = d.rng.choice([k for k in divisors if (size // a) % k == 0])
    shape = d.rng.choice([(size,), (a, size // a), (b, size // a // b, a)])
    d.add("Reshape", [x, d.weight(np.array(shape, np.int64))], shape)


def _slice(d: Draft) -> None:
    x = d.pick(least=1)
    if x is None:
        return
    shape = d.values[x][0]
    axis = d.rng.randrange(len(shape))
    step = d.rng.choice([1, 1, 2, 3, -1])
    places = range(shape[axis])[::step]
    if step > 0 and shape[axis] > 2:
        low, high = sorted(d.rng.sample(range(shape[axis] + 1), 2))
        places = range(shape[axis])[low:high:step]
        ends = [low, high]
    else:
        ends = [0, 2**31] if step > 0 else [-1, -(2**31)]
    if not len(places):
        return
    given = [d.weight(np.array([v], np.int64)) for v in (*ends, axis, step)]
    d.add("Slice", [x, *given], tuple(len(places) if i == axis else n for i, n in enumerate(shape)))


def _concat(d: Draft) -> None:
    x = d.pick(least=1)
    if x is None:
        return
    shape = d.values[x][0]
    axis = d.rng.randrange(len(shape))
    parts = [x, *d.rng.sample([n for n, (s, t) in d.values.items() if s == shape and t == "float32"], 1)]
    d.add("Concat", parts, tuple(n * 2 if i == axis else n for i, n in enumerate(shape)), axis=axis)


def _pad(d: Draft) -> None:
    x = d.pick(least=1)
    if x is None:
        return
    shape = d.values[x][0]
    pads = [d.rng.randint(0, 2) for _ in range(2 * len(shape))]
    out = tuple(n + pads[i] + pads[i + len(shape)] for i, n in enumerate(shape))
    d.add("Pad", [x, d.weight(np.array(pads, np.int64)), d.weight(np.array(0.5, np.float32))], out)


def _gather(d: Draft) -> None:
    x = d.pick(least=1)
    if x is None:
        return
    shape = d.values[x][0]
    axis = d.rng.randrange(len(shape))
    index = d.numbers.integers(-shape[axis], shape[axis], d.rng.choice([(3,), (2, 2)])).astype(np.int64)
    d.add("Gather", [x, d.weight(index)], (*shape[:axis], *index.shape, *shape[axis + 1 :]), axis=axis)


def _scatter(d: Draft) -> None:
    x = d.pick(least=2)
    if x is None:
        return
    shape = d.values[x][0]
    index = d.numbers.integers(0, shape[0], (4, 1)).astype(np.int64)
    updates = d.weight(d.numbers.standard_normal((4, *shape[1:])).astype(np.float32))
    d.add("ScatterND", [x, d.weight(index), updates], shape, reduction=d.rng.choice(["add", "max", "min"]))


def _cumulate(d: Draft) -> None:
    x = d.pick(least=1)
    if x is not None:
        axis = d.rng.randrange(len(d.values[x][0]))
        where = d.weight(np.array(axis, np.int64))
        d.add("CumSum", [x, where], d.values[x][0], exclusive=d.rng.randint(0, 1), reverse=d.rng.randint(0, 1))


def _choose(d: Draft) -> None:
    x = d.pick()
    assert x is not None
    shape = d.values[x][0]
    flag = d.add(d.rng.choice(["Greater", "Less"]), [x, d.weight(np.array(0.1, np.float32))], shape, "bool")
    d.add("Where", [flag, x, d.weight(np.array(-1.5, np.float32))], shape)


def _norm(d: Draft) -> None:
    x = d.pick(least=2)
    if x is not None and d.values[x][0][-1] > 1:
        n = d.values[x][0][-1]
        d.add(
            "LayerNormalization",
            [x, d.weight(d.numbers.standard_normal(n).astype(np.float32))],
            d.values[x][0],
            epsilon=1e-2,
        )


def _conv(d: Draft) -> None:
    c, size, k = d.rng.choice([1, 3, 4]), d.rng.choice([6, 9]), d.rng.choice([1, 2, 3])
    x = d.pick(least=1)
    assert x is not None
    flat = int(np.prod(d.values[x][0]))
    need = c * size
    if flat < need:
        return
    row = d.add("Reshape", [x, d.weight(np.array([flat], np.int64))], (flat,))
    ends = [d.weight(np.array([v], np.int64)) for v in (0, need)]
    cut = d.add("Slice", [row, *ends], (need,))
    image = d.add("Reshape", [cut, d.weight(np.array([1, c, size], np.int64))], (1, c, size))
    stride, out = d.rng.choice([1, 2]), d.rng.choice([2, 5])
    if d.rng.random() < 0.4:
        w = d.weight((d.numbers.standard_normal((c, out, k)) / (c * k)).astype(np.float32))
        d.add("ConvTranspose", [image, w], (1, out, (size - 1) * stride + k), strides=[stride])
        return
    w = d.weight((d.numbers.standard_normal((out, c, k)) / (c * k)).astype(np.float32))
    d.add("Conv", [image, w], (1, out, (size + 2 - k) // stride + 1), strides=[stride], pads=[1, 1])


DRAWN: tuple[Callable[[Draft], None], ...] = (
    _unary, _unary, _binary, _binary, _matmul, _softmax, _reduce, _transpose, _reshape, _slice, _concat, _pad, _gather, _scatter,
    _cumulate, _choose, _norm, _conv,
)  # fmt: skip


def draw(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A valid model and inputs for it; the same for the same seed."""
    d = Draft(random.Random(seed), np.random.default_rng(seed))
    feeds: dict[str, np.ndarray] = {}
    for k in range(d.rng.randint(1, 2)):
        shape = tuple(d.rng.choice([1, 2, 3, 5, 7]) for _ in range(d.rng.randint(1, 3)))
        feeds[f"x{k}"] = d.numbers.standard_normal(shape).astype(np.float32)
        d.values[f"x{k}"] = (shape, "float32")
    wanted = d.rng.randint(2, 9)
    while len(d.nodes) < wanted:
        d.rng.choice(DRAWN)(d)
        if any(np.prod(s, dtype=int) > 4096 for s, _ in d.values.values()):
            break
    used = {i for n in d.nodes for i in n.input}
    ends = [n for n in d.values if n not in used and n not in feeds]
    float_of = {"float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}
    graph = helper.make_graph(
        d.nodes, f"seed{seed}", [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in feeds.items()],
        [helper.make_tensor_value_info(n, float_of[d.values[n][1]], d.values[n][0]) for n in ends], d.weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model, feeds


@dataclass(frozen=True)
class Finding:
    """A graph on which two sides differ, or one gave up."""

    seed: int
    side: str
    message: str


def tried(seed: int, targets: tuple[str, ...], text: bool) -> list[Finding]:
    """What is wrong with one graph: against float64, everywhere it can run."""
    from onnx_port import in_jax, in_source

    from porter import graph, ops

    model, feeds = draw(seed)
    truth = ops.evaluate(graph.read(model), feeds, ops.float64)
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "source": lambda: in_source(graph.read(model), feeds), "jax": lambda: in_jax(graph.read(model), feeds),
        "onnxruntime": lambda: _onnxruntime(model, feeds),
    }  # fmt: skip
    for t in targets:
        sides[t] = lambda t=t: _ported(model, feeds, t, text)  # type: ignore[misc]
    findings = []
    for side, run in sides.items():
        try:
            got = run()
            for name, exact in truth.items():
                if bad := _differs(np.asarray(got[name]), exact):
                    findings.append(Finding(seed, side, f"{name}: {bad}"))
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            message = " ".join(str(e).split())[:200]
            place = f"{Path(where.filename).name}:{where.lineno}"
            findings.append(Finding(seed, side, f"{type(e).__name__} at {place}: {message}"))
    return findings


def _differs(got: np.ndarray, exact: np.ndarray) -> str:
    if got.shape != exact.shape:
        return f"shape {list(got.shape)} instead of {list(exact.shape)}"
    if got.dtype == bool:
        return ""  # a comparison may fall either way where float32 rounds
    a, b = got.astype(np.float64), exact.astype(np.float64)
    unit = np.abs(b[np.isfinite(b)]).max(initial=1.0)
    worst = np.nanmax(np.abs(a - b), initial=0.0)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or worst > RELATIVE * unit:
        return f"{worst:.3g} apart, largest value {unit:.3g}"
    return ""


def _onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _ported(model: onnx.ModelProto, feeds: dict[str, np.ndarray], family: str, text: bool) -> dict[str, Any]:
    from onnx_port import executed

    return executed(model, feeds, family, text=text)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument(
        "--text", type=int, default=20, help="each N-th graph runs the emitted text, the others the tile programs"
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    targets = tuple(given.target) or ("toy", "gpu", "tpu", "trainium")
    counts: Counter[str] = Counter()
    for seed in range(given.seed, given.seed + given.graphs):
        for finding in tried(seed, targets, given.text > 0 and seed % given.text == 0):
            counts[finding.side] += 1
            print(f"seed {finding.seed} {finding.side}: {finding.message}", flush=True)
    tally = f"{sum(counts.values())} findings {dict(counts)}"
    print(f"{given.graphs} graphs from seed {given.seed}, against {', '.join(targets)}: {tally}")
    return int(any(side != "onnxruntime" for side in counts))


if __name__ == "__main__":
    sys.exit(main())
