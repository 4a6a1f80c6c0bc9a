"""Charts as inline SVG whose colours are the page's: drawn once, they follow light, dark and paper.

Matplotlib is given stand-in colours, which become CSS variables in the text it writes. Every chart has a title and a
description for who listens to the page, and its table stands beside it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, RULE, PAPER = "#010203", "#040506", "#070809"
SERIES = tuple(f"#0a0b{i:02x}" for i in range(16, 32))  # stand-ins; the page has their colours
_CSS = {INK: "var(--ink)", RULE: "var(--rule)", PAPER: "var(--paper)"} | {
    c: f"var(--series-{i % 8})" for i, c in enumerate(SERIES)
}
MARKS = "osD^vPX*"  # a series is told by its mark too, not by colour alone
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "svg.hashsalt": "porter",
}


@dataclass(frozen=True)
class Point:
    """A named place in a chart."""

    name: str
    x: float
    y: float
    note: str = ""


def _svg(figure: Figure, key: str, title: str, description: str) -> str:
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, variable in _CSS.items():
        text = text.replace(color, variable)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', text)
    text = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{key}-\2"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", text)
    head = f'<svg role="img" aria-labelledby="{key}-title {key}-desc" class="chart"'
    words = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    text = text.replace("<svg", head, 1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]+" height="[^"]+"|(<svg[^>]*?) height="[^"]+"', r"\1\2", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", text, count=1)
    end = text.index(">") + 1
    return text[:end] + words + text[end:]


def _axes(width: float = 7.2, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def front(points: Sequence[Point]) -> list[Point]:
    """The points that none is left of and above: cheaper is left, better is up. From cheap to dear."""
    kept: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if not kept or p.y > kept[-1].y:
            kept.append(p)
    return kept


def tradeoff(points: Sequence[Point], x: str, y: str) -> str:
    """Cost against quality, with the Pareto front; '' without points."""
    if not points:
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        best = front(points)
        axes.step(
            [p.x for p in best], [p.y for p in best], where="post", color=RULE, linewidth=1.5, linestyle="--", zorder=1
        )
        for i, p in enumerate(points):
            axes.scatter(p.x, p.y, s=70, color=SERIES[i % 8], marker=MARKS[i % 8], zorder=2)
            axes.annotate(p.name, (p.x, p.y), xytext=(8, 4), textcoords="offset points", color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.25, y=0.25)
        axes.set_xlabel(f"{x}  (cheaper to the left)")
        axes.set_ylabel(y)
        said = "; ".join(f"{p.name}: {p.x:.3g}, {p.y:.1f}" for p in points)
        front_ = ", ".join(p.name for p in best)
        return _svg(
            figure, "tradeoff", "Cost against quality", f"{x} against {y}. {said}. On the Pareto front: {front_}."
        )


def roofline(key: str, name: str, peak: float, peak_name: str, bandwidth: float, points: Sequence[Point]) -> str:
    """A device's roof, and every kernel under it: operations per byte against operations per second. '' without points."""
    points = [p for p in points if p.x > 0 and p.y > 0]
    if not points:
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        knee = peak / bandwidth
        left, right = min(min(p.x for p in points), knee) / 4, max(max(p.x for p in points), knee) * 8
        axes.loglog([left, knee, right], [left * bandwidth, peak, peak], color=INK, linewidth=1.5)
        axes.annotate(peak_name, (right, peak), xytext=(-4, 5), textcoords="offset points", ha="right", color=INK)
        axes.annotate("memory", (left, left * bandwidth), xytext=(0, 26), textcoords="offset points", color=INK)
        for i, p in enumerate(points):
            axes.scatter(p.x, p.y, s=42, color=SERIES[i % 8], marker=MARKS[(i // 8) % 8], label=p.name, zorder=3)
        axes.set_xlabel("operations per byte")
        axes.set_ylabel("operations per second")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        said = "; ".join(f"{p.name}: {p.x:.3g} operations per byte, {p.y:.3g} per second, {p.note}" for p in points)
        return _svg(
            figure,
            key,
            f"Roofline of {name}",
            f"Peak {peak:.4g} per second, memory {bandwidth:.4g} bytes per second. {said}.",
        )


def timeline(lines: Mapping[str, Sequence[int]]) -> str:
    """Intermediates alive at each launch, one line a device; '' without any."""
    alike: dict[tuple[int, ...], list[str]] = {}  # devices that hold the same are one line
    for name, values in lines.items():
        if values:
            alike.setdefault(tuple(values), []).append(name)
    if not alike:
        return ""
    lines = {"\n".join(names): values for values, names in alike.items()}
    with mpl.rc_context(STYLE):
        figure, axes = _axes(height=3.0)
        top = max(max(v) for v in lines.values())
        unit, word = next(((u, w) for u, w in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if top >= u), (1, "bytes"))
        for i, (name, values) in enumerate(lines.items()):
            axes.step(
                range(1, len(values) + 1),
                [v / unit for v in values],
                where="mid",
                color=SERIES[i % 8],
                linewidth=1.6,
                linestyle=("-", "--", ":", "-.")[i % 4],
                label=name,
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("launch")
        axes.set_ylabel(f"intermediates, {word}")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        said = "; ".join(f"{n.replace(chr(10), ', ')}: at most {max(v):,} bytes" for n, v in lines.items())
        return _svg(figure, "timeline", "Memory over time", f"Bytes of intermediates alive at each launch. {said}.")
