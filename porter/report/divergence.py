"""Where two models part, for the page of a check: errors along the graph, alone and added up, and the way to the output.

    seen = divergence(before, after, sample, first="h3")
    seen.points, seen.histogram, seen.path

Every float tensor that both models have (see `check.matching`) is held against the first model in float64: what the first
model has there itself, what the second has by then (accumulated), and what the second adds there when its inputs are right
(isolated).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from porter import graph, ops
from porter.check.execution import SOURCE, run
from porter.check.inputs import draw, edges
from porter.check.matching import matches
from porter.check.measure import distance, is_float
from porter.check.numeric import matched_outputs, renamed
from porter.graph import Model, Node
from porter.ops.evaluation import Evaluator

ALONE = 600  # tensors whose isolated error is computed: an evaluation of a node or a few each
BINS = 40
WAY = 9  # nodes of the path that are drawn; the middle of a longer one is left out
NEVER = -24.0  # the decade that stands for no difference at all


@dataclass(frozen=True)
class Point:
    """One tensor. Decibels of signal to error against float64; 300 is exact."""

    tensor: str
    node: str
    operator: str
    own_db: float
    after_db: float
    alone_db: float | None
    max_abs: float
    matched: str = "name"  # how its partner in the first model was found


@dataclass(frozen=True)
class Histogram:
    """How many elements differ from float64 by how much: counts by power of ten, for either model."""

    tensor: str
    decades: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    exact: tuple[int, int]


@dataclass(frozen=True)
class Stop:
    """A node on the way: what it is, and how far its result is from float64 ('' where nobody can say)."""

    name: str
    operator: str
    tensor: str
    error: str = ""
    role: str = (
        ""  # 'first' where the models part, 'output' where it is seen, 'input' before it, 'gap' for what is left out
    )


@dataclass(frozen=True)
class Divergence:
    """What the page shows of a check. `path` is from the inputs of the first diverging node to the output."""

    inputs: str
    points: tuple[Point, ...] = ()
    first: str = ""
    histogram: Histogram | None = None
    path: tuple[Stop, ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)
    left: int = 0  # tensors without an isolated error


def sample_of(model: Model, label: str, seed: int = 0) -> Mapping[str, np.ndarray]:
    """The drawn inputs of that label; the first draw where there are none."""

    def tried() -> Iterator[Mapping[str, np.ndarray]]:
        yield from (draw(model, seed + i) for i in range(200))

    if label.startswith("draw "):
        return next((s for s in tried() if getattr(s, "label", "") == label), draw(model, seed))
    return next((s for s in edges(model) if s.label == label), draw(model, seed))


def divergence(before: Model, after: Model, sample: Mapping[str, np.ndarray], first: str = "") -> Divergence:
    """Errors of every tensor that both models have, and the path from `first` to the output on which it is seen."""
    other = renamed(before, after, sample)
    outputs = {b.name or "": a.name or "" for a, b in matched_outputs(before, after)}
    truth, own = (_floats(before, sample, xp) for xp in (ops.float64, SOURCE))
    theirs = _floats(after, other, SOURCE)
    found = {b.name or "": (a.name or "", how) for b, (a, how) in matches(before, after, sample, other).items()}
    found |= {b: (a, found.get(b, ("", "name"))[1]) for b, a in outputs.items()}
    names = {b: a for b, (a, _) in found.items() if a in truth and b in theirs}
    makers = {v.name: node for node in after.graph for v in node.outputs}
    shared = [
        n for n in theirs
        if n in names and truth[names[n]].shape == theirs[n].shape and names[n] in own and n in makers
    ]  # fmt: skip
    alone = _alone(after, other, {n: truth[names[n]] for n in shared}, theirs)
    points = []
    for n in shared:
        exact = truth[names[n]]
        seen = distance(exact, theirs[n])
        node = makers[n]
        points.append(Point(n, graph.source_name(node), node.op_type, distance(exact, own[names[n]]).sqnr_db,
                            seen.sqnr_db, alone.get(n), seen.max_abs, found[n][1]))  # fmt: skip
    worst = min((p for p in points if p.tensor in outputs), key=lambda p: p.after_db, default=None)
    shown = first if first in shared else worst.tensor if worst is not None else ""
    bars = _histogram(shown, truth[names[shown]], own[names[shown]], theirs[shown]) if shown else None
    path, links = _path(after, first, {p.tensor: p for p in points}, list(outputs)) if first else ((), ())
    return Divergence(
        str(getattr(sample, "label", "the given inputs")), tuple(points), first, bars, path, links,
        dict(getattr(sample, "why", {})), max(0, len(shared) - len(alone)),
    )  # fmt: skip


def _floats(model: Model, sample: Mapping[str, np.ndarray], xp: object) -> dict[str, np.ndarray]:
    """Every float that nodes compute from inputs."""
    kept: dict[str, np.ndarray] = {}
    constant = {v.name for node in model.graph if node.op_type == "Constant" for v in node.outputs}

    def keep(name: str, array: object) -> None:
        if name not in constant and isinstance(array, np.ndarray | np.generic) and is_float(np.asarray(array).dtype):
            kept[name] = np.asarray(array)

    run(model, dict(sample), xp, on_value=keep)
    return kept


def _alone(
    model: Model, sample: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The error of each tensor when everything before it that both models have is right, rounded to its own type."""
    right = {n: x.astype(own[n].dtype) for n, x in truth.items()}
    ready = Evaluator(model)
    found = {}
    for name in list(truth)[:ALONE]:
        given = {n: x for n, x in right.items() if n != name}
        got = ready({**sample, **given}, SOURCE, want=[name])[name]
        found[name] = distance(truth[name], np.asarray(got)).sqnr_db
    return found


def _histogram(name: str, truth: np.ndarray, own: np.ndarray, after: np.ndarray) -> Histogram:
    sizes = [np.abs(truth.astype(np.float64) - x.astype(np.float64)).reshape(-1) for x in (own, after)]
    sizes = [x[np.isfinite(x)] for x in sizes]
    decades = [np.maximum(np.log10(x[x > 0]), NEVER) for x in sizes]
    low = min((float(d.min()) for d in decades if d.size), default=-8.0)
    high = max((float(d.max()) for d in decades if d.size), default=0.0)
    places = np.linspace(np.floor(low), max(np.ceil(high), np.floor(low) + 1), BINS + 1)
    one, two = (np.histogram(d, places)[0] for d in decades)
    exact = (int((sizes[0] == 0).sum()), int((sizes[1] == 0).sum()))
    return Histogram(name, tuple(map(float, places)), tuple(map(int, one)), tuple(map(int, two)), exact)


def _path(
    model: Model, first: str, points: Mapping[str, Point], outputs: list[str]
) -> tuple[tuple[Stop, ...], tuple[tuple[int, int], ...]]:
    """The producers of the first diverging node's inputs, the node, and the shortest way to an output."""
    flow = nx.DiGraph()
    makers: dict[str, Node] = {}
    for node in model.graph:
        makers |= {v.name or "": node for v in node.outputs}
        for used in node.inputs:
            if used is not None and used.producer() is not None:
                flow.add_edge(used.producer(), node)
        flow.add_node(node)
    if first not in makers:
        return (), ()
    start = makers[first]
    reach = nx.single_source_shortest_path(flow, start)
    ends = [makers[o] for o in outputs if o in makers and makers[o] in reach]
    way = min((reach[e] for e in ends), key=len, default=[start])
    feeds = [n for n in dict.fromkeys(v.producer() for v in start.inputs if v is not None) if n is not None]
    feeds = [n for n in feeds if n.op_type != "Constant"]

    def stop(node: Node, role: str) -> Stop:
        at = next((v.name for v in node.outputs if v.name in points), None) or node.outputs[0].name or ""
        seen = points.get(at)
        said = "" if seen is None else "exact" if seen.after_db >= 300 else f"{seen.after_db:.1f} dB"
        return Stop(graph.source_name(node), node.op_type, at, said, role)

    stops = [stop(n, "input") for n in feeds]
    at = len(stops)
    links = [(i, at) for i in range(at)]
    middle = len(way) - WAY
    kept = way if middle <= 1 else [*way[: WAY - 3], None, *way[-2:]]
    for i, node in enumerate(kept):
        role = "first" if i == 0 else "output" if node is way[-1] else ""
        stops.append(stop(node, role) if node is not None else Stop(f"{middle + 1} more nodes", "", "", "", "gap"))
        links += [(len(stops) - 2, len(stops) - 1)] if i else []
    return tuple(stops), tuple(links)
