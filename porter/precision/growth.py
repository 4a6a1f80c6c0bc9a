"""What a model makes of its layers' errors: how far from float64 its outputs must be, where each layer errs as its formats must.

Errors do not only add: a graph damps them (a residual stream is larger than what is added to it) or makes them grow (what one
layer errs is the next one's input, and a normalization divides by a signal that is smaller than it was). So it is measured: the
weights of every narrow layer are moved by normal noise, which makes its product err by the power that the error ledger
predicts from formats and float values (never from codes), and the model runs in float64 on the sample, several times with other
noise. All layers err at once, for errors of some dB are not small and do not superpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from porter import ops
from porter.check.execution import run
from porter.check.ledger import EXPLAINED_DB
from porter.check.measure import EQUAL_DB, distance
from porter.graph import Model, constant
from porter.precision.layers import layers
from porter.precision.ledger import Entry

DRAWS = 5  # of the noise


@dataclass(frozen=True)
class Growth:
    """Of the worst output: dB of signal to error in each draw of the noise."""

    drawn: tuple[float, ...]

    @property
    def expected(self) -> float:
        """dB of the mean error power."""
        return float(-10 * np.log10(np.mean(10 ** (-np.array(self.drawn) / 10))))

    @property
    def scatter(self) -> float:
        """Standard deviation of a draw, dB."""
        return float(np.std(self.drawn, ddof=1))

    @property
    def least(self) -> float:
        """dB below which the formats do not explain the error: 3 dB as in the error ledger, or three standard deviations where
        the noise itself scatters more."""
        return self.expected - max(EXPLAINED_DB, 3 * self.scatter)


def grown(before: Model, entries: Sequence[Entry], sample: Mapping[str, np.ndarray], draws: int = DRAWS) -> Growth:
    """The outputs of `before` (fused, float32 weights) on the sample where each layer of the ledger errs as predicted."""
    weights = {str(layer.weight.name): layer.weight for layer in layers(before)}
    power = {(e.weight.removesuffix(e.part), e.part): e.noise for e in entries}
    truth = run(before, dict(sample), ops.float64)
    floats = [n for n, x in truth.items() if np.asarray(x).dtype.kind == "f"]
    found = []
    for draw in range(draws):
        rng, moved = np.random.default_rng(draw), dict(sample)
        for name, weight in weights.items():
            if (name, "") not in power and (name, "[0]") not in power:
                continue
            w = np.asarray(constant(weight), np.float32)
            noise = rng.standard_normal(w.shape, np.float32)
            if (name, "") in power:
                noise *= np.float32(np.sqrt(power[name, ""]))
            else:
                for i in range(len(w)):
                    noise[i] *= np.float32(np.sqrt(power[name, f"[{i}]"]))
            noise += 1
            moved[name] = np.multiply(noise, w, out=noise)
        got = run(before, moved, ops.float64)
        found.append(
            min((distance(np.asarray(truth[n]), np.asarray(got[n])).sqnr_db for n in floats), default=EQUAL_DB)
        )
    return Growth(tuple(found))
