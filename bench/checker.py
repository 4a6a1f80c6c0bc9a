"""`make bench`: the checker beside polygraphy: wall time of whole commands, as a user would type them.

check    five models against what onnxruntime's basic optimizer made of them. `porter check A B`; polygraphy runs A and
         keeps inputs and outputs, then runs B on them and compares: the two commands of its manual
reduce   a sign lost in the rotary embedding of a decoder of 330 nodes. `porter reduce A B`; `polygraphy debug reduce`
         with values of every tensor of A, as in its example of a model that computes wrongly
bisect   the same fault made by a pass: `porter bisect` names the pass and the rewrite; nothing of polygraphy's does

Prints a table and writes build/bench/checker.json. Each figure is the median of --repeat runs, every run a process, after
one that is not counted: Python's bytecode is kept, as it is where a tool is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from porter.cli.output import table

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("PORTER_MODELS", ROOT.parent / "shared" / "models"))
OUT = ROOT / "build" / "bench"
BYTECODE = tempfile.mkdtemp()  # of this run's own, for what a checkout or the environment does not keep

# model: its file, and a number for each of its free dims
CHECKED = {
    "resnet_small": ("resnet_small/model.onnx", {"batch": 1}),
    "vit_small": ("vit_small/model.onnx", {"batch": 1}),
    "bert_small": ("bert_small/model.onnx", {"batch": 1, "seq": 32}),
    "minilm_l6_int8w": ("minilm_l6_int8w/model.onnx", {"batch": 1, "seq": 32}),
    "llama_gqa_prefill": ("llama_gqa/prefill.onnx", {"batch": 1, "seq": 32}),
}
DECODER = CHECKED["llama_gqa_prefill"]
SIGN = 4  # of the decoder's Neg nodes, counted from 0: the third layer's rotation of the queries

PASS = '''"""Turns a sign: right but for one node, which it takes for another."""

from dataclasses import dataclass

from porter.pipeline import Pass, exact
from porter.rewrite import note


@dataclass(frozen=True)
class Signs(Pass):
    """Rewrites each Neg; one of them wrongly."""

    contract = exact

    def run(self, model, device):
        for number, node in enumerate([n for n in model.graph if n.op_type == "Neg"]):
            if number == {sign}:
                node.op_type = "Identity"
            yield note(number + 1, "sign", [node])
'''


def seconds(words: Sequence[str | Path], folder: Path, **env: str) -> tuple[float, int, str]:
    """Wall time of a command, its exit code, and the last thousand characters of what it said."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": BYTECODE}
    began = time.perf_counter()
    done = subprocess.run(
        list(map(str, words)), cwd=folder, capture_output=True, text=True, check=False, env={**kept, **env}
    )
    return time.perf_counter() - began, done.returncode, (done.stdout + done.stderr)[-1000:]


def median(runs: int, folder: Path, *commands: Sequence[str | Path], **env: str) -> dict[str, Any]:
    """The median wall time of commands one after the other, with the exit code and the words of the last."""
    times, code, said = [], 0, ""
    for run in range(runs + 1):
        total = 0.0
        for number, words in enumerate(commands, 1):
            took, code, said = seconds(words, folder, **env)
            if code and number < len(commands):  # what the last command says is the result, that of others is needed
                raise RuntimeError(f"{' '.join(map(str, words))} exits with {code}\n{said}")
            total += took
        if run:
            times.append(total)
    return {
        "seconds": round(statistics.median(times), 3),
        "runs": [round(t, 3) for t in times],
        "exit": code,
        "said": said,
    }


def porter(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "porter.cli", *words]


def polygraphy(*words: str | Path) -> list[str | Path]:
    return [sys.executable, Path(sys.executable).parent / "polygraphy", *words]


def bound(dims: dict[str, int]) -> list[str]:
    return [word for name, size in dims.items() for word in ("--dim", f"{name}={size}")]


def fixed(file: Path, dims: dict[str, int], to: Path) -> Path:
    """The model with its dims bound, in one file: both tools read the same."""
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_value = dims[dim.dim_param]
    del model.graph.value_info[:]
    onnx.save(model, to)
    return to


def optimized(model: Path, to: Path) -> Path:
    """What onnxruntime's basic optimizer makes of it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return to


def check(name: str, runs: int) -> dict[str, Any]:
    """`porter check` beside two runs of polygraphy."""
    file, dims = CHECKED[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        a = fixed(MODELS / file, dims, folder / "a.onnx")
        b = optimized(a, folder / "b.onnx")
        ours = median(runs, folder, porter("check", a, b))
        theirs = median(
            runs,
            folder,
            polygraphy("run", a, "--onnxrt", "--save-inputs", "in.json", "--save-outputs", "out.json"),
            polygraphy("run", b, "--onnxrt", "--load-inputs", "in.json", "--load-outputs", "out.json"),
        )
    nodes = len(onnx.load(MODELS / file, load_external_data=False).graph.node)
    return {"what": "check", "model": name, "nodes": nodes, "porter": ours, "polygraphy": theirs}


def reduce(runs: int) -> dict[str, Any]:
    """`porter reduce` beside `polygraphy debug reduce`, on the decoder with one sign lost."""
    file, dims = DECODER
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        a = fixed(MODELS / file, dims, folder / "a.onnx")
        model = onnx.load(a)
        wrong = [n for n in model.graph.node if n.op_type == "Neg"][SIGN]
        wrong.op_type = "Identity"
        onnx.save(model, b := folder / "b.onnx")
        times = []
        for number in range(runs):
            times.append(seconds(porter("reduce", a, b, "-o", f"small{number}", "--json"), folder))
        left = json.loads(subprocess.run(
            porter("reduce", a, b, "-o", "shown", "--json"), cwd=folder, capture_output=True, text=True, check=False
        ).stdout)  # fmt: skip
        ours = {"seconds": round(statistics.median(t for t, _, _ in times), 3), "exit": times[-1][1],
                "nodes": left["nodes"], "sources": left["sources"], "found": wrong.name in left["sources"]}  # fmt: skip
        compare = polygraphy("run", "polygraphy_debug.onnx", "--onnxrt", "--load-inputs", "layers.json",
                             "--load-outputs", "golden.json")  # fmt: skip
        theirs = median(
            1,  # it is slow: once, after the one that is not counted
            folder,
            polygraphy("run", a, "--onnxrt", "--save-inputs", "in.json", "--onnx-outputs", "mark", "all",
                       "--save-outputs", "golden.json"),
            polygraphy("data", "merge", "in.json", "golden.json", "-o", "layers.json"),
            polygraphy("debug", "reduce", b, "-o", "reduced.onnx", "--mode=bisect", "--load-inputs", "layers.json",
                       "--check", *compare),
        )  # fmt: skip
        if (folder / "reduced.onnx").is_file():
            kept = onnx.load(folder / "reduced.onnx").graph.node
            theirs |= {"nodes": len(kept), "found": wrong.name in {n.name for n in kept}}
    return {"what": "reduce", "model": "llama_gqa_prefill", "nodes": len(model.graph.node), "fault": wrong.name,
            "porter": ours, "polygraphy": theirs}  # fmt: skip


def bisect(runs: int) -> dict[str, Any]:
    """`porter bisect` on a pipeline with a pass that loses the sign."""
    file, dims = DECODER
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        passes = folder / "site" / "planted" / "bad"
        passes.mkdir(parents=True)
        (passes / "signs.py").write_text(PASS.format(sign=SIGN))
        for package in (passes, passes.parent):
            (package / "__init__.py").write_text("")
        info = folder / "site" / "planted-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[porter.passes]\nplanted = planted\n")
        words = porter("bisect", MODELS / file, "--passes", "cleanup, bad.signs, fusion", "--json", *bound(dims))
        path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH", str(ROOT)))))
        found = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False,
                               env={**os.environ, "PYTHONPATH": path})  # fmt: skip
        named = json.loads(found.stdout)["bad"] if found.stdout else None
        ours = median(runs, folder, words, PYTHONPATH=path)
    ours |= {
        "found": bool(named and named["step"] == "bad.signs" and named["rewrite"]),
        "rewrite": named and named["rewrite"],
    }
    return {"what": "bisect", "model": "llama_gqa_prefill", "nodes": None, "porter": ours, "polygraphy": None}


def row(r: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = r["porter"], r["polygraphy"]

    def said(side: dict[str, Any] | None) -> str:
        if side is None:
            return "-"
        if "found" in side:
            word = "named" if side["found"] else "missed"
            return f"{word}, {side['nodes']} left" if "nodes" in side else word
        return f"exit {side['exit']}"

    ratio = f"{theirs['seconds'] / ours['seconds']:.1f}" if theirs else "-"
    return (r["what"], r["model"], f"{ours['seconds']:.2f}", f"{theirs['seconds']:.2f}" if theirs else "-", ratio,
            said(ours), said(theirs))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*CHECKED, "reduce", "bisect", []], help="only these")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each command (default 3)")
    chosen = parser.parse_args()
    if not Path(polygraphy()[1]).is_file():
        print("no polygraphy beside this python: pip install 'onnx-porter[bench]'", file=sys.stderr)
        return 2
    if not (MODELS / DECODER[0]).is_file():
        print(f"no models in {MODELS}; name the folder with PORTER_MODELS", file=sys.stderr)
        return 2
    works = {name: lambda name=name: check(name, chosen.repeat) for name in CHECKED}
    works |= {"reduce": lambda: reduce(chosen.repeat), "bisect": lambda: bisect(chosen.repeat)}
    results = []
    for name in chosen.what or works:
        results.append(works[name]())
        print(*row(results[-1]), file=sys.stderr)
    OUT.mkdir(parents=True, exist_ok=True)
    tools = {n: version(n) for n in ("onnx-porter", "polygraphy", "onnxruntime", "onnx", "numpy")}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    document = {"date": date.today().isoformat(), "machine": machine, "versions": tools, "results": results}
    (OUT / "checker.json").write_text(json.dumps(document, indent=1) + "\n")
    head = ("command", "model", "porter s", "polygraphy s", "times", "porter", "polygraphy")
    print(table(map(row, results), head, right=(2, 3, 4)))
    print(f"\nwrote {OUT / 'checker.json'}")
    shutil.rmtree(BYTECODE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
