"""A decoder's cache of keys and values in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from porter.errors import PorterError
from porter.formats import of, scaling
from porter.graph import (
    DataType,
    Graph,
    Model,
    Node,
    Value,
    add_initializer,
    dtype,
    fresh,
    inherit,
    insert_after,
    names,
    new_node,
    new_value,
    shape,
    source_name,
)
from porter.passes.quantization._blocks import in_blocks_coded
from porter.pipeline import Pass, precision
from porter.precision.caches import FORMATS, caches, fits
from porter.precision.caches import coding as coding_of
from porter.precision.calibrate import Samples, observe
from porter.precision.ranges import Histogram, Ranges
from porter.precision.schemes import CACHE, Coding
from porter.rewrite import Rewrite

AXES = {"head": 1, "channel": -1}


@dataclass(frozen=True)
class Cache(Pass):
    """Round the keys and values that a decoder hands out (outputs named present...) where they are made, by QuantizeLinear and
    DequantizeLinear: attention reads what the cache holds, and what comes back from it is rounded to the same codes again. The
    model's cache stays float32 at its edges, its numbers are codes times a scale.

    format     fp8: E4M3 of the device's flavour with a calibrated scale; mxfp8, mxfp4, nvfp4: a scale per block of a head's
               channels, from the numbers themselves
    per        of fp8: a scale per head, or per channel of all heads, where keys have channels that stand out
    calibrate  an .npz or a folder of them; drawn inputs if empty
    method     how a range is read from what was seen: minmax, percentile, mse, entropy
    db         budget of the model after this pass; the format's own if 0
    """

    format: str = "fp8"
    per: str = "head"
    calibrate: Samples = ""
    method: str = "mse"
    db: float = 0.0

    @property
    def contract(self) -> Any:  # type: ignore[override]
        return precision("sqnr", db=self.db or CACHE.get(self.format, 18.0))

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        for word, known, given in (("format", FORMATS, self.format), ("per", AXES, self.per)):
            if given not in known:
                raise PorterError(f"quantization.cache{{{word}={given}}}", expected=", ".join(known))
        coding = coding_of(self.format, device)
        found = caches(model)
        axis = AXES[self.per] if coding.per != "block" else None
        seen = {str(v.name): Histogram(axis) for v in found}
        if seen:
            observe(model, {name: (h,) for name, h in seen.items()}, self.calibrate)
        ranges, used = Ranges(seen, self.method), names(model.graph)
        for number, value in enumerate(found, 1):
            node = value.producer()
            assert node is not None
            if not fits(value, coding):
                continue  # heads that are no whole number of blocks; the audit says so
            yield Rewrite(
                number,
                f"cache_{self.format}",
                _rounded(model.graph, value, node, coding, axis, ranges, used),
                (source_name(node),),
            )


def _rounded(
    graph: Graph, value: Value, node: Node, coding: Coding, axis: int | None, ranges: Ranges, used: set[str]
) -> tuple[str, ...]:
    """Everything that reads the value, the model's output too, reads its codes' numbers instead; the output keeps its name."""
    readers, name = list(value.uses()), str(value.name)
    if coding.per == "block":
        (codes, scale), nodes = in_blocks_coded(graph, value, coding, ranges, used, powers=True)
        how: dict[str, object] = {"axis": -1, "block_size": coding.block}
    else:
        codes, scale, nodes = _coded(graph, value, coding, axis, ranges, used)
        how = {"axis": axis}
    how |= {"output_dtype": int(DataType.FLOAT)} if dtype(scale) != np.float32 else {}
    wide = new_value(fresh(f"{name}/float32", used), np.dtype(np.float32), shape(value))
    nodes.append(new_node("DequantizeLinear", [codes, scale], how, outputs=[wide]))
    insert_after(node, nodes)
    inherit(nodes, [node])
    for user, position in readers:
        user.replace_input_with(position, wide)
    place = next(i for i, v in enumerate(graph.outputs) if v is value)
    graph.outputs[place] = wide
    value.name, wide.name = fresh(f"{name}/exact", used), name
    return tuple(n.op_type for n in nodes)


def _coded(
    graph: Graph, value: Value, coding: Coding, axis: int | None, ranges: Ranges, used: set[str]
) -> tuple[Value, Value, list[Node]]:
    """QuantizeLinear with a scale per head or channel, between two limits where the device has fewer codes than ONNX's type.

    Scales are powers of two, upward: a graph that has another one, calibrated elsewhere, finds the same codes but for their
    exponents, so that what prefill rounded is not rounded again by decode (down to the least normal code).
    """
    name, largest = str(value.name), coding.limit or of(coding.format).max
    top = ranges.rows(name, coding.format, coding.limit)
    if not np.all(np.isfinite(top)):
        raise PorterError(f"cache '{name}'", expected="finite numbers", found=f"{float(np.max(top))} in calibration")
    steps = np.where(top > 0, scaling.power_of_two(np.maximum(top, scaling.SMALLEST) / largest), 1.0).astype(np.float32)
    scale = add_initializer(graph, f"{name}/scale", steps, used)
    source, nodes = value, list[Node]()
    if coding.limit:
        edge = np.float32(coding.limit) * steps
        edge = edge.reshape([-1 if i == (axis or 0) % 4 else 1 for i in range(4)])
        for word, kind, bound in (("low", "Max", -edge), ("high", "Min", edge)):
            limit = add_initializer(graph, f"{name}/{word}", bound.astype(np.float32), used)
            out = new_value(fresh(f"{name}/not_beyond_{word}", used), np.dtype(np.float32), shape(value))
            nodes.append(new_node(kind, [source, limit], outputs=[out]))
            source = out
    kind_ = np.dtype(of(coding.format).dtype)
    codes = new_value(fresh(f"{name}/{coding.format}", used), kind_, shape(value))
    to: dict[str, object] = {"axis": axis, "output_dtype": int(DataType.from_numpy(kind_))}
    nodes.append(new_node("QuantizeLinear", [source, scale], to, outputs=[codes]))
    return codes, scale, nodes
