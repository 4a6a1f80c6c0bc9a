"""What a format hides: two models that the field tells apart may differ by less than the first one's own rounding.

In float64 nothing hides it. A model of quantized codes or of float16 errs by a thousandth on its own, and a code that is one
more, or a layer left out that does little, errs by no more. Where float64 tells the two apart by more than the rounding of
constants makes, they are two functions, and the input that shows it is the witness.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter import ops
from porter.check import gate, measure
from porter.check.dither import stored_anew
from porter.check.execution import Subject, run
from porter.check.numeric import matched_outputs, renamed
from porter.errors import Undecided
from porter.graph import constant

SLACK = 16.0  # a constant of the second may come of several steps that each round
NOISE = 1e-8  # of a tensor's rms: float64 itself, in any order
TRIALS = 4  # roundings of constants


def apart(old: Subject, new: Subject, sample: Mapping[str, np.ndarray], seed: int) -> bool:
    """Whether an output differs in float64 by more than 16 times what rounding the constants anew makes that the second
    model does not have as they are. Float outputs of one shape and finite in both count."""
    try:
        truth = old.outputs(ops.float64, sample)
        after = new.outputs(ops.float64, renamed(old.model, new.model, sample))
        pairs = [(a.name or "", b.name or "") for a, b in matched_outputs(old.model, new.model)]
        far = [(a, b) for a, b in pairs if _beyond(truth[a], after[b], [])]
        if not far:
            return False
        lost, rng = _lost(old, new), np.random.default_rng(seed + 3000)
        shaken = [
            run(old.ready, {**sample, **{n: stored_anew(x, rng) for n, x in lost.items()}}, ops.float64)
            for _ in range(TRIALS if lost else 0)
        ]
    except Undecided:
        return False
    return any(_beyond(truth[a], after[b], [s[a] for s in shaken]) for a, b in far)


def _beyond(truth: np.ndarray, after: np.ndarray, shaken: list[np.ndarray]) -> bool:
    if truth.dtype != np.float64 or any(x.shape != truth.shape for x in (after, *shaken)):
        return False
    if not all(np.isfinite(x).all() for x in (truth, after, *shaken)):
        return False
    error, noise = measure.difference(truth, after), [measure.difference(truth, x) for x in shaken]
    floor = NOISE * measure.rms(truth)
    rms = max([floor, *map(measure.rms, noise)])
    worst = gate.WORST_RATIO * max([floor, *(float(x.max(initial=0.0)) for x in noise)])
    return measure.rms(error) > SLACK * rms or float(error.max(initial=0.0)) > SLACK * worst


def _lost(old: Subject, new: Subject) -> dict[str, np.ndarray]:
    """The float constants of the first, by name, that the second does not have bit for bit: it may have computed others
    from them."""
    kept = ((v, constant(v)) for v, content in old.constants.items() if content not in new.weights)
    return {v.name or "": x for v, x in kept if x is not None}
