"""Pictures of graphs: a model, or a bundle's program, as DOT text or as an SVG that stands alone.

    picture = of_model(model)
    Path("g.dot").write_text(dot(picture)); Path("g.svg").write_text(svg(picture))

Graphviz lays out where its `dot` is on the path; else networkx does, level by level, which is plainer. Constants are left
out. Against an earlier picture, what is new is marked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape

import networkx as nx

from porter import graph
from porter.bundle.manifest import Manifest
from porter.graph import Model

STYLE = """
svg { background: #fff; font-family: system-ui, sans-serif; }
.box > rect, .box polygon, .box path { fill: #f4f6f8; stroke: #5b6670; }
.end > rect, .end polygon, .end path, .end ellipse { fill: #d9e8f7; stroke: #1764ab; }
.new > rect, .new polygon, .new path { fill: #fde3cf; stroke: #c2570c; stroke-width: 2; }
.host > rect, .host polygon, .host path { fill: none; stroke-dasharray: 4 3; }
text { fill: #1d2329; }
.edge path { fill: none; stroke: #5b6670; }
.edge polygon { fill: #5b6670; stroke: #5b6670; }
.small { font-size: 10px; fill: #5b6670; }
@media (prefers-color-scheme: dark) {
svg { background: #14181c; } .box > rect, .box polygon, .box path { fill: #1d2328; stroke: #9aa6b0; }
.end > rect, .end polygon, .end path, .end ellipse { fill: #17324b; stroke: #6fb1f0; }
.new > rect, .new polygon, .new path { fill: #4a2c14; stroke: #f2974f; }
text { fill: #e4e8eb; }
.edge path { stroke: #9aa6b0; }
.edge polygon { fill: #9aa6b0; stroke: #9aa6b0; }
.small { fill: #9aa6b0; } }
"""
LABEL = 34  # characters of a name; of longer ones the end, which tells layers apart
WIDE, HIGH, GAP = 190, 40, 26  # of the boxes of the plain layout


@dataclass(frozen=True)
class Box:
    """A node: `kind` is 'box', 'end' (an input or output of the graph), or 'host'. `same` tells it in an earlier picture."""

    key: str
    title: str
    name: str
    kind: str = "box"
    same: str = ""


@dataclass(frozen=True)
class Picture:
    """Boxes in order, and edges with what runs along them."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str, str], ...]
    new: frozenset[str] = frozenset()


def of_model(model: Model, title: str = "", before: Picture | None = None) -> Picture:
    """The model's graph. With `before`, boxes that were not there are marked."""
    boxes: list[Box] = []
    edges: list[tuple[str, str, str]] = []
    made: dict[str, str] = {}
    for v in model.graph.inputs:
        if not v.is_initializer():
            made[str(v.name)] = key = f"in{len(boxes)}"
            boxes.append(Box(key, str(v.name), _type(v), "end", f"input {v.name}"))
    for node in model.graph:
        if node.op_type == "Constant" and not node.domain:
            continue
        key = f"n{len(boxes)}"
        title_ = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        boxes.append(Box(key, title_, graph.source_name(node), "box", graph.node_text(node)))
        for used in dict.fromkeys(node.inputs):
            if used is not None and used.name in made:
                edges.append((made[str(used.name)], key, _type(used)))
        made |= {str(v.name): key for v in node.outputs}
    for v in model.graph.outputs:
        key = f"out{len(boxes)}"
        boxes.append(Box(key, str(v.name), _type(v), "end", f"output {v.name}"))
        if v.name in made:
            edges.append((made[str(v.name)], key, _type(v)))
    found = Picture(title or str(model.graph.name or "graph"), tuple(boxes), tuple(edges))
    return found if before is None else _marked(found, before)


def of_program(manifest: Manifest, title: str = "") -> Picture:
    """A bundle's program: one box a launch."""
    boxes: list[Box] = []
    edges: list[tuple[str, str, str]] = []
    made: dict[str, str] = {}
    for t in manifest.inputs:
        made[t.buffer] = key = f"in{len(boxes)}"
        boxes.append(Box(key, t.name, f"{t.dtype}{list(t.shape or ())}", "end"))
    buffers = {b.name: b for b in manifest.buffers}
    hosted = {k.name for k in manifest.kernels if k.language == "onnx"}
    for launch in manifest.launches:
        key = f"n{len(boxes)}"
        boxes.append(Box(key, launch.kernel, "+".join(launch.source), "host" if launch.kernel in hosted else "box"))
        for n in dict.fromkeys(launch.inputs):
            if n in made:
                b = buffers.get(n)
                edges.append((made[n], key, f"{b.dtype}{list(b.shape or ())}" if b is not None else ""))
        made |= dict.fromkeys(launch.outputs, key)
    for t in manifest.outputs:
        key = f"out{len(boxes)}"
        boxes.append(Box(key, t.name, f"{t.dtype}{list(t.shape or ())}", "end"))
        if t.buffer in made:
            edges.append((made[t.buffer], key, ""))
    return Picture(title or manifest.model.name, tuple(boxes), tuple(edges))


def _marked(picture: Picture, before: Picture) -> Picture:
    known = {b.same for b in before.boxes}
    return replace(picture, new=frozenset(b.key for b in picture.boxes if b.kind == "box" and b.same not in known))


def _type(value: graph.Value) -> str:
    kind, shape = graph.dtype(value), graph.shape(value)
    return f"{kind if kind is not None else '?'}{list(shape) if shape is not None else ''}"


def short(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= LABEL else "…" + name[-LABEL + 1 :]


def dot(picture: Picture) -> str:
    """The picture in graphviz's language."""
    say = lambda text: json.dumps(text, ensure_ascii=False)
    lines = [f"digraph {say(picture.title)} {{", '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
             '  edge [fontname="sans-serif", fontsize=8, arrowsize=0.6];']  # fmt: skip
    for b in picture.boxes:
        kind = f"{b.kind} new" if b.key in picture.new else b.kind
        label = f"{b.title}\n{short(b.name)}" if b.name else b.title
        lines.append(f"  {b.key} [label={say(label)}, tooltip={say(b.name or b.title)}, class={say(kind)}];")
    lines += [f"  {a} -> {b} [label={say(what)}];" for a, b, what in picture.edges]
    return "\n".join([*lines, "}"]) + "\n"


def svg(picture: Picture) -> str:
    """The picture as SVG: graphviz's layout where it is installed, else a plain one."""
    return _graphviz(picture) or plain(picture)


def _graphviz(picture: Picture) -> str:
    if shutil.which("dot") is None:
        return ""
    try:
        import graphviz
    except ImportError:
        return ""
    text = graphviz.Source(dot(picture)).pipe(format="svg", encoding="utf-8")
    text = text[text.index("<svg") :]
    at = text.index(">") + 1
    text = text[:at] + f"<style>{STYLE}</style>" + text[at:]
    return text.replace('fill="lightgrey"', "").replace(
        '<polygon fill="white" stroke="none"', '<polygon fill="none" stroke="none"'
    )


def plain(picture: Picture) -> str:
    """Level by level: every box below what it reads, neighbours near each other."""
    flow = nx.DiGraph()
    flow.add_nodes_from(b.key for b in picture.boxes)
    flow.add_edges_from((a, b) for a, b, _ in picture.edges)
    levels = [list(level) for level in nx.topological_generations(flow)]
    place = _ordered(flow, levels)
    widest = max(map(len, levels), default=1)
    at = {}
    for row, level in enumerate(levels):
        left = (widest - len(level)) / 2
        for key in level:
            at[key] = ((left + place[key]) * (WIDE + GAP) + GAP, row * (HIGH + GAP * 1.6) + GAP)
    width = widest * (WIDE + GAP) + GAP
    height = len(levels) * (HIGH + GAP * 1.6) + GAP
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">', f"<title>{escape(picture.title)}</title>"]
    lines.append(f"<style>{STYLE}</style>")
    for a, b, what in picture.edges:
        (x1, y1), (x2, y2) = at[a], at[b]
        x1, x2, y1 = x1 + WIDE / 2, x2 + WIDE / 2, y1 + HIGH
        bend = (y2 - y1) / 2
        way = f"M{x1:g},{y1:g} C{x1:g},{y1 + bend:g} {x2:g},{y2 - bend:g} {x2:g},{y2:g}"
        lines.append(f'<g class="edge"><title>{escape(what)}</title><path d="{way}"/></g>')
    for box in picture.boxes:
        x, y = at[box.key]
        kind = f"{box.kind} new" if box.key in picture.new else box.kind
        lines.append(f'<g class="{kind}"><title>{escape(box.name or box.title)}</title>')
        lines.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="6"/>')
        for text, down, look in ((box.title, 16, 'font-size="12"'), (box.name, 31, 'class="small"')):
            where = f'x="{x + WIDE / 2:g}" y="{y + down:g}" text-anchor="middle" {look}'
            lines.append(f"<text {where}>{escape(short(text))}</text>")
        lines.append("</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _ordered(flow: nx.DiGraph, levels: Iterable[list[str]]) -> dict[str, float]:
    """The place of each box in its level: near the middle of what it reads."""
    place: dict[str, float] = {}
    for level in levels:

        def middle(key: str) -> float:
            known = [place[p] for p in flow.predecessors(key) if p in place]
            return sum(known) / len(known) if known else 0.0

        for i, key in enumerate(sorted(level, key=middle)):
            place[key] = i
    return place
