"""Two models compared where they differ: what is the same expression is skipped, the rest is decided region by region.

    found = Local(before, after, samples).decide(seed)
    found.equal, found.chance

Both models are numbered (see `expressions`). Going through the second in order, a value that is no expression of the
first but has a partner there, by name, is held against it: from the nearest values that both have on, in a prime field.
If they agree, everything behind is numbered as if they were one expression. So a rewrite is decided by itself, once
however often it occurs: weights that both sides read are variables of the region, and equal regions have one key. A
pair that does not agree only makes the region of what reads it larger: a wrong partner costs time and proves nothing.

The outputs agree at last, or nothing is said. Regions that differ are also held against each other in numbers, from
drawn values and edges; only where that passes is one run of the whole models enough.
"""

from __future__ import annotations

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
from porter.check.field import Agreement, Ran, decide, evaluated
from porter.check.measure import is_float
from porter.check.numeric import SAMPLES, judge, matched_outputs, scale, settle
from porter.errors import Undecided
from porter.graph import Model, Node, Value
from porter.ops.field import Field

Sample = Mapping[str, np.ndarray]
FAILURES = 12  # regions that do not agree before the models are left to be compared whole
LARGEST = 400  # nodes of a region that is worth deciding by itself
NORMAL = 2  # draws of a region's inputs, besides its edges


@dataclass(frozen=True)
class Region:
    """What computes one value from values that both models have, as nodes of one side.

    `reads` are the values that it starts from, constants among them, in order of first use.
    """

    side: Expressions
    target: Value
    nodes: tuple[Node, ...]
    reads: tuple[Value, ...]

    def digest(self, labels: Mapping[str, str]) -> str:
        """What is computed, from inputs that go by labels: equal for equal regions wherever they stand."""
        of = {v: labels.get(self.side.of[v], self.side.of[v]) for v in self.reads}
        for node in self.nodes:
            of.update(zip(node.outputs, self.side.expression(node, of), strict=True))
        return of[self.target]


@dataclass(frozen=True)
class Pair:
    """A value of the first model and its partner, each with its region, and the inputs that the two share.

    inputs    digest -> (label, shape, dtype) of what varies; weights of both among them where `lifted`
    """

    before: Region
    after: Region
    inputs: Mapping[str, tuple[str, tuple[int, ...], np.dtype]]

    def key(self) -> str:
        labels = {d: label for d, (label, _, _) in self.inputs.items()}
        return repr([self.before.digest(labels), self.after.digest(labels), list(self.inputs.values())])

    def arrays(self, region: Region, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by digest under the names that a side has for them."""
        return {v.name or "": values[region.side.of[v]] for v in region.reads if region.side.of[v] in values}


@dataclass
class Local:
    """The comparison of two models by regions. `samples` are valid inputs of the first, the first of them already run.

    After `decide`: `same` values are the same expression, `tried` pairs were regions, `pairs` those of them that
    agreed and are distinct.
    """

    before: Model
    after: Model
    samples: Sequence[Sample]
    renamed: Mapping[str, str] = field(default_factory=dict)  # inputs of after -> of before
    same: int = 0
    tried: int = 0
    pairs: list[Pair] = field(default_factory=list)
    _known: dict[str, Agreement] = field(default_factory=dict)

    @cached_property
    def one(self) -> Expressions:
        return Expressions(self.before, self.samples[0]).all()

    @cached_property
    def two(self) -> Expressions:
        return Expressions(self.after, self._theirs(self.samples[0]), self.renamed)

    def _theirs(self, sample: Sample) -> Sample:
        back = {old: new for new, old in self.renamed.items()}
        return {back.get(name, name): array for name, array in sample.items()}

    def identical(self) -> bool:
        """Whether every output is the same expression in both."""
        two = Expressions(self.after, self._theirs(self.samples[0]), self.renamed).all()
        pairs = matched_outputs(self.before, self.after)
        return all(self.one.of.get(a) is not None and self.one.of.get(a) == two.of.get(b) for a, b in pairs)

    def decide(self, seed: int = 0) -> Agreement:
        """Whether the outputs agree, by expressions and regions; `equal` is None where that does not say."""
        partners = self._partners()
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
                if partner is None or failures > FAILURES:
                    continue
                agreement = self._tried(partner, value, seed)
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

    def _partners(self) -> dict[Value, Value]:
        """Values of the second model and those of the first that may be equal: outputs, and values of one name."""
        named = {v.name: v for v in self.one.of if v in self.one.dependent}
        found = {v: named[v.name] for n in self.after.graph for v in n.outputs if v.name in named}
        return found | {b: a for a, b in matched_outputs(self.before, self.after)}

    def _tried(self, a: Value, b: Value, seed: int) -> Agreement | None:
        """The agreement of two values; None where there is no region to compare."""
        if a not in self.one.of:
            return None
        one, two = self._region(self.one, a, self.two.first), self._region(self.two, b, self.one.first)
        if one is None or two is None:
            return None
        self.tried += 1
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

    def _region(self, side: Expressions, target: Value, shared: Mapping[str, Value]) -> Region | None:
        """From the target back to what both models have; None where it is large, or the target itself is shared."""
        nodes, reads, seen = set[Node](), dict[Value, None](), {target}
        pending = [target]
        while pending:
            node = pending.pop().producer()
            if node is None or len(nodes) > LARGEST:
                return None
            nodes.add(node)
            for value in (*node.inputs, *graph.captured(node)):
                if value is None or value in seen:
                    continue
                seen.add(value)
                if value not in side.dependent or value.producer() is None or side.of[value] in shared:
                    reads[value] = None
                else:
                    pending.append(value)
        ordered = sorted(nodes, key=side.position.__getitem__)
        used = dict.fromkeys(v for n in ordered for v in (*n.inputs, *graph.captured(n)) if v in reads)
        return Region(side, target, tuple(ordered), tuple(used))

    def _pair(self, one: Region, two: Region, lifted: bool) -> Pair | None:
        """The regions over one set of inputs; None where the type of one is not known."""
        both = {one.side.of[v] for v in one.reads} & {two.side.of[v] for v in two.reads}
        inputs: dict[str, tuple[str, tuple[int, ...], np.dtype]] = {}
        for region in (one, two):
            for value in region.reads:
                digest = region.side.of[value]
                if digest in inputs:
                    continue
                if self._constant(value) and not (lifted and digest in both and self._weight(value)):
                    continue
                seen = self._typed(region, value)
                if seen is None:
                    return None
                inputs[digest] = (f"i{len(inputs)}", *seen)
        return Pair(one, two, inputs)

    def _constant(self, value: Value) -> bool:
        return value not in self.one.dependent and value not in self.two.dependent

    def _weight(self, value: Value) -> bool:
        tensor = graph.constant_tensor(value)
        return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1  # a number has its own laws

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
            True: _types(self.before, self.samples[0]),
            False: _types(self.after, self._theirs(self.samples[0])),
        }

    def _whole(self, pair: Pair, trial: int) -> dict[str, np.ndarray]:
        """Inputs that are no floats, as they are on one sample: valid, whatever they index."""
        wanted = {d for d, (_, _, dtype) in pair.inputs.items() if not is_float(dtype)}
        found: dict[str, np.ndarray] = {}
        sample = self.samples[trial % len(self.samples)]
        for region, given in ((pair.before, sample), (pair.after, self._theirs(sample))):
            names = {v.name or "": region.side.of[v] for v in region.reads if region.side.of[v] in wanted - set(found)}
            if names:
                made = run(region.side.model, dict(given), SOURCE, want=names)
                found.update((names[n], x) for n, x in made.items())
        return found

    def _integers(self, pair: Pair) -> str:
        whole = self._whole(pair, 0)
        return repr(sorted((pair.inputs[d][0], graph.content_hash(graph.make_tensor(x))) for d, x in whole.items()))

    def _field(self, pair: Pair, seed: int) -> Agreement:
        computed = {id(r): _computed(r, self._sample(r)) for r in (pair.before, pair.after)}
        whole = {k: {n: x for n, x in made.items() if not is_float(x.dtype)} for k, made in computed.items()}

        def both(xp: Field, trial: int, reading: str) -> tuple[Ran, Ran]:
            values: dict[str, Any] = dict(self._whole(pair, trial))
            for digest, (label, shape, dtype) in pair.inputs.items():
                if is_float(dtype):
                    values[digest] = xp.random(label, shape, dtype)
            one, two = (
                evaluated(
                    r.side.model,
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
        return decide(both, seed, 2, readings)

    def _sample(self, region: Region) -> Sample:
        sample = self.samples[0] if region.side is self.one else self._theirs(self.samples[0])
        return {**sample, **region.side.shapes}

    def settled(self, seed: int = 0) -> bool:
        """Whether every distinct region also rounds as little as it did, from drawn inputs and edges."""
        return all(self._rounds(pair, number, seed) for number, pair in enumerate(self.pairs))

    def _rounds(self, pair: Pair, number: int, seed: int) -> bool:
        for fill in (*(_normal(seed + i, number) for i in range(NORMAL)), _filled(0), _filled(1), _extreme):
            values: dict[str, Any] = dict(self._whole(pair, 0))
            varying = {v for r in (pair.before, pair.after) for v in r.reads if not self._constant(v)}
            free = {r.side.of[v] for r in (pair.before, pair.after) for v in r.reads if v in varying}
            for digest, (_, shape, dtype) in pair.inputs.items():
                if is_float(dtype) and digest in free:
                    values[digest] = fill(shape, dtype)

            def ran(region: Region, xp: Any, values: dict[str, Any] = values) -> np.ndarray:
                given = {**self._sample(region), **pair.arrays(region, values)}
                name = region.target.name or ""
                return np.asarray(run(region.side.model, given, xp, want=[name])[name])

            try:
                truth, old, new = ran(pair.before, ops.float64), ran(pair.before, SOURCE), ran(pair.after, SOURCE)
            except Undecided:
                return False
            if fill is _extreme:
                if is_float(old.dtype) and (np.isfinite(_wide(old)) & ~np.isfinite(_wide(new))).any():
                    return False
                continue
            errors = gate.Errors()
            judged = judge(rounding, "", truth, old, new, errors)
            if not judged.ok and truth.shape == new.shape and truth.dtype.kind == "f":
                for i in range(SAMPLES):
                    errors.add("must", truth, ran(pair.before, Dithered(seed + 1000 + i)), scale(rounding))
                judged = settle(rounding, "", truth, new, errors)
            if not judged.ok or (is_float(old.dtype) and (np.isfinite(_wide(old)) != np.isfinite(_wide(new))).any()):
                return False
        return True


def _types(model: Model, sample: Sample) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def keep(name: str, array: Any) -> None:
        if isinstance(array, np.ndarray | np.generic):
            found[name] = (tuple(array.shape), array.dtype)

    run(model, dict(sample), SOURCE, on_value=keep)
    return found


def _computed(region: Region, sample: Sample) -> dict[str, np.ndarray]:
    """Constants that the region reads and that nodes compute, in the source dtypes."""
    dependent, shapes = region.side.dependent, region.side.shapes
    names = {v.name or "" for v in region.reads if v not in dependent and graph.constant_tensor(v) is None}
    made = run(region.side.model, dict(sample), SOURCE, want=names - shapes.keys()) if names - shapes.keys() else {}
    return made | {n: shapes[n] for n in names & shapes.keys()}


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
