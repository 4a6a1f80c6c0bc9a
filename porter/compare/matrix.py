"""One matrix of layers by devices: error, bytes, time and format; where two devices disagree most comes first."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from porter.compare.trial import Row, Trial


def matrix(trials: Sequence[Trial]) -> dict[str, Any]:
    """{"targets": [...], "layers": [{"layer", "order", "sources", "spread_db", "between", "cells": [{..}|null]}]}.

    A layer is what one launch computes, called by the source node that gives its result; a cell is null where a device
    cut the model otherwise. spread_db: the largest difference in error (dB) between two devices, the rows' order; null
    where fewer than two ran it.
    """
    ran = [t for t in trials if t.runs]
    order: dict[tuple[str, int], int] = {}
    cells: dict[tuple[str, int], dict[str, Row]] = {}
    for t in ran:
        seen: dict[str, int] = {}
        for row in t.rows:
            key = (row.layer, seen.setdefault(row.layer, 0))
            seen[row.layer] += 1
            order.setdefault(key, len(order))
            cells.setdefault(key, {})[t.device.name] = row
    layers = [_layer(key, order[key], cells[key], [t.device.name for t in ran]) for key in order]
    layers.sort(key=lambda r: (-(r["spread_db"] if r["spread_db"] is not None else -1.0), r["order"]))
    return {"targets": [t.device.name for t in ran], "layers": layers}


def _layer(key: tuple[str, int], order: int, rows: dict[str, Row], targets: Sequence[str]) -> dict[str, Any]:
    errors = {t: r.error_db for t, r in rows.items() if r.error_db is not None}
    low, high = (
        (min(errors, key=errors.__getitem__), max(errors, key=errors.__getitem__)) if len(errors) > 1 else (None, None)
    )
    name, number = key
    return {
        "layer": name if not number else f"{name} ({number + 1})",
        "order": order,
        "sources": next(iter(rows.values())).sources,
        "spread_db": None if low is None or high is None else errors[high] - errors[low],
        "between": [low, high] if low is not None and errors[low] != errors[str(high)] else [],
        "cells": [_cell(rows[t]) if t in rows else None for t in targets],
    }


def _cell(row: Row) -> dict[str, Any]:
    return {
        "error_db": row.error_db,
        "bytes": row.bytes,
        "seconds": row.seconds() if row.bounds else None,
        "bound": row.bound,
        "origin": row.origin,
        "format": row.format,
        "kernel": row.kernel,
        "op": row.op,
        "host": row.host or None,
    }


def table(document: dict[str, Any]) -> str:
    """The matrix as CSV, one line for each layer and device."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["layer", "target", "error_db", "bytes", "seconds", "bound", "format", "kernel", "host", "spread_db"]
    )
    for layer in document["layers"]:
        for target, c in zip(document["targets"], layer["cells"], strict=True):
            if c is not None:
                cells = [c[k] for k in ("error_db", "bytes", "seconds", "bound", "format", "kernel", "host")]
                writer.writerow([layer["layer"], target, *("" if x is None else x for x in cells), layer["spread_db"]])
    return out.getvalue()
