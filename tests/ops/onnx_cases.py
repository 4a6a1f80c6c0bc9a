"""The official ONNX backend tests that a tensor compiler can be held to, chosen by rule.

A case is out if a node is of another domain than ai.onnx; if a string, sequence, optional, map or sparse tensor occurs
anywhere in it; if its result depends on random numbers; or if it decodes pictures or extracts text features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
_OUT = _RANDOM | {
    "ImageDecoder", "TfIdfVectorizer", "StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One official case: a model, its tolerances, and input and output arrays by position."""

    kind: str
    name: str
    case: Any

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def model(self) -> onnx.ModelProto:
        if self.case.model is not None:
            return self.case.model
        return onnx.load(_light(self.case) or os.path.join(self.case.model_dir, "model.onnx"))

    def sets(self) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
        """Inputs and expected outputs of every data set."""
        if self.case.model is not None:
            for inputs, outputs in self.case.data_sets:
                yield [_array(x) for x in inputs], [_array(x) for x in outputs]
            return
        if path := _light(self.case):
            yield [_ramp(v) for v in fed(self.model.graph)], [_array(_tensor(f"{path[:-5]}_output_0.pb"))]
            return
        for folder in sorted(os.listdir(self.case.model_dir)):
            place = os.path.join(self.case.model_dir, folder)
            if folder.startswith("test_data_set"):
                yield tuple(  # type: ignore[misc]
                    [_array(_tensor(os.path.join(place, f"{what}_{i}.pb"))) for i in range(_count(place, what))]
                    for what in ("input", "output")
                )


def _light(case: Any) -> str | None:
    """Where the package has the model of a light case: a real architecture with constant weights."""
    return None if case.url is None else os.path.join(os.path.dirname(onnx.__file__), *case.url.split("/")[1:])


def fed(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no weights (before IR version 4 weights stood among them)."""
    weights = {t.name for t in graph.initializer}
    return [v for v in graph.input if v.name not in weights]


def _ramp(value: onnx.ValueInfoProto) -> np.ndarray:
    """What onnx.backend.test.runner feeds a light model: 0, 1/n, 2/n, ..."""
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return (np.arange(np.prod(dims)).reshape(dims) / np.prod(dims)).astype(np.float32)


def _count(place: str, what: str) -> int:
    return sum(name.startswith(f"{what}_") for name in os.listdir(place))


def _tensor(path: str) -> TensorProto:
    tensor = TensorProto()
    with open(path, "rb") as file:
        tensor.ParseFromString(file.read())
    return tensor


def _array(x: Any) -> np.ndarray:
    return numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)


@cache
def cases() -> tuple[Case, ...]:
    """The small cases under the rule, by kind and name."""
    return _found(KINDS)


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case under the rule: the small ones, then the light models."""
    return cases() + _found(("real",))


def _found(kinds: tuple[str, ...]) -> tuple[Case, ...]:
    found = [Case(kind, c.name, c) for kind in kinds for c in load_model_tests(kind=kind)]
    return tuple(sorted((c for c in found if _counts(c)), key=lambda c: c.id))


def _counts(case: Case) -> bool:
    model = case.model
    graphs = [model.graph, *model.functions]
    given = {}
    if case.case.model is not None:
        given = {v.name: a for v, a in zip(model.graph.input, case.case.data_sets[0][0], strict=False)}
    if not all(_plain(g, _own(model), given) for g in graphs):
        return False
    if case.case.model is None:
        return True
    arrays = (a for pair in case.case.data_sets for side in pair for a in side)
    return all(isinstance(a, np.ndarray | np.generic | TensorProto | float | int) and not _text(a) for a in arrays)


def _own(model: onnx.ModelProto) -> set[str]:
    """The names of the model's own functions, whatever their domain."""
    return {f"{f.domain}.{f.name}" for f in model.functions}


def _text(a: Any) -> bool:
    return a.data_type == TensorProto.STRING if isinstance(a, TensorProto) else np.asarray(a).dtype.kind in "OSU"


def _plain(graph: Any, own: set[str], given: dict[str, Any]) -> bool:
    """Whether a graph or function, subgraphs included, is tensors of numbers and operators of ai.onnx throughout."""
    if isinstance(graph, onnx.GraphProto):
        if graph.sparse_initializer or any(t.data_type == TensorProto.STRING for t in graph.initializer):
            return False
        values = [*graph.input, *graph.output, *graph.value_info]
        if not all(_tensor_type(v.type) for v in values):
            return False
    constants = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") and f"{node.domain}.{node.op_type}" not in own:
            return False
        if node.op_type in _OUT:
            return False
        if node.op_type == "Constant":
            constants.update(dict.fromkeys(node.output, node))
        if node.op_type == "Dropout" and _drops(node, graph, constants, given):
            return False
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.TYPE_PROTO):
                return False
            if attribute.name in ("value_string", "value_strings", "sparse_value"):
                return False
            if attribute.name == "to" and attribute.i == TensorProto.STRING:
                return False
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.STRING:
                return False
            inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            if not all(_plain(g, own, given) for g in inner):
                return False
    return True


def _tensor_type(kind: TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which is None or (which == "tensor_type" and kind.tensor_type.elem_type != TensorProto.STRING)


def _drops(node: onnx.NodeProto, graph: Any, constants: dict[str, onnx.NodeProto], given: dict[str, Any]) -> bool:
    """Whether a Dropout drops at random: in training mode, with a ratio that is not zero."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    known = given | {t.name: numpy_helper.to_array(t) for t in getattr(graph, "initializer", ())}
    known.update(
        {n: numpy_helper.to_array(c.attribute[0].t) for n, c in constants.items() if c.attribute[0].HasField("t")}
    )
    training, ratio = known.get(node.input[2]), known.get(node.input[1])
    if training is not None and not bool(training):
        return False
    return ratio is None or float(ratio) != 0.0
