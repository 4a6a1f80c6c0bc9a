"""Calibration: the model runs over samples one after another, and what is asked of its values is gathered as they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import numpy as np

from porter import graph, ops
from porter.bundle.inputs import read_inputs
from porter.check import draw
from porter.check.execution import checked_inputs, run
from porter.errors import PorterError
from porter.graph import Model
from porter.precision.ranges import METHODS, Histogram, Ranges

RELEASED = 16  # values after which the weights that were read are given back
DRAWN = 4  # samples drawn where the user gives none

Sample = Mapping[str, np.ndarray]
Samples = str | Iterable[Sample]
"""The path of an .npz or of a folder of them, '' for drawn ones, or samples themselves."""
Progress = Callable[[str, int, int], None]

_progress: ContextVar[Progress] = ContextVar("progress", default=lambda *_: None)


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Tells `progress` ('calibration', sample, samples or 0) about every calibration inside: passes know nothing of showing."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


class Observer(Protocol):
    """Gathers something from a value of each sample; bounded, however many come."""

    def add(self, x: np.ndarray) -> None: ...


def observe(model: Model, observers: Mapping[str, Iterable[Observer]], samples: Samples) -> None:
    """Shows the named values of every sample to their observers, in the source arithmetic; one sample is in memory at a time."""
    tell = _progress.get()
    count = len(samples) if isinstance(samples, list | tuple) else 0

    passed = 0

    def see(name: str, array: object) -> None:
        nonlocal passed
        passed += 1
        if passed % RELEASED == 0:
            graph.release(model)
        if name in observers and isinstance(array, np.ndarray):
            for observer in observers[name]:
                observer.add(array)

    number = 0
    for number, sample in enumerate(samples_of(model, samples), 1):
        tell("calibration", number, count)
        arrays = checked_inputs(model, sample)
        for name in observers.keys() & arrays.keys():
            see(name, arrays[name])
        run(model, arrays, ops.source, on_value=see)
    if not number:
        raise PorterError("calibration", expected="at least one sample", found="none")


def watch(model: Model, names: Iterable[str], samples: Samples, method: str = "mse") -> Ranges:
    """Histograms of the named values over the samples."""
    if method not in METHODS:
        raise PorterError(f"calibration method {method!r}", expected=", ".join(METHODS))
    wanted = {name: Histogram() for name in names}
    observe(model, {name: (h,) for name, h in wanted.items()}, samples)
    return Ranges(wanted, method)


def samples_of(model: Model, source: Samples = "") -> Iterator[Sample]:
    """Samples from an .npz, from a folder of them in order of name, from an iterable, or drawn (4 of them) where source is ''.

    An .npz whose arrays have one dimension more than the model's inputs holds several samples along the first.
    """
    if not isinstance(source, str):
        yield from source
        return
    if not source:
        yield from (draw(model, seed) for seed in range(DRAWN))
        return
    path = Path(source)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        where = f"--calibrate {source}"
        raise PorterError(where, expected="an .npz file or a folder of them", found="a folder without any")
    ranks = {str(v.name): len(graph.shape(v) or ()) for v in model.graph.inputs if not v.is_initializer()}
    for file in files:
        arrays = {name: array for name, array in read_inputs(file).items() if name in ranks}
        if arrays and all(array.ndim == ranks[name] + 1 for name, array in arrays.items()):
            count = min(len(array) for array in arrays.values())
            yield from ({name: array[i] for name, array in arrays.items()} for i in range(count))
        else:
            yield arrays


def kept(samples: Iterable[Sample], folder: Path) -> str:
    """The samples of an iterator that can be read once, written to a folder as they come: several passes calibrate on them."""
    for number, sample in enumerate(samples):
        np.savez(folder / f"{number:06}.npz", allow_pickle=False, **dict(sample))
    return str(folder)
