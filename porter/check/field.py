"""The field method: two models on random values of a prime field, where algebra is exact and needs no tolerance.

    agreement = agree(before, after)
    agreement.equal    True: the same function, but for agreement.chance; False: they differ there, which proves nothing
                       (exp, max and the like are keyed functions); None: the method cannot say, see agreement.reason

Two readings of constants are tried. Unrounded: operators on constants are algebra too, so what a pass computed from
weights may stand as an expression. Folded: operators on constants alone are computed in the source dtypes first, as
constant folding does. Agreement in either is agreement, of the models up to the rounding of constants or as they are.

At every value that both models name, the value is replaced by a keyed hash of itself: as random as an input, and the
same on both sides exactly if they agree so far. So each region between such values is decided by itself, with the
chance of error of its own small degree, and laws of exp hold in the tenth layer as in the first. Where a rewrite
reaches past such a value, or a name means two things, that fails, and only exponents are replaced, then nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from porter.check.execution import SOURCE, run
from porter.check.expressions import dependent
from porter.check.inputs import draw
from porter.errors import Undecided
from porter.graph import Function, Graph, Model
from porter.ops import Evaluator
from porter.ops.field import Field
from porter.ops.namespace import NotKnown, is_float
from porter.ops.residue_array import UNDEFINED, Residues
from porter.ops.residue_values import NeedsExponents, Renews
from porter.ops.residues import P, hashed

SEEDS = 2  # at least
MOST = 64
ENOUGH = 1e-9  # chance of error below which no further seed is tried
LITTLE = 1e-4  # the same where constants hide a part of what they are held against
TOO_MUCH = 1e-3  # and above which agreement decides nothing
ALONE = (Renews.NOTHING,)  # of two that share no value but their inputs: nothing would be renewed


@dataclass(frozen=True)
class Agreement:
    """What the field says of two models.

    chance   of agreeing although they differ: the product of degree / p over the seeds (Schwartz and Zippel's bound)
    reading  'unrounded constants' or 'folded constants': how they were read when the two agreed; or what was compared
    first    the first value, in after's order, that both name and on which they differ
    """

    equal: bool | None
    chance: float = 1.0
    seeds: int = 0
    reading: str = ""
    first: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.equal:
            how = f"{self.reading}, {self.seeds} seeds"
            return f"equal in a prime field ({how}), chance of error {self.chance:.1g}"
        return self.reason or f"different in a prime field, first at '{self.first}'"


def agree(
    before: Model, after: Model, *, seed: int = 0, seeds: int = SEEDS, renews: Sequence[Renews] = tuple(Renews)
) -> Agreement:
    """Whether two models with the same interface agree in the field; inputs of integers are drawn as in `draw`, and the
    agreement is on those."""
    names = [v.name or "" for v in before.graph.inputs if not v.is_initializer()]
    renamed = [v.name or "" for v in after.graph.inputs if not v.is_initializer()]
    if len(names) != len(renamed):
        return Agreement(None, reason=f"{len(names)} inputs against {len(renamed)}")
    to_after = dict(zip(names, names if set(names) == set(renamed) else renamed, strict=True))

    @cache
    def drawn(trial: int) -> Mapping[str, np.ndarray]:
        return draw(before, trial)

    common = _variable(before) & _variable(after)
    folded: dict[str, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = {"unrounded": ({}, {})}

    def both(field: Field, trial: int, reading: str) -> tuple[Ran, Ran]:
        if reading not in folded:
            other = {to_after[n]: v for n, v in drawn(seed).items()}
            folded[reading] = (_folded(before, drawn(seed)), _folded(after, other))
        inputs = {n: given(field, f"input {i}", drawn(trial)[n]) for i, n in enumerate(names)}
        moved = {to_after[n]: v for n, v in inputs.items()}
        return (
            evaluated(before, inputs | folded[reading][0], field, common),
            evaluated(after, moved | folded[reading][1], field, common),
        )

    return decide(both, seed, seeds, renews=renews)


def agree_on(
    before: Function | Graph,
    after: Function | Graph,
    inputs: Sequence[Any],
    *,
    seed: int = 0,
    seeds: int = SEEDS,
    **options: Any,
) -> Agreement:
    """The same for two functions of the same inputs: float arrays of the right shape and type become random residues
    unless they are wrapped as `Constant`; integers are used as they are."""

    def both(field: Field, trial: int, reading: str) -> tuple[Ran, Ran]:
        values = [given(field, f"input {i}", x) for i, x in enumerate(inputs)]
        named_before = {v.name or "": x for v, x in zip(before.inputs, values, strict=True)}
        named_after = {v.name or "": x for v, x in zip(after.inputs, values, strict=True)}
        return (
            evaluated(before, named_before, field, frozenset(), **options),
            evaluated(after, named_after, field, frozenset(), **options),
        )

    return decide(both, seed, seeds, ("unrounded",), ALONE)


@dataclass(frozen=True)
class Constant:
    """An input of a region whose value is a weight: it stays what it is."""

    array: np.ndarray


@dataclass(frozen=True)
class Ran:
    """`visible` is the chance that a difference in one element shows in an output, or at a shared value."""

    outputs: list[Any]
    shared: dict[str, Any]
    visible: float


def decide(
    both: Any,
    seed: int,
    seeds: int,
    readings: Sequence[str] = ("unrounded", "folded"),
    renews: Sequence[Renews] = tuple(Renews),
) -> Agreement:
    """Agreement on all seeds in one reading of constants, unrounded first."""
    results = []
    exponents = False
    for reading, renewed in product(readings, renews):
        if renewed is Renews.EXPONENTS and not exponents:
            continue  # the same as nothing
        verdict = None
        chance, tried = 1.0, 0
        constants: set[float] = set()
        for trial in range(seed, seed + MOST):
            try:
                try:
                    field = Field(trial, exponents=exponents, renews=renewed, constants=sorted(constants))
                    one, two = both(field, trial, reading)
                except NeedsExponents:
                    exponents = True
                    field = Field(trial, exponents=True, renews=renewed, constants=sorted(constants))
                    one, two = both(field, trial, reading)
            except (Undecided, NotKnown) as error:
                verdict = Agreement(None, reason=str(error).replace("\n ", ";"))
                break
            constants |= field.met
            same, reason = _same(one.outputs, two.outputs)
            apart = (n for n, x in two.shared.items() if n in one.shared and not _same_one(one.shared[n], x))
            first = next(apart, "")
            if not same or (first and renewed is Renews.VALUES):  # a shared value may differ behind a maximum
                verdict = Agreement(None if reason or same else False, first=first, reason=reason)
                break
            tried = trial + 1 - seed
            degree = field.degree + _degree(one.outputs) + _degree(two.outputs)
            hidden = 1 - field.visible * min(one.visible, two.visible)
            passes = min(1.0, max(max(degree, 1) / P, hidden))
            chance *= passes
            if tried >= seeds and (chance <= ENOUGH or (hidden and chance <= LITTLE)):
                break
            if tried >= seeds and chance * passes ** (MOST - tried) > TOO_MUCH:
                break  # nor will more seeds do
        if verdict is None:
            if chance > TOO_MUCH:
                return Agreement(
                    None,
                    chance,
                    tried,
                    f"{reading} constants",
                    reason=f"equal on {tried} seeds, by chance {chance:.1g}",
                )
            return Agreement(True, chance, tried, f"{reading} constants")
        results.append(verdict)
    return next((r for r in results if r.equal is not None), results[0])


def evaluated(
    model: Model | Function | Graph | Evaluator,
    inputs: Mapping[str, Any],
    field: Field,
    common: frozenset[str],
    **options: Any,
) -> Ran:
    shared: dict[str, Any] = {}
    visible = [1.0]

    def keep(name: str, array: Any) -> None:
        if name in common and isinstance(array, Residues):
            shared[name] = _fingerprint(array)
            visible.append(array.doubt.visible)
            field.renew(array)

    results: dict[str, Any] = run(model, inputs, field, on_value=keep, **options)
    visible += [x.doubt.visible for x in results.values() if isinstance(x, Residues)]
    return Ran(list(results.values()), shared, min(visible))


def _fingerprint(x: Residues) -> tuple[tuple[int, ...], int]:
    """Enough of a value to tell it from another, without keeping it."""
    places = hashed(1, x.p.reshape(-1), x.tags.reshape(-1), np.arange(x.size))
    return x.shape, int(np.bitwise_xor.reduce(places, initial=np.uint64(0)))


def given(field: Field, name: str, x: Any) -> Any:
    if isinstance(x, Constant):
        return x.array
    return field.random(name, x.shape, x.dtype) if is_float(x.dtype) else x


def _same(one: Sequence[Any], two: Sequence[Any]) -> tuple[bool, str]:
    """Whether the outputs agree, or why that cannot be said."""
    if len(one) != len(two):
        return False, f"{len(one)} outputs against {len(two)}"
    for a, b in zip(one, two, strict=True):
        for x in (a, b):
            if isinstance(x, Residues) and (x.tags == UNDEFINED).any():
                return False, "an output is undefined in the field (a division by zero, or an infinity without a sign)"
        if not _same_one(a, b):
            return False, ""
    return True, ""


def _same_one(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):  # fingerprints
        return a == b
    if a.shape != b.shape:
        return False
    if isinstance(a, Residues) or isinstance(b, Residues):
        field = a.field if isinstance(a, Residues) else b.field
        x, y = field.lift(a), field.lift(b)
        return bool(
            np.array_equal(x.tags, y.tags) and np.array_equal(np.where(x.tags, 0, x.p), np.where(y.tags, 0, y.p))
        )
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _degree(values: Sequence[Any]) -> int:
    return max((x.degree for x in values if isinstance(x, Residues)), default=0)


def _variable(model: Model) -> frozenset[str]:
    """Names of values that depend on an input, outputs left out."""
    depend = dependent(model)
    return frozenset(v.name for v in depend if v.name and v.producer() is not None and not v.is_graph_output())


def _folded(model: Model, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floats that nodes compute from constants alone and others read, computed in the source dtypes."""
    depend = dependent(model)
    wanted = {
        v.name or ""
        for node in model.graph
        if node.op_type != "Constant"
        for v in node.outputs
        if v not in depend and (v.is_graph_output() or any(out in depend for use, _ in v.uses() for out in use.outputs))
    }
    values = run(model, drawn, SOURCE, want=wanted) if wanted else {}
    return {name: array for name, array in values.items() if is_float(array.dtype)}
