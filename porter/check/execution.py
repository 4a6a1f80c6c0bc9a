"""Running a model for a comparison: repeatably, once per model, inputs and arithmetic.

BLAS runs on one thread: two were measured 2 to 18 times slower on small operators, and their sums are not repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from porter import graph
from porter.errors import PorterError
from porter.graph import Function, Graph, Model
from porter.ops import Evaluator
from porter.ops.arrays import Numpy

Arrays = dict[str, np.ndarray]
KEPT = 1 << 24  # bytes of all values of a model up to which they are kept


@contextmanager
def single_thread() -> Iterator[None]:
    """BLAS on one thread inside."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def run(
    model: Model | Graph | Function | Evaluator,
    inputs: Any,
    xp: Any,
    *,
    want: Iterable[str] | None = None,
    on_value: Callable[[str, Any], None] | None = None,
    **options: Any,
) -> Arrays:
    """Outputs, or the values named in `want`, of a model in the arithmetic of a namespace (see `ops.evaluate`).

    One that runs often is given as its `Evaluator`, which looks nodes up once.
    """
    ready = model if isinstance(model, Evaluator) else Evaluator(model, **options)
    with single_thread():
        return ready(inputs, xp, want=want, on_value=on_value)


class Source(Numpy):
    """The source dtypes, every value in row-major order: BLAS rounds differently where an operand is a view, and where
    a value came from must not show in its bits."""

    def __init__(self) -> None:
        super().__init__("source in order", double=False)

    def settle(self, x: Any, dtype: np.dtype | None) -> np.ndarray:
        y = super().settle(x, dtype)
        return y if y.flags.c_contiguous else np.ascontiguousarray(y)


SOURCE = Source()


class Subject:
    """A model under comparison, not edited meanwhile, whose results are kept: the steps of a port compare each twice."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.results: dict[tuple[str, int], Arrays] = {}
        self.drawn: dict[Any, list[Any]] = {}  # draws and edges by seed: the same objects for every second model
        self._values: dict[tuple[str, int], Arrays] = {}
        self._inputs: dict[int, Mapping[str, np.ndarray]] = {}

    @cached_property
    def weights(self) -> frozenset[str]:
        """The float constants that the model stores, by content."""
        return frozenset(self.constants.values())

    @cached_property
    def constants(self) -> dict[graph.Value, str]:
        """The float constants that the model stores, and their contents as hashes."""
        values = list(self.model.graph.initializers.values())
        values += [n.outputs[0] for n in self.model.graph if n.op_type == "Constant"]
        found = ((v, graph.constant_tensor(v)) for v in values)
        return {v: graph.content_hash(t) for v, t in found if t is not None and t.dtype.is_floating_point()}

    @cached_property
    def ready(self) -> Evaluator:
        """The model made ready to run many times."""
        return Evaluator(self.model)

    def outputs(self, xp: Any, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The model's outputs, computed at most once per arithmetic and set of inputs."""
        key = (xp.name, id(inputs))
        if key not in self.results:
            self._inputs[id(inputs)] = inputs  # keeps the id taken
            self.results[key] = run(self.ready, dict(inputs), xp)
        return self.results[key]

    def values(self, xp: Any, inputs: Mapping[str, np.ndarray], names: Collection[str]) -> Arrays:
        """Values of the graph by name; those of a small model are kept, which other second models are held against."""
        key = (xp.name, id(inputs))
        if key in self._values:
            return {n: x for n, x in self._values[key].items() if n in names}
        kept: Arrays = {}
        held = 0

        def keep(name: str, array: Any) -> None:
            nonlocal held
            if isinstance(array, np.ndarray | np.generic):
                held += array.nbytes
                if name in names or held <= KEPT:
                    kept[name] = np.asarray(array)

        run(self.ready, dict(inputs), xp, on_value=keep)
        if held <= KEPT:
            self._inputs[id(inputs)] = inputs
            self._values[key] = kept
        return {n: x for n, x in kept.items() if n in names}


def checked_inputs(model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs as the model declares them; a wrong name, dtype or shape raises PorterError."""
    wanted = {v.name or "": v for v in model.graph.inputs if not v.is_initializer()}
    for name in wanted.keys() - inputs.keys():
        raise PorterError(f"input '{name}'", expected="a value", found=", ".join(sorted(inputs)) or "no inputs at all")
    for name in inputs.keys() - wanted.keys():
        raise PorterError(f"input '{name}'", expected=f"one of {', '.join(sorted(wanted))}", found="no such input")
    for name, value in wanted.items():
        shape, dtype = graph.shape(value), graph.dtype(value)
        given = np.asarray(inputs[name])
        if dtype is not None and given.dtype != dtype and dtype.kind not in "OUS":
            raise PorterError(f"input '{name}'", expected=f"dtype {dtype}", found=f"dtype {given.dtype}")
        if shape is not None and given.shape != shape:
            raise PorterError(f"input '{name}'", expected=f"shape {list(shape)}", found=f"shape {list(given.shape)}")
    return {name: np.asarray(inputs[name]) for name in wanted}
