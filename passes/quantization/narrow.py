"""Weights, and operands of contractions with weights, in few bits: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.formats import of, scaling
from porter.formats.scaling import Scaled
from porter.graph import (
    DataType,
    Model,
    Node,
    Value,
    add_initializer,
    blank,
    constant,
    dtype,
    fresh,
    inherit,
    insert_before,
    is_unread,
    names,
    new_node,
    new_value,
    release,
    shape,
    source_name,
    unread,
)
from porter.passes.quantization._blocks import in_blocks_coded, per_token_coded
from porter.pipeline import Pass, precision
from porter.precision.calibrate import Observer, Samples, observe
from porter.precision.contract import Formats
from porter.precision.encoding import ROUNDINGS, encode
from porter.precision.layers import Layer, layers
from porter.precision.moments import Moments
from porter.precision.ranges import METHODS, Histogram, Ranges
from porter.precision.schemes import Coding, Scheme, least, legal, multiplies, of_operand, scheme_of, whole_blocks
from porter.rewrite import Rewrite

#: an activation in a format, with scales along an axis: its codes and their scale
Pairs = dict[tuple[Value, str, int], tuple[Value, Value]]


@dataclass(frozen=True)
class Narrow(Pass):
    """Store weights as a scheme says (int8w, fp8w, int4w, mxfp4w, nvfp4w, ...), and with fp8 or int8 the activations that
    meet them; everything else stays as it is.

    scheme     formats of every layer that `formats` does not name
    formats    a precision contract: formats per layer
    clip       where a weight's scale ends: none (at its largest magnitude), mse, percentile, entropy
    rounding   of weights: nearest, or gptq
    calibrate  an .npz or a folder of them, from which activation ranges and gptq's moments come; drawn inputs if empty
    method     how an activation's range is read from what was seen: minmax, percentile, mse, entropy
    db         budget of the model after this pass; the scheme's own if 0
    """

    scheme: str = "int8w"
    formats: str = ""
    clip: str = "none"
    rounding: str = "nearest"
    calibrate: Samples = ""
    method: str = "mse"
    db: float = 0.0

    @property
    def contract(self) -> Any:  # type: ignore[override]
        return precision("sqnr", db=self.db or least(self.scheme))

    def _seen(self, model: Model, chosen: list[tuple[Layer, Scheme]]) -> tuple[Ranges, dict[tuple[str, int], Moments]]:
        """One run over the samples: ranges of the activations that become codes, moments of what gptq's layers read."""
        if self.rounding not in ROUNDINGS:
            raise PorterError(f"rounding {self.rounding!r}", expected=", ".join(ROUNDINGS))
        if self.method not in METHODS:
            raise PorterError(f"calibration method {self.method!r}", expected=", ".join(METHODS))
        fed = [(layer, scheme) for layer, scheme in chosen if layer.activation is not None]
        ranges = {
            _input(layer)[0]: Histogram() for layer, scheme in fed
            if scheme.activation is not None and of_operand(layer, scheme.activation).per != "token"
        }  # fmt: skip
        moments = (
            {_input(layer): Moments(layer.axis) for layer, _ in fed if len(shape(layer.weight) or ()) == 2}
            if self.rounding == "gptq" else {}
        )  # fmt: skip
        if unread(model):  # it cannot be run: ranges of 1, for the sake of types
            for histogram in ranges.values():
                histogram.add(np.ones(1))
            return Ranges(ranges, "minmax"), {}
        watched: dict[str, list[Observer]] = {name: [h] for name, h in ranges.items()}
        for (name, _), m in moments.items():
            watched.setdefault(name, []).append(m)
        if watched:
            observe(model, watched, self.calibrate)
        return Ranges(ranges, self.method), moments

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        asked = Formats.read(self.formats) if self.formats else Formats(self.scheme)
        found = [(layer, asked.of(layer.name)) for layer in layers(model)]
        chosen = [(layer, legal(scheme_of(name), device), name) for layer, name in found if name != "bf16"]
        ranges, moments = self._seen(model, [(layer, kept.scheme) for layer, kept, _ in chosen])
        used = names(model.graph)
        done: dict[Value, Value] = {}
        pairs: Pairs = {}
        for number, (layer, kept, name) in enumerate(chosen, 1):
            second = moments.get(_input(layer))
            made = list(_stored(model, layer, kept.scheme.weight, self.clip, second, used, done))
            coding = kept.scheme.activation
            if coding is not None and layer.activation is not None:
                product = multiplies(scheme_of(name), device)
                if product == kept.scheme.product and (coding.per != "block" or whole_blocks(layer, coding)):
                    made += _paired(layer, of_operand(layer, coding), ranges, used, pairs)
            yield Rewrite(number, name, tuple(made), (source_name(layer.node),))


def _input(layer: Layer) -> tuple[str, int]:
    """What a layer sums over: its activation and the axis; no name where there is none to watch."""
    return (str(layer.activation.name) if layer.activation is not None else "", layer.axis)


def _stored(
    model: Model,
    layer: Layer,
    coding: Coding,
    clip: str,
    seen: Moments | None,
    used: set[str],
    done: dict[Value, Value],
) -> list[str]:
    """The weight as a narrow initializer and a DequantizeLinear, which all its readers get."""
    weight = layer.weight
    if weight in done:
        return []
    assert weight.name is not None
    where = f"weight '{weight.name}' of layer {layer.name}"
    array = constant(weight)
    second = seen.second if seen is not None else None
    made = _blank(where, weight, coding, layer) if array is None else encode(where, array, coding, layer, clip, second)
    release(weight)

    def added(word: str, values: np.ndarray) -> Value:
        name = f"{weight.name}/{word}"
        kept = values if array is not None else blank(name, values.dtype, values.shape)
        return add_initializer(model, name, kept, used)

    codes, scale = added(coding.format, made.codes), added("scale", made.scale)
    whole = None
    if made.tensor != 1.0:
        whole = added("tensor_scale", np.asarray(made.tensor, np.float32))
    kinds: list[str] = []
    for user, position in list(weight.uses()):  # each reader decodes for itself: codes are what memory holds
        nodes = _decoded(codes, scale, whole, made, str(weight.name), used)
        _place(user, nodes)
        user.replace_input_with(position, nodes[-1].outputs[0])
        kinds += [n.op_type for n in nodes]
    if not weight.is_graph_input() and not weight.is_graph_output():
        del model.graph.initializers[weight.name]
    done[weight] = codes
    return kinds


def _blank(where: str, weight: Value, coding: Coding, layer: Layer) -> Scaled:
    """What `encode` makes of a weight without data: types and shapes, from one line along the contraction."""
    dims = shape(weight)
    assert dims is not None and is_unread(weight)
    line = [n if i == layer.sums else 1 for i, n in enumerate(dims)]
    made = encode(where, np.ones(line, np.float32), coding, layer, "none")
    scales: tuple[int, ...] = ()
    if made.block:
        scales = tuple(made.scale.shape[i] if i == made.axis else n for i, n in enumerate(dims))
    elif made.scale.ndim:
        scales = (dims[made.axis],)
    codes, scale = made.codes.reshape(-1)[0], made.scale.reshape(-1)[0]
    return replace(made, codes=np.broadcast_to(codes, dims), scale=np.broadcast_to(scale, scales))


def _decoded(codes: Value, scale: Value, whole: Value | None, made: Scaled, name: str, used: set[str]) -> list[Node]:
    """DequantizeLinear of the codes; where there is a scale of scales, after one of those."""
    nodes = []
    if whole is not None:
        wide = new_value(fresh(f"{name}/block_scale", used), np.dtype(np.float32), made.scale.shape)
        nodes.append(new_node("DequantizeLinear", [scale, whole], outputs=[wide]))
        scale = wide
    out = new_value(fresh(f"{name}/float32", used), np.dtype(np.float32), made.codes.shape)
    attributes: dict[str, object] = {"axis": made.axis} if made.scale.ndim else {}
    attributes |= {"block_size": made.block} if made.block else {}
    attributes |= {"output_dtype": int(DataType.FLOAT)} if dtype(scale) != np.float32 else {}
    nodes.append(new_node("DequantizeLinear", [codes, scale], attributes, outputs=[out]))
    return nodes


def _place(user: Node, nodes: list[Node]) -> None:
    """Before the reader, in the reader's graph: a branch decodes in the branch."""
    insert_before(user, nodes)
    inherit(nodes, [user])


def _paired(layer: Layer, coding: Coding, ranges: Ranges, used: set[str], pairs: Pairs) -> list[str]:
    """The activation rounded to the format where this layer reads it; layers that read the same share its codes, and each
    decodes them for itself."""
    value, position = layer.activation, layer.position
    assert value is not None and position is not None
    if layer.node.inputs[position] is not value:
        return []  # a fused node with two weights (SwiGLU) reads it once, and was given its codes for the first
    nodes: list[Node] = []
    dims, graph = shape(value), layer.node.graph
    assert dims is not None and graph is not None
    how: dict[str, object] = {"axis": -1, "block_size": coding.block} if coding.per == "block" else {}
    how |= {"axis": layer.axis, "block_size": dims[layer.axis]} if coding.per == "token" and len(dims) > 1 else {}
    key = (value, str(coding), layer.axis % len(dims) if coding.per == "token" else -1)
    if key not in pairs:
        if coding.per == "block":
            pairs[key], nodes = in_blocks_coded(graph, value, coding, ranges, used)
        elif coding.per == "token":
            pairs[key], nodes = per_token_coded(graph, value, coding, layer.axis, used)
        else:
            pairs[key], nodes = _coded(layer, value, coding, ranges, used)
    codes, scale = pairs[key]
    wide = new_value(fresh(f"{value.name}/float32", used), np.dtype(np.float32), dims)
    how |= {"output_dtype": int(DataType.FLOAT)} if dtype(scale) != np.float32 else {}
    nodes.append(new_node("DequantizeLinear", [codes, scale], how, outputs=[wide]))
    _place(layer.node, nodes)
    layer.node.replace_input_with(position, wide)
    return [n.op_type for n in nodes]


def _coded(
    layer: Layer, value: Value, coding: Coding, ranges: Ranges, used: set[str]
) -> tuple[tuple[Value, Value], list[Node]]:
    """QuantizeLinear with the calibrated scale, behind a Clip where the device has fewer codes than ONNX's type."""
    top = ranges.amax(str(value.name), coding.format, coding.limit)
    if not np.isfinite(top):
        where = f"activation '{value.name}' of layer {layer.name}"
        raise PorterError(where, expected="finite numbers", found=f"{top} in calibration")
    graph = layer.node.graph
    assert graph is not None
    largest = coding.limit or of(coding.format).max
    number = np.float32(max(top, scaling.SMALLEST) / largest if top else 1.0)
    scale = add_initializer(graph, f"{value.name}/scale", np.asarray(number), used)
    source, kind, nodes = value, np.dtype(of(coding.format).dtype), []
    if coding.limit:
        edge = np.float32(coding.limit) * number
        low, high = (
            add_initializer(graph, fresh(f"{value.name}/{word}", used), np.asarray(bound, np.float32))
            for word, bound in (("low", -edge), ("high", edge))
        )
        source = new_value(fresh(f"{value.name}/clamped", used), np.dtype(np.float32), shape(value))
        nodes.append(new_node("Clip", [value, low, high], outputs=[source]))
    codes = new_value(fresh(f"{value.name}/{coding.format}", used), kind, shape(value))
    to: dict[str, object] = {"output_dtype": int(DataType.from_numpy(kind))}
    nodes.append(new_node("QuantizeLinear", [source, scale], to, outputs=[codes]))
    return (codes, scale), nodes
