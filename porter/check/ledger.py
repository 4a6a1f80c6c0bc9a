"""The error ledger: which step made how much of a model's final error, and from which cause.

    book = ledger(model, [Taken("fusion", fused), Taken("bf16", narrow, precision=True)], inputs)
    print(book.text())

With y_0 the original in its own dtypes, y_k the model after step k and e = y_n - truth the final error against float64,
step k added d_k = y_k - y_(k-1), and its share of the error is <d_k, e> / <e, e>. The original's own rounding,
d_0 = y_0 - truth, is the first entry. Shares sum to 1; one may be negative, where a step undid what another did.

A share splits in two: what the step changed in float64 (constants stored in another format, or another function), and
the rest, which is arithmetic. Whether that had to be is asked of the formats: rounding at random (see `dither`) shows
the error that the model's formats make. More than 3 dB above it, or a step that claims no cheaper format and still
moves the float64 result by more than that, is unexplained: look there for a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from porter import ops
from porter.check import gate, measure
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, Subject, run
from porter.check.numeric import SAMPLES, matched_outputs, renamed
from porter.graph import Model

EXPLAINED_DB = 3.0  # a factor of 1.4 in rms: two draws of the same random rounding differ by less
OWN = "the model's own rounding"


@dataclass(frozen=True)
class Taken:
    """A step: its name, the model after it, and whether it claims a cheaper format."""

    name: str
    model: Model
    precision: bool = False


@dataclass(frozen=True)
class Entry:
    """One step's part of the error of one output.

    share         <d_k, e> / <e, e>
    format        of that: what moved in float64 (constants in another format)
    accumulation  of that: the rounding of arithmetic
    error_db      rms of the model's error after the step, relative to the output, in dB
    predicted_db  the same of the error that its formats explain
    excess_db     the observed error above the predicted one; beyond 3 dB it is unexplained
    """

    step: str
    output: str
    share: float
    format: float
    accumulation: float
    error_db: float
    predicted_db: float
    excess_db: float

    @property
    def unexplained(self) -> bool:
        return self.excess_db > EXPLAINED_DB

    def json(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in (*self.__dataclass_fields__, "unexplained")}


@dataclass(frozen=True)
class Ledger:
    """All entries, in the order of the steps."""

    entries: tuple[Entry, ...] = field(default=())

    @property
    def unexplained(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if e.unexplained)

    def json(self) -> list[dict[str, Any]]:
        return [e.json() for e in self.entries]

    def text(self) -> str:
        """One line per step and output, plain."""
        rows: list[tuple[str, ...]] = [
            ("step", "output", "share", "format", "accumulation", "error dB", "above formats dB")
        ]
        for e in self.entries:
            shares = (f"{100 * s:.1f}%" for s in (e.share, e.format, e.accumulation))
            above = f"{e.excess_db:+.1f}{' unexplained' if e.unexplained else ''}"
            rows.append((e.step, e.output, *shares, f"{e.error_db:.1f}", above))
        width = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(r, width, strict=True)))
                 for r in rows]  # fmt: skip
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Seen:
    """What a model after a step gives on one sample, under the original's names: in float64, in its own arithmetic,
    and what rounding at random in its formats gives.
    """

    step: str
    precision: bool
    wide: Mapping[str, np.ndarray]
    own: Mapping[str, np.ndarray]
    must: Sequence[Mapping[str, np.ndarray]]

    def after(self, step: str, own: Mapping[str, np.ndarray], wide: Mapping[str, np.ndarray] | None = None) -> Seen:
        """A further step in the same formats, of which only outputs are known."""
        return replace(self, step=step, precision=False, own=own, wide=self.wide if wide is None else wide)


def ledger(model: Model, steps: Sequence[Taken], inputs: Mapping[str, np.ndarray], seed: int = 0) -> Ledger:
    """The error of the last step's model on one sample, split over the steps before. Float outputs only.

    PorterError where a step has other inputs or outputs than the model.
    """
    original = Subject(model)
    chain = [Taken(OWN, model), *steps]
    return split([seen(t.name, original, Subject(t.model), inputs, precision=t.precision, seed=seed) for t in chain])


def seen(
    step: str,
    original: Subject,
    model: Subject,
    inputs: Mapping[str, np.ndarray],
    *,
    precision: bool = False,
    seed: int = 0,
    last: Seen | None = None,
) -> Seen:
    """A step seen. With `last`, the one before it, the formats are taken to be the same unless the step claims others:
    what they must round off is not found anew.
    """
    names = {b.name or "": a.name or "" for a, b in matched_outputs(original.model, model.model)}
    sample = renamed(original.model, model.model, inputs)

    def outputs(xp: Any) -> dict[str, np.ndarray]:
        return {names[n]: np.asarray(x) for n, x in model.outputs(xp, sample).items() if n in names}

    wide, own = outputs(ops.float64), outputs(SOURCE)
    if last is not None and not precision:
        return last.after(step, own, wide)
    must = [run(model.model, dict(sample), Dithered(seed + 3000 + i)) for i in range(SAMPLES)]
    return Seen(
        step, precision, wide, own, [{names[n]: np.asarray(x) for n, x in m.items() if n in names} for m in must]
    )


def split(steps: Sequence[Seen]) -> Ledger:
    """The entries of steps that were seen, the original first."""
    names = [n for n, x in steps[0].wide.items() if measure.is_float(x.dtype)]
    return Ledger(tuple(e for name in names for e in _split(name, steps)))


def _split(name: str, steps: Sequence[Seen]) -> list[Entry]:
    truth = _flat(steps[0].wide[name])
    finite = np.all([np.isfinite(_flat(x[name])) for s in steps for x in (s.wide, s.own)], axis=0)
    final = (_flat(steps[-1].own[name]) - truth)[finite]
    total = float(final @ final)
    entries = []
    wide_before = own_before = truth
    explained = 0.0  # the rms that float64 may have moved so far: stored constants, as steps claim them
    for now in steps:
        wide, own = _flat(now.wide[name]), _flat(now.own[name])
        step, moved = (own - own_before)[finite], (wide - wide_before)[finite]
        must = max((_rms((_flat(m[name]) - wide)[finite]) for m in now.must), default=0.0)
        must = max(must, gate.floor(truth, now.own[name].dtype))
        explained = _root(explained, _rms(moved) if now.precision else 0.0)
        observed = _rms((own - truth)[finite])
        share, stored = (float(d @ final) / total if total else 0.0 for d in (step, moved))
        predicted = _root(explained, must)
        entries.append(Entry(now.step, name, share, stored, share - stored, _db(observed, _rms(truth[finite])),
                             _db(predicted, _rms(truth[finite])), _db(observed, predicted)))  # fmt: skip
        wide_before, own_before = wide, own
    return entries


def _flat(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).reshape(-1)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def _root(a: float, b: float) -> float:
    return float(np.hypot(a, b))


def _db(a: float, b: float) -> float:
    """20 log10(a / b), within what JSON can say."""
    if a == 0 or b == 0:
        return -measure.EQUAL_DB if a == 0 else measure.EQUAL_DB
    return float(np.clip(20 * np.log10(a / b), -measure.EQUAL_DB, measure.EQUAL_DB))
