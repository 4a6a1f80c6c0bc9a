"""Models of one of onnxruntime's own operators, held against onnxruntime before and after, and against porter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter import graph, ops
from porter.errors import PorterError
from porter.graph import contrib

RNG = np.random.default_rng(5)

# Sums of at most 64 terms, each rounded to 24 bits, in an order that is not ours: so much of the largest element.

ROUNDING = 64 * 2.0**-24


# Where batches and lengths stand in a tensor of some rank; heads and their sizes are always known.

LENGTHS = {0: (), 1: (), 2: (0, 1), 3: (0, 1), 4: (0, 2), 5: (1, 3)}


def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def ids(low: int, high: int, *shape: int, kind: type = np.int32) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(kind)


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


@dataclass
class Case:
    """One node: arrays for its inputs (None where left out), which of them are weights, how many outputs are read."""

    op: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: tuple[int, ...] = ()
    outputs: tuple[int, ...] = (0,)
    title: str = ""
    steps: int = 0
    """By how many steps of a quantizer a result may differ."""
    domain: str = "com.microsoft"
    opset: int = 21
    valid: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None
    """Takes the parts of the outputs that mean something."""

    def __str__(self) -> str:
        return f"{self.op}-{self.title}" if self.title else self.op

    def model(self, symbolic: bool = False) -> onnx.ModelProto:
        names = ["" if array is None else f"in{index}" for index, array in enumerate(self.inputs)]
        outputs = [f"out{index}" if index in self.outputs else "" for index in range(max(self.outputs) + 1)]
        node = helper.make_node(self.op, names, outputs, name=f"/{self.op}", domain=self.domain, **self.attributes)
        infos, weights = [], []
        for index, (name, array) in enumerate(zip(names, self.inputs, strict=True)):
            if array is None:
                continue
            if index in self.weights:
                weights.append(numpy_helper.from_array(array, name))
                continue
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            dims = [
                f"{name}_{axis}" if symbolic and axis in LENGTHS[array.ndim] else size
                for axis, size in enumerate(array.shape)
            ]
            infos.append(helper.make_tensor_value_info(name, kind, dims))
        results = [helper.make_empty_tensor_value_info(name) for name in outputs if name]
        if self.op == "MultiHeadAttention" and 3 in self.outputs:  # onnxruntime does not know the type of its scores
            results[-1] = helper.make_tensor_value_info("out3", TensorProto.FLOAT, None)
        proto = helper.make_graph([node], "main", infos, results, weights)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(proto, opset_imports=imports, ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        named = {f"in{index}": array for index, array in enumerate(self.inputs) if array is not None}
        return {name: array for name, array in named.items() if int(name[2:]) not in self.weights}


def halved(case: Case) -> Case:
    """The same in float16."""
    inputs = [x.astype(np.float16) if x is not None and x.dtype == np.float32 else x for x in case.inputs]
    return replace(case, inputs=inputs)


def close(case: Case, wanted: list[np.ndarray], found: list[np.ndarray], who: str) -> None:
    if case.valid is not None:
        wanted, found = case.valid(wanted), case.valid(found)
    for old, new in zip(wanted, found, strict=True):
        assert new.shape == old.shape and new.dtype == old.dtype, f"{who}: {new.dtype}{new.shape}"
        if old.dtype.kind in "iu":
            assert np.abs(new.astype(int) - old.astype(int)).max(initial=0) <= case.steps, who
        else:
            worst = float(np.abs(old.astype(np.float64)).max(initial=0))
            allowed = (ROUNDING if old.dtype == np.float32 else 2.0**-9) * worst
            np.testing.assert_allclose(new, old, rtol=0, atol=allowed, err_msg=who)


def check(case: Case, witness: Callable) -> None:
    proto, feeds = case.model(), case.feeds()
    wanted = witness(proto, feeds)
    loaded = graph.load(proto)
    assert loaded.opset_imports == {"": graph.HOME_OPSET}
    assert {graph.source_name(node) for node in loaded.graph} == {f"/{case.op}"}
    outputs = [value.name for value in loaded.graph.outputs]
    close(case, wanted, witness(graph.to_proto(loaded), feeds), "onnxruntime after")
    reference = ops.evaluate(loaded, feeds, ops.source)
    close(case, wanted, [np.asarray(reference[name]) for name in outputs], "porter")


X = floats(2, 5, 8)

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)

V = floats(8)

WEIGHTS = {
    "Attention": (1, 2),
    "MultiHeadAttention": (3,),
    "EmbedLayerNormalization": (2, 3, 4),
    "GroupQueryAttention": (7, 8),
    "MoE": (1, 2, 3, 4, 5),
}


def check_open(case: Case, witness: Callable) -> None:
    """The same where dims are not bound yet when the operator is spelled: the nodes then read them when they run."""
    weights = tuple(
        i for i in WEIGHTS.get(case.op, case.weights) if i < len(case.inputs) and case.inputs[i] is not None
    )
    case = Case(case.op, case.inputs, case.attributes, weights, case.outputs, case.title, valid=case.valid)
    model, feeds = graph.read(case.model(symbolic=True)), case.feeds()
    graph.infer_types(model)
    graph.upgrade(model)
    contrib.normalize(model)
    graph.infer_types(model)
    graph.validate(model)
    close(case, witness(case.model(), feeds), witness(graph.to_proto(model), feeds), "onnxruntime after")


def refusal(case: Case) -> list[str]:
    """The three lines that are said of a model that is refused: where, expected, found."""
    with pytest.raises(PorterError) as error:
        graph.load(case.model())
    return str(error.value).splitlines()[:3]


def said(case: Case, expected: str, found: str) -> list[str]:
    """What is to be said."""
    return [f"node '/{case.op}' (com.microsoft.{case.op})", f"  expected {expected}", f"  found {found}"]
