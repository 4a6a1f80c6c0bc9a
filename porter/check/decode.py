"""Decoders as loops: prefill, then N decode steps with the cache fed back, both models on the same tokens.

    result = decode("decode.onnx", "changed.onnx", steps=8)
    result.verdict, result.message

A decoder takes a cache and gives a longer one: inputs named past..., outputs named present... of the same rest. The
first model starts from the cache that a prefill leaves, or from a drawn one where there is none. Each model is fed its
own cache, so that an error in the cache adds up as it does in use; the tokens are given (teacher-forced), so that one
token chosen otherwise does not end the comparison. At every step caches are judged per head, and the outputs that are
no cache by the same gates as any other, with the KL divergence and the agreement of the k largest told for logits, and
how often the routers of a mixture of experts choose alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from porter import graph, ops
from porter.check import gate, measure
from porter.check.contract import Contract, rounding
from porter.check.dither import Dithered
from porter.check.execution import SOURCE, run
from porter.check.inputs import Inputs, draw
from porter.check.numeric import SAMPLES, judge, scale, settle
from porter.check.verdict import Finding
from porter.errors import PorterError
from porter.graph import Model

PREFILL = 4  # tokens in the cache before the first decode step, where no prefill says how many
TOP = 5
Cache = dict[str, np.ndarray]
Load = Callable[[int], Model]


@dataclass(frozen=True)
class Step:
    """One decode step: the cache before it, what was found, and how near the logits are."""

    past: int
    findings: tuple[Finding, ...]
    kl: float
    top_k: float
    routers: float | None = None  # share of choices of experts that are the same; None where nothing is routed

    @property
    def ok(self) -> bool:
        return all(f.ok for f in self.findings)

    def json(self) -> dict[str, Any]:
        worst = [f.json() for f in self.findings if not f.ok]
        near = {"kl": self.kl, f"top{TOP}": self.top_k, "routers": self.routers}
        return {"past": self.past, "ok": self.ok, **near, "different": worst}


@dataclass(frozen=True)
class Decoded:
    """The loop: its steps up to the first that differs."""

    steps: tuple[Step, ...]

    @property
    def verdict(self) -> str:
        return "equivalent" if all(s.ok for s in self.steps) else "different"

    @property
    def exit_code(self) -> int:
        return int(self.verdict == "different")

    @property
    def message(self) -> str:
        """Lines for people."""
        last = self.steps[-1]
        kl, top = max(s.kl for s in self.steps), min(s.top_k for s in self.steps)
        near = f"KL of logits at most {kl:.3g}, top {TOP} agree in {top:.0%}"
        routed = [s.routers for s in self.steps if s.routers is not None]
        near += f", routers choose alike in {min(routed):.0%}" if routed else ""
        if last.ok:
            return f"as near to float64 as the first over {len(self.steps)} steps; {near}"
        bad = next(f for f in last.findings if not f.ok)
        at = f"decode step {len(self.steps)}, {last.past} tokens in the cache"
        lines = [f"{at}: '{bad.tensor}' changed", f"  {bad.text()}"]
        if bad.node:
            lines.append(f"  made by node '{bad.node}' ({bad.operator})")
        return "\n".join([*lines, f"  {near}"])

    def json(self) -> dict[str, Any]:
        """The document of `porter check --decode N --json`."""
        first = next((f for s in self.steps for f in s.findings if not f.ok), None)
        return {"verdict": self.verdict, "method": "numeric", "outputs": [f.json() for f in self.steps[-1].findings],
                "first_divergence": None if first is None else first.json(), "steps": [s.json() for s in self.steps],
                "message": self.message}  # fmt: skip


def decode(
    a: str | Path, b: str | Path, steps: int, *, dims: Mapping[str, int] | None = None, prefill: str | Path | None = None,
    contract: Contract = rounding, seed: int = 0,
) -> Decoded:  # fmt: skip
    """Compare two decoders over `steps` tokens. `dims` are the free dims other than the cache's length, 1 where not said.

    `prefill` is a model that makes the first cache (its outputs are named as the decoder's); without it the cache is
    drawn. PorterError where a model has no cache, or the two have different ones.
    """
    first, second = _Decoder(a, dims or {}), _Decoder(b, dims or {})
    if first.pairs != second.pairs:
        raise PorterError("caches of the two models", expected=", ".join(first.pairs), found=", ".join(second.pairs))
    cache, past = first.started(prefill, dims or {}, seed)
    sides = {"truth": cache, "before": cache, "after": cache} | {f"must{i}": cache for i in range(SAMPLES)}
    done: list[Step] = []
    for number in range(steps):
        old, new = first.at(past), second.at(past)
        tokens = draw(old, seed + number)
        ran, chosen = {}, dict[str, list[np.ndarray]]()
        for side, held in sides.items():
            model, chosen[side] = new if side == "after" else old, []
            keep = _kept(_routers(model), chosen[side])
            given = {**tokens, **_masked(tokens), **held}
            ran[side] = run(model, given, _arithmetic(side, contract, seed), on_value=keep)
        routed = _alike(chosen["truth"], chosen["after"])
        done.append(replace(_step(old, first.pairs, past, ran, contract), routers=routed))
        if not done[-1].ok:
            break
        sides = {side: {p: _as_input(old, p, ran[side][q]) for p, q in first.pairs.items()} for side in sides}
        past += 1
    return Decoded(tuple(done))


class _Decoder:
    """A decoder file, loaded for whatever length its cache has."""

    def __init__(self, path: str | Path, dims: Mapping[str, int]) -> None:
        self.path, opened = path, graph.read(path)
        inputs = [v.name or "" for v in opened.graph.inputs if not v.is_initializer()]
        outputs = [v.name or "" for v in opened.graph.outputs]
        rests = {_rest(n, "present"): n for n in outputs if "present" in n}
        self.pairs = {n: rests[_rest(n, "past")] for n in inputs if "past" in n and _rest(n, "past") in rests}
        if not self.pairs:
            raise PorterError(
                f"{path}: a decoder", expected="inputs past... and outputs present...", found=", ".join(inputs)
            )
        free = [d for d in graph.dims(opened) if d.follows is None]
        self.length = next(
            d.name for d in free for p in d.places if p.partition("[")[0] in self.pairs and not _batch(d)
        )
        self.dims = {d.name: dims.get(d.name, 1) for d in free if d.name != self.length}
        self.loaded: dict[int, Model] = {}

    def at(self, past: int) -> Model:
        if past not in self.loaded:
            self.loaded = {past: graph.load(self.path, {**self.dims, self.length: past})}
        return self.loaded[past]

    def started(self, prefill: str | Path | None, dims: Mapping[str, int], seed: int) -> tuple[Cache, int]:
        """The first cache and how many tokens it holds."""
        if prefill is None:
            return {p: np.asarray(x) for p, x in draw(self.at(PREFILL), seed).items() if p in self.pairs}, PREFILL
        free = [d.name for d in graph.dims(graph.read(prefill)) if d.follows is None]
        batch = next((n for n in self.dims.values()), 1)
        model = graph.load(prefill, {n: dims.get(n, batch if "batch" in n else PREFILL) for n in free})
        sample = draw(model, seed)
        made = run(model, {**sample, **_masked(sample)}, SOURCE)
        return {p: made[q] for p, q in self.pairs.items()}, PREFILL


def _batch(dim: Any) -> bool:
    """Whether a dim is that of the samples: inputs that are no cache have it too, first."""
    return any("past" not in p and p.endswith("[0]") for p in dim.places)


def _rest(name: str, word: str) -> str:
    """'past_key_values.0.key' and 'present.0.key' are both '0.key'."""
    return re.sub(rf"^.*?{word}(_key_values?)?s?[._]*", "", name)


def _masked(sample: Inputs) -> dict[str, np.ndarray]:
    """Masks fully on: a padded cache would have to be padded alike at every step."""
    return {n: np.ones_like(x) for n, x in sample.items() if "mask" in n and x.dtype.kind in "iub"}


def _as_input(model: Model, name: str, array: np.ndarray) -> np.ndarray:
    kind = next(graph.dtype(v) for v in model.graph.inputs if v.name == name)
    return np.asarray(array).astype(kind) if kind is not None else np.asarray(array)


def _arithmetic(side: str, contract: Contract, seed: int) -> Any:
    if side.startswith("must"):
        return Dithered(seed + 500 + int(side[4:]), contract.arithmetic)
    return ops.float64 if side == "truth" else SOURCE


def _step(model: Model, pairs: Mapping[str, str], past: int, ran: Mapping[str, Mapping[str, np.ndarray]],
          contract: Contract) -> Step:  # fmt: skip
    findings, kl, top = [], 0.0, 1.0
    for value in model.graph.outputs:
        name = value.name or ""
        heads = _heads(name, ran["truth"][name]) if name in pairs.values() else None
        for label, part in heads or [(name, lambda x: x)]:
            found = _judged(label, part, name, ran, contract)
            node = value.producer()
            where = (graph.source_name(node), node.op_type) if node is not None else ("", "")
            findings.append(replace(found, node=where[0], operator=where[1]))
        if "logits" in name:
            x, y = (np.asarray(ran[side][name], np.float64) for side in ("truth", "after"))
            kl, top = max(kl, measure.kl(x, y)), min(top, agreement(x, y, TOP))
    return Step(past, tuple(findings), kl, top)


def _judged(label: str, part: Callable[[np.ndarray], np.ndarray], name: str,
            ran: Mapping[str, Mapping[str, np.ndarray]], contract: Contract) -> Finding:  # fmt: skip
    truth, before, after = (part(np.asarray(ran[side][name])) for side in ("truth", "before", "after"))
    errors = gate.Errors()
    judged = judge(contract, label, truth, before, after, errors)
    if not judged.ok and errors.after and truth.dtype.kind == "f":
        for i in range(SAMPLES):
            errors.add("must", truth, part(np.asarray(ran[f"must{i}"][name])), scale(contract))
        judged = settle(contract, label, truth, after, errors)
    return Finding(label, judged.ok, judged.distance, judged.limit, values=judged.values)


def _heads(name: str, cache: np.ndarray) -> list[tuple[str, Any]]:
    """Views of a cache per head: the axis before length and width."""
    if cache.ndim < 4:
        return []
    return [(f"{name} head {h}", lambda x, h=h: np.take(x, h, axis=-3)) for h in range(cache.shape[-3])]


def _routers(model: Model) -> set[str]:
    """Choices that others read: the indices of each TopK."""
    return {n.outputs[1].name or "" for n in model.graph if n.op_type == "TopK" and n.outputs[1].uses()}


def _kept(names: set[str], into: list[np.ndarray]) -> Callable[[str, Any], None]:
    def keep(name: str, array: Any) -> None:
        if name in names:
            into.append(np.asarray(array))

    return keep


def _alike(one: list[np.ndarray], two: list[np.ndarray]) -> float | None:
    """Share of choices that both make, router by router in order, whatever the order of a choice; 0 where one has other
    routers, None where there are none."""
    if not one and not two:
        return None
    if [x.shape for x in one] != [x.shape for x in two]:
        return 0.0
    shares = [
        len(set(a) & set(b)) / len(a)
        for x, y in zip(one, two, strict=True)
        for a, b in zip(x.reshape(-1, x.shape[-1]).tolist(), y.reshape(-1, y.shape[-1]).tolist(), strict=True)
    ]
    return float(np.mean(shares))


def agreement(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of the k largest entries of each row (last axis) of x that are among the k largest of y."""
    k = min(k, x.shape[-1])
    a, b = (np.argsort(-v, axis=-1, kind="stable")[..., :k].reshape(-1, k) for v in (x, y))
    shared = [len(set(i) & set(j)) / k for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    return float(np.mean(shared)) if shared else 1.0
