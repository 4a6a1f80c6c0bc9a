"""The error ledger of a quantized model: per layer, what its formats must cost against what they did.

Each layer is taken alone, on the inputs that the unquantized model gives it. What its product must err is predicted from the
formats and the float values only, never from codes:

    E |x' w' - x w|^2 = sum over k of  x_k^2 var(w_k) + var(x_k) w_k^2       var(v) = ulp(v)^2 / 12
    and, for what lies below half a step and surely becomes zero, the square of what the product loses with it

with the scales that the largest magnitudes ask for: a method that clips, or GPTQ, errs less. Observed is the same product from
the codes and scales that stand in the graph. A layer that errs more than 3 dB above what its formats must has a fault: another
flavour's codes, blocks along the wrong axis, somebody else's scale, or a sample far beyond the calibrated range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from porter import ops
from porter.check.execution import run
from porter.check.ledger import EXPLAINED_DB
from porter.check.measure import EQUAL_DB
from porter.device import Device
from porter.errors import CheckFailed
from porter.formats import of, scaling
from porter.graph import Model, Value, constant
from porter.precision.contract import WIDE, Formats
from porter.precision.encoding import encode
from porter.precision.layers import Layer, layers, origin
from porter.precision.schemes import Coding, legal, multiplies, of_operand, scheme_of

ROWS = 256  # of an activation, evenly chosen, on which a layer's product is taken
BEYOND = 0.01  # of an activation's power, cut off by its range: calibration saw nothing like this sample
WIDER = (
    8.0  # times the sample's own range that a calibrated one may be: other samples have outliers where this has none
)
SHOWN = 3


@dataclass(frozen=True)
class Entry:
    """One layer: error power over the product's power, predicted and observed; `beyond` is the share of the activation's power
    that its calibrated range cuts off.

    noise   relative noise power of the weight's entries that would make the predicted error, were they independent
    part    of a weight that is a stack: which matrix
    """

    layer: str
    weight: str
    scheme: str
    predicted: float
    beyond: float
    observed: float
    noise: float = 0.0
    part: str = ""

    @property
    def excess_db(self) -> float:
        """The observed error above the predicted one."""
        return _db(self.observed) - _db(self.predicted)

    @property
    def unexplained(self) -> bool:
        return self.excess_db > EXPLAINED_DB or self.beyond > BEYOND

    def json(self) -> dict[str, Any]:
        db = {"predicted_db": round(_db(self.predicted), 2), "observed_db": round(_db(self.observed), 2)}
        return {"layer": self.layer, "weight": self.weight, "scheme": self.scheme, **db, "beyond": self.beyond,
                "unexplained": self.unexplained}  # fmt: skip


@dataclass(frozen=True)
class Ledger:
    """All narrow layers, in the order of the graph."""

    entries: tuple[Entry, ...] = field(default=())

    @property
    def unexplained(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if e.unexplained)

    def metric(self) -> dict[str, Any]:
        """What the report says of it: the worst layer, and the layers whose error weighs most."""
        most = sorted(self.entries, key=lambda e: -e.observed)[:SHOWN]
        return {
            "layers": len(self.entries),
            "unexplained": len(self.unexplained),
            "excess_db": round(max((e.excess_db for e in self.entries), default=-EQUAL_DB), 2),
            "most": [e.json() for e in most],
        }

    def text(self) -> str:
        """One line per layer."""
        head = f"{'predicted dB':>12}  {'observed dB':>11}  {'scheme':8}  layer"
        lines = [
            f"{_db(e.predicted):12.1f}  {_db(e.observed):11.1f}  {e.scheme:8}  {e.layer}: {e.weight}"
            + ("  unexplained" if e.unexplained else "")
            for e in self.entries
        ]
        return "\n".join([head, *lines])

    def settle(self, device: str) -> None:
        """Raises CheckFailed naming the first layers whose error their formats do not explain."""
        if not self.unexplained:
            return
        found = "; ".join(
            f"{e.layer}{_part(e)}: {_db(e.observed):.1f} dB, its formats make {_db(e.predicted):.1f}"
            + (f", the calibrated range cuts off {e.beyond:.1%} of the activation" if e.beyond > BEYOND else "")
            for e in self.unexplained[:SHOWN]
        )
        where = f"{device}: error ledger, {len(self.unexplained)} of {len(self.entries)} layers unexplained"
        raise CheckFailed(where, expected=f"errors at most {EXPLAINED_DB:g} dB above those of the formats", found=found)


def _part(entry: Entry) -> str:
    """Which matrix of a stack an entry is about."""
    return f", matrix {entry.weight}" if entry.weight.endswith("]") else ""


def ledger(
    before: Model, after: Model, formats: Formats, device: Device | None, sample: Mapping[str, np.ndarray]
) -> Ledger:
    """Every narrow layer of `after`, which is `before` (fused, float32 weights) with codes."""
    found: list[tuple[int, Entry]] = []
    waiting: dict[str, list[tuple[int, Layer, _Coded, str]]] = {}
    for number, (layer, coded) in enumerate(_pairs(before, after, sample)):
        scheme = formats.of(layer.name)
        if scheme != WIDE and layer.activation is not None:
            waiting.setdefault(str(layer.activation.name), []).append((number, layer, coded, scheme))
        elif scheme != WIDE:
            found.extend((number, e) for e in _entries(layer, coded, scheme, device, None))

    def see(name: str, x: object) -> None:
        for number, layer, coded, scheme in waiting.pop(name, ()):
            found.extend((number, e) for e in _entries(layer, coded, scheme, device, np.asarray(x, np.float64)))

    for name in waiting.keys() & sample.keys():
        see(name, sample[name])
    run(before, dict(sample), ops.float64, on_value=see)
    return Ledger(tuple(entry for _, entry in sorted(found, key=lambda pair: pair[0])))


def _pairs(before: Model, after: Model, sample: Mapping[str, np.ndarray]) -> Iterator[tuple[Layer, _Coded]]:
    """Every layer with the places in `after` where its operands stand."""
    nodes = {v.name: node for node in after.graph for v in node.outputs}
    for layer in layers(before):
        place = next(i for i, v in enumerate(layer.node.inputs) if v is not None and origin(v) is layer.weight)
        now = nodes[layer.node.outputs[0].name]
        weight = origin(now.inputs[place])
        assert weight is not None
        operand = now.inputs[layer.position] if layer.position is not None else None
        yield (
            layer,
            _Coded(after, sample, str(weight.name), None if operand is None else str(operand.name), _scale(operand)),
        )


@dataclass(frozen=True)
class _Coded:
    """A layer in the narrow model: the names of its decoded weight and of its rounded activation."""

    model: Model
    sample: Mapping[str, np.ndarray]
    weight: str
    operand: str | None
    scale: float = 0.0  # of the activation, where it is one number

    def decoded(self) -> np.ndarray:
        return np.asarray(run(self.model, dict(self.sample), ops.float64, want=[self.weight])[self.weight])

    def rounded(self, name: str, x: np.ndarray) -> np.ndarray:
        if self.operand is None or self.operand == name:
            return x
        return np.asarray(run(self.model, {**self.sample, name: x}, ops.float64, want=[self.operand])[self.operand])


def _entries(layer: Layer, coded: _Coded, name: str, device: Device | None, x: np.ndarray | None) -> list[Entry]:
    """The layer's own, or one per matrix of a stack (per expert): one that is wrong must not vanish among the others."""
    scheme = legal(scheme_of(name), device).scheme
    array = constant(layer.weight)
    assert array is not None
    w, now = np.asarray(array, np.float64), coded.decoded()
    of_weight = _of_weight(w, layer, scheme.weight)
    stack = len(w) if w.ndim == 3 and (layer.batched or layer.is_table) else 0
    # without an activation, or one that the layer moves before it sums (channels last), the weight's own error alone
    if x is None or layer.sums is None or x.shape[layer.axis] != w.shape[layer.sums]:
        return [
            _made(layer, name, np.sum(of_weight.square[at]), np.sum((now - w)[at] ** 2), np.sum(w[at] ** 2), part=part)
            for part, at in _parts(stack)
        ]
    y = coded.rounded(str(layer.activation.name), x)  # type: ignore[union-attr]
    of_input, beyond = _Error.none(x), 0.0
    if scheme.activation is not None and multiplies(scheme_of(name), device) == scheme.product:
        of_input, beyond = _of_input(x, y, of_operand(layer, scheme.activation), coded.scale, layer.axis)
    if w.ndim == 2 or stack:
        made = []
        for part, at in _parts(stack):
            mine = at if stack and x.ndim == 3 and len(x) == stack else ...  # else every matrix meets the same rows
            axis = layer.axis % x.ndim - (x.ndim - x[mine].ndim)
            sums = layer.sums % w.ndim - (w.ndim - 2)
            rows, rounded, sure, var = (_rows(a[mine], axis) for a in (x, y, of_input.sure, of_input.variance))
            flat, codes, lost, noise = (
                np.moveaxis(a[at], sums, 0) for a in (w, now, of_weight.sure, of_weight.variance)
            )
            truth = rows @ flat
            observed = np.sum((rounded @ codes - truth) ** 2)
            predicted = np.sum((sure @ flat + rows @ lost) ** 2) + np.sum(rows**2 @ noise) + np.sum(var @ flat**2)
            made.append(
                _made(layer, name, predicted, observed, np.sum(truth**2), beyond, part, np.sum(rows**2 @ flat**2))
            )
        return made
    # convolutions and larger stacks: as if the entries of a sum were independent, on both sides
    others = tuple(i for i in range(x.ndim) if i != layer.axis % x.ndim)
    square, error, var = (np.mean(a, axis=others) for a in (x * x, (y - x) ** 2, of_input.square))
    flat, change, noise = (np.moveaxis(a, layer.sums, -1) ** 2 for a in (w, now - w, np.sqrt(of_weight.square)))
    observed, predicted = np.sum(change @ square + flat @ error), np.sum(noise @ square + flat @ var)
    return [_made(layer, name, predicted, observed, np.sum(flat @ square), beyond)]


def _parts(stack: int) -> list[tuple[str, Any]]:
    """The matrices of a stack and what to call them; of no stack the whole."""
    return [(f"[{i}]", i) for i in range(stack)] or [("", ...)]


def _made(
    layer: Layer,
    scheme: str,
    predicted: float,
    observed: float,
    power: float,
    beyond: float = 0.0,
    part: str = "",
    independent: float | None = None,
) -> Entry:
    power = float(power) or 1.0
    noise = float(predicted) / (power if independent is None else float(independent) or 1.0)
    weight = f"{layer.weight.name}{part}"
    return Entry(layer.name, weight, scheme, float(predicted) / power, beyond, float(observed) / power, noise, part)


@dataclass(frozen=True)
class _Error:
    """What rounding must do to each entry: move it by `sure`, and spread it with `variance`."""

    sure: np.ndarray
    variance: np.ndarray

    @property
    def square(self) -> np.ndarray:
        return self.sure**2 + self.variance

    @property
    def power(self) -> float:
        return float(np.sum(self.square))

    @staticmethod
    def none(x: np.ndarray) -> _Error:
        return _Error(np.zeros_like(x), np.zeros_like(x))


def _rounding(x: np.ndarray, scale: np.ndarray, format: str) -> _Error:
    """Entries below half a step become zero, all others lie anywhere within their step."""
    value = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
    step = of(format).ulp(value)
    zero = 2 * np.abs(value) < step
    return _Error(np.where(zero, -x, 0.0), np.where(zero, 0.0, (step * scale) ** 2 / 12))


def _of_weight(w: np.ndarray, layer: Layer, coding: Coding) -> _Error:
    """The rounding of a weight under the scales of its format's own rule."""
    made = encode(f"weight '{layer.weight.name}' of layer {layer.name}", w, coding, layer)
    scale = scaling.spread(made.scale.astype(np.float64) * made.tensor, w.shape, made.axis, made.block)
    return _rounding(w, np.broadcast_to(scale, w.shape), coding.format)


def _of_input(x: np.ndarray, y: np.ndarray, coding: Coding, calibrated: float, axis: int) -> tuple[_Error, float]:
    """The rounding of an activation, in steps of the sample's own range (of each token's, with a scale per token), or of the
    calibrated one where that is wider within reason; entries that the calibrated range cuts off are moved as they were, and
    their share of the power is told."""
    along = axis if coding.per == "token" else None
    top = np.max(np.abs(x), axis=along, keepdims=True, initial=0.0) / (coding.limit or of(coding.format).max)
    own = np.where(top > 0, top, 1.0)
    scale = np.broadcast_to(np.maximum(own, np.minimum(calibrated, WIDER * own)), x.shape)
    made = _rounding(x, scale, coding.format)
    cut = (np.abs(x) - np.abs(y) > 1.01 * np.sqrt(3 * made.variance)) & (made.variance > 0) & (y != 0)
    off = np.where(cut, y - x, 0.0)
    beyond = float(np.sum(off * off)) / (float(np.sum(x * x)) or 1.0)
    return _Error(np.where(cut, off, made.sure), np.where(cut, 0.0, made.variance)), beyond


def _scale(operand: Value | None) -> float:
    """The scale of an activation that is decoded, where it is a single constant."""
    node = operand.producer() if operand is not None else None
    scale = constant(node.inputs[1]) if node is not None and node.op_type == "DequantizeLinear" else None
    return float(scale.reshape(())) if scale is not None and scale.size == 1 else 0.0


def _rows(x: np.ndarray, axis: int) -> np.ndarray:
    """Vectors along the axis, some hundreds of them, evenly chosen."""
    flat = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    return flat[:: max(1, len(flat) // ROWS)]


def _db(power: float) -> float:
    return float(np.clip(10 * np.log10(power), -EQUAL_DB, EQUAL_DB)) if power > 0 else -EQUAL_DB
