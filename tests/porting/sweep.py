"""Every real model ported to every family, one line per port: what `tests/porting/test_every_model.py` asserts, by hand.

    python tests/porting/sweep.py OUT [--model NAME]... [--target T]... [--minutes M]

Each port is a process of its own; its line goes to OUT/<model>-<target>.txt, and a model and target that have a line are not
ported again, so a sweep goes on where it was stopped. Dims are those of the smallest recorded case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porter import graph

MODELS = Path(os.environ.get("PORTER_MODELS", Path(__file__).resolve().parents[3] / "shared" / "models"))
TARGETS = ("gpu", "tpu", "trainium", "maia")
LIMIT = 1800  # seconds of one port, after which it counts as failed


@dataclass(frozen=True)
class Line:
    """What became of one port, in one line."""

    exit: int
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"exit {self.exit} in {self.seconds:.0f} s: {self.text}"


def names(folder: Path = MODELS) -> dict[str, Path]:
    """The models to port by name: all of the folder but what porter refuses by its domain."""
    files = [folder / entry["file"] for entry in json.loads((folder / "catalog.json").read_text())]
    return {
        f.parent.name if f.stem == "model" else f"{f.parent.name}_{f.stem}": f
        for f in files
        if f.parent.name != "reject_ml_domain_op9"
    }


def cases(path: Path) -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Every recorded case: the inputs, and what was recorded of the outputs, whole (arrays) or sampled (dictionaries)."""
    if found := sorted(path.parent.glob(f"{path.stem}.io_*.npz")):
        return [_archived(file) for file in found]
    sys.path.insert(0, str(path.parent.parent))
    import inputs

    made = []
    for number, (feeds, golden) in enumerate(inputs.cases(path.parent.name, str(path.parent.parent))):
        whole = path.with_name(f"golden_{number}.npz")
        made.append((feeds, {**(golden or {}), **(dict(np.load(whole)) if whole.exists() else {})}))
    return made


def _archived(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(file) as data:
        feeds = {k[3:]: data[k] for k in data if k.startswith("in|")}
        return feeds, {k[4:]: data[k] for k in data if k.startswith("out|")}


def dims(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    """A number for each free dim, by its name, as these inputs have it."""
    sizes = {f"{name}[{axis}]": n for name, array in feeds.items() for axis, n in enumerate(array.shape)}
    free = graph.dims(graph.read(path))
    return {dim.name: sizes[dim.places[0]] for dim in free if dim.follows is None}


def ported(path: Path, target: str, numbers: dict[str, int], out: Path) -> Line:
    """`porter port` of one model to one target."""
    words = [
        sys.executable,
        "-m",
        "porter.cli",
        "port",
        str(path),
        "--target",
        target,
        "-o",
        str(out),
        "--force",
        "--json",
    ]
    words += [word for name, n in numbers.items() for word in ("--dim", f"{name}={n}")]
    began = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Line(1, LIMIT, f"stopped after {LIMIT} s")
    seconds = time.perf_counter() - began
    if not done.stdout.strip():
        return Line(done.returncode, seconds, " | ".join(done.stderr.strip().splitlines()[-6:]))
    report = json.loads(done.stdout)["targets"][0]
    kernels, end = report.get("kernels") or {}, report.get("end_to_end") or {}
    said = f"{kernels.get('checked')}/{kernels.get('unique')} kernels, {kernels.get('calls')} calls"
    said += f", host {kernels.get('host_ops') or 'none'}, {end.get('sqnr_db')} dB"
    if report["status"] != "ok":
        said += f": {report.get('message')} | " + " | ".join(done.stderr.strip().splitlines()[-4:])
    return Line(done.returncode, seconds, " ".join(said.split()))


def swept(name: str, target: str, folder: Path) -> str:
    """The line of a model and a target: the one that stands in the folder, or a new one."""
    file = folder / f"{name}-{target}.txt"
    if not file.exists():
        path = names()[name]
        with tempfile.TemporaryDirectory() as out:
            try:
                smallest = min(
                    (feeds for feeds, _ in cases(path)), key=lambda feeds: sum(x.size for x in feeds.values())
                )
                line = ported(path, target, dims(path, smallest), Path(out, "bundle"))
            except Exception as e:  # of the sweep itself, a dim that no case has: a line too
                line = Line(1, 0, f"{type(e).__name__}: {e}")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{line}\n")
    return file.read_text().strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", action="append")
    parser.add_argument("--target", action="append")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no port after so many minutes")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    bad = 0
    for target in given.target or TARGETS:
        for name in given.model or names():
            if time.monotonic() > end:
                return 3
            line = swept(name, target, given.out)
            print(f"{name} {target} {line}", flush=True)
            bad += not line.startswith("exit 0")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
