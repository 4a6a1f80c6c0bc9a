"""What commands print: tables for people, one JSON document for machines, progress on a terminal only."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from porter.report import numbers

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): what is being done, and how far it is; total is 0 where nobody knows."""


@contextlib.contextmanager
def stdout_for(json_wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Gives `emit(document)`. With --json, whatever else the body prints (compilers do) goes to stderr."""
    if not json_wanted:
        yield lambda document: None
        return
    sys.stdout.flush()
    keep = os.dup(1)
    os.dup2(2, 1)
    try:
        yield lambda document: _write(keep, document)
    finally:
        sys.stdout.flush()
        os.dup2(keep, 1)
        os.close(keep)


def _write(fd: int, document: Any) -> None:
    text = json.dumps(finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with os.fdopen(os.dup(fd), "w", encoding="utf-8") as out:
        out.write(text)


def finite(document: Any) -> Any:
    """The document with what JSON cannot say replaced: infinities by the largest float, NaN by null."""
    match document:
        case float() if math.isnan(document):
            return None
        case float() if math.isinf(document):
            return math.copysign(sys.float_info.max, document)
        case dict():
            return {str(k): finite(v) for k, v in document.items()}
        case list() | tuple():
            return [finite(v) for v in document]
    return document


PATIENCE = 2.0  # seconds before a progress line appears: what is over by then needs none


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A progress line on stderr while the body runs, with the time left of what can be counted; silent in its first two
    seconds, and unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[count]}"),
               TimeElapsedColumn(), TimeRemainingColumn(compact=True))  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=None, count="")
    last = (0, 0)

    def say(what: str, done: int, total: int) -> None:
        nonlocal last
        if total != last[1] or done < last[0]:  # another thing is counted: its pace is its own
            bar.reset(task, total=total or None)
        last = (done, total)
        count = f"{done}/{total}" if total else ""
        bar.update(task, description=what, completed=done, total=total or None, count=count)

    later = threading.Timer(PATIENCE, bar.start)
    later.daemon = True
    later.start()
    try:
        yield say
    finally:
        later.cancel()
        bar.stop()


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), right: Iterable[int] = ()) -> str:
    """Rows as aligned columns, two spaces apart. `right`: the columns that align right. Plain text: it greps."""
    cells = [[str(c) for c in row] for row in ([head] if head else [])] + [[str(c) for c in row] for row in rows]
    if not cells:
        return ""
    width = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    to_right = set(right)
    lines = [
        "  ".join(c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(row, width, strict=True)))
        for row in cells
    ]
    if head:
        lines.insert(1, "  ".join("-" * w for w in width))
    return "\n".join(line.rstrip() for line in lines)


def amount(value: float | None, unit: str = "") -> str:
    """A figure as people say it: 989.4 T, 141 G, 4.8 T; '-' for none."""
    return _plain(numbers.amount(value, unit))


def seconds(value: float | None) -> str:
    """A time as people say it: 12.3 us."""
    return _plain(numbers.seconds(value))


def _plain(text: str) -> str:
    return text.replace("–", "-").replace("µ", "u")
