"""Two models compared where they differ: what is the same expression is skipped, the rest is decided region by region.

    found = Local(before, after, samples).decide(seed)
    found.equal, found.chance

Both models are numbered (see `expressions`). Going through the second in order, a value that is no expression of the
first but has a partner there, by name, is held against it: from the nearest values that both have on, in a prime field.
If they agree, everything behind is numbered as if they were one expression. So a rewrite is decided by itself, once
however often it occurs: weights that both sides read are variables of the region, and equal regions have one key. A
pair that does not agree only makes the region of what reads it larger: a wrong partner costs time and proves nothing.
A side that starts from a value which the other computes again is followed further back, to where both start.

The outputs agree at last; or partners are looked for by source layer and by value, and all is gone through again; or
nothing is said, and `rounded` names a constant that the two round differently, if it is that.

Regions that differ are also held against each other in numbers, from drawn values and edges; only where that passes is
one run of the whole models enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from porter import formats, graph, ops
from porter.check import gate
from porter.check.contract import rounding
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, run
from porter.check.expressions import Expressions
from porter.check.field import ALONE, Agreement, Ran, decide, evaluated
from porter.check.matching import of_one_source, of_one_value
from porter.check.measure import is_float
from porter.check.numeric import SAMPLES, judge, matched_outputs, reference, scale, settle
from porter.check.regions import Pair, Region, computed_constants, region_of, rounded_otherwise, types_in_a_run
from porter.errors import Undecided
from porter.graph import Model, Value
from porter.ops.field import Field

Sample = Mapping[str, np.ndarray]
FAILURES = 12  # regions that do not agree before the models are left to be compared whole
DEEPER = 3  # times that a region is followed past a value from which only one side starts
TURNED = 0.25  # share of a mask that is turned round where all of it is alike: rows of it keep some
NORMAL = 2  # draws of a region's inputs, besides its edges


@dataclass
class Local:
    """The comparison of two models by regions. `samples` are valid inputs of the first, the first of them already run.

    After `decide`: `same` values are the same expression, `tried` pairs were regions, `pairs` those of them that
    agreed and are distinct; `rounded` is a constant of the second that is another by no more than rounding, where a
    region differs in nothing else: no larger one will agree. `exhausted` where every region could be tried: then values
    that both name are no help to the models as a whole either, and there is little hope for it.
    """

    before: Model
    after: Model
    samples: Sequence[Sample]
    renamed: Mapping[str, str] = field(default_factory=dict)  # inputs of after -> of before
    same: int = 0
    tried: int = 0
    pairs: list[Pair] = field(default_factory=list)
    rounded: str = ""
    exhausted: bool = True
    _known: dict[str, Agreement] = field(default_factory=dict)

    @cached_property
    def one(self) -> Expressions:
        return Expressions(self.before, self.samples[0]).all()

    @cached_property
    def two(self) -> Expressions:
        """Numbered as `decide` goes along."""
        return self._second.copy()

    @cached_property
    def _second(self) -> Expressions:
        return Expressions(self.after, self._theirs(self.samples[0]), self.renamed)

    def _theirs(self, sample: Sample) -> Sample:
        back = {old: new for new, old in self.renamed.items()}
        return {back.get(name, name): array for name, array in sample.items()}

    def identical(self) -> bool:
        """Whether every output is the same expression in both."""
        two = self._second.copy().all()
        pairs = matched_outputs(self.before, self.after)
        return all(self.one.of.get(a) is not None and self.one.of.get(a) == two.of.get(b) for a, b in pairs)

    def decide(self, seed: int = 0) -> Agreement:
        """Whether the outputs agree, by expressions and regions; `equal` is None where that does not say."""
        found = self._decided(self._named(), seed)
        if found.equal or self.rounded or not (others := self._otherwise()):
            return found
        self.two, self.same, self.tried = self._second.copy(), 0, 0
        return self._decided(self._named() | others, seed)

    def _decided(self, partners: Mapping[Value, Value], seed: int) -> Agreement:
        failures, chance = 0, 0.0
        for node in self.after.graph:
            self.two.number(node)
            for value in node.outputs:
                if value not in self.two.dependent or value not in self.two.of:
                    continue
                if self.two.of[value] in self.one.first:
                    self.same += 1
                    continue
                partner = partners.get(value)
                if partner is None:
                    continue
                if failures > FAILURES:
                    self.exhausted = False
                    continue
                agreement = self._tried(partner, value, seed)
                self.exhausted &= agreement is not None and agreement.equal is not None
                if agreement is not None and agreement.equal:
                    chance += agreement.chance
                    self.two.unify(value, self.one.of[partner])
                elif agreement is not None:
                    failures += 1
        for a, b in matched_outputs(self.before, self.after):
            if a not in self.one.of or self.one.of[a] != self.two.of.get(b):
                return Agreement(None, reason=f"output '{a.name}' is not decided region by region")
        words = f"{self.same} values are the same expressions, {self.tried} by algebra ({len(self.pairs)} distinct)"
        return Agreement(True, chance, 2, words)

    def _named(self) -> dict[Value, Value]:
        """Values of the second model and those of the first that may be equal: outputs, and values of one name."""
        named = {v.name: v for v in self.one.of if v in self.one.dependent}
        found = {v: named[v.name] for n in self.after.graph for v in n.outputs if v.name in named}
        return found | {b: a for a, b in matched_outputs(self.before, self.after)}

    def _otherwise(self) -> dict[Value, Value]:
        """Partners of values that have none by expression or name: of one source layer, or alike on the first sample."""
        named = self._named()
        matched = {v for v in self.two.of if v in named or self.two.of[v] in self.one.first}
        if all(v in matched for n in self.after.graph for v in n.outputs if v in self.two.dependent):
            return {}
        taken = {*named.values(), *(self.one.first[d] for v in matched if (d := self.two.of[v]) in self.one.first)}
        sample = self.samples[0]
        pairs = of_one_value(self.before, self.after, sample, self._theirs(sample), matched, taken)
        pairs += of_one_source(self.before, self.after)
        return {b: a for b, a in pairs if b not in matched and a not in taken and a in self.one.dependent}

    def _tried(self, a: Value, b: Value, seed: int) -> Agreement | None:
        """The agreement of two values; None where there is no region to compare."""
        if a not in self.one.of:
            return None
        one, two = region_of(self.one, a, self.two.first), region_of(self.two, b, self.one.first)
        if one is None or two is None:
            return None
        self.tried += 1
        found = self._agreement(one, two, seed)
        if found is None or found.equal:
            return found
        apart = one.varying ^ two.varying
        for _ in range(DEEPER):
            if not apart:
                break
            left, right = region_of(self.one, a, self.two.first, apart), region_of(self.two, b, self.one.first, apart)
            if left is None or right is None or (left.reads, right.reads) == (one.reads, two.reads):
                break
            one, two = left, right
            more = one.varying ^ two.varying
            if not more:
                return self._agreement(one, two, seed)
            apart |= more
        if not apart and not self.rounded:
            self.rounded = rounded_otherwise((one, self._sample(one)), (two, self._sample(two)))
        if b.is_graph_output() and not apart and not self.rounded:
            return self._deeper(one, two, seed) or found
        return found

    def _deeper(self, one: Region, two: Region, seed: int) -> Agreement | None:
        """The agreement of an output's regions past the values where both start, which may hang on each other."""
        through = one.varying | two.varying
        for _ in range(DEEPER):
            left = region_of(self.one, one.target, self.two.first, through)
            right = region_of(self.two, two.target, self.one.first, through)
            if left is None or right is None or (left.reads, right.reads) == (one.reads, two.reads):
                break
            one, two, through = left, right, through | left.varying | right.varying
            found = self._agreement(one, two, seed)
            if found is not None and found.equal:
                return found
        return None

    def _agreement(self, one: Region, two: Region, seed: int) -> Agreement | None:
        """What the field says of two regions; None where a type is not known."""
        found: Agreement | None = None
        for lifted in (True, False):
            pair = self._pair(one, two, lifted)
            if pair is None:
                return None
            key = pair.key() + self._integers(pair)
            if key not in self._known:
                self._known[key] = self._field(pair, seed)
                if self._known[key].equal:
                    self.pairs.append(pair)
            found = self._known[key]
            if found.equal or not any(self._constant(v) for v in one.reads if one.side.of[v] in pair.inputs):
                break
        return found

    def _pair(self, one: Region, two: Region, lifted: bool) -> Pair | None:
        """The regions over one set of inputs; None where the type of one is not known."""
        both = {one.side.of[v] for v in one.reads} & {two.side.of[v] for v in two.reads}
        inputs: dict[str, tuple[str, tuple[int, ...], np.dtype]] = {}
        for region in (one, two):
            for value in region.reads:
                digest = region.side.of[value]
                if digest in inputs:
                    continue
                if self._constant(value) and not (lifted and digest in both and self._weight(region, value)):
                    continue
                seen = self._typed(region, value)
                if seen is None:
                    return None
                inputs[digest] = (f"i{len(inputs)}", *seen)
        return Pair(one, two, inputs)

    def _constant(self, value: Value) -> bool:
        return value not in self.one.dependent and value not in self.two.dependent

    def _weight(self, region: Region, value: Value) -> bool:
        """Floats that are stored, or computed from what is; a number has its own laws, and stays what it is."""
        seen = self._typed(region, value)
        return seen is not None and is_float(seen[1]) and math.prod(seen[0]) > 1

    def _typed(self, region: Region, value: Value) -> tuple[tuple[int, ...], np.dtype] | None:
        tensor = graph.constant_tensor(value)
        if tensor is not None:
            return tuple(tensor.shape.numpy()), tensor.dtype.numpy()
        shape, dtype = graph.shape(value), graph.dtype(value)
        if shape is None or dtype is None:
            return self._types[region.side is self.one].get(value.name or "")
        return shape, dtype

    @cached_property
    def _types(self) -> dict[bool, dict[str, tuple[tuple[int, ...], np.dtype]]]:
        """Shapes and types as they come out of a run, where inference left them open."""
        return {
            True: types_in_a_run(self.before, self.samples[0]),
            False: types_in_a_run(self.after, self._theirs(self.samples[0])),
        }

    def _whole(self, pair: Pair, trial: int) -> dict[str, np.ndarray]:
        """Inputs that are no floats, as they are on one sample: valid, whatever they index."""
        wanted = {d for d, (_, _, dtype) in pair.inputs.items() if not is_float(dtype)}
        found: dict[str, np.ndarray] = {}
        sample = self.samples[trial % len(self.samples)]
        for region, given in ((pair.before, sample), (pair.after, self._theirs(sample))):
            names = {v.name or "": region.side.of[v] for v in region.reads if region.side.of[v] in wanted - set(found)}
            if names:
                made = run(region.side.ready, dict(given), SOURCE, want=names)
                found.update((names[n], x) for n, x in made.items())
        return found

    def _integers(self, pair: Pair) -> str:
        whole = self._whole(pair, 0)
        return repr(sorted((pair.inputs[d][0], graph.content_hash(graph.make_tensor(x))) for d, x in whole.items()))

    def _field(self, pair: Pair, seed: int) -> Agreement:
        computed = {id(r): computed_constants(r, self._sample(r), pair.inputs) for r in (pair.before, pair.after)}
        whole = {k: {n: x for n, x in made.items() if not is_float(x.dtype)} for k, made in computed.items()}
        varying = {r.side.of[v] for r in (pair.before, pair.after) for v in r.reads if not self._constant(v)}

        def both(xp: Field, trial: int, reading: str) -> tuple[Ran, Ran]:
            values: dict[str, Any] = dict(self._whole(pair, trial))
            for digest, (label, shape, dtype) in pair.inputs.items():
                if is_float(dtype):
                    values[digest] = xp.random(label, shape, dtype)
                elif dtype.kind == "b" and trial % 2 and digest in varying:
                    values[digest] = _turned(values[digest], trial)
            one, two = (
                evaluated(
                    r.side.ready,
                    {
                        **self._sample(r),
                        **(computed if reading == "folded" else whole)[id(r)],
                        **pair.arrays(r, values),
                    },
                    xp,
                    frozenset(),
                    want=[r.target.name or ""],
                )
                for r in (pair.before, pair.after)
            )
            return one, two

        readings = (
            ("unrounded", "folded")
            if any(is_float(x.dtype) for made in computed.values() for x in made.values())
            else ("unrounded",)
        )
        return decide(both, seed, 2, readings, ALONE)

    def _sample(self, region: Region) -> Sample:
        sample = self.samples[0] if region.side is self.one else self._theirs(self.samples[0])
        return {**sample, **region.side.shapes}

    def settled(self, seed: int = 0) -> bool:
        """Whether every distinct region also rounds as little as it did, from drawn inputs and edges."""
        return all(self._rounds(pair, number, seed) for number, pair in enumerate(self.pairs))

    def _rounds(self, pair: Pair, number: int, seed: int) -> bool:
        made: dict[tuple[int, str], dict[str, np.ndarray]] = {}  # computed constants, once for every draw of the inputs

        def constants(region: Region, xp: Any) -> dict[str, np.ndarray]:
            key = (id(region), xp.name)
            if key not in made:
                made[key] = computed_constants(region, self._sample(region), (), xp)
            return made[key]

        for fill in (*(_normal(seed + i, number) for i in range(NORMAL)), _filled(0), _filled(1), _extreme):
            values: dict[str, Any] = dict(self._whole(pair, 0))
            varying = {v for r in (pair.before, pair.after) for v in r.reads if not self._constant(v)}
            free = {r.side.of[v] for r in (pair.before, pair.after) for v in r.reads if v in varying}
            for digest, (_, shape, dtype) in pair.inputs.items():
                if is_float(dtype) and digest in free:
                    values[digest] = fill(shape, dtype)

            def ran(region: Region, xp: Any, values: dict[str, Any] = values) -> np.ndarray:
                fixed = {} if isinstance(xp, Dithered) else constants(region, xp)
                given = {**self._sample(region), **fixed, **pair.arrays(region, values)}
                name = region.target.name or ""
                return np.asarray(run(region.side.ready, given, xp, want=[name])[name])

            try:
                truth, old, new = ran(pair.before, ops.float64), ran(pair.before, SOURCE), ran(pair.after, SOURCE)
            except Undecided:
                return False
            if fill is _extreme:
                if is_float(old.dtype) and (np.isfinite(_wide(old)) & ~np.isfinite(_wide(new))).any():
                    return False
                continue
            truth = reference(truth, old)
            errors = gate.Errors()
            judged = judge(rounding, "", truth, old, new, errors)
            if not judged.ok and truth.shape == new.shape and truth.dtype.kind == "f":
                for i in range(SAMPLES):
                    must = ran(pair.before, Dithered(seed + 1000 + i))
                    if must.shape == truth.shape:
                        errors.add("must", truth, must, scale(rounding))
                judged = settle(rounding, "", truth, new, errors)
            if not judged.ok or (is_float(old.dtype) and (np.isfinite(_wide(old)) != np.isfinite(_wide(new))).any()):
                return False
        return True


def _turned(flags: np.ndarray, seed: int) -> np.ndarray:
    """Flags that are all alike, some of them turned round: what would be chosen by the others counts as well."""
    flags = np.asarray(flags)
    if not flags.size or flags.any() != flags.all():
        return flags
    turned = np.random.default_rng(seed).random(flags.shape) < TURNED
    turned.reshape(-1)[seed % flags.size] = True
    return flags ^ turned


def _normal(seed: int, number: int) -> Callable[[Sequence[int], np.dtype], np.ndarray]:
    rng = np.random.default_rng([seed, number])
    return lambda shape, dtype: rng.standard_normal(tuple(shape)).astype(np.float32).astype(dtype)


def _filled(value: float) -> Callable[[Sequence[int], np.dtype], np.ndarray]:
    return lambda shape, dtype: np.full(tuple(shape), value).astype(dtype)


def _extreme(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The largest finite values of the format, of both signs."""
    top = formats.of(np.dtype(dtype).name).max
    signs = np.where(np.arange(int(np.prod(shape, dtype=np.int64))) % 3 == 1, -1.0, 1.0)
    return np.asarray(signs * float(top)).reshape(tuple(shape)).astype(dtype)


def _wide(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float64)
