"""onnxruntime's own quantized operators mean after loading what they mean to onnxruntime, to a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from contrib_support import (
    RNG,
    Case,
    X,
    check,
    floats,
    ids,
)


def code(*shape: int, kind: type = np.uint8) -> np.ndarray:
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max + 1, shape).astype(kind)


def scale(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def zero(value: int, kind: type = np.uint8) -> np.ndarray:
    return np.asarray(value, kind)


QUANTIZED = [
    *[
        Case(
            name,
            [
                code(2, 5, kind=kind),
                scale(0.02),
                zero(3, kind),
                code(2, 1, kind=kind),
                scale(0.03),
                zero(-5 if kind is np.int8 else 9, kind),
                scale(0.05),
                zero(1, kind),
            ],
            title=kind.__name__,
            steps=1,
        )
        for name in ("QLinearAdd", "QLinearMul")
        for kind in (np.uint8, np.int8)
    ],
    Case("QLinearSigmoid", [code(2, 5), scale(0.05), zero(128), scale(1 / 256), zero(0)]),
    Case(
        "QLinearLeakyRelu",
        [code(2, 5, kind=np.int8), scale(0.05), zero(3, np.int8), scale(0.04), zero(-1, np.int8)],
        {"alpha": 0.2},
    ),
    Case(
        "QLinearSoftmax",
        [code(2, 3, 5), scale(0.05), zero(128), scale(1 / 256), zero(0)],
        {"opset": 13, "axis": 1},
        title="13",
        steps=1,
    ),
    Case(
        "QLinearSoftmax",
        [code(2, 3, 5), scale(0.05), zero(128), scale(1 / 256), zero(0)],
        {"opset": 11, "axis": 1},
        title="11",
        steps=1,
    ),
    Case(
        "QLinearConcat",
        [scale(0.04), zero(7), code(2, 3), scale(0.05), zero(128), code(2, 2), scale(0.02), zero(0)],
        {"axis": 1},
        weights=(1, 3, 4, 6, 7),
    ),
    Case(
        "QLinearWhere",
        [
            np.array([[True], [False]]),
            code(2, 3),
            scale(0.05),
            zero(128),
            code(3),
            scale(0.02),
            zero(0),
            scale(0.04),
            zero(7),
        ],
        weights=(2, 3, 5, 6, 7, 8),
    ),
    Case("QLinearGlobalAveragePool", [code(2, 3, 4, 5), scale(0.05), zero(128), scale(0.02), zero(100)], steps=1),
    Case(
        "QLinearGlobalAveragePool",
        [code(2, 4, 5, 3), scale(0.05), zero(128), scale(0.02), zero(100)],
        {"channels_last": 1},
        title="channels last",
        steps=1,
    ),
    Case(
        "QLinearAveragePool",
        [code(2, 3, 6, 6), scale(0.05), zero(128), scale(0.04), zero(100)],
        {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]},
        steps=1,
    ),
    Case(
        "QLinearAveragePool",
        [code(2, 6, 6, 3), scale(0.05), zero(128), scale(0.04), zero(100)],
        {"kernel_shape": [2, 2], "channels_last": 1},
        title="channels last",
        steps=1,
    ),
    Case(
        "QLinearConv",
        [
            code(1, 6, 6, 3),
            scale(0.05),
            zero(128),
            code(4, 3, 3, 3),
            scale(0.01),
            zero(120),
            scale(0.5),
            zero(128),
            ids(-99, 99, 4),
        ],
        {"channels_last": 1, "pads": [1, 1, 1, 1]},
        title="channels last",
        weights=(3,),
        steps=1,
    ),
    Case("DequantizeLinear", [code(2, 5, kind=np.uint16), scale(0.05), zero(30000, np.uint16)], title="16 bits"),
    Case("QuantizeLinear", [X, scale(0.05), zero(30000, np.uint16)], title="16 bits", steps=0),
    Case(
        "MatMulIntegerToFloat",
        [code(3, 8), code(8, 4, kind=np.int8), scale(0.02), scale(0.03), zero(120), zero(3, np.int8), floats(4)],
    ),
    Case("DynamicQuantizeMatMul", [floats(3, 8), code(8, 4), scale(0.03), zero(120), floats(4)]),
]


@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_quantized_operators(case: Case, witness: Callable) -> None:
    check(case, witness)
