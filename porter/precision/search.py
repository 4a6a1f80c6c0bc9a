"""`--precision auto`: formats per layer that take the least predicted time and keep the user's budget.

How much the model minds an error in a layer is measured once per layer, with the device's coarsest scheme there alone; what
another scheme costs it follows from the layers' own errors in both (their sensitivity times the noise of the format, as the
error ledger has it). What a scheme saves is a roofline: the product's multiply-adds and the bytes of the weight. Costs of
small independent errors add, so layers are taken by saving per cost; the whole mixture is measured, and the longest prefix
of that order that keeps the budget is kept. The bound is the same problem with layers taken in part (the greedy optimum of
its linear relaxation): no mixture of these schemes saves more, as far as costs add.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from porter import ops, pipeline
from porter.check import Budget
from porter.check.execution import run
from porter.check.gate import bound, within
from porter.device import Device
from porter.errors import CheckFailed, PorterError
from porter.formats import of
from porter.graph import Model, shape
from porter.precision.calibrate import Samples
from porter.precision.contract import WIDE, Formats
from porter.precision.layers import Layer, layers
from porter.precision.ledger import ledger
from porter.precision.schemes import E4M3, SCHEMES, legal, multiplies, of_operand, scheme_of
from porter.precision.stages import UNCHECKED, stages
from porter.tile.block_scales import MIXED
from porter.tile.target import target_of

CANDIDATES = ("fp8", "int8", "int8t", "int8w", "fp8w", "mxfp8w", "int4w", "mxfp4w", "nvfp4w")
PERFECT = {"cosine": 1.0, "top1": 1.0}  # a metric of which more is better: its value without error
PEAKS = {
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "int8": "int8",
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    MIXED: "mxfp8",
}
ANY = Budget("sqnr_db", UNCHECKED)
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

    def json(self) -> dict[str, Any]:
        return {
            "predicted_s": self.seconds,
            "bf16_s": self.seconds_bf16,
            "bound_s": self.bound,
            "reached": dict(self.reached),
            "schemes": {"default": self.formats.default, **Counter(self.formats.patterns.values())},
        }


@dataclass(frozen=True)
class Choice:
    layer: str
    scheme: str
    saved: float
    cost: float


def search(
    model: Model, device: Device, budgets: Sequence[Budget], sample: Sample, *, calibrate: Samples = "",
    candidates: Sequence[str] = CANDIDATES, progress: Callable[[str, int, int], None] = lambda *_: None,
    methods: Mapping[str, str] = MappingProxyType({}),
) -> Found:  # fmt: skip
    """Formats per layer for a model, as loaded. Raises PorterError without a budget, CheckFailed where bfloat16 misses it."""
    if not budgets:
        raise PorterError("--precision auto", expected="a budget to keep", found="none", hint="--budget kl=0.02")
    ready = pipeline.run(model, "cleanup, fusion, layout", device, checks=False).model
    plain = Formats(methods=methods)
    trial = _Trial(ready, device, budgets, run(model, dict(sample), ops.float64), sample, calibrate)
    base = trial.used(plain)
    if base > 1.0:
        raise CheckFailed(
            f"{device.name}: --precision auto",
            expected=", ".join(map(str, budgets)),
            found=f"{trial.last} in bfloat16 alone",
        )
    limits = {b.metric: b.limit for b in budgets}
    wanted: dict[str, list[Layer]] = {}
    for layer in layers(ready):
        if not layer.is_table:
            wanted.setdefault(layer.name, []).append(layer)
    known = [s for s in candidates if _has(s, device)]
    times = {s: {name: seconds(group, s, device) for name, group in wanted.items()} for s in (*known, WIDE)}
    all_wide = sum(times[WIDE].values())
    whole = _uniform(trial, known, times, plain)
    if whole is not None:
        least = sum(times[whole.default].values())
        return Found(replace(whole, budgets=limits), trial.last, all_wide, least, least)
    choices = _choices(trial, known, times, base, plain, progress)
    low, high = 0, len(choices)
    while low < high:  # the longest prefix that keeps the budget, as far as more layers cost more
        middle = (low + high + 1) // 2
        progress(f"{device.name} mixture of {middle} choices", middle, len(choices))
        low, high = (middle, high) if trial.used(_mixed(choices[:middle], plain)) <= 1.0 else (low, middle - 1)
    formats = _mixed(choices[:low], plain)
    trial.used(formats)
    taken = sum(times[formats.of(name)][name] for name in wanted)
    least = all_wide - _relaxed(choices, 1.0 - base)
    return Found(replace(formats, budgets=limits), trial.last, all_wide, taken, min(least, taken))


Times = Mapping[str, Mapping[str, float]]


def _uniform(trial: _Trial, known: Sequence[str], times: Times, plain: Formats) -> Formats | None:
    """One scheme for all layers, where none is faster for any layer and it keeps the budget: nothing is left to search."""
    least = {name: min(times[s][name] for s in times) for name in times[WIDE]}
    for scheme in known:
        formats = replace(plain, default=scheme)
        if times[scheme] == least and trial.used(formats) <= 1.0:
            return formats
    return None


def _choices(
    trial: _Trial, known: Sequence[str], times: Times, base: float, plain: Formats, progress: Callable[[str, int, int], None]
) -> list[Choice]:  # fmt: skip
    """What each layer saves and costs in each scheme that saves anything, by saving per cost."""
    noise = {s: trial.noise(replace(plain, default=s)) for s in known}
    found = []
    for number, name in enumerate(times[WIDE]):
        faster = [s for s in known if times[s][name] < times[WIDE][name] and noise[s].get(name)]
        if not faster:
            continue
        progress(f"{trial.device.name} sensitivity of {name}", number, len(times[WIDE]))
        probe = max(faster, key=lambda s: noise[s][name])
        share = max(trial.used(replace(plain, patterns={name: probe})) - base, 0.0) / noise[probe][name]
        found += [
            Choice(name, s, times[WIDE][name] - times[s][name], max(share * noise[s][name], 1e-12)) for s in faster
        ]
    return sorted(found, key=lambda c: (-c.saved / c.cost, c.layer, c.scheme))


def seconds(group: Sequence[Layer], scheme: str, device: Device) -> float:
    """A source layer's time: per weight the longer of its multiply-adds at the product's peak and its bytes at the memory's
    rate; where scales are per token, with the reading that finds them."""
    product = "bfloat16" if scheme == WIDE else multiplies(scheme_of(scheme), device)
    peak = device.get(f"peak.{PEAKS.get(product, 'bf16')}") or device["peak.bf16"]
    bits = 16.0 if scheme == WIDE else float(_bits(scheme))
    memory = device["memory.hbm.bytes_per_s"]
    wide = device["peak.bf16"]
    return float(
        sum(
            max(2 * n.macs / (peak if _at_peak(n, product, device) else wide), _elements(n) * bits / 8 / memory)
            + _found(n, scheme) / memory
            for n in group
        )
    )


def _at_peak(layer: Layer, product: str, device: Device) -> bool:
    """Whether a layer's sum is long enough for the product's peak: where a unit with partitions sums 8-bit floats deeper than other
    numbers (Trainium's double_row), even ones of more terms than partitions are; others take as long as bfloat16."""
    limits = target_of(device.family).limits(device)
    terms = layer.sides[2]
    deeper = product in E4M3 and limits.partitions and limits.float8_depth
    return not deeper or (terms > limits.partitions and terms % 2 == 0)


def _found(layer: Layer, scheme: str) -> float:
    """Bytes that are read for the scales of a layer's tokens, float32, shared with what else reads the activation."""
    coding = SCHEMES[scheme].activation if scheme != WIDE else None
    if coding is None or layer.activation is None or of_operand(layer, coding).per != "token":
        return 0.0
    return 4 * math.prod(shape(layer.activation) or ()) / len(list(layer.activation.uses()))


def _bits(scheme: str) -> float:
    coding = SCHEMES[scheme].weight
    return of(coding.format).bits + (of(coding.scale).bits / coding.block if coding.block else 0.0)


def _elements(layer: Layer) -> int:
    held = layer.weight.const_value
    return int(held.size) if held is not None else 0


def _has(scheme: str, device: Device) -> bool:
    """Whether the device has the scheme, and as something else than the same weights under bfloat16 activations."""
    asked = scheme_of(scheme)
    try:
        kept = legal(asked, device).scheme
    except PorterError:
        return False
    return asked.activation is None or asked.activation.per != "block" or kept.activation is not None


def _mixed(choices: Sequence[Choice], plain: Formats) -> Formats:
    """Per layer the taken choice that saves most, of equals the one that costs least."""
    best: dict[str, Choice] = {}
    for c in choices:
        held = best.get(c.layer)
        if held is None or (c.saved, -c.cost) > (held.saved, -held.cost):
            best[c.layer] = c
    return replace(plain, patterns={name: best[name].scheme for name in sorted(best)})


def _relaxed(choices: Sequence[Choice], budget: float) -> float:
    """Most seconds that can be saved where layers may be taken in part: of each layer the choices on its lower convex hull,
    as steps from one to the next, by saving per cost, the last one cut."""
    steps: list[tuple[float, float]] = []
    for name in {c.layer for c in choices}:
        cost, saved = 0.0, 0.0
        left = [c for c in choices if c.layer == name]
        while left := [c for c in left if c.saved > saved]:
            best = max(left, key=lambda c: ((c.saved - saved) / max(c.cost - cost, 1e-12), c.saved))
            steps.append((best.saved - saved, max(best.cost - cost, 1e-12)))
            cost, saved = max(best.cost, cost), best.saved
    total = 0.0
    for more, dearer in sorted(steps, key=lambda s: -s[0] / s[1]):
        part = min(1.0, max(budget, 0.0) / dearer)
        total, budget = total + part * more, budget - part * dearer
    return total


class _Trial:
    """Measures mixtures on one sample: the share of the budget they use, more than 1 beyond it."""

    def __init__(
        self,
        model: Model,
        device: Device,
        budgets: Sequence[Budget],
        truth: Mapping[str, np.ndarray],
        sample: Sample,
        calibrate: Samples,
    ) -> None:
        self.model, self.device, self.truth, self.sample = model, device, truth, sample
        self.budgets, self.calibrate = bound(budgets, sample), calibrate
        self.last: dict[str, float] = {}

    def used(self, formats: Formats) -> float:
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
        return used / HEADROOM

    def noise(self, formats: Formats) -> dict[str, float]:
        """Each source layer's own error, relative to its product, where all layers take the contract's scheme."""
        before = _with(self.model, ("quantization.smooth",), formats, self.device, self.calibrate)
        after = _with(before, ("quantization.narrow",), formats, self.device, self.calibrate)
        made: dict[str, float] = {}
        for entry in ledger(before, after, formats, self.device, self.sample).entries:
            made[entry.layer] = made.get(entry.layer, 0.0) + entry.observed
        return made


def _error(budget: Budget, value: float) -> float:
    """A metric as an error that adds over layers: noise power over signal for sqnr_db, 1 - x for cosine and top1."""
    if not math.isfinite(value):
        return math.inf
    if budget.metric == "sqnr_db":
        return 10 ** (-value / 10)
    return PERFECT[budget.metric] - value if budget.metric in PERFECT else max(value, 0.0)


def applied(model: Model, formats: Formats, device: Device, calibrate: Samples = "") -> Model:
    """A fused model with the contract's formats, and bfloat16 elsewhere."""
    words = ("quantization.smooth", "quantization.narrow", "quantization.cache", "quantization.bf16")
    return _with(model, words, formats, device, calibrate)


def _with(model: Model, words: Sequence[str], formats: Formats, device: Device, calibrate: Samples) -> Model:
    """The model after the stages of those names."""
    chosen = [s for s in stages(formats, (ANY,), calibrate) if s.name in words]
    return pipeline.run(model, chosen, device, checks=False).model
