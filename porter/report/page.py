"""The page: figures of a document arranged for the template, which only lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.compare import Comparison
    from porter.compare.trial import Trial
    from porter.porting.port import PortResult
    from porter.report.divergence import Divergence

TENSORS = 500  # rows of the table beside the errors along the graph, the worst first
HEAT = 60  # layers in the heat map, the worst first; the rest are in the JSON and CSV


def of_comparison(result: Comparison) -> str:
    """The page of a comparison. Raises PorterError where the plotting library or the template engine is missing."""
    charts = _charts()
    document = result.to_json()
    tokens = any(t["tokens_per_s"] is not None for t in document["targets"])
    cost = "usd_per_million_tokens" if tokens else "usd_per_thousand_runs"
    unit = "dollars per million tokens" if tokens else "dollars per thousand runs"
    points = [
        charts.Point(t["target"], t[cost], t["error"]["sqnr_db"])
        for t in document["targets"]
        if t["runs"] and t[cost] and t["error"]
    ]
    front = {p.name for p in charts.front(points)}
    able = [(phase, t) for phase, trials in result.trials.items() for t in trials if t.runs]
    return _render(
        title=f"porter compare {document['model']}",
        kind="compare",
        document=document,
        tokens=tokens,
        cost=cost,
        unit=unit,
        tradeoff=charts.tradeoff(points, unit, "signal to error, dB"),
        points=points,
        front=front,
        devices=[_device(charts, phase, t, i) for i, (phase, t) in enumerate(able)],
        timeline=charts.timeline({_name(phase, t, result): t.memory.timeline for phase, t in able}),
        memories=[(_name(phase, t, result), t.memory) for phase, t in able],
        heat=_heat(document["matrix"]),
        sources=_sources(able, result),
        steps=[(_name(p, t, result), t.steps) for p, t in able if t.steps],
    )


def of_port(document: Mapping[str, Any], result: PortResult | None = None) -> str:
    """The page of a port; with the result of `port(..., details=True)`, its kernels, errors and formats too."""
    words: dict[str, Any] = {"devices": [], "timeline": "", "memories": [], "heat": {}, "sources": []}
    words |= {"ledgers": [], "audits": [], "layers": "", "inputs": {}}
    if result is not None:
        words |= _ported(document, result)
    return _render(
        title=f"porter port {document['model']}",
        kind="port",
        document=document,
        steps=[(t["target"], t["steps"]) for t in document["targets"]],
        **words,
    )


def _ported(document: Mapping[str, Any], result: PortResult) -> dict[str, Any]:
    from porter.compare.matrix import matrix
    from porter.porting.coverage import said
    from porter.report import ported

    charts = _charts()
    able = [("", t) for r in result.targets if (t := ported.trial(r)) is not None]
    devices = [_device(charts, phase, t, i) for i, (phase, t) in enumerate(able) if t.rows]
    covered = {t["target"]: {c["name"]: c | {"said": said(c)} for c in t["coverage"]} for t in document["targets"]}
    for device in devices:
        for k in device["kernels"]:
            k["coverage"] = covered[device["name"]].get(k["used"].name)
    ledgers = []
    for i, r in enumerate(result.targets):
        entries = r.ledger
        if not entries:
            continue
        worst = max(entries, key=lambda e: e["error_db"])["output"]
        kept = [e for e in entries if e["output"] == worst]
        parts = {k: [e[k] for e in kept] for k in ("format", "accumulation")}
        ledgers.append((r.target, charts.shares(f"ledger{i}", [e["step"] for e in kept], parts), kept))
    series = {t.device.name: [row.error_db for row in t.rows] for _, t in able}
    lines = ("-", "--", "-.", ":")
    return {
        "devices": devices,
        "timeline": charts.timeline({t.device.name: t.memory.timeline for _, t in able}),
        "memories": [(t.device.name, t.memory) for _, t in able],
        "heat": _heat(matrix([t for _, t in able])),
        "sources": _linked([(t.device.name, t) for _, t in able]),
        "ledgers": ledgers,
        "audits": [(r.target, rows) for r in result.targets if (rows := ported.audit(r))],
        "layers": charts.along(
            "layers-chart", "Error by layer", series, "launch", marks=[lines[i % 4] for i in range(64)]
        ),
        "inputs": result.targets[0].inputs if result.targets else {},
    }


def of_check(document: Mapping[str, Any], seen: Divergence | None = None) -> str:
    """The page of a check; with `seen`, where the models part along the graph."""
    models = " and ".join(document.get("models", ()))
    words: dict[str, Any] = {"growth": "", "histogram": "", "rows": [], "bars": []}
    if seen is not None:
        charts = _charts()
        at = next(((i, p.node) for i, p in enumerate(seen.points, 1) if p.tensor == seen.first), None)
        series = {
            "first model": [p.own_db for p in seen.points],
            "second model, accumulated": [p.after_db for p in seen.points],
            "second model, isolated": [p.alone_db for p in seen.points],
        }
        words["growth"] = charts.along("growth", "Error along the graph", series, "tensor", at)
        least = sorted(seen.points, key=lambda p: (p.alone_db if p.alone_db is not None else 400.0, p.after_db))
        words["rows"] = least[:TENSORS]
        if (h := seen.histogram) is not None:
            counts = {"first model": h.before, "second model": h.after}
            words["histogram"] = charts.histogram("differences-chart", h.tensor, h.decades, counts)
            words["bars"] = list(zip(h.decades, h.before, h.after, strict=False))
    return _render(title=f"porter check {models}".rstrip(), kind="check", document=document, seen=seen, **words)


def _charts() -> Any:
    try:
        from porter.report import charts
    except ImportError as e:
        raise PorterError(
            "--report", expected="the libraries that draw it", found=str(e), hint="pip install 'onnx-porter[report]'"
        ) from None
    return charts


def _render(**words: Any) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as e:
        raise PorterError(
            "--report", expected="the libraries that draw it", found=str(e), hint="pip install 'onnx-porter[report]'"
        ) from None
    from porter.report import numbers

    env = Environment(
        loader=PackageLoader("porter.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "amount": numbers.amount,
        "seconds": numbers.seconds,
        "figure": numbers.figure,
        "percent": numbers.percent,
        "decibel": numbers.decibel,
        "share": numbers.share,
    }
    return env.get_template("page.html").render(**words)


def _name(phase: str, trial: Trial, result: Comparison) -> str:
    return f"{trial.device.name}, {phase}" if len(result.trials) > 1 else trial.device.name


def _device(charts: Any, phase: str, trial: Trial, number: int) -> dict[str, Any]:
    """One device's roofline and kernels."""
    device = trial.device
    bandwidth = float(device["memory.hbm.bytes_per_s"])
    peaks = {k: v for k in ("bf16", "fp16", "fp32") if (v := device.get(f"peak.{k}")) is not None}
    peak_name, peak = max(peaks.items(), key=lambda p: p[1])
    kernels: list[dict[str, Any]] = []
    points = []
    for used in trial.kernels:
        rows = [r for r in trial.rows if r.kernel == used.name]
        row = rows[0]
        spent = row.bounds[row.bound]
        errors = [r.error_db for r in rows if r.error_db is not None]
        kernels.append(
            {
                "used": used,
                "row": row,
                "seconds": row.seconds() * used.calls,
                "error": min(errors) if errors else None,
                "layers": [r.layer for r in rows],
                "id": f"k-{number}-{used.name}",
                "sources": sorted({s for r in rows for s in r.sources}),
                "coverage": None,
            }
        )
        # x from the bytes that the model of the device counts, so that a kernel bound by memory lies on the slope
        moved = row.bounds.get("memory", 0.0) * bandwidth
        if spent > 0 and moved > 0:
            points.append(charts.Point(used.name, row.flops / moved, row.flops / spent, f"bound by {row.bound}"))
    kernels.sort(key=lambda k: k["seconds"], reverse=True)
    return {
        "name": device.name,
        "phase": phase,
        "title": device.title,
        "label": str(device.get("remarks.label", "")),
        "kernels": kernels,
        "points": points,
        "roofline": charts.roofline(f"roof{number}", device.name, float(peak), f"{peak_name} peak", bandwidth, points),
        "host": trial.host,
    }


def _heat(matrix: Mapping[str, Any]) -> dict[str, Any]:
    """The matrix with a shade from 0 (exact) to 100 (the worst there is) for each error."""
    errors = [c["error_db"] for layer in matrix["layers"] for c in layer["cells"] if c and c["error_db"] is not None]
    finite = [e for e in errors if e < 300]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)

    def shade(error: float | None) -> int:
        return 0 if error is None or error >= 300 else round(10 + 80 * (high - error) / max(high - low, 1e-9))

    layers = [
        layer | {"cells": [c and c | {"shade": shade(c["error_db"])} for c in layer["cells"]]}
        for layer in matrix["layers"]
    ]
    ordered = sorted(
        layers,
        key=lambda r: (
            min((c["error_db"] for c in r["cells"] if c and c["error_db"] is not None), default=400.0),
            r["order"],
        ),
    )
    most = next((r for r in layers if r["between"]), None)
    return {"targets": matrix["targets"], "layers": ordered[:HEAT], "left": max(0, len(layers) - HEAT), "most": most}


def _sources(able: list[tuple[str, Trial]], result: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    return _linked([(_name(phase, trial, result), trial) for phase, trial in able])


def _linked(able: list[tuple[str, Trial]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each node of the source model, and the kernels that it went into: name of the device, id of the kernel."""
    found: dict[str, dict[str, str]] = {}
    for number, (name, trial) in enumerate(able):
        known = {k.name for k in trial.kernels}
        for row in trial.rows:
            if row.kernel in known:
                for source in row.sources:
                    found.setdefault(source, {})[f"k-{number}-{row.kernel}"] = f"{name} {row.kernel}"
    return [(s, sorted((label, key) for key, label in ks.items())) for s, ks in found.items()]
