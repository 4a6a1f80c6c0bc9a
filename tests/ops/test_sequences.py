"""Sequences and optionals: onnx's own cases, which stand outside of the list of tensor cases."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from porter import graph, ops

OPERATORS = {
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip


def used(body: onnx.GraphProto) -> set[str]:
    inner = (used(a.g) for node in body.node for a in node.attribute if a.HasField("g"))
    return {node.op_type for node in body.node}.union(*inner)


@cache
def cases() -> dict[str, Any]:
    """The cases with a sequence or an optional anywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = {case.name: case for case in load_model_tests(kind="node")}
    kinds = {"sequence_type", "optional_type"}
    return {
        name: case
        for name, case in found.items()
        if case.model is not None
        and (
            {v.type.WhichOneof("value") for v in (*case.model.graph.input, *case.model.graph.output)} & kinds
            or used(case.model.graph) & OPERATORS
        )
    }


def same(got: Any, want: Any) -> None:
    if isinstance(want, list | tuple):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
    elif want is None:
        assert got is None
    else:
        want = np.asarray(want)
        assert (np.asarray(got).dtype, np.shape(got)) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


def test_onnx_has_the_cases():
    assert len(cases()) == 34


@pytest.mark.parametrize("name", sorted(cases()))
def test_case(name: str) -> None:
    case = cases()[name]
    model = graph.read(case.model)
    for inputs, outputs in case.data_sets:
        feeds = dict(zip((str(v.name) for v in model.graph.inputs), inputs, strict=True))
        same(list(ops.evaluate(model, feeds, ops.source).values()), list(outputs))
