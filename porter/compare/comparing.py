"""`compare`: one model on many devices, as the document that the table, the JSON and the page are made from.

A run is one execution of the graph at its dims, the whole batch. A decoder's phases: prefill is the prompt, decode one
more token of each sequence, both a whole request (the prompt, then `output` tokens).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from porter import graph
from porter.check import Budget
from porter.check.execution import checked_inputs
from porter.compare import budget, mesh, ranking, serving
from porter.compare.matrix import matrix
from porter.compare.memory import Memory
from porter.compare.mesh import Mesh
from porter.compare.price import per_million, price
from porter.compare.serving import Request
from porter.compare.trial import Bench, Trial
from porter.device import Device
from porter.errors import PorterError

Progress = Callable[[str, int, int], None]
METRICS = ("sqnr_db", "max_abs", "max_rel", "cosine")


@dataclass
class Comparison:
    """The document, what the page needs beyond it, and the exit code that they mean."""

    document: dict[str, Any]
    trials: dict[str, list[Trial]] = field(default_factory=dict)  # by phase; '' where there is none

    @property
    def exit_code(self) -> int:
        """0 all compared, 1 a check failed or a budget was missed."""
        return 1 if any(t["missed"] for t in self.document["targets"]) else 0

    def to_json(self) -> dict[str, Any]:
        return self.document


def compare(
    model: Path | str | Sequence[Path | str],
    *,
    targets: Sequence[Device],
    dims: Mapping[str, int] | None = None,
    precision: str = "fp32",
    budgets: Sequence[Budget] = (),
    limits: Mapping[str, float] | None = None,
    prices: Mapping[str, float] | None = None,
    request: Request | None = None,
    chips: int | None = None,
    quick: bool = False,
    weights: bool = True,
    inputs: Mapping[str, np.ndarray] | None = None,
    baseline: Path | str | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a model (or a decoder's two graphs, prompt and step) on devices. Raises PorterError for bad input.

    limits: budgets of latency, memory and cost (`porter.compare.budget.LIMITS`); budgets: of the error. chips: the width
    that a model is split over, None for the smallest that fits. weights: without, external weights are only shapes,
    whether they are there or not, and nothing can be run: an estimate, as with `quick`.
    """
    paths = [Path(p) for p in ([model] if isinstance(model, str | Path) else model)]
    if budgets and (quick or not weights):
        option = "--weights shapes" if not weights else "--quick"
        raise PorterError(
            option, expected="budgets of latency, memory or cost", found=f"a budget of the error, {budgets[0]}"
        )
    quick = quick or not weights
    before = _baseline(baseline)
    options = dict(precision=precision, quick=quick, budgets=budgets, cache=cache, progress=progress)
    request = request or serving.usual(paths, dims or {}, weights)
    graphs = serving.graphs(paths, request, dims or {}, weights)
    benches = {}
    for phase, (path, bound) in graphs.items():
        loaded = graph.load(path, bound, weights=weights)
        given = checked_inputs(loaded, inputs) if inputs is not None and len(graphs) == 1 else None
        benches[phase] = Bench(loaded, inputs=given, **options)  # type: ignore[arg-type]
    if len(benches) == 1 and "" in benches and (found := benches[""].decoder) is not None:
        benches = {found.phase: benches[""]}
    request = _request(request, benches)
    trials = {phase: [bench.trial(d) for d in targets] for phase, bench in benches.items()}
    served: str | None = "both" if len(benches) > 1 else next(iter(benches)) or None
    parts = [_target({p: ts[i] for p, ts in trials.items()}, request, prices or {}, chips) for i in range(len(targets))]
    if limits and request is not None and any(m in limits for m in ("ttft_ms", "tpot_ms")):
        serving.largest_batch(parts, targets, graphs, request, dims or {}, limits, precision, chips, weights, progress)
    for t in parts:
        t["missed"] += budget.missed(t, limits or {}) if t["runs"] else []
    ranking.rank(parts)
    document: dict[str, Any] = {
        "model": ", ".join(dict.fromkeys(str(p) for p, _ in graphs.values())),
        "dims": _dims(graphs),
        "phase": served,
        "precision": precision,
        "checked": not quick,
        "weights": "data" if weights else "shapes",
        "proposed": sorted({n for _, bound in graphs.values() for n in bound} - {*(dims or {})}),
        "request": request.json() if request is not None else None,
        "targets": parts,
        "hangs_on": ranking.hangs_on(parts, quick, weights),
        "matrix": matrix(trials["decode" if served == "both" else served or ""]),
        "changes": [],
    }
    if before is not None:
        document["changes"] = budget.changes(before, document)
    return Comparison(document, trials)


def _baseline(path: Path | str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise PorterError(f"--baseline {path}", expected="a document of porter compare --json", found=str(e)) from None
    if not isinstance(found, dict):
        raise PorterError(f"--baseline {path}", expected="a document of porter compare --json", found="another JSON")
    return found


def _dims(graphs: Mapping[str, tuple[Path, Mapping[str, int]]]) -> dict[str, int]:
    """The dims by name; where two graphs bind a name differently, with its phase."""
    every = Counter((n, v) for _, bound in graphs.values() for n, v in bound.items())
    differ = {n for n, c in Counter(n for n, _ in every).items() if c > 1}
    return {f"{phase}:{n}" if n in differ else n: v for phase, (_, bound) in graphs.items() for n, v in bound.items()}


def _request(request: Request | None, benches: Mapping[str, Bench]) -> Request | None:
    """The request as asked; of a lone decoder graph without one, what its dims say."""
    decoder = next(iter(benches.values())).decoder
    if request is not None or decoder is None:
        return request
    context = decoder.context if decoder.phase == "decode" else decoder.tokens
    return Request(decoder.phase, decoder.batch, context, 1 if decoder.phase == "decode" else 0)


def _target(
    trials: Mapping[str, Trial], request: Request | None, prices: Mapping[str, float], asked: int | None
) -> dict[str, Any]:
    """A target's part of the document; figures of several phases added up as a request does."""
    trial = _slowest(trials)
    device = trial.device
    failed = next((t for t in trials.values() if not t.runs), None)
    memory = _memory(trials, request)
    heads = trial.decoder.heads if trial.decoder is not None else 0
    split = mesh.width(memory, device, asked, heads) if failed is None else Mesh(1)
    runs = failed is None and not split.why
    host = {op: why for t in trials.values() for op, why in t.host.items()}
    cost = price(device, prices)
    figures: dict[str, Any] = dict.fromkeys(
        ("latency_s", "bound", "per_second", "tokens_per_s", "usd_per_million_tokens", "usd_per_thousand_runs")
    )
    served = None
    if runs:
        figures, served = _figures(trials, request, split.chips, cost.usd_per_hour if cost is not None else None)
    passed = [t.checks for t in trials.values()]
    facts = {
        p: device.fact(p).assumed for t in trials.values() for p in t.assumed if not p.startswith("layout.")
    }  # choices, no figures
    return {
        "target": device.name,
        "runs": runs,
        "why": (failed.why if failed is not None else split.why or _hosted(host)) or None,
        "precision": trial.realized,
        "chips": split.chips,
        "memory": {
            "weights_bytes": memory.weights,
            "kv_bytes": memory.kv,
            "arena_bytes": memory.arena,
            "hbm_bytes": int(device["memory.hbm.bytes"]),
            "io_bytes": memory.io,
            "chip_bytes": mesh.needed(memory, split.chips, heads),
        },
        **figures,
        "error": _error(trials),
        "price": cost.json() if cost is not None else None,
        "origin": _origin(
            trials, [k for k, v in figures.items() if v is not None and k != "bound"], served is not None
        ),
        "assumed": [f"{p} ({why})" for p, why in facts.items()]
        + (mesh.unknowns(device, split.chips, trial.decoder is not None) if runs else []),
        "spent_s": _spent(trial, split.chips) if runs else None,
        "vendor_timed": [sum(n) for n in zip(*(t.timed_by_vendor for t in trials.values()), strict=True)],
        "label": str(device.get("remarks.label", "")),
        "title": device.title,
        "host": host,
        "serving": served,
        "kernels": {
            "calls": sum(len(t.rows) for t in trials.values()),
            "unique": sum(len(t.kernels) for t in trials.values()),
            "languages": dict(Counter(k.language for t in trials.values() for k in t.kernels)),
        },
        "checks": {"passed": sum(p for p, _ in passed), "made": sum(m for _, m in passed)},
        "missed": [t.why for t in trials.values() if t.failed] + [t.missed for t in trials.values() if t.missed],
    }


def _origin(trials: Mapping[str, Trial], figures: Sequence[str], served: bool) -> dict[str, str]:
    """Where each figure is from. Times are the vendor compiler's where it timed every launch; else a model has a part in them."""
    timed = [t.timed_by_vendor for t in trials.values()]
    time = "vendor compiler" if all(n == of > 0 for n, of in timed) else "model"
    others = ["chips", "memory"] + (["error"] if any(t.error for t in trials.values()) else [])
    return dict.fromkeys([*figures, *(["serving"] if served else [])], time) | dict.fromkeys(others, "model")


def _hosted(host: Mapping[str, str]) -> str:
    return f"on the host, not timed: {', '.join(host)}" if host else ""


def _memory(trials: Mapping[str, Trial], request: Request | None) -> Memory:
    """Of the step that holds most; the cache as long as the request makes it."""
    every = [t.memory for t in trials.values()]
    kv = max(m.kv for m in every)
    decoder = next((t.decoder for t in trials.values() if t.decoder is not None and t.decoder.caches), None)
    if request is not None and decoder is not None:
        kv = max(kv, decoder.kv_bytes_per_token * (request.context + request.output))
    return replace(
        every[0],
        weights=max(m.weights for m in every),
        kv=kv,
        arena=max(m.arena for m in every),
        io=max(m.io for m in every),
    )


def _error(trials: Mapping[str, Trial]) -> dict[str, float] | None:
    """The worst of the phases, metric by metric."""
    errors = [t.error for t in trials.values() if t.error is not None]
    if not errors:
        return None
    return {m: (min if m in ("sqnr_db", "cosine") else max)(e[m] for e in errors) for m in METRICS}


def _figures(
    trials: Mapping[str, Trial], request: Request | None, chips: int, hourly: float | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    served = serving.served(trials, request, chips, hourly) if request is not None else None
    if served is not None:
        latency, tokens = served["latency_s"], served["tokens_per_s"]
    else:
        latency, tokens = next(iter(trials.values())).latency(chips), None
    rate = 1 / latency if latency > 0 else 0.0
    thousand = per_million(hourly, chips, rate)
    spent = _spent(_slowest(trials), chips)
    figures = {
        "latency_s": latency,
        "bound": max(spent, key=spent.__getitem__) if any(spent.values()) else "overhead",
        "per_second": rate,
        "tokens_per_s": tokens,
        "usd_per_million_tokens": per_million(hourly, chips, tokens) if tokens is not None else None,
        "usd_per_thousand_runs": None if thousand is None else thousand / 1000,
    }
    return figures, served


def _spent(trial: Trial, chips: int) -> dict[str, float]:
    """The seconds of one run by what they go to, the links between chips included."""
    return trial.spent(chips) | ({"link": serving.link(trial, chips)} if chips > 1 else {})


def _slowest(trials: Mapping[str, Trial]) -> Trial:
    """The phase that takes longest for one token: the step where there is one."""
    return trials["decode"] if "decode" in trials else next(iter(trials.values()))
