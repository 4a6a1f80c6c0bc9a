"""onnxruntime's own operators on weights of few bits, and mixtures of experts, mean after loading what they meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contrib_support import (
    Case,
    X,
    bytes_,
    check,
    check_open,
    floats,
    halved,
    ids,
    refusal,
    said,
)
from onnx import TensorProto, helper, numpy_helper

from porter import graph, ops


def blocks(bits: int, rows: int, width: int, block: int, points: bool = False) -> list[np.ndarray | None]:
    """Weights of MatMulNBits: codes, scales and packed zero points."""
    count = -(-width // block)
    packed = bytes_(rows, count, block * bits // 8)
    zero = bytes_(rows, -(-count * bits // 8)) if points else None
    return [packed, np.abs(floats(rows, count)) * 0.1 + 0.01, zero]


BITS = [
    *[
        Case(
            "MatMulNBits",
            [floats(2, 5, width), *blocks(bits, 6, width, block, points)],
            {"bits": bits, "block_size": block, "K": width, "N": 6},
            weights=(1, 2, 3),
            title=f"{bits} bits, {width} in {block}s{', zero points' if points else ''}",
        )
        for bits in (2, 4, 8)
        for width, block in ((32, 16), (64, 32), (48, 16))
        for points in (False, True)
        if bits != 2 or block >= 16
    ],
    Case(
        "MatMulNBits",
        [floats(3, 40), *blocks(4, 6, 40, 32, True)],
        {"bits": 4, "block_size": 32, "K": 40, "N": 6},
        weights=(1, 2, 3),
        title="a partial block",
    ),
    Case(
        "MatMulNBits",
        [floats(3, 32), *blocks(4, 6, 32, 16), None, floats(6)],
        {"bits": 4, "block_size": 16, "K": 32, "N": 6},
        weights=(1, 2, 5),
        title="bias",
    ),
    Case(
        "MatMulNBits",
        [floats(3, 32), *blocks(4, 6, 32, 16)[:2], np.abs(floats(6, 2)) * 8],
        {"bits": 4, "block_size": 16, "K": 32, "N": 6},
        weights=(1, 2, 3),
        title="real zero points",
    ),
    Case(
        "MatMulNBits",
        [
            floats(3, 32).astype(np.float16),
            *[a if a is None or a.dtype == np.uint8 else a.astype(np.float16) for a in blocks(4, 6, 32, 16, True)],
        ],
        {"bits": 4, "block_size": 16, "K": 32, "N": 6},
        weights=(1, 2, 3),
        title="float16",
    ),
    Case(
        "GatherBlockQuantized",
        [bytes_(9, 16), ids(0, 9, 2, 3), np.abs(floats(9, 2))],
        {"block_size": 16, "bits": 4, "quantize_axis": 1},
        weights=(0, 2),
        title="4 bits",
    ),
    Case(
        "GatherBlockQuantized",
        [bytes_(9, 16), ids(0, 9, 2, 3, kind=np.int64), np.abs(floats(9, 2)), bytes_(9, 1)],
        {"block_size": 16, "bits": 4, "quantize_axis": 1},
        weights=(0, 2, 3),
        title="4 bits, zero points",
    ),
    Case(
        "GatherBlockQuantized",
        [bytes_(9, 32), ids(0, 9, 4), np.abs(floats(9, 2)), bytes_(9, 2)],
        {"block_size": 16, "bits": 8, "quantize_axis": 1},
        weights=(0, 2, 3),
        title="8 bits, zero points",
    ),
    Case(
        "GatherBlockQuantized",
        [bytes_(9, 8), ids(0, 9, 4), np.abs(floats(9, 2))],
        {"block_size": 16, "bits": 2, "quantize_axis": 1},
        weights=(0, 2),
        title="2 bits",
    ),
]


@pytest.mark.parametrize("case", BITS, ids=str)
def test_weights_of_few_bits(case: Case, witness: Callable) -> None:
    check(case, witness)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("take, along", [(0, 1), (1, 0)])
def test_gathering_codes_that_have_a_type(kind: int, points: bool, take: int, along: int, witness: Callable) -> None:
    low, high = (-8, 8) if kind == TensorProto.INT4 else (0, 16)
    shape, scales = ((9, 32), (9, 2)) if along == 1 else ((32, 9), (2, 9))
    weights = [
        helper.make_tensor("w", kind, shape, ids(low, high, *shape).reshape(-1)),
        numpy_helper.from_array(np.abs(floats(*scales)), "s"),
    ]
    if points:
        weights.append(helper.make_tensor("z", kind, scales, ids(low, high, *scales).reshape(-1)))
    node = helper.make_node(
        "GatherBlockQuantized",
        ["w", "i", "s", *("z",) * points],
        ["y"],
        domain="com.microsoft",
        block_size=16,
        gather_axis=take,
        quantize_axis=along,
    )
    index = helper.make_tensor_value_info("i", TensorProto.INT64, [2, 3])
    proto = helper.make_model(
        helper.make_graph([node], "main", [index], [helper.make_empty_tensor_value_info("y")], weights),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    feeds = {"i": ids(0, 9, 2, 3, kind=np.int64)}
    loaded = graph.load(proto)
    wanted = witness(proto, feeds)[0]
    np.testing.assert_array_equal(witness(graph.to_proto(loaded), feeds)[0], wanted)
    np.testing.assert_array_equal(np.asarray(ops.evaluate(loaded, feeds, ops.source)["y"]), wanted)


def test_the_bytes_of_weights_are_not_copied() -> None:
    case = BITS[6]
    loaded = graph.load(case.model())
    kinds = {value.dtype.name for value in loaded.graph.initializers.values() if value.name and "codes" in value.name}
    assert kinds == {"UINT4"} and "in1" not in loaded.graph.initializers
    packed = next(value.const_value for name, value in loaded.graph.initializers.items() if name.endswith("codes"))
    assert packed is not None and packed.tobytes() == case.inputs[1].tobytes()  # type: ignore[union-attr]


EXPERTS, HIDDEN, INNER = 4, 8, 6


def experts(inner: int = INNER, bias: bool = True) -> list[np.ndarray | None]:
    shapes = ((EXPERTS, inner, HIDDEN), (EXPERTS, inner), (EXPERTS, HIDDEN, INNER), (EXPERTS, HIDDEN))
    return [floats(*shape, scale=0.4) if bias or len(shape) == 3 else None for shape in shapes]


SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0}

MIXTURES = [
    *[
        Case(
            "MoE",
            [X, floats(10, EXPERTS), *experts()],
            {"k": 2, "activation_type": kind, "normalize_routing_weights": norm},
            title=f"{kind}{norm}",
        )
        for kind in ("relu", "gelu", "silu", "identity")
        for norm in (0, 1)
    ],
    Case("MoE", [floats(7, HIDDEN), floats(7, EXPERTS), *experts(bias=False)], {"k": 1}, title="packed tokens"),
    Case("MoE", [X, floats(10, EXPERTS), *experts(2 * INNER)], {"k": 2, **SWIGLU, "swiglu_limit": 0.5}, title="swiglu"),
    Case(
        "MoE",
        [X, floats(10, EXPERTS), *experts(2 * INNER)],
        {"k": 3, **SWIGLU, "activation_beta": 0.0},
        title="swiglu without limit",
    ),
]


def quantized_experts(bits: int, block: int, points: bool, router: bool = False, **attributes: Any) -> Case:
    """QMoE with 16 or 32 hidden and inner sizes, so that blocks fit."""
    hidden, inner, out = 32, 32, 64
    counts = hidden // block if block else 1

    def scales(rows: int) -> np.ndarray:
        return np.abs(floats(EXPERTS, rows, counts) if block else floats(EXPERTS, rows)) * 0.05 + 0.01

    def zero(rows: int) -> np.ndarray | None:
        if not points:
            return None
        return bytes_(EXPERTS, rows, -(-counts * bits // 8)) if block else bytes_(EXPERTS, -(-rows * bits // 8))

    def weight(rows: int) -> np.ndarray:
        return bytes_(EXPERTS, rows, hidden * bits // 8)

    inputs = [
        floats(2, 3, hidden, scale=0.3),
        floats(6, EXPERTS),
        weight(out),
        scales(out),
        floats(EXPERTS, out),
        weight(inner),
        scales(inner),
        floats(EXPERTS, hidden),
        None,
        None,
        None,
        zero(out),
        zero(inner),
    ]
    if router:
        inputs += [None, np.abs(floats(6, EXPERTS)) + 0.1]
    given = {"k": 2, "expert_weight_bits": bits, **({"block_size": block} if block else {}), **SWIGLU, **attributes}
    title = f"{bits} bits, blocks of {block}{', zero points' if points else ''}{', router' if router else ''}"
    return Case("QMoE", inputs, given, weights=(2, 3, 5, 6, 11, 12), title=title)


MIXTURES += [
    quantized_experts(bits, block, points) for bits in (4, 8) for block in (0, 16) for points in (False, True)
] + [quantized_experts(4, 0, False, router=True), quantized_experts(4, 0, False, normalize_routing_weights=1)]


@pytest.mark.parametrize("case", MIXTURES, ids=str)
def test_mixtures_of_experts(case: Case, witness: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    # else onnxruntime rounds activations to 8 bits where weights have 8 bits in blocks
    monkeypatch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")
    check(case, witness)


@pytest.mark.parametrize("case", [case for case in BITS if case.op == "MatMulNBits"][:4] + MIXTURES[:1], ids=str)
def test_lengths_may_be_open_when_operators_are_spelled(case: Case, witness: Callable) -> None:
    check_open(case, witness)


REFUSED = [
    (
        Case("MatMulNBits", BITS[0].inputs, {**BITS[0].attributes, "bits": 3}, (1, 2)),
        "attribute 'bits' of 2 or 4 or 8",
        "3",
    ),
    (
        Case("MatMulNBits", BITS[0].inputs, BITS[0].attributes, (2,)),
        "input 1 to be a weight",
        "'in1', which is computed",
    ),
    (
        Case("MatMulNBits", [*BITS[0].inputs, ids(0, 2, 32)], BITS[0].attributes, (1, 2, 4)),
        "an input 'g_idx' of blocks in order",
        "another order",
    ),
    (
        Case("GatherBlockQuantized", BITS[-4].inputs, {**BITS[-4].attributes, "gather_axis": 1}, (0, 2)),
        "attribute 'gather_axis' other than 'quantize_axis' 1",
        "1",
    ),
    (Case("MoE", MIXTURES[0].inputs, {"k": 2, "use_sparse_mixer": 1}), "attribute 'use_sparse_mixer' of 0", "1"),
    (
        Case("QMoE", MIXTURES[-1].inputs, MIXTURES[-1].attributes | {"quant_type": "fp4"}, (2, 3, 5, 6)),
        "attribute 'quant_type' of int",
        "fp4",
    ),
]


@pytest.mark.parametrize("case, expected, found", REFUSED, ids=str)
def test_what_has_no_exact_spelling_is_refused_by_name(case: Case, expected: str, found: str) -> None:
    assert refusal(case) == said(case, expected, found)


# Without normalized weights the float16 of onnxruntime's MoE disagrees with its own float32: with k = 1 it gives zeros.
HALVES = [c for c in MIXTURES if c.op == "MoE" and c.attributes.get("normalize_routing_weights")]
HALVES += [*BITS[:2], *BITS[-4:-2]]


@pytest.mark.parametrize("case", HALVES, ids=str)
def test_the_same_in_float16(case: Case, witness: Callable) -> None:
    check(halved(case), witness)
