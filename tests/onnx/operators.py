"""docs/operators.md from the results of the official cases: for every operator and target device, host (why) or not (why)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnx_port import PLACES, TARGETS

HEAD = """# Operators

Written by `make onnx-tests` from the official cases of onnx. Do not edit.

The counts say how many cases were run; `--per N` runs at most N for each operator, without those expanded to functions.
A cell says where the cases of an operator run once ported: **device** all of them, **host** with the number of cases that
need it and the reason, **not** where a case is wrong or refused. Each case is ported by the pipeline of `porter port`, its
kernels are emitted, and the emitted text is executed by the target's interpreter on the case's inputs and compared with the
case's outputs under the case's tolerances. Sizes are bound to those of the case; where a shape is computed from a small input
(the target of a Reshape, the scales of a Resize), that input is bound too.

The nine light models (bvlc_alexnet to zfnet512) run whole through the tile programs, and through the emitted text at grid
points that cover every edge, as in `porter port`.

Numbers of eight bits and fewer lie in memory as codes, int4, uint4, int2, uint2 and float4 one to a byte. Where a target's
language has no such type, kernels compute with the codes in integer arithmetic (porter/tile/codes.py). What follows an
operator whose result's shape depends on data is on the host with it; the rest of such a model is on the device. Operators with
random results and strings are not in this table: they run on the host. Nor are sequences and optionals: where lengths and places
are known they become tensors, else the host runs what makes and reads them. Only a model whose output is one is refused.
"""


def document(folder: Path) -> str:
    """The page, from the JSON files that are in the folder."""
    results = {
        t: json.loads((folder / f"{t}.json").read_text())
        for t in (*PLACES, *TARGETS)
        if (folder / f"{t}.json").exists()
    }
    lines = [HEAD, "## Counts", "", "| | cases | device | host | explained | failed |", "|---|---|---|---|---|---|"]
    for where, found in results.items():
        counts = [sum(o["status"] == s for o in found) for s in ("device", "host", "explained", "failed")]
        lines.append(f"| {where} | {len(found)} | {' | '.join(map(str, counts))} |")
    lines += [
        "",
        "Explained: the recorded values were rounded in another order, or carry noise; porter's are nearer to float64.",
        "",
    ]
    lost = [(t, o) for t, found in results.items() for o in found if o["status"] == "failed"]
    if lost:
        lines += ["Failed:", "", *(f"- {t}, {o['case']}: {_plain(o['message'])}" for t, o in lost), ""]
    ported = {t: _cells(found) for t, found in results.items() if t in TARGETS}
    lines += ["## By operator", "", f"| operator | {' | '.join(ported)} |", f"|---|{'---|' * len(ported)}"]
    for op in sorted({op for cells in ported.values() for op in cells}):
        lines.append(f"| {op} | {' | '.join(cells.get(op, '') for cells in ported.values())} |")
    return "\n".join(lines) + "\n"


def _cells(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    """For each operator that a case is about, what became of its cases. A case of several operators speaks for those it names."""
    by_operator: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for o in found:
        if "_expanded" in o["case"]:
            continue  # it speaks of the operators of a function body
        mine = o["operators"]
        for op in mine if len(mine) == 1 else [op for op in mine if op.lower() in o["case"].replace("_", "").lower()]:
            by_operator[op].append(o)
    return {op: _cell(cases) for op, cases in by_operator.items()}


def _cell(cases: list[dict[str, Any]]) -> str:
    parts = []
    failed = [o for o in cases if o["status"] == "failed"]
    host = [o for o in cases if o["status"] == "host"]
    done = len(cases) - len(failed) - len(host)
    if done:
        parts.append("device" if done == len(cases) else f"device {done}")
    if host:
        why = sorted({_plain(w) for o in host for w in (o["host"].values() or [o["message"]])})
        parts.append(f"host {len(host)} ({'; '.join(why)})")
    if failed:
        parts.append(f"not {len(failed)} ({'; '.join(sorted({_plain(o['message']) for o in failed}))})")
    return ", ".join(parts)


def _plain(reason: str) -> str:
    return reason.replace("cannot say it: ", "").replace("|", "/")[:110]
