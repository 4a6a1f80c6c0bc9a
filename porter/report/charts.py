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
    """The points that none is left of and above: cheaper is left, better is up. From cheap to dear. Less than a decibel is
    the luck of the inputs, here as in the table."""
    kept: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -round(p.y))):
        if not kept or round(p.y) > round(kept[-1].y):
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


EXACT = 300.0  # dB that stand for 'equal'; drawn at the top of what else is there


def _lines(axes: Any, series: Mapping[str, Sequence[float | None]], top: float, marks: Sequence[str]) -> None:
    """Decibels along the graph, one series each: a line, or marks alone where there is no line style."""
    for i, (name, values) in enumerate(series.items()):
        places = [(x, min(y, top)) for x, y in enumerate(values, 1) if y is not None]
        if not places:
            continue
        dots = marks[i] == "."
        axes.plot(*zip(*places, strict=True), color=SERIES[i % 8], label=name, linewidth=0 if dots else 1.5,
                  linestyle="" if dots else marks[i], marker="." if dots else "", markersize=4)  # fmt: skip


def _top(series: Mapping[str, Sequence[float | None]]) -> float:
    return max((y for values in series.values() for y in values if y is not None and y < EXACT), default=150.0) + 8


def along(
    key: str,
    title: str,
    series: Mapping[str, Sequence[float | None]],
    x: str,
    first: tuple[int, str] | None = None,
    marks: Sequence[str] = ("-", "--", ".", "-.", ":", "-", "--", "."),
) -> str:
    """Signal to error along the graph; `first` marks a place with its name. '' without figures."""
    if not any(y is not None for values in series.values() for y in values):
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        top = _top(series)
        _lines(axes, series, top, marks)
        if first is not None:
            axes.axvline(first[0], color=INK, linewidth=1, linestyle=":")
            for i, values in enumerate(series.values()):
                if first[0] <= len(values) and (y := values[first[0] - 1]) is not None:
                    axes.plot(first[0], min(y, top), "o", color=SERIES[i % 8], markersize=7, fillstyle="none")
            right = first[0] > 0.6 * max(len(v) for v in series.values())
            axes.annotate(first[1], (first[0], 1), xycoords=("data", "axes fraction"), textcoords="offset points",
                          xytext=(-5 if right else 5, 4), ha="right" if right else "left", color=INK)  # fmt: skip
        axes.set_xlabel(x)
        axes.set_ylabel("signal to error, dB")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=min(len(series), 4), fontsize=9)
        said = "; ".join(
            f"{name}: from {worst[0]:.1f} to {worst[1]:.1f} dB"
            for name, values in series.items()
            if (known := [y for y in values if y is not None])
            for worst in [(min(known), max(known))]
        )
        mark = f" The models part at number {first[0]}, {first[1]}." if first is not None else ""
        return _svg(figure, key, title, f"{title}. {said}.{mark}")


def histogram(key: str, tensor: str, decades: Sequence[float], counts: Mapping[str, Sequence[int]]) -> str:
    """How many elements differ by how much, by power of ten; '' where none does."""
    if not any(map(sum, counts.values())):
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(height=3.0)
        for i, (name, heights) in enumerate(counts.items()):
            axes.stairs(heights, decades, color=SERIES[i], label=name, linewidth=1.6, linestyle=("-", "--")[i % 2],
                        fill=False)  # fmt: skip
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"1e{x:g}"))
        axes.set_xlabel("difference from float64")
        axes.set_ylabel("elements")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=9)
        peaks = "; ".join(
            f"{name}: most often about 1e{decades[max(range(len(h)), key=h.__getitem__)]:.1f}"
            for name, h in counts.items()
            if sum(h)
        )
        return _svg(figure, key, f"Differences at {tensor}", f"Elements by size of their difference. {peaks}.")


def shares(key: str, steps: Sequence[str], parts: Mapping[str, Sequence[float]]) -> str:
    """Stacked bars, one a step: what part of the final error it made, split by cause; '' without steps."""
    if not steps:
        return ""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(height=0.9 + 0.34 * len(steps))
        rows = range(len(steps))
        for sign in (1, -1):
            left = [0.0] * len(steps)
            for i, (name, values) in enumerate(parts.items()):
                width = [100 * v if v * sign > 0 else 0.0 for v in values]
                axes.barh(rows, width, left=left, color=SERIES[i], edgecolor=PAPER, linewidth=0.6, height=0.62,
                          label=name if sign > 0 else None, hatch=("", "//")[i % 2])  # fmt: skip
                left = [a + b for a, b in zip(left, width, strict=True)]
        axes.set_yticks(list(rows), steps)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color=RULE, linewidth=1)
        axes.set_xlabel("share of the final error, percent")
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.5 / (0.9 + 0.34 * len(steps))), ncols=2, fontsize=9)
        said = "; ".join(
            f"{step}: " + ", ".join(f"{name} {100 * v[i]:.1f} percent" for name, v in parts.items())
            for i, step in enumerate(steps)
        )
        return _svg(figure, key, "Error ledger", said + ".")
