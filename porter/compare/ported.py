"""The figures of a port that budgets and baselines speak of, in the words of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porter.bundle.reader import read
from porter.check.forms import Case
from porter.compare import budget
from porter.compare.price import per_million, price
from porter.device import Device
from porter.errors import PorterError


def figures(target: Mapping[str, Any], device: Device, own: Mapping[str, float]) -> dict[str, Any]:
    """Latency, memory, cost and error of one target of a port; None for what a failed port does not have."""
    latency = target["estimate"].get("latency_s") if target["estimate"] else None
    rate = 1 / latency if latency else None
    cost = price(device, own)
    million = per_million(cost.usd_per_hour, 1, rate) if cost is not None and rate else None
    held = None
    if target["bundle"]:
        manifest = read(target["bundle"], verified=False).manifest
        held = manifest.arena_bytes + sum(b.bytes for b in manifest.buffers if b.space != "arena")
    return {
        "latency_s": latency,
        "per_second": rate,
        "memory": {"chip_bytes": held},
        "usd_per_thousand_runs": None if million is None else million / 1000,
        "error": {"sqnr_db": target["end_to_end"].get("sqnr_db")} if target["end_to_end"] else None,
        "price": cost.json() if cost is not None else None,
    }


def known(before: Any) -> Mapping[str, Any]:
    """The document, where it is one of a port; else PorterError."""
    if not isinstance(before, Mapping) or any("figures" not in t for t in before.get("targets", [{}])):
        raise PorterError("--baseline", expected="a document of porter port --json", found="something else")
    return before


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What changed between two documents of a port: target, figure, both values, and whether it is worse."""
    return budget.changes(_flat(before), _flat(after))


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    targets = [
        {"target": t["target"], "runs": t["status"] == "ok", "precision": document.get("precision"), **t["figures"]}
        for t in document["targets"]
    ]
    return {"targets": targets}


def cases(document: Mapping[str, Any]) -> list[Case]:
    """Each target's steps, and its budgets, as cases for CI systems."""
    found = []
    for t in document["targets"]:
        for s in t["steps"]:
            said = f"{t['target']}: {s['name']} broke its contract ({s['contract']})"
            rule = "" if s["status"] == "ok" else "step"
            found.append(Case(f"{t['target']} {s['name']}", rule, said, uri=document["model"]))
        if t["status"] != "ok":
            lines = str(t.get("message", "")).splitlines() or [f"{t['target']}: {t['status']}"]
            found.append(Case(t["target"], "step", lines[0], details="\n".join(lines), uri=document["model"]))
        if t.get("unchecked"):
            found.append(Case(f"{t['target']} toolchain", "undecided", t["unchecked"], "note", uri=document["model"]))
        for line in t["missed"]:
            found.append(Case(f"{t['target']} budget", "budget", f"{t['target']}: {line}", uri=document["model"]))
    return found
