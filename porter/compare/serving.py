"""A decoder as it is served: time to the first token, time per token, the batch that still holds, the cache's growth.

    request = Request("both", batch=8, context=512, output=128)

Prefill is one run of the prompt graph on `context` tokens; decode is one run of the step graph in the middle of the
answer, with context + output // 2 tokens in the cache (its time grows linearly with the cache, so that is the mean).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from porter import graph
from porter.compare import decoder, mesh
from porter.compare.memory import Memory
from porter.compare.price import per_million
from porter.compare.trial import Bench, Trial
from porter.device import Device
from porter.errors import PorterError
from porter.graph import Model

BATCHES = tuple(2**i for i in range(11))  # where the largest batch within a budget is looked for
ITEM = {"bf16": 2, "fp32": 4}  # bytes of an activation that a collective moves; other precisions compute in bf16


@dataclass(frozen=True)
class Request:
    """What is served: sequences at once, tokens of each prompt, tokens of each answer."""

    phase: str = "both"
    batch: int = 1
    context: int = 512
    output: int = 128

    def json(self) -> dict[str, Any]:
        return {"phase": self.phase, "batch": self.batch, "context": self.context, "output": self.output}


def usual(paths: Sequence[Path], dims: Mapping[str, int], weights: bool = True) -> Request | None:
    """The request where nobody made one: of two graphs, or of a decoder with dims that nobody bound; None else."""
    if len(paths) > 1:
        return Request()
    alone = graph.read(paths[0], weights=weights)
    served = decoder.takes_cache(alone) or decoder.makes_cache(alone)
    return Request(phase_of(alone)) if served and decoder.free(alone, dims) else None


def graphs(
    paths: Sequence[Path], request: Request | None, dims: Mapping[str, int], weights: bool = True
) -> dict[str, tuple[Path, dict[str, int]]]:
    """The graph and the dims of each phase; of a model that is served in none, under ''.

    Two graphs are told apart by their inputs: the step's takes a cache; one that also takes any number of tokens serves both,
    the prompt behind a cache of one token (a dim cannot be 0). A decoder's dims that nobody bound are bound as the request
    says. Raises PorterError where a phase has no graph.
    """
    if len(paths) > 2:
        raise PorterError(
            "porter compare", expected="a model, or a decoder's prompt and step graphs", found=f"{len(paths)} models"
        )
    read = {path: graph.read(path, weights=weights) for path in paths}
    if request is None:
        return {"": (paths[0], dict(dims))}
    found: dict[str, Path] = {}
    models = {}
    for path in paths:
        model = read[path]
        phase = _phase(model)
        if phase in found:
            raise PorterError(
                f"{found[phase]} and {path}",
                expected="one graph of the prompt, one of the step",
                found=f"two of the {phase} phase",
            )
        found[phase], models[phase] = path, model
    general = len(paths) == 1 and decoder.takes_prompts(read[paths[0]])
    if general:
        found["prefill"], models["prefill"] = paths[0], read[paths[0]]
    wanted = ("prefill", "decode") if request.phase == "both" else (request.phase,)
    for phase in wanted:
        if phase not in found:
            raise PorterError(
                f"--phase {request.phase}",
                expected=f"a graph of the {phase} phase",
                found=f"{', '.join(map(str, paths))}, of {next(iter(found))}",
                hint="give both graphs: porter compare prefill.onnx decode.onnx",
            )
    made = {}
    for phase in wanted:
        length = request.context + (request.output // 2 if phase == "decode" else 0)
        known = {p for d in graph.dims(models[phase]) for p in (d.name, *d.places)}
        own = {n: v for n, v in dims.items() if n in known}
        lengths = (1, request.context) if general and phase == "prefill" else (length, None)
        made[phase] = (found[phase], decoder.proposed(models[phase], request.batch, *lengths) | own)
    strange = [n for n in dims if not any(n in bound for _, bound in made.values())]
    if strange:
        raise PorterError(
            f"dim '{strange[0]}'",
            expected="a free dim of the graphs",
            found="no such name",
            hint="porter inspect MODEL",
        )
    return made


def phase_of(model: Model) -> str:
    """The phase that a graph serves: decode where it takes a cache, both where it takes any number of tokens too."""
    return "both" if decoder.takes_prompts(model) else _phase(model)


def _phase(model: Model) -> str:
    return "decode" if decoder.takes_cache(model) else "prefill"


def served(trials: Mapping[str, Trial], request: Request, chips: int, hourly: float | None) -> dict[str, Any] | None:
    """The serving figures of one device; None for trials that are no decoder's."""
    if any(t.decoder is None for t in trials.values()):
        return None
    spent, shared = {}, 0.0
    for phase, t in trials.items():
        traffic = link(t, chips)
        spent[phase] = t.latency(chips) + traffic
        shared += traffic
    first, step = spent.get("prefill"), spent.get("decode")
    known = next(t.decoder for t in trials.values() if t.decoder is not None)
    if first is not None and step is not None:
        latency, tokens = first + request.output * step, request.batch * request.output
    elif step is not None:
        latency, tokens = step, known.batch * known.tokens
    else:
        assert first is not None
        latency, tokens = first, known.batch * known.tokens
    per_second = tokens / latency
    per_token = known.kv_bytes_per_token
    cost = per_million(hourly, chips, per_second)
    return {
        "latency_s": latency,
        "tokens_per_s": per_second,
        "ttft_s": first,
        "tpot_s": step,
        "collective_s": shared,
        "tokens_per_s_per_chip": per_second / chips,
        "tokens_per_usd": None if not cost else 1e6 / cost,
        "kv_bytes_per_token": per_token,
        "mesh": chips,
        "kv_growth": [
            [n, per_token * n]
            for n in sorted({request.context, request.context + request.output, 2 * (request.context + request.output)})
        ],
        "batch": known.batch,
        "largest_batch": None,
    }


def link(trial: Trial, chips: int) -> float:
    """Seconds of one run that chips talk to each other."""
    return mesh.collectives(trial.decoder, chips, ITEM.get(_item(trial), 2), trial.device)


def _item(trial: Trial) -> str:
    """'fp32' where most of the products are of float32 operands, else 'bf16'."""
    return "fp32" if trial.realized.split(", ")[0] in ("fp32", "bf16x6", "tf32x3", "float32") else "bf16"


def largest_batch(
    parts: Sequence[dict[str, Any]],
    targets: Sequence[Device],
    graphs_of: Mapping[str, tuple[Path, dict[str, int]]],
    request: Request,
    dims: Mapping[str, int],
    limits: Mapping[str, float],
    precision: str,
    chips: int | None,
    weights: bool,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Writes the largest batch (a power of two) at which the latency budgets hold and memory suffices; 0 where none does."""
    open_ = {d.name for d, part in zip(targets, parts, strict=True) if part["serving"] is not None}
    best = dict.fromkeys(open_, 0)
    paths = [p for p, _ in graphs_of.values()]
    alone, many = (graphs(paths, replace(request, batch=b), {}, weights) for b in (1, 2))
    of_batch = {n for phase, (_, bound) in alone.items() for n, v in bound.items() if many[phase][1][n] != v}
    own = {n: v for n, v in dims.items() if n not in of_batch}
    made: dict[int, dict[str, Bench]] = {}

    def holds(device: Device, batch: int) -> bool:
        asked = replace(request, batch=batch)
        if batch not in made:
            made[batch] = {
                phase: Bench(
                    graph.load(path, bound, weights=weights), precision=precision, quick=True, progress=progress
                )
                for phase, (path, bound) in graphs(paths, asked, own, weights).items()
            }
        return _holds(
            {phase: bench.trial(device) for phase, bench in made[batch].items()}, asked, device, limits, chips
        )

    for device in targets:
        if device.name in open_:  # by halves: time grows with the batch
            number = bisect_left(BATCHES, True, key=lambda batch: not holds(device, batch))
            best[device.name] = BATCHES[number - 1] if number else 0
    for part in parts:
        if part["serving"] is not None:
            part["serving"]["largest_batch"] = best[part["target"]]


def _holds(
    trials: Mapping[str, Trial], request: Request, device: Device, limits: Mapping[str, float], chips: int | None
) -> bool:
    known = next(iter(trials.values())).decoder
    if known is None or not all(t.runs for t in trials.values()):
        return False
    every = [t.memory for t in trials.values()]
    memory = Memory(
        max(m.weights for m in every),
        known.kv_bytes_per_token * (request.context + request.output),
        max(m.arena for m in every),
        max(m.io for m in every),
    )
    split = mesh.width(memory, device, chips, known.heads)
    figures = served(trials, request, split.chips, None)
    if split.why or figures is None:
        return False
    return all(
        figures[key] is None or figures[key] * 1e3 <= limits[m]
        for m, key in (("ttft_ms", "ttft_s"), ("tpot_ms", "tpot_s"))
        if m in limits
    )
