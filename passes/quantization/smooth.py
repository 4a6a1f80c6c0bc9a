"""Channels of activations and weights brought to like sizes before they are rounded: SmoothQuant, and AWQ's search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.graph import Model, Node, Value, add_initializer, constant, make_tensor, names, shape
from porter.pipeline import Pass, rounding
from porter.precision.calibrate import Samples, observe
from porter.precision.encoding import encode
from porter.precision.layers import Layer, layers, origin
from porter.precision.moments import Moments
from porter.precision.schemes import legal, scheme_of
from porter.rewrite import Rewrite

RULES = ("smoothquant", "awq")
POWERS = np.linspace(0, 1, 11)  # of the mean magnitude, that awq tries
NORMS = {"RMSNormalization": (1,), "LayerNormalization": (1, 2)}  # and their inputs that scale the output
LEAST = 1e-5  # of the largest magnitude: channels that hardly occur are moved no further than that


@dataclass(frozen=True)
class Smooth(Pass):
    """Divide each channel of an activation by a factor and multiply the weights that meet it by the same: the function stays,
    outlier channels stop costing the others their steps. The division goes into what makes the activation, a normalization's
    gain or the weight before; an activation that something else reads as well stays as it is.

    rule       smoothquant: max|x|**alpha / max|w|**(1 - alpha), for activations in few bits (Xiao et al. 2022,
               arXiv 2211.10438); awq: mean|x|**a with the a that leaves the products the least squared error when the weights
               are stored as `scheme`, for weights in few bits (Lin et al. 2023, arXiv 2306.00978)
    alpha      smoothquant's share of the difficulty that moves to the weights
    scheme     awq: what the weights will be stored as
    calibrate  an .npz or a folder of them; drawn inputs if empty
    """

    rule: str = "smoothquant"
    alpha: float = 0.5
    scheme: str = "int4w"
    calibrate: Samples = ""

    contract = rounding

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        if self.rule not in RULES:
            raise PorterError(f"smoothing rule {self.rule!r}", expected=", ".join(RULES))
        groups = [g for g in _groups(model) if g.divide is not None]
        seen = {str(g.value.name): Moments(products=self.rule == "awq") for g in groups}
        if seen:
            observe(model, {name: (m,) for name, m in seen.items()}, self.calibrate)
        used = names(model.graph)
        for number, group in enumerate(groups, 1):
            factor = self._factor(group, seen[str(group.value.name)], device)
            if np.all(factor == 1):
                continue
            assert group.divide is not None
            group.divide(factor, used)
            for layer in group.layers:
                _scale(layer.weight, layer.sums, factor)
            yield Rewrite(number, self.rule, (group.value.producer().op_type,), tuple(x.name for x in group.layers))  # type: ignore[union-attr]

    def _factor(self, group: Group, seen: Moments, device: Any) -> np.ndarray:
        """What the group's activation is divided by, per channel; float32."""
        weights = [_rows(layer) for layer in group.layers]
        if self.rule == "smoothquant":
            x, w = _floored(seen.largest), _floored(np.max([np.abs(a).max(axis=1) for a in weights], axis=0))
            return np.asarray(x**self.alpha / w ** (1 - self.alpha), np.float32)
        coding = legal(scheme_of(self.scheme), device).scheme.weight
        usual = _floored(seen.mean)
        best, least = np.ones(len(usual), np.float32), np.inf
        for power in POWERS:
            factor = usual**power
            factor = np.asarray(factor / np.sqrt(factor.max() * factor.min()), np.float32)
            error = 0.0
            for layer, a in zip(group.layers, weights, strict=True):
                flat = replace(layer, sums=0, channels=1, batched=False)
                made = encode(f"weight '{layer.weight.name}' of layer {layer.name}", a * factor[:, None], coding, flat)
                error += seen.error(made.decode() / factor[:, None].astype(np.float64) - a)
            if error < least:
                best, least = factor, error
        return best


@dataclass(frozen=True, eq=False)
class Group:
    """An activation and the layers that read it, and how to divide it where it is made; None where that cannot be."""

    value: Value
    layers: tuple[Layer, ...]
    divide: Callable[[np.ndarray, set[str]], None] | None


def _groups(model: Model) -> list[Group]:
    found = layers(model)
    by_value: dict[Value, list[Layer]] = {}
    for layer in found:
        if layer.activation is not None:
            by_value.setdefault(layer.activation, []).append(layer)
    held = [layer.weight for layer in found]
    return [
        Group(value, tuple(group), _division(value, found))
        for value, group in by_value.items()
        if _only(value, group) and all(_scalable(x) and held.count(x.weight) == 1 for x in group)
    ]


def _only(value: Value, group: list[Layer]) -> bool:
    """Whether the layers are all that reads the value."""
    readers = {(layer.node, layer.position) for layer in group}
    return not value.is_graph_output() and all((user, place) in readers for user, place in value.uses())


def _scalable(layer: Layer) -> bool:
    """A matrix of the layer's own, met along the activation's last axis."""
    rank = len(shape(layer.activation) or ()) if layer.activation is not None else 0
    own = len(list(layer.weight.uses())) == 1 and not layer.weight.is_graph_output()
    return own and len(shape(layer.weight) or ()) == 2 and rank > 0 and layer.axis in (-1, rank - 1)


def _division(value: Value, found: list[Layer]) -> Callable[[np.ndarray, set[str]], None] | None:
    node = value.producer()
    if node is None or value is not node.outputs[0]:
        return None
    if node.domain == "" and node.op_type in NORMS:
        places = [i for i in NORMS[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None]
        gains = [constant(node.inputs[i]) for i in places]
        if all(g is not None and g.ndim == 1 for g in gains):
            return lambda factor, used: _divide_gains(node, places, factor, used)
        return None
    # a product whose weight's columns are the value's channels: a plain one, or the half of a SwiGLU that is not gated
    place = {("", "MatMul"): 1, ("porter", "SwiGLU"): 2}.get((node.domain, node.op_type))
    if place is None:
        return None
    before = [x for x in found if x.node is node and x.weight is origin(node.inputs[place])]
    if len(before) != 1 or len(shape(before[0].weight) or ()) != 2 or len(list(before[0].weight.uses())) != 1:
        return None
    return lambda factor, used: _scale(before[0].weight, before[0].channels, 1 / factor.astype(np.float64))


def _divide_gains(node: Node, places: list[int], factor: np.ndarray, used: set[str]) -> None:
    assert node.graph is not None
    for i in places:
        value, gain = node.inputs[i], constant(node.inputs[i])
        assert value is not None and gain is not None
        made = add_initializer(node.graph, f"{value.name}/smooth", (gain / factor).astype(gain.dtype), used)
        node.replace_input_with(i, made)


def _scale(weight: Value, axis: int | None, factor: np.ndarray) -> None:
    """The weight times a factor per index of an axis, rounded once."""
    array = constant(weight)
    assert array is not None and axis is not None
    along = factor.astype(np.float64).reshape([-1 if i == axis % array.ndim else 1 for i in range(array.ndim)])
    weight.const_value = make_tensor((array * along).astype(array.dtype), name=weight.name)


def _rows(layer: Layer) -> np.ndarray:
    """The layer's weight, the summed axis first."""
    array = constant(layer.weight)
    assert array is not None and layer.sums is not None
    return np.moveaxis(np.asarray(array, np.float64), layer.sums, 0)


def _floored(x: np.ndarray) -> np.ndarray:
    """Positive throughout: channels without any magnitude are moved as the smallest that counts."""
    top = float(x.max(initial=0.0))
    return np.maximum(x, LEAST * top) if top else np.ones_like(x)
