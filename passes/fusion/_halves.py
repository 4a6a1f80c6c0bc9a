"""The first half of a value's last axis, where both halves are known to be equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from porter.graph import Value, attributes, constant, shape
from porter.rewrite import Given
from porter.rewrite.terms import Operators, Term

#: operators that keep equal halves equal: they work on each element alone
ELEMENTWISE = frozenset("Cos Sin Neg Cast Identity Sqrt Exp".split())


def half(op: Operators, value: Value) -> Term | None:
    """A term for the first half, built from where the two halves were joined; None where they may differ.

    Walks up from cos(concat(angle, angle)) through elementwise operators, products with one number, and views that
    keep the last axis.
    """
    dims, known = shape(value), constant(value)
    if dims is None or not dims or dims[-1] % 2:
        return None
    if known is not None:
        low, high = np.split(known, 2, axis=-1)
        return op.either(low) if np.array_equal(low, high) else None
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Concat":
        joined = node.inputs
        rank = len(dims)
        two_equal = len(joined) == 2 and joined[0] is joined[1]
        return (
            Given(joined[0])
            if two_equal and attributes(node)["axis"] in (-1, rank - 1) and joined[0] is not None
            else None
        )
    if node.op_type in ELEMENTWISE:
        inner = half(op, node.inputs[0]) if node.inputs[0] is not None else None
        return None if inner is None else getattr(op, node.op_type)(inner, **_plain(node))
    if node.op_type in ("Mul", "Div"):
        for position, (x, factor) in enumerate((node.inputs, node.inputs[::-1])):
            number = constant(factor)
            if x is not None and number is not None and number.size == 1 and number.ndim <= len(dims):
                inner = half(op, x)
                if inner is not None and factor is not None:
                    operands = (inner, Given(factor))
                    return getattr(op, node.op_type)(*(operands if position == 0 else operands[::-1]))
    if node.op_type in ("Reshape", "Unsqueeze", "Squeeze") and node.inputs[0] is not None:
        before = shape(node.inputs[0])
        if before is not None and before and before[-1] == dims[-1]:
            inner = half(op, node.inputs[0])
            return None if inner is None else op.Reshape(inner, [*dims[:-1], dims[-1] // 2])
    return None


def _plain(node: Any) -> dict[str, Any]:
    return dict(attributes(node))
