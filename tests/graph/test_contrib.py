"""onnxruntime's own operators mean after loading what they mean to onnxruntime, in its arithmetic and in ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
            dims = [f"{name}_{axis}" if symbolic and axis in LENGTHS[array.ndim] else size for axis, size in enumerate(array.shape)]
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

ACTIVATIONS = [
    Case("Gelu", [X]),
    Case("FastGelu", [X]),
    Case("FastGelu", [X, V], title="bias"),
    Case("BiasGelu", [X, V]),
    Case("QuickGelu", [X]),
    Case("QuickGelu", [X], {"alpha": 0.5}, title="alpha"),
    Case("FusedMatMul", [X, floats(8, 3)]),
    Case("FusedMatMul", [floats(2, 8, 5), floats(2, 3, 8)], {"transA": 1, "transB": 1, "alpha": 0.25}, title="trans"),
    Case("FusedMatMul", [floats(5, 2, 8), floats(2, 8, 3)], {"transBatchA": 1}, title="batch A"),
    Case("FusedMatMul", [floats(2, 5, 8), floats(8, 2, 3)], {"transBatchB": 1}, title="batch B"),
    Case("FusedMatMul", [floats(5, 2, 3, 8), floats(2, 3, 4, 8)], {"transBatchA": 1, "transB": 1}, title="rank 4"),
    Case("FusedMatMul", [floats(8, 2, 3, 5), floats(2, 3, 8, 4)], {"transBatchA": 1, "transA": 1}, title="both"),
    Case("TransposeMatMul", [floats(8, 5), floats(8, 3)], {"transA": 1}),
    Case("FusedGemm", [floats(4, 8), floats(3, 8), floats(3)], {"transB": 1, "activation": "Relu"}, title="relu"),
    Case(
        "FusedGemm", [floats(4, 8), floats(8, 3)], {"activation": "LeakyRelu", "activation_alpha": 0.2}, title="leaky"
    ),
]

NORMALIZATIONS = [
    Case("LayerNormalization", [X, V, floats(8)], {"epsilon": 1e-3}, domain="", opset=14),
    Case("SimplifiedLayerNormalization", [X, V], {"epsilon": 1e-6, "axis": -1, "stash_type": 1}, domain=""),
    Case("SimplifiedLayerNormalization", [X, floats(5, 8)], {"axis": 1}, domain="", title="two axes"),
    Case("SkipLayerNormalization", [X, floats(2, 5, 8), V]),
    Case(
        "SkipLayerNormalization",
        [X, floats(2, 5, 8), V, floats(8), floats(8)],
        {"epsilon": 1e-4},
        outputs=(0, 3),
        title="sum",
    ),
    Case("SkipLayerNormalization", [X, floats(1, 5, 8), V, floats(8)], title="skip of one"),
    Case("SkipLayerNormalization", [X, floats(5, 8), V, floats(8)], title="skip of rank 2"),
    Case("SkipSimplifiedLayerNormalization", [X, floats(2, 5, 8), V]),
    Case(
        "SkipSimplifiedLayerNormalization",
        [X, floats(2, 5, 8), V, floats(8)],
        {"epsilon": 1e-4},
        outputs=(0, 3),
        title="sum",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), ids(0, 2, 2, 5), floats(9, 8), floats(7, 8), floats(2, 8), V, floats(8), MASK],
        {"mask_index_type": 1},
        outputs=(0, 1, 2),
        title="all",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8)],
        outputs=(0, 1),
        title="no segments",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8), None, ids(0, 7, 2, 5)],
        {"epsilon": 1e-5},
        outputs=(0, 1),
        title="positions",
    ),
    Case(
        "EmbedLayerNormalization",
        [ids(0, 9, 2, 5), None, floats(9, 8), floats(7, 8), None, V, floats(8), None, ids(0, 7, 1, 5)],
        outputs=(0, 1),
        title="positions of one",
    ),
]


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
def test_activations_and_products(case: Case, witness: Callable) -> None:
    check(case, witness)


@pytest.mark.parametrize("case", NORMALIZATIONS, ids=str)
def test_normalizations(case: Case, witness: Callable) -> None:
    check(case, witness)


def attention(*shape: int) -> np.ndarray:
    return floats(*shape, scale=0.5)


W, B = floats(8, 24, scale=0.3), floats(24)
LEFT_PADDED = np.array([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]], np.int32)
ATTENTION = [
    Case("Attention", [X, W, B], {"num_heads": 2}),
    Case("Attention", [X, W, B], {"num_heads": 2, "unidirectional": 1, "scale": 0.3}, title="causal"),
    Case("Attention", [X, W, B, MASK], {"num_heads": 2}, title="mask"),
    Case(
        "Attention",
        [X, W, B, LEFT_PADDED],
        {"num_heads": 2, "unidirectional": 1, "mask_filter_value": -3.4e38},
        title="left padded",
    ),
    Case(
        "Attention",
        [X, W, B, ids(0, 2, 2, 5, 5)],
        {"num_heads": 2, "mask_filter_value": -500.0},
        title="mask of rank 3",
    ),
    Case("Attention", [X, W, B, np.array([5, 3], np.int32)], {"num_heads": 2}, title="lengths"),
    Case("Attention", [X, W, B, np.array([5, 4, 0, 2], np.int32)], {"num_heads": 2}, title="ends and starts"),
    Case(
        "Attention",
        [X, W, B, ids(0, 2, 2, 8), floats(2, 2, 2, 3, 4)],
        {"num_heads": 2, "unidirectional": 1},
        outputs=(0, 1),
        title="past",
    ),
    Case("Attention", [X, W, B, None, None, floats(1, 2, 5, 5)], {"num_heads": 2}, title="bias"),
    Case("Attention", [X, W, B, MASK, None, floats(2, 1, 5, 5)], {"num_heads": 2}, title="bias and mask"),
    Case(
        "Attention",
        [X, floats(8, 28, scale=0.3), floats(28)],
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 12]},
        title="wide values",
    ),
    Case("MultiHeadAttention", [X, floats(2, 7, 8), floats(2, 7, 12)], {"num_heads": 2}),
    Case("MultiHeadAttention", [X, X, X, floats(24), MASK], {"num_heads": 2, "unidirectional": 1}, title="mask"),
    Case(
        "MultiHeadAttention",
        [X, floats(2, 7, 8), floats(2, 7, 8), None, np.array([7, 4], np.int32)],
        {"num_heads": 2},
        title="lengths",
    ),
    Case("MultiHeadAttention", [X, X, X, None, ids(0, 2, 2, 5, 5)], {"num_heads": 2}, title="mask of rank 3"),
    Case(
        "MultiHeadAttention",
        [X, X, X, None, ids(0, 2, 2, 8), floats(1, 2, 5, 8), floats(2, 2, 3, 4), floats(2, 2, 3, 4)],
        {"num_heads": 2, "scale": 0.2},
        outputs=(0, 1, 2),
        title="past",
    ),
    Case("MultiHeadAttention", [X, floats(2, 2, 7, 4), floats(2, 2, 7, 4)], {"num_heads": 2}, title="keys by head"),
    Case(
        "MultiHeadAttention",
        [X, floats(2, 2, 7, 4), floats(2, 2, 7, 4), floats(24)],
        {"num_heads": 2},
        title="keys by head, bias",
    ),
    Case("MultiHeadAttention", [X, X, X], {"num_heads": 2}, outputs=(0, 1, 2, 3), title="scores"),
    Case(
        "MultiHeadAttention",
        [X, X, X, None, MASK, floats(1, 2, 5, 5)],
        {"num_heads": 2},
        outputs=(0, 1, 2, 3),
        title="masked scores",
    ),
    Case("RotaryEmbedding", [X, ids(0, 9, 2, 5, kind=np.int64), floats(9, 2), floats(9, 2)]),
    Case(
        "RotaryEmbedding",
        [X, ids(0, 9, 2, 5, kind=np.int64), floats(9, 2), floats(9, 2)],
        {"interleaved": 1},
        title="interleaved",
    ),
    Case("RotaryEmbedding", [X, np.array([3], np.int64), floats(9, 2), floats(9, 2)], title="start"),
    Case("RotaryEmbedding", [floats(2, 3, 5, 8), np.array([3], np.int64), floats(9, 4), floats(9, 4)], title="rank 4"),
    Case(
        "RotaryEmbedding",
        [X, ids(0, 9, 2, 5, kind=np.int64), floats(9, 1), floats(9, 1)],
        {"num_heads": 2, "rotary_embedding_dim": 2},
        title="partial",
    ),
]


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: Case, witness: Callable) -> None:
    check(case, witness)


def grouped(new: int, total: list[int], past: int | None, *, batch: int = 2, **more: Any) -> Case:
    """GroupQueryAttention of 4 query heads over 2 key heads of size 16; `total` counts tokens, with the new ones."""
    lengths, longest = np.array(total, np.int32) - 1, max(total)
    inputs: list[np.ndarray | None] = [floats(batch, new, 64), floats(batch, new, 32), floats(batch, new, 32)]
    inputs += [None, None] if past is None else [floats(batch, 2, past, 16), floats(batch, 2, past, 16)]
    inputs += [lengths, np.array([longest], np.int32)]
    extra: dict[int, np.ndarray] = more.pop("extra", {})
    while extra and len(inputs) <= max(extra):
        inputs.append(extra.get(len(inputs)))
    for index in more.pop("without", ()):
        inputs[index] = None
    first = new == longest

    def valid(outputs: list[np.ndarray]) -> list[np.ndarray]:
        y, *caches = outputs
        tokens = [y[b, : total[b] if first else None] for b in range(batch)]
        return [*tokens, *(cache[b, :, : total[b]] for cache in caches for b in range(batch))]

    title, replaced = more.pop("title"), more.pop("replaced", {})
    for index, array in replaced.items():
        inputs[index] = array
    return Case(
        "GroupQueryAttention",
        inputs,
        {"num_heads": 4, "kv_num_heads": 2, **more},
        weights=(6,),
        outputs=(0, 1, 2),
        valid=valid,
        title=title,
    )


ROTARY = {7: floats(32, 8), 8: floats(32, 8)}
GROUPED = [
    grouped(5, [5, 5], None, title="prompt"),
    grouped(5, [5, 3], None, title="padded prompt"),
    grouped(5, [5, 3], 0, title="prompt with an empty cache"),
    grouped(5, [5, 3], 12, title="prompt into a buffer"),
    grouped(1, [8, 8], 7, title="token"),
    grouped(1, [8, 5], 7, title="token, lengths differ"),
    grouped(1, [8, 5], 16, title="token into a buffer"),
    grouped(1, [8], 7, batch=1, title="token alone"),
    grouped(3, [10], 7, batch=1, title="three tokens"),
    grouped(1, [8, 5], 7, extra=ROTARY, do_rotary=1, title="rotary"),
    grouped(5, [5, 3], 0, extra=ROTARY, do_rotary=1, rotary_interleaved=1, title="rotary prompt"),
    grouped(3, [10], 7, batch=1, extra=ROTARY, do_rotary=1, title="rotary, three tokens"),
    grouped(1, [8, 5], 7, extra=ROTARY | {9: ids(0, 20, 2, 1, kind=np.int64)}, do_rotary=1, title="positions"),
    grouped(1, [8, 5], 7, local_window_size=3, title="window"),
    grouped(5, [5, 3], 0, local_window_size=2, title="window prompt"),
    grouped(1, [8, 5], 7, softcap=2.0, scale=0.7, title="soft cap"),
    grouped(1, [8, 5], 7, extra={10: floats(1, 4, 1, 8)}, title="bias"),
    grouped(5, [5, 3], 0, extra={10: floats(2, 1, 5, 5)}, title="bias prompt"),
    grouped(1, [8, 5], 16, extra={10: floats(2, 4, 1, 8)}, title="bias, buffer"),
    grouped(1, [8, 5], 7, smooth_softmax=1, title="smooth"),
    grouped(5, [5, 3], 0, extra={11: floats(4)}, title="sinks"),
    grouped(
        1, [8, 5], 7, extra={11: floats(4), 10: floats(1, 1, 1, 8)}, local_window_size=4, title="sinks, window, bias"
    ),
    grouped(1, [8, 5], 7, replaced={0: floats(2, 1, 128)}, without=(1, 2), title="packed"),
    grouped(5, [5, 4], 0, causal=0, title="not causal"),
    grouped(1, [8, 5], 7, causal=0, softcap=1.0, title="not causal, token"),
]


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_grouped_queries(case: Case, witness: Callable) -> None:
    check(case, witness)


@pytest.mark.parametrize("case", [GROUPED[i] for i in (1, 2, 5, 8, 10)], ids=str)
def test_grouped_queries_with_a_length_that_shows_when_it_runs(case: Case, witness: Callable) -> None:
    case = Case(case.op, case.inputs, case.attributes, (), case.outputs, case.title, valid=case.valid)
    check(case, witness)


def test_packed_inputs_of_attention_are_taken_apart(witness: Callable) -> None:
    """onnxruntime's CPU has these packings only unpacked, so that is what they are held against."""
    q, k, v = (floats(2, 5, 2, 4) for _ in range(3))
    flat = Case("MultiHeadAttention", [part.reshape(2, 5, 8) for part in (q, k, v)], {"num_heads": 2})
    wanted = witness(flat.model(), flat.feeds())
    for inputs in ([np.stack([q, k, v], 3)], [q.reshape(2, 5, 8), np.stack([k, v], 3)]):
        packed = Case("MultiHeadAttention", inputs, {"num_heads": 2})
        close(flat, wanted, witness(graph.to_proto(graph.load(packed.model())), packed.feeds()), "packed")


def test_norms_of_heads_come_before_the_rotation(witness: Callable) -> None:
    """onnxruntime's CPU refuses these weights, so the norms are computed here, and the rest by it."""
    case = grouped(1, [8, 5], 7, extra=ROTARY, do_rotary=1, qk_norm_epsilon=1e-3, title="norms")
    weights = [floats(16), floats(16)]

    def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        heads = x.astype(np.float64).reshape(*x.shape[:2], -1, 16)
        y = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-3) * weight
        return y.reshape(x.shape).astype(np.float32)

    query, key = case.inputs[0], case.inputs[1]
    assert query is not None and key is not None
    before = Case(
        case.op,
        [normed(query, weights[0]), normed(key, weights[1]), *case.inputs[2:]],
        case.attributes,
        (6,),
        (0, 1, 2),
    )
    after = Case(case.op, [*case.inputs, *[None] * 5, *weights], case.attributes, (6,), (0, 1, 2), valid=case.valid)
    assert case.valid is not None
    wanted = witness(before.model(), before.feeds())
    close(after, wanted, witness(graph.to_proto(graph.load(after.model())), after.feeds()), "norms")


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


def symbolic_cases() -> list[Case]:
    """Those that do without a known length: packed masks need the batch, trailing weights their sizes."""
    chosen = [case for case in NORMALIZATIONS + ACTIVATIONS if case.domain and not case.op.startswith(("Fused", "Trans"))]
    chosen += [case for case in ATTENTION if case.title not in ("lengths", "ends and starts") and case.op != "RotaryEmbedding"]
    return chosen + GROUPED + [case for case in BITS if case.op == "MatMulNBits"][:4] + MIXTURES[:1]


WEIGHTS = {
    "Attention": (1, 2), "MultiHeadAttention": (3,), "EmbedLayerNormalization": (2, 3, 4), "GroupQueryAttention": (7, 8),
    "MoE": (1, 2, 3, 4, 5),
}  # fmt: skip


@pytest.mark.parametrize("case", symbolic_cases(), ids=str)
def test_lengths_may_be_open_when_operators_are_spelled(case: Case, witness: Callable) -> None:
    """Dims are bound before, as a rule; where they are not, the nodes read them when they run."""
    weights = tuple(i for i in WEIGHTS.get(case.op, case.weights) if i < len(case.inputs) and case.inputs[i] is not None)
    case = Case(case.op, case.inputs, case.attributes, weights, case.outputs, case.title, valid=case.valid)
    model, feeds = graph.read(case.model(symbolic=True)), case.feeds()
    graph.infer_types(model)
    graph.upgrade(model)
    contrib.normalize(model)
    graph.infer_types(model)
    graph.validate(model)
    close(case, witness(case.model(), feeds), witness(graph.to_proto(model), feeds), "onnxruntime after")


REFUSED = [
    (Case("Attention", [X, W, B], {"num_heads": 2, "do_rotary": 1}), "attribute 'do_rotary' of 0", "1"),
    (Case("Attention", [X, W, B, np.ones((2, 1, 9, 9), np.int32)], {"num_heads": 2}), "a mask of rank 1 to 3", "'in3' of rank 4"),
    (Case("MultiHeadAttention", [X, X, X, *[None] * 5, np.array([3], np.int32)], {"num_heads": 2}), "no input 'past_sequence_length'", "'in8'"),
    (Case("RotaryEmbedding", [X, ids(0, 9, 2, 5, kind=np.int64), floats(9, 2), floats(9, 2)], {"scale": 0.5}), "attribute 'scale' of 1.0", "0.5"),
    (Case("GroupQueryAttention", GROUPED[4].inputs, GROUPED[4].attributes | {"k_quant_type": "PER_TENSOR"}, (6,)), "attribute 'k_quant_type' of NONE", "PER_TENSOR"),
    (Case("GroupQueryAttention", GROUPED[4].inputs, GROUPED[4].attributes | {"sliding_window_cache": 1}, (6,)), "attribute 'sliding_window_cache' of 0", "1"),
    (Case("SkipLayerNormalization", [X, X, V], outputs=(0, 1)), "an output 'mean' that nothing reads", "'out1'"),
    (Case("MatMulNBits", BITS[0].inputs, {**BITS[0].attributes, "bits": 3}, (1, 2)), "attribute 'bits' of 2 or 4 or 8", "3"),
    (Case("MatMulNBits", BITS[0].inputs, BITS[0].attributes, (2,)), "input 1 to be a weight", "'in1', which is computed"),
    (Case("MatMulNBits", [*BITS[0].inputs, ids(0, 2, 32)], BITS[0].attributes, (1, 2, 4)), "an input 'g_idx' of blocks in order", "another order"),
    (Case("GatherBlockQuantized", BITS[-4].inputs, {**BITS[-4].attributes, "gather_axis": 1}, (0, 2)), "attribute 'gather_axis' other than 'quantize_axis' 1", "1"),
    (Case("MoE", MIXTURES[0].inputs, {"k": 2, "use_sparse_mixer": 1}), "attribute 'use_sparse_mixer' of 0", "1"),
    (Case("QMoE", MIXTURES[-1].inputs, MIXTURES[-1].attributes | {"quant_type": "fp4"}, (2, 3, 5, 6)), "attribute 'quant_type' of int", "fp4"),
    (Case("FusedGemm", [floats(4, 8), floats(8, 3)], {"activation": "Erf2"}), "an attribute 'activation' that is an operator of one input", "Erf2"),
]


@pytest.mark.parametrize("case, expected, found", REFUSED, ids=str)
def test_what_has_no_exact_spelling_is_refused_by_name(case: Case, expected: str, found: str) -> None:
    with pytest.raises(PorterError) as error:
        graph.load(case.model())
    assert str(error.value).splitlines()[:3] == [
        f"node '/{case.op}' (com.microsoft.{case.op})", f"  expected {expected}", f"  found {found}",
    ]  # fmt: skip


def test_operators_in_branches_and_functions_are_spelled_too(witness: Callable) -> None:
    gelu = helper.make_node("FastGelu", ["x", "b"], ["y"], name="inner", domain="com.microsoft")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    plain = helper.make_node("Add", ["x", "b"], ["z"], name="plain")
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])
    branch = helper.make_node(
        "If", ["c"], ["o"], name="choice", then_branch=helper.make_graph([gelu], "t", [], [y]), else_branch=helper.make_graph([plain], "e", [], [z]),
    )  # fmt: skip
    inside = helper.make_node("QuickGelu", ["u"], ["v"], name="quick", domain="com.microsoft")
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("mine", "F", ["u"], ["v"], [inside], imports)
    call = helper.make_node("F", ["o"], ["w"], name="call", domain="mine")
    infos = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]), helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])]
    result = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3])
    proto = helper.make_model(
        helper.make_graph([branch, call], "main", infos, [result]), opset_imports=[*imports, helper.make_opsetid("mine", 1)], functions=[function], ir_version=10,
    )  # fmt: skip
    loaded = graph.load(proto)
    assert not [node for inner in graph.every_graph(loaded) for node in inner if node.domain == "com.microsoft"]
    for choice in (True, False):
        feeds = {"c": np.asarray(choice), "x": floats(2, 3), "b": floats(3)}
        wanted, found = witness(proto, feeds)[0], witness(graph.to_proto(loaded), feeds)[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())
        ours = np.asarray(ops.evaluate(loaded, feeds, ops.source)["w"])
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())


def test_a_note_tells_what_was_spelled() -> None:
    assert "operators of com.microsoft are spelled in the standard's: 1 FastGelu" in graph.notes(graph.load(ACTIVATIONS[1].model()))
