"""`make fuzz`: random valid graphs; interpreter, jax and onnxruntime compared, and ports to every target held against them.

    python tests/onnx/fuzz.py [--graphs N] [--seed S] [--target toy ...] [--text N] [--out FILE] [--show]

A seed is a graph: an opset of 7 to 24, inputs of several types and odd sizes, then operators on what exists (`drawn.py`,
`drawn_moves.py`), control flow and functions among them. What is known of a seed goes to a line of FILE, and a seed that has one is
not tried again, so that a range can be run in pieces and go on where it stopped.

How far a side may be from float64 is measured, not chosen: the graph runs in float64 with every result of every operator
moved at random by what its type rounds by (stochastic arithmetic). Where that moves an output, or flips it at a tie, others
may differ as much.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import drawn
import drawn_moves as moves
import ml_dtypes
import numpy as np
import onnx
from draft import Draft, Kind, Refused, graph_of, random_array
from onnx import helper

from porter import formats, graph, ops
from porter.ops.arrays import Numpy
from porter.ops.namespace import NotKnown, is_float

RUNS = 8  # of stochastic arithmetic
ROOM = 8.0  # the largest of so many runs by this is where another order of sums may end up
LARGE = {"float16": 2e2, "bfloat16": 1e3}  # values beyond overflow soon, or leave nothing of the small ones
ATTEMPTS = 20

DRAWN: tuple[tuple[int, drawn.Draw], ...] = (
    (4, drawn.unary), (2, drawn.ranged), (4, drawn.binary), (2, drawn.integer), (2, drawn.logical), (2, drawn.cast),
    (3, drawn.matmul), (1, drawn.softmax), (2, drawn.reduce), (1, drawn.best), (2, drawn.norm), (2, drawn.conv), (2, drawn.pool),
    (1, drawn.recurrent), (2, drawn.quantized), (1, drawn.attention), (2, moves.transpose), (2, moves.reshape), (2, moves.unit),
    (2, moves.slice_), (1, moves.concat), (1, moves.split), (1, moves.pad), (2, moves.gather), (1, moves.scatter),
    (2, moves.various), (1, moves.branch), (1, moves.loop), (1, moves.scan), (1, moves.call),
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A seed's graph with inputs for it."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]


def draw(seed: int, attempt: int = 0) -> Drawn:
    """A valid model and inputs for it; the same for the same numbers."""
    rng = random.Random(seed * ATTEMPTS + attempt)
    d = Draft(rng.randint(7, 24), rng, np.random.default_rng([seed, attempt]))
    feeds: dict[str, np.ndarray] = {}
    for number in range(rng.randint(1, 3)):
        rank = rng.choice([0, 1, 2, 2, 3, 3, 4])
        sizes = [1, 2, 3, 4, 5, 7] + ([0] if rng.random() < 0.03 else [])
        shape = tuple(rng.choice(sizes if axis < 2 else [*sizes, 6, 8]) for axis in range(rank))
        dtype = rng.choice(
            "float32 float32 float32 float32 float32 float16 bfloat16 float64 int64 int32 int8 uint8 bool".split()
        )
        feeds[f"x{number}"] = random_array(d.numbers, shape, dtype)
        d.values[f"x{number}"] = Kind(dtype, shape)
    wanted, tries = rng.randint(2, 14), 0
    while len(d.nodes) < wanted and (tries := tries + 1) < 200:
        step = rng.choices([f for _, f in DRAWN], [n for n, _ in DRAWN])[0]
        _tried(d, step)
    if rng.random() < 0.08:
        _tried(d, moves.loose)
    return Drawn(_model(d, feeds), feeds)


def _tried(d: Draft, step: drawn.Draw) -> None:
    before = len(d.nodes), dict(d.values), dict(d.weights)
    try:
        step(d)
    except Refused:
        del d.nodes[before[0] :]
        d.values, d.weights = before[1:]


def _model(d: Draft, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    inputs = {name: d.values[name] for name in feeds}
    used = {name for node in d.nodes for name in node.input}
    made = [name for node in d.nodes if node.op_type != "Constant" for name in node.output]
    ends = [n for n in made if n not in used] or made[-1:]
    ends += [n for n in made if n in used and d.rng.random() < 0.05]  # a value that is read and returned
    if not ends:
        raise Refused("nothing was drawn")
    proto = graph_of(d, "drawn", inputs, ends)
    imports = [helper.make_opsetid("", d.opset), *([helper.make_opsetid("local", 1)] if d.functions else [])]
    model = helper.make_model(proto, opset_imports=imports, functions=d.functions, ir_version=10)
    onnx.checker.check_model(model)
    return model


class Stochastic(Numpy):
    """float64 in which every result of a float type is moved, element by element, by at most a step of that type.

    inner: the step of what an operator computes inside in. exp is moved by it, since Elu, Celu and Selu are given as
    exp(x) - 1 and lose near 0 what a type has, and so are the terms of a sum, which may cancel."""

    def __init__(self, seed: int, inner: float) -> None:
        super().__init__("stochastic", double=True)
        self._rng, self._inner = np.random.default_rng(seed), inner

    def exp(self, x: Any) -> np.ndarray:
        return self._moved(np.exp(x))

    def sum(self, x: Any, axis: Any = None, keepdims: Any = False) -> np.ndarray:
        return super().sum(self._moved(x) if x.dtype.kind == "f" else x, axis, keepdims)

    def _moved(self, x: np.ndarray) -> np.ndarray:
        return x * (1 + self._inner * self._rng.uniform(-1, 1, np.shape(x)))

    def settle(self, x: Any, dtype: np.dtype | None) -> np.ndarray:
        y = super().settle(x, dtype)
        if dtype is None or not is_float(dtype):
            return y
        step = float(formats.of(np.dtype(dtype).name).eps)
        return y * (1 + step * self._rng.uniform(-1, 1, y.shape))


def inner_step(model: graph.Model) -> float:
    """The step of float32, which narrow types are computed in too; of float64 where a graph has no other floats."""
    every = {graph.dtype(v) for g in graph.every_graph(model) for node in g for v in node.outputs}
    narrow = any(dtype is not None and is_float(dtype) and dtype != np.float64 for dtype in every)
    return float(formats.of("float32" if narrow else "float64").eps)


Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Finding:
    """A graph on which two sides differ, or one gave up."""

    seed: int
    side: str
    message: str


def moderate(model: graph.Model, feeds: Arrays) -> Arrays | None:
    """The outputs in float64; None where a value on the way is too large to compare anything by."""
    kinds = {str(v.name): graph.dtype(v) for node in model.graph for v in node.outputs}
    large = False

    def look(name: str, array: Any) -> None:
        nonlocal large
        kind = kinds.get(name)
        if array.dtype.kind == "f" and array.size:
            limit = LARGE.get(kind.name if kind is not None else "", 1e4)
            large |= not bool(np.abs(array).max() < limit)

    ops.infer(model)
    truth = ops.evaluate(model, feeds, ops.float64, on_value=look)
    return None if large else truth


def tried(seed: int, targets: Sequence[str] = ("toy",), text: bool = False) -> list[Finding]:
    """What is wrong with a seed's graph, on every side that can run it."""
    from onnx_port import in_jax, in_source

    found: Drawn | None = None
    for attempt in range(ATTEMPTS):
        try:
            found = draw(seed, attempt)
            truth = moderate(graph.read(found.model), found.feeds)
        except Refused:
            found = None
            continue
        except Exception as e:
            return [Finding(seed, "float64", _said(e))]
        if truth is not None:
            break
        found = None
    if found is None:
        return []
    model, feeds = found.model, found.feeds
    typed = graph.read(model)
    try:
        ops.infer(typed)
        inner, steps = inner_step(typed), step_of(typed)
        runs = [ops.evaluate(graph.read(model), feeds, Stochastic(n, inner)) for n in range(RUNS)]
    except Exception as e:  # whatever it is, it is the finding
        return [Finding(seed, "stochastic", _said(e))]
    declared = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.output}
    sides: dict[str, Callable[[], Arrays]] = {
        "source": lambda: in_source(graph.read(model), feeds), "jax": lambda: in_jax(graph.read(model), feeds),
        "loaded": lambda: ops.evaluate(graph.load(model), feeds, ops.source), "onnxruntime": lambda: _onnxruntime(model, feeds),
    }  # fmt: skip
    for family in targets:
        sides[family] = lambda family=family: _ported(model, feeds, family, text)  # type: ignore[misc]
    findings = []
    for side, run in sides.items():
        try:
            got = run()
        except (Unable, NotKnown):  # shapes that depend on data have no jaxpr
            continue
        except Exception as e:
            findings.append(Finding(seed, side, _said(e)))
            continue
        for name, exact in truth.items():
            moved = [np.asarray(r[name]) for r in runs]
            if bad := differs(np.asarray(got[name]), np.asarray(exact), moved, declared[name], steps[name]):
                findings.append(Finding(seed, side, f"{name}: {bad}"))
    return findings


def _said(e: Exception) -> str:
    where = traceback.extract_tb(e.__traceback__)[-1]
    return f"{type(e).__name__} at {Path(where.filename).name}:{where.lineno}: {' '.join(str(e).split())[:200]}"


def step_of(model: graph.Model) -> dict[str, float]:
    """The coarsest step, up to float32's, of the floats that each value of the graph comes from, itself among them."""
    found: dict[graph.Value | None, float] = {v: _step(v) for v in model.graph.inputs}
    for node in model.graph:
        inside = [v for body in graph.graphs(node) for n in graph.nodes_of(body) for v in (*n.inputs, *n.outputs)]
        before = max((found.get(v, _step(v)) for v in (*node.inputs, *inside)), default=0.0)
        found.update({v: max(before, _step(v)) for v in node.outputs})
    return {str(v.name): step for v, step in found.items() if v is not None}


def _step(value: graph.Value | None) -> float:
    dtype = None if value is None else graph.dtype(value)
    if dtype is None or not is_float(dtype):
        return 0.0
    return float(formats.of("float64" if dtype == np.float64 else "float32").eps)


def differs(got: np.ndarray, exact: np.ndarray, runs: Sequence[np.ndarray], declared: np.dtype, step: float) -> str:
    """How an output is farther from float64 than its types explain; empty where it is not. step: see `step_of`."""
    if any(r.shape != exact.shape for r in runs):
        return ""  # the shape itself hangs on a tie
    if got.shape != exact.shape:
        return f"shape {list(got.shape)} instead of {list(exact.shape)}"
    if got.dtype != declared:
        return f"{got.dtype} instead of {declared}"
    a, b = got.astype(np.float64), exact.astype(np.float64)
    others = [r.astype(np.float64) for r in runs]
    spread = np.max([np.abs(r - b) for r in others], axis=0, initial=0.0)
    if not is_float(declared):
        wrong = (a != b) & ~(spread > 0)
        return f"{np.count_nonzero(wrong)} of {wrong.size} differ" if wrong.any() else ""
    finite = np.abs(b[np.isfinite(b)])
    # XLA's atanh and others of float64 are right to some 2**-48 only
    step = max(float(formats.of(declared.name).eps), step, 2.0**-48)
    # where the runs agree (a cancellation to zero), a sum of this output's size may still leave its last bits
    allowed = ROOM * np.where(np.isnan(spread), np.inf, spread) + ROOM * step * finite.max(initial=0.0)
    least = ml_dtypes.finfo(declared)  # XLA and devices take float32's subnormal numbers for 0
    allowed += float(least.smallest_subnormal if declared == np.float16 else least.smallest_normal)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    wrong = ~same & ~(np.abs(a - b) <= allowed)
    if not wrong.any():
        return ""
    worst = np.unravel_index(int(np.argmax(np.where(wrong, np.nan_to_num(np.abs(a - b), nan=np.inf), -1))), a.shape)
    where = [int(i) for i in worst]
    apart = f"at {where} {a[worst]:.6g} for {b[worst]:.6g}, allowed {allowed[worst]:.2g}"
    return f"{np.count_nonzero(wrong)} of {wrong.size} differ, {apart}"


class Unable(Exception):
    """This side has no implementation of an operator or a type; nothing is learnt."""


def _onnxruntime(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [o.name for o in model.graph.output]
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given = {n: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(_raw(x), helper.np_dtype_to_tensor_dtype(x.dtype))
                 for n, x in feeds.items()}  # fmt: skip
        results = session.run_with_ort_values(names, given)
    except Exception as e:
        if any(said in str(e) for said in ("NOT_IMPLEMENTED", "Could not find an implementation", "does not support")):
            raise Unable from None
        raise
    found = {}
    for value, name in zip(results, names, strict=True):
        if value.element_type() == onnx.TensorProto.BFLOAT16:
            raise Unable  # it has no numpy type there
        found[name] = value.numpy()
    return found


def _raw(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint16) if x.dtype.name == "bfloat16" else x


def _ported(model: onnx.ModelProto, feeds: Arrays, family: str, text: bool) -> Arrays:
    from onnx_port import executed

    return executed(model, feeds, family, text=text)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument(
        "--text", type=int, default=20, help="each N-th graph runs the emitted text, the others the tile programs"
    )
    parser.add_argument("--out", type=Path, default=Path("build/fuzz/results.jsonl"))
    parser.add_argument("--show", action="store_true", help="print the graph of the first seed and stop")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.show:
        shown = next(
            d for a in range(ATTEMPTS) if (d := draw(given.seed, a)) and moderate(graph.read(d.model), d.feeds)
        )
        print(onnx.printer.to_text(shown.model))
        return 0
    targets = tuple(given.target) or ("gpu", "tpu", "trainium", "maia")
    seeds = range(given.seed, given.seed + given.graphs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    known: dict[int, dict[str, Any]] = {}
    if given.out.exists():
        known = {line["seed"]: line for line in map(json.loads, given.out.read_text().splitlines())}
    with given.out.open("a") as file:
        for seed in seeds:
            if seed in known:
                continue
            text = given.text > 0 and seed % given.text == 0
            findings = tried(seed, targets, text)
            known[seed] = {"seed": seed, "targets": targets, "text": text, "findings": [asdict(f) for f in findings]}
            print(json.dumps(known[seed]), file=file, flush=True)
            for f in findings:
                print(f"seed {f.seed} {f.side}: {f.message}", flush=True)
    counts = Counter(f["side"] for seed in seeds for f in known[seed]["findings"])
    texts = sum(known[seed]["text"] for seed in seeds)
    print(f"{given.graphs} graphs from seed {given.seed}, {texts} of them as text, against {', '.join(targets)}: "
          f"{sum(counts.values())} findings {dict(counts)}")  # fmt: skip
    return int(any(side != "onnxruntime" for side in counts))


if __name__ == "__main__":
    sys.exit(main())
