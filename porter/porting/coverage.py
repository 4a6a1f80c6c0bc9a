"""Which sizes, tiles and edges the checks of a kernel covered: read off its tile program and the points that ran."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from porter.porting.checks import KernelCheck
from porter.tile.points import sample
from porter.tile.program import Load, Mask, Program, walk


def coverage(program: Program, check: KernelCheck | None) -> dict[str, Any]:
    """As in the documents that porter writes.

    sizes    the shape of each parameter
    axes     extent, tile, role and steps of each axis; `edge` where its last tile is not full: how many lanes it has
    grid     points of the grid; the tile program ran on all of them, the emitted text on `points`
    edges    axes whose last, not full tile the emitted text met, and those it did not
    masked   loads with lanes that are padded, and masks: what an edge depends on
    """
    grid = tuple(a.steps for a in program.grid)
    ran = _ran(program, check)
    met: list[str] = []
    unmet: list[str] = []
    for a in program.axes:
        if a.ragged:
            where = [x.name for x in program.grid]
            seen = a.name not in where or any(p[where.index(a.name)] == a.steps - 1 for p in ran)
            (met if seen and check is not None else unmet).append(a.name)
    statements = list(walk(program.body))
    return {
        "sizes": {p.name: list(p.shape) for p in program.params},
        "axes": [
            {"name": a.name, "extent": a.extent, "tile": a.tile, "role": a.role, "steps": a.steps,
             "edge": a.extent % a.tile if a.ragged else None}
            for a in program.axes
        ],
        "grid": math.prod(grid),
        "points": len(ran) if check is not None else 0,
        "edges": {"met": met, "not met": unmet},
        "masked": sum(isinstance(s, Mask) or (isinstance(s, Load) and s.pad is not None) for s in statements),
    }  # fmt: skip


def _ran(program: Program, check: KernelCheck | None) -> list[tuple[int, ...]]:
    """The grid points on which the emitted text ran."""
    grid = tuple(a.steps for a in program.grid)
    if check is None or not check.points:
        return []
    points = range(math.prod(grid)) if check.points == check.grid else sample(program)
    return [tuple(int(i) for i in np.unravel_index(p, grid)) if grid else () for p in points]


def said(found: dict[str, Any]) -> str:
    """Coverage in a sentence."""
    parts = [f"text on {found['points']} of {found['grid']} grid points, tile program on all"]
    edges = {a["name"]: f"{a['name']}: {a['edge']} of {a['tile']} lanes" for a in found["axes"] if a["edge"]}
    if found["edges"]["met"]:
        parts.append("edges met: " + ", ".join(edges[n] for n in found["edges"]["met"]))
    if found["edges"]["not met"]:
        parts.append("edges not met: " + ", ".join(edges[n] for n in found["edges"]["not met"]))
    if not edges:
        parts.append("every tile is full")
    return "; ".join(parts)
