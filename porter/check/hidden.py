"""What a format hides: two models that the field tells apart may differ by less than the first one's own rounding.

In float64 nothing hides it. A model of quantized codes or of float16 errs by a thousandth on its own, and a code that is one
more, or a layer left out that does little, errs by no more. Where float64 tells the two apart by more than the rounding of
constants makes, they are two functions, and the input that shows it is the witness.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter import formats, graph, ops
from porter.check import gate, measure
from porter.check.execution import Subject, run
from porter.check.numeric import matched_outputs, renamed
from porter.errors import Undecided

SLACK = 16.0  # a constant of the second may come of several steps that each round
NOISE = 1e-8  # of a tensor's rms: float64 itself, in any order
TRIALS = 4  # roundings of constants


def apart(old: Subject, new: Subject, sample: Mapping[str, np.ndarray], seed: int) -> bool:
    """Whether an output differs in float64 by more than 16 times what rounding the constants anew makes that the second
    model does not have as they are. Float outputs of one shape and finite in both count."""
    try:
        truth = old.outputs(ops.float64, sample)
        after = new.outputs(ops.float64, renamed(old.model, new.model, sample))
        lost = _lost(old, new)
        rng = np.random.default_rng(seed + 3000)
        shaken = [
            run(old.ready, {**sample, **{n: _shaken(x, rng) for n, x in lost.items()}}, ops.float64)
            for _ in range(TRIALS if lost else 0)
        ]
    except Undecided:
        return False
    return any(
        _beyond(truth[a.name or ""], after[b.name or ""], [s[a.name or ""] for s in shaken])
        for a, b in matched_outputs(old.model, new.model)
    )


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
    values = [
        *old.model.graph.initializers.values(),
        *(n.outputs[0] for n in old.model.graph if n.op_type == "Constant"),
    ]
    tensors = ((v.name or "", graph.constant_tensor(v)) for v in values)
    return {
        name: t.numpy()
        for name, t in tensors
        if t is not None and t.dtype.is_floating_point() and graph.content_hash(t) not in new.weights
    }


def _shaken(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The constant rounded anew to its format: anywhere within half an ulp of what it is."""
    wide = np.asarray(x, np.float64)
    return np.asarray(wide + (rng.random(wide.shape) - 0.5) * formats.of(x.dtype.name).ulp(wide) * (wide != 0))
