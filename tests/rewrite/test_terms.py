"""Bodies become terms, and constants match what they round to."""

from __future__ import annotations

from math import sqrt

import ml_dtypes
import numpy as np
import pytest

from porter.rewrite.terms import Apply, Const, Param, Var, rounds_to, trace


def test_body_is_traced_operands_first():
    def body(op, x, w=None, *, epsilon, **conv):
        return op.Sqrt(op.Conv(x, w, **conv) + epsilon) * 2.0

    traced = trace(body)
    assert [apply.op_type for apply in traced.applies()] == ["Conv", "Add", "Sqrt", "Mul"]
    assert [(var.name, var.optional) for var in traced.signature.values] == [("x", False), ("w", True)]
    assert traced.signature.params[0].name == "epsilon"
    assert traced.signature.rest is not None and traced.signature.rest.name == "conv"


def test_python_operators_are_onnx_operators():
    def body(op, x, y):
        return (-x @ y - 1.0) / y**2.0

    assert [apply.op_type for apply in trace(body).applies()] == ["Neg", "MatMul", "Sub", "Pow", "Div"]


def test_outputs_of_one_node_share_the_call():
    low, high = trace(lambda op, x: op.Split(x, outputs=2)).outputs
    assert isinstance(low, Apply) and isinstance(high, Apply)
    assert low.call is high.call and (low.index, high.index) == (0, 1)


def test_first_spelling_is_built():
    traced = trace(lambda op, x: op.either(op.Relu(x), op.Max(x, 0.0)))
    assert [apply.op_type for apply in traced.applies()] == ["Relu"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_constant_matches_its_rounding_in_every_format(dtype):
    assert rounds_to(sqrt(2), np.asarray(sqrt(2), dtype))
    assert rounds_to(sqrt(2), np.full((1, 1), sqrt(2), dtype))
    assert not rounds_to(1.4, np.asarray(sqrt(2), dtype))


def test_rounding_of_the_stored_type_decides():
    assert rounds_to(sqrt(2), np.float32(1.4142135)[None])
    assert not rounds_to(sqrt(2), np.float64(1.4142135)[None])


def test_a_sequence_asks_for_its_shape():
    assert rounds_to([0, 1], np.asarray([0, 1]))
    assert not rounds_to([0, 1], np.asarray([[0, 1]]))
    assert not rounds_to(0.0, np.zeros(0))


def test_terms_are_told_apart_by_identity():
    assert Var("x") != Var("x")
    assert Const(1.0) != Const(1.0)
    assert Param("a") != Param("a")
