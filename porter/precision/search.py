"""`--precision auto`: formats per layer that take the least predicted time and keep the user's budget.

Every layer is tried alone in every scheme that the device has: what it costs (the metric's distance from perfect) and what
it saves (a roofline of its multiply-adds and the bytes of its weight). Costs of small independent errors add, so layers
are taken by saving per cost; then the whole mixture is measured, and the longest prefix of that order that keeps the budget
is kept. The bound is the same problem with layers taken in part (the greedy optimum of its linear relaxation): no mixture
of these schemes saves more, as far as costs add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from porter import ops, pipeline
from porter.check import Budget
from porter.check.execution import run
from porter.check.gate import within
from porter.device import Device
from porter.errors import CheckFailed, PorterError
from porter.graph import Model
from porter.pipeline.text import parse
from porter.precision.contract import WIDE, Formats
from porter.precision.layers import Layer, layers
from porter.precision.schemes import SCHEMES, legal, multiplies, scheme_of

CANDIDATES = ("fp8", "int8", "int8w", "fp8w")
PERFECT = {"cosine": 1.0, "top1": 1.0}  # a metric of which more is better: its value without error
PEAKS = {"bfloat16": "bf16", "float8_e4m3fn": "fp8", "int8": "int8"}
HEADROOM = 0.95  # of what a budget allows, for what kernels add to the graph's own rounding

Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """The contract, the metric it reaches, and predicted seconds of its layers: of bf16, of the contract, and the bound."""

    formats: Formats
    reached: Mapping[str, float]
    seconds_bf16: float
    seconds: float
    bound: float


@dataclass(frozen=True)
class Choice:
    layer: str
    scheme: str
    saved: float
    cost: float


def search(
    model: Model, device: Device, budgets: Sequence[Budget], sample: Sample, *, calibrate: str = "",
    candidates: Sequence[str] = CANDIDATES, progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Found:  # fmt: skip
    """Formats per layer for a model, as loaded. Raises PorterError without a budget, CheckFailed where bfloat16 misses it."""
    if not budgets:
        raise PorterError("--precision auto", expected="a budget to keep", found="none", hint="--budget kl=0.02")
    ready = pipeline.run(model, "cleanup, fusion, layout", device, checks=False).model
    trial = _Trial(ready, device, budgets, run(model, dict(sample), ops.float64), sample, calibrate)
    base = trial.cost(Formats())
    if base is None:
        raise CheckFailed(
            f"{device.name}: --precision auto",
            expected=", ".join(map(str, budgets)),
            found=f"{trial.last} in bfloat16 alone",
        )
    known = [s for s in candidates if _has(s, device)]
    wanted = {layer.name: layer for layer in layers(ready) if not layer.is_table}
    whole = _uniform(trial, known, wanted, device)
    if whole is not None:
        return whole
    choices = []
    for number, (name, layer) in enumerate(wanted.items()):
        progress(f"{device.name} sensitivity of {name}", number, len(wanted))
        usual = seconds(layer, WIDE, device)
        for scheme in known:
            saved = usual - seconds(layer, scheme, device)
            if saved > 0 and (cost := trial.cost(Formats(WIDE, {name: scheme}))) is not None:
                choices.append(Choice(name, scheme, saved, max(cost - base, 1e-12)))
    choices.sort(key=lambda c: (-c.saved / c.cost, c.layer, c.scheme))
    low, high = 0, len(choices)
    while low < high:  # the longest prefix that keeps the budget, as far as more layers cost more
        middle = (low + high + 1) // 2
        progress(f"{device.name} mixture of {middle} choices", middle, len(choices))
        low, high = (middle, high) if trial.cost(_mixed(choices[:middle])) is not None else (low, middle - 1)
    formats = _mixed(choices[:low])
    trial.cost(formats)
    all_wide = sum(seconds(layer, WIDE, device) for layer in wanted.values())
    taken = sum(seconds(layer, formats.of(name), device) for name, layer in wanted.items())
    limits = {b.metric: b.limit for b in budgets}
    return Found(
        replace(formats, budgets=limits), trial.last, all_wide, taken, all_wide - _relaxed(choices, 1.0 - base)
    )


def _uniform(trial: _Trial, known: Sequence[str], wanted: Mapping[str, Layer], device: Device) -> Found | None:
    """One scheme for all layers, where none is faster for any layer and it keeps the budget: nothing is left to search."""
    times = {s: [seconds(layer, s, device) for layer in wanted.values()] for s in (*known, WIDE)}
    least = [min(column) for column in zip(*times.values(), strict=True)]
    for scheme in known:
        if times[scheme] == least and trial.cost(Formats(scheme)) is not None:
            formats = Formats(scheme, {}, {b.metric: b.limit for b in trial.budgets})
            return Found(formats, trial.last, sum(times[WIDE]), sum(least), sum(least))
    return None


def seconds(layer: Layer, scheme: str, device: Device) -> float:
    """A layer's time: the longer of its multiply-adds at the product's peak and its weight's bytes at the memory's rate."""
    product = "bfloat16" if scheme == WIDE else multiplies(scheme_of(scheme), device)
    peak = device.get(f"peak.{PEAKS.get(product, 'bf16')}") or device["peak.bf16"]
    bits = 16.0 if scheme == WIDE else float(_bits(scheme))
    return max(2 * layer.macs / peak, _elements(layer) * bits / 8 / device["memory.hbm.bytes_per_s"])


def _bits(scheme: str) -> float:
    from porter.formats import of

    coding = SCHEMES[scheme].weight
    return of(coding.format).bits + (of(coding.scale).bits / coding.block if coding.block else 0.0)


def _elements(layer: Layer) -> int:
    held = layer.weight.const_value
    return int(held.size) if held is not None else 0


def _has(scheme: str, device: Device) -> bool:
    try:
        legal(scheme_of(scheme), device)
    except PorterError:
        return False
    return True


def _mixed(choices: Sequence[Choice]) -> Formats:
    """Per layer the taken choice that saves most, of equals the one that costs least."""
    best: dict[str, Choice] = {}
    for c in choices:
        held = best.get(c.layer)
        if held is None or (c.saved, -c.cost) > (held.saved, -held.cost):
            best[c.layer] = c
    return Formats(WIDE, {name: best[name].scheme for name in sorted(best)})


def _relaxed(choices: Sequence[Choice], budget: float) -> float:
    """Most seconds that can be saved where layers may be taken in part: upgrades by saving per cost, the last one cut."""
    saved, spent = 0.0, 0.0
    held: dict[str, tuple[float, float]] = {}
    for c in choices:
        had = held.get(c.layer, (0.0, 0.0))
        more, dearer = c.saved - had[0], max(c.cost - had[1], 1e-12)
        if more <= 0:
            continue
        part = min(1.0, max(budget - spent, 0.0) / dearer)
        saved, spent = saved + part * more, spent + part * dearer
        held[c.layer] = (c.saved, c.cost)
        if part < 1.0:
            break
    return saved


class _Trial:
    """Measures mixtures on one sample: the share of the budget they use, None beyond it."""

    def __init__(
        self,
        model: Model,
        device: Device,
        budgets: Sequence[Budget],
        truth: Mapping[str, np.ndarray],
        sample: Sample,
        calibrate: str,
    ) -> None:
        self.model, self.device, self.budgets, self.truth, self.sample = model, device, tuple(budgets), truth, sample
        self.calibrate = calibrate
        self.last: dict[str, float] = {}

    def cost(self, formats: Formats) -> float | None:
        """The largest share of any budget that the worst output uses, of what is allowed with headroom."""
        got = run(applied(self.model, formats, self.device, self.calibrate), dict(self.sample), ops.source)
        used, self.last = 0.0, {}
        for name, value in got.items():
            for budget in self.budgets:
                judged = within((budget,), name, self.truth[name], value)
                if budget.metric in judged.values:
                    seen = judged.values[budget.metric]
                    used = max(used, _error(budget, seen) / max(_error(budget, budget.limit), 1e-300))
                    worst = min if budget.metric in (*PERFECT, "sqnr_db") else max
                    self.last[budget.metric] = worst(seen, self.last.get(budget.metric, seen))
        used /= HEADROOM
        return used if used <= 1.0 else None


def _error(budget: Budget, value: float) -> float:
    """A metric as an error that adds over layers: noise power over signal for sqnr_db, 1 - x for cosine and top1."""
    if not math.isfinite(value):
        return math.inf
    if budget.metric == "sqnr_db":
        return 10 ** (-value / 10)
    return PERFECT[budget.metric] - value if budget.metric in PERFECT else value


def applied(model: Model, formats: Formats, device: Device, calibrate: str = "") -> Model:
    """A fused model with the contract's formats, and bfloat16 elsewhere."""
    options: dict[str, Any] = {"formats": formats.text(), "calibrate": calibrate}  # of quantization.narrow
    stages = [
        replace(s, work=replace(s.work, **options)) if s.name == "quantization.narrow" else s
        for s in parse("quantization.narrow, quantization.bf16")
    ]
    return pipeline.run(model, stages, device, checks=False).model
