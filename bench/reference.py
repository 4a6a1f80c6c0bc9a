"""How fast the reference interpreter is: each model in porter's interpreter, onnx's evaluator and onnxruntime, in one run.

    python bench/reference.py [MODEL...] [--rounds N]

All three compute in the model's own types on one thread, and seconds are those that the processor gave this thread: what
else the machine does is not counted. onnxruntime's optimizer is off. The inputs are the first recorded case of each model,
and the time of one is the best of several rounds after a warm-up, the three taking turns; porter's first run, which looks
the nodes up, is told beside it. onnx's evaluator may take minutes: once it has had ten seconds, its rounds are over.
`make bench` prints this table after that of the ports; build/bench/reference.json keeps it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "porting"))
from sweep import MODELS, cases, dims, names

from porter import graph, ops
from porter.cli.output import table

ROOT = Path(__file__).resolve().parent.parent

OUT = ROOT / "build" / "bench" / "reference.json"
PATIENCE = 10.0  # seconds for onnx's evaluator, beyond its first run

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Speed:
    """Seconds of one run of a model; None where the other evaluator cannot run it, and why."""

    model: str
    porter: float
    onnx: float | None
    onnxruntime: float | None
    first: float = 0.0
    refused: str = ""

    @property
    def faster_than_onnx(self) -> float | None:
        return None if self.onnx is None else self.onnx / self.porter

    @property
    def slower_than_onnxruntime(self) -> float | None:
        return None if self.onnxruntime is None else self.porter / self.onnxruntime


def measured(name: str, path: Path, rounds: int) -> Speed:
    """One model, the three evaluators in turns."""
    feeds = cases(path)[0][0]
    makers: dict[str, Callable[[Path, Feeds], Callable[[], Any]]] = {
        "porter": _porter, "onnxruntime": _onnxruntime, "onnx": _onnx,
    }  # fmt: skip
    runs: dict[str, Callable[[], Any]] = {}
    refused = []
    spent: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for side, make in makers.items():
        try:
            runs[side] = make(path, feeds)
            first[side] = _seconds(runs[side])
            spent[side] = [first[side]]  # the warm-up; kept only where it stays alone
        except Exception as e:  # what another evaluator refuses
            if side == "porter":
                raise
            runs.pop(side, None)
            refused.append(f"{side}: {' '.join(str(e).split())[:60]}")
    for number in range(rounds):
        for side, run in runs.items():
            if side == "onnx" and sum(spent[side]) > PATIENCE:
                continue
            if number == 0:
                spent[side].clear()
            spent[side].append(_seconds(run))
    best = {side: min(spent[side]) for side in runs}
    return Speed(name, best["porter"], best.get("onnx"), best.get("onnxruntime"), first["porter"], "; ".join(refused))


def _seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def _porter(path: Path, feeds: Feeds) -> Callable[[], Any]:
    ready = ops.Evaluator(graph.load(path, dims(path, feeds)))
    return lambda: ready(feeds, ops.source)


def _onnx(path: Path, feeds: Feeds) -> Callable[[], Any]:
    evaluator = ReferenceEvaluator(str(path))
    return lambda: evaluator.run(None, feeds)


def _onnxruntime(path: Path, feeds: Feeds) -> Callable[[], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.1f}"


def report(chosen: list[str], rounds: int) -> str:
    """The table of the chosen models, all of them where none is named; what is measured goes to a file too."""
    warnings.simplefilter("ignore")
    speeds = []
    for name, path in names().items():
        if not chosen or name in chosen:
            with threadpool_limits(1):
                speeds.append(measured(name, path, rounds))
            print(f"{name}: {milliseconds(speeds[-1].porter)} ms", file=sys.stderr, flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    versions = {m.__name__: m.__version__ for m in (np, onnx, onnxruntime)}
    OUT.write_text(json.dumps({"versions": versions, "results": [asdict(s) for s in speeds]}, indent=1) + "\n")
    head = (
        "model",
        "porter ms",
        "first ms",
        "onnx ms",
        "onnxruntime ms",
        "faster than onnx",
        "of onnxruntime's time",
        "",
    )
    rows = [
        (
            s.model, milliseconds(s.porter), milliseconds(s.first), milliseconds(s.onnx), milliseconds(s.onnxruntime),
            times(s.faster_than_onnx), times(s.slower_than_onnxruntime), s.refused,
        )
        for s in speeds
    ]  # fmt: skip
    return table(rows, head, right=(1, 2, 3, 4, 5, 6))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="only these")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if not (MODELS / "catalog.json").is_file():
        print(f"no models in {MODELS}; name the folder with PORTER_MODELS", file=sys.stderr)
        return 2
    print(report(given.models, given.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
