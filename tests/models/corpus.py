"""The text that the small decoder learns and is measured on: the standard library of the Python that runs, read where it lies."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

HELD_BACK = (
    "argparse.py",
    "bisect.py",
    "csv.py",
    "fractions.py",
    "heapq.py",
    "queue.py",
    "shlex.py",
    "statistics.py",
    "tempfile.py",
    "textwrap.py",
)
"""Modules that no training sees: perplexity is measured on them."""
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "lib2to3",
    "turtledemo",
    "__pycache__",
}
"""Folders that hold tables, fixtures, or other people's code."""


def library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def held_back() -> np.ndarray:
    """The bytes of the modules held back, one after the other, as token ids."""
    return _tokens(library() / name for name in HELD_BACK)


def training() -> np.ndarray:
    """The bytes of the other modules, in the order of their names."""
    root = library()
    files = sorted(p for p in root.rglob("*.py") if not LEFT_OUT & set(p.relative_to(root).parts))
    return _tokens(p for p in files if str(p.relative_to(root)) not in HELD_BACK)


def _tokens(files) -> np.ndarray:
    return np.frombuffer(b"\n".join(p.read_bytes() for p in files), np.uint8).astype(np.int32)
