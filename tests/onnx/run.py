"""`make onnx-tests`: all 1,909 official cases in porter's namespaces, or ported to a target; counts, reasons, JSON.

python tests/onnx/run.py [--target gpu|tpu|trainium|maia] [--tile] [--only TEXT] [--every N] [--part K/N]
                         [--again] [--out FOLDER] [--document docs/operators.md]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# it overflows on purpose when it makes the cases
warnings.filterwarnings("ignore", category=RuntimeWarning, module="onnx")
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # two processes on two cores
sys.path.insert(0, str(Path(__file__).parent))

SECONDS = 120  # a case that takes longer has failed
REAL = 10  # times as long for a whole architecture
FOLDER = Path(__file__).parent.parent.parent / "build" / "onnx"


def worker(pipe: Connection, text: bool) -> None:
    """Answers (case number, place) with what became of the case, until told to stop."""
    from onnx_port import cases, outcome

    known = cases()
    while (task := pipe.recv()) is not None:
        number, where = task
        pipe.send(asdict(outcome(known[number], where, text=text)))


def stolen(tasks: Sequence[tuple[int, str]], text: bool, processes: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Outcomes as they come: each process takes the next case when it is done with its last. One that hangs is replaced."""
    from onnx_port import cases, operators

    context = multiprocessing.get_context("spawn")
    known, waiting = cases(), list(reversed(tasks))
    busy: dict[Connection, tuple[Any, tuple[int, str], float]] = {}

    def start() -> None:
        mine, theirs = context.Pipe()
        process = context.Process(target=worker, args=(theirs, text), daemon=True)
        process.start()
        give(mine, process, 30.0)  # it imports jax first

    def give(pipe: Connection, process: Any, extra: float = 0.0) -> None:
        if not waiting:
            pipe.send(None)
            return
        task = waiting.pop()
        pipe.send(task)
        limit = seconds * (REAL if known[task[0]].kind == "real" else 1)
        busy[pipe] = (process, task, time.monotonic() + limit + extra)

    def lost(task: tuple[int, str], message: str) -> dict[str, Any]:
        case, where = known[task[0]], task[1]
        names = operators(case.model)
        return {
            "case": case.id,
            "target": where,
            "status": "failed",
            "operators": names,
            "host": {},
            "message": message,
        }

    for _ in range(min(processes, len(tasks))):
        start()
    while busy:
        for pipe in wait(list(busy), timeout=1.0):
            assert isinstance(pipe, Connection)
            process, task, _ = busy.pop(pipe)
            try:
                yield pipe.recv()
                give(pipe, process)
            except EOFError:
                yield lost(task, "the process died")
                if waiting:
                    start()
        for pipe, (process, task, until) in list(busy.items()):
            if time.monotonic() > until:
                process.kill()
                del busy[pipe]
                yield lost(task, "no end in sight: stopped for time")
                if waiting:
                    start()


def summary(where: str, found: Sequence[dict[str, Any]]) -> str:
    """Counts, and the reasons for all that is not on the device."""
    from onnx_port import PLACES

    counts = Counter(o["status"] for o in found)
    if where in PLACES:
        lines = [
            f"{where}: {counts['device']} of {len(found)} pass, {counts['host']} have shapes that depend on data, "
            f"{counts['explained']} explained, {counts['failed']} fail"
        ]
    else:
        lines = [
            f"{where}: {counts['device']} on the device, {counts['host']} on the host, "
            f"{counts['explained']} explained, {counts['failed']} failed, of {len(found)}"
        ]
    reasons: dict[str, list[str]] = {}
    for o in found:
        for op, why in o.get("host", {}).items():
            reasons.setdefault(f"{op}: {why}"[:150], []).append(o["case"])
    lines += [
        f"  host   {len(cases):4d}  {why}   ({cases[0]})"
        for why, cases in sorted(reasons.items(), key=lambda r: -len(r[1]))
    ]
    lines += [
        f"  {o['status']}  {o['case']}: {o['message'][:200]}"
        for o in found
        if o["status"] in ("failed", "explained") or (o["status"] == "device" and o["message"])
    ]
    return "\n".join(lines)


def few(chosen: Sequence[int], per: int) -> list[int]:
    """At most `per` of these cases for each operator."""
    from onnx_port import cases, operators

    taken: Counter[str] = Counter()
    kept = []
    for i in chosen:
        case = cases()[i]
        names = operators(case.model)
        if "_expanded" not in case.name and any(taken[n] < per for n in names):
            taken.update(names)
            kept.append(i)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--target", action="append", default=[], help="a family of devices, or all; without it the namespaces"
    )
    parser.add_argument("--namespace", action="append", default=[], help="interpreter, source, float64 or jax")
    parser.add_argument("--tile", action="store_true", help="run tile programs, not emitted text")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="each N-th case")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th of the chosen cases, from the K-th on")
    parser.add_argument("--per", type=int, help="at most N cases per operator, without those expanded to functions")
    parser.add_argument("--again", action="store_true", help="only cases whose saved result is not 'device'")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder of the results, <place>.json each; a run adds to them"
    )
    parser.add_argument("--document", type=Path, help="write the table of operators, from all results in --out")
    given = parser.parse_args()

    from onnx_port import TARGETS, cases

    places = [t for g in given.target for t in (TARGETS if g == "all" else [g])] + given.namespace or [
        "interpreter",
        "jax",
    ]
    chosen = [i for i, c in enumerate(cases()) if given.only in c.id][:: given.every]
    part, parts = map(int, given.part.split("/"))
    chosen = chosen[part - 1 :: parts]
    if given.per:
        chosen = few(chosen, given.per)
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for where in places:
        saved = given.out / f"{where}.json"
        before = {o["case"]: o for o in json.loads(saved.read_text())} if saved.exists() else {}
        mine = [
            i for i in chosen if not given.again or before.get(cases()[i].id, {}).get("status", "device") != "device"
        ]
        tasks = [(i, where) for i in mine]
        found = sorted(stolen(tasks, not given.tile, given.processes, given.seconds), key=lambda o: str(o["case"]))
        print(summary(where, found), flush=True)
        failed += sum(o["status"] == "failed" for o in found)
        found = sorted((before | {o["case"]: o for o in found}).values(), key=lambda o: str(o["case"]))
        saved.write_text(json.dumps(found, indent=1) + "\n")
    if given.document:
        from operators import document

        given.document.write_text(document(given.out))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
