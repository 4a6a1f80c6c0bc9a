"""Known miscompilations as pairs of small models: the reader of the .onnxtxt files in this folder.

A case is a title, where the fault was reported, the tensor at which it must show, and two models:

    # a Transpose that does nothing is folded into Gemm as transA
    # source: https://github.com/...
    # blame: y
    # weights: w float[4,4], b float[4]
    g (float[4,4] x) => (float[4,4] y) { ... }
    # ->
    g (float[4,4] x) => (float[4,4] y) { ... }
    # -----

The models are our own, rebuilt from what was reported; weights are drawn from their names and are the same on both
sides. `blame: interface` is said where the fault changes the type of an output. `opset: 10 -> 11` gives each side
its own.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).parent
OPSET = "20"
FIELDS = ("source", "blame", "weights", "opset")


@dataclass(frozen=True)
class Pair:
    """One fault: `before` is what was meant, `after` what a tool made of it."""

    title: str
    source: str
    blame: str
    before: onnx.ModelProto
    after: onnx.ModelProto

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", self.title).strip("-")


def pairs(folder: Path = HERE) -> list[Pair]:
    """Every case of every file, by file name; ValueError names a case without a title, a source or a blame."""
    return [_pair(text, path) for path in sorted(folder.glob("*.onnxtxt")) for text in _cases(path)]


def _cases(path: Path) -> list[str]:
    return [c for c in re.split(r"^# -----$", path.read_text(), flags=re.M) if c.strip()]


def _pair(text: str, path: Path) -> Pair:
    sides = re.split(r"^# ->$", text.strip(), flags=re.M)
    said = [line[2:] for line in sides[0].splitlines() if line.startswith("# ")]
    fields = {k: line.partition(": ")[2] for line in said for k in FIELDS if line.startswith(f"{k}: ")}
    titles = [line for line in said if line.partition(":")[0] not in FIELDS]
    if len(sides) != 2 or len(titles) != 1 or not fields.get("source") or not fields.get("blame"):
        raise ValueError(f"{path.name}: expected a title, a source, a blame and two models: {text.strip()[:80]}")
    opsets = fields.get("opset", OPSET).split(" -> ")
    weights = dict(re.findall(r"(\w+) (\w+\[[\d,]*\])", fields.get("weights", "")))
    models = [_model(_body(side), weights, opset) for side, opset in zip(sides, (opsets[0], opsets[-1]), strict=True)]
    return Pair(titles[0], fields["source"], fields["blame"], *models)


def _body(side: str) -> str:
    return "\n".join(line for line in side.splitlines() if not line.startswith("#"))


def _model(text: str, weights: dict[str, str], opset: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    used = {name for node in proto.graph.node for name in node.input}
    for name, kind in weights.items():
        if name in used:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(_weight(name, kind), name))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"/{node.op_type.lower()}_{index}"
    return proto


def _weight(name: str, kind: str) -> np.ndarray:
    """float: standard normal; int8: all of it; scale: 0.01 to 1, each another."""
    dtype, _, dims = kind[:-1].partition("[")
    shape = tuple(int(d) for d in dims.split(",") if d)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if dtype == "int8":
        return rng.integers(-128, 128, shape).astype(np.int8)
    if dtype == "scale":
        return rng.uniform(0.01, 1.0, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.dtype(dtype if dtype != "float" else "float32"))
