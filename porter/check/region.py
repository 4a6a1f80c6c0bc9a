"""A region by itself: two functions of the same inputs, or a function and anything that computes it, on equal inputs.

    verdict = compare_region(before, after, [ShapeDtype((8, 64), float32), weights], check.rounding, model=model)

This is the isolated error of a rewrite or a kernel, whose fault it is; `numeric.compare` sees the accumulated one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from porter import ops
from porter.check import gate
from porter.check.contract import Contract, Kind
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, run
from porter.check.measure import is_float
from porter.check.numeric import SAMPLES, judge, reference, scale, settle
from porter.check.verdict import Finding, Verdict, message
from porter.errors import PorterError
from porter.graph import Function, Graph, Model

Region = Function | Graph | Callable[[list[np.ndarray]], Sequence[np.ndarray]]


def compare_region(
    before: Function | Graph,
    after: Region,
    inputs: Sequence[Any],
    contract: Contract,
    *,
    seed: int = 0,
    model: Model | None = None,
    bound: dict[str, Any] | None = None,
    subject: str = "",
) -> Verdict:
    """Hold `after` to its contract against `before`.

    inputs   in order: arrays as they are, anything with `shape` and `dtype` as a random array (normal floats, small
             integers)
    after    a function, or a callable from arrays in the source dtypes to arrays (a kernel under a target's
             arithmetic); a callable has no float64, so `algebraic` does not apply to it
    model    where functions that the regions call are defined, and the opsets of a bare graph
    """
    if callable(after) and not isinstance(after, Function | Graph) and contract.kind is Kind.ALGEBRAIC:
        raise PorterError("a region checked as algebraic", expected="two functions", found="a callable")
    arrays = [_array(seed, i, x) for i, x in enumerate(inputs)]
    options: dict[str, Any] = {"bound": bound}
    if model is not None:
        options |= {"functions": model.functions, "opsets": model.opset_imports}

    def results(region: Region, xp: Any) -> list[np.ndarray]:
        if isinstance(region, Function | Graph):
            return [np.asarray(x) for x in run(region, arrays, xp, **options).values()]
        return [np.asarray(x) for x in region(arrays)]

    exact, algebra = contract.kind is Kind.EXACT, contract.kind is Kind.ALGEBRAIC
    truth = None if exact else results(before, ops.float64)
    old = None if algebra else results(before, SOURCE)
    new = results(after, ops.float64 if algebra else SOURCE)
    names = [v.name or f"output {i}" for i, v in enumerate(before.outputs)]
    if len(new) != len(names):
        raise PorterError("outputs of the two regions", expected=str(len(names)), found=str(len(new)))
    errors = [gate.Errors() for _ in names]
    judged = []
    for i, name in enumerate(names):
        plain = old[i] if old is not None else None
        if truth is not None:
            truth[i] = reference(truth[i], plain)
        judged.append(judge(contract, name, truth[i] if truth is not None else None, plain, new[i], errors[i]))
    if not all(j.ok for j in judged) and contract.kind in (Kind.ROUNDING, Kind.PRECISION) and truth is not None:
        for trial in range(SAMPLES):
            for i, must in enumerate(results(before, Dithered(seed + 1000 + trial, contract.arithmetic))):
                if truth[i].dtype.kind == "f" and truth[i].shape == must.shape:
                    errors[i].add("must", truth[i], must, scale(contract))
        for i, name in enumerate(names):
            if not judged[i].ok and truth[i].shape == new[i].shape:
                judged[i] = settle(contract, name, truth[i], new[i], errors[i])
    label = f"random inputs, seed {seed}"
    findings = tuple(
        Finding(name, j.ok, j.distance, j.limit, inputs=label, values=j.values)
        for name, j in zip(names, judged, strict=True)
    )
    return Verdict(all(j.ok for j in judged), str(contract), findings, None, message(findings, None, subject))


def _array(seed: int, index: int, given: Any) -> np.ndarray:
    if isinstance(given, np.ndarray):
        return given
    rng = np.random.default_rng([seed, index])
    dtype = np.dtype(given.dtype)
    if is_float(dtype):
        return rng.standard_normal(given.shape).astype(np.float32).astype(dtype)
    high = 2 if dtype == np.bool_ else 8
    return rng.integers(0, high, given.shape).astype(dtype)
