"""Kernels that every part of the way from jaxpr to target source is tried on: odd sizes first, every kind once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

LIMITS = {
    "toy": dict(elements=4096, dot_m=(1, 32), dot_n=(1, 32), dot_k=(1, 32), resident=512, elementwise=512),
    "gpu": dict(power_of_two=True, dot_m=(1, 64), dot_n=(1, 64), dot_k=(1, 64), elements=8192, float32_product="bf16x6"),
    "tpu": dict(dot_m=(8, 512), dot_n=(128, 512), dot_k=(128, 1024), elements=1 << 18, resident=65536, whole=1024,
                elementwise=1 << 17, multiples=(128, 8), ragged_loops=False, float32_product="bf16x6"),
    "trainium": dict(dot_m=(1, 128), dot_n=(1, 512), dot_k=(1, 128), elements=128 * 2048, resident=8192, whole=512,
                     elementwise=2048, partitions=128),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A function of jax arrays and the shapes and dtypes it is traced with."""

    name: str
    function: Callable[..., Any]
    types: tuple[jax.ShapeDtypeStruct, ...]

    def meaning(self) -> Any:
        return jax.make_jaxpr(self.function)(*self.types)

    def inputs(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        made = []
        for t in self.types:
            dtype = np.dtype(t.dtype)
            if dtype.kind in "iu":
                made.append(rng.integers(0, 100, t.shape).astype(dtype))
            elif dtype == np.bool_:
                made.append(rng.integers(0, 2, t.shape).astype(bool))
            else:
                made.append(rng.standard_normal(t.shape).astype(dtype))
        return made

    def outputs(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(x) for x in jax.tree.leaves(self.function(*map(jnp.asarray, inputs)))]


def _pairs(x: Any) -> Any:
    """An output with two axes that read the same vector, and one with an axis that is also summed."""
    return x[:, None] - x[None, :], x - jnp.max(x)


def _softmax(x: Any) -> Any:
    e = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    return e / jnp.sum(e, -1, keepdims=True)


def _log_softmax(x: Any) -> Any:
    c = x - jnp.max(x, -1, keepdims=True)
    return c - jnp.log(jnp.sum(jnp.exp(c), -1, keepdims=True))


def _attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    s = jnp.einsum("bhsd,bhtd->bhst", q, k) * np.float32(0.125)
    s = s if mask is None else s + mask
    return jnp.einsum("bhst,bhte->bhse", _softmax(s), v)


def _causal_grouped(q: Any, k: Any, v: Any) -> Any:
    k, v = jnp.repeat(k, 4, 1), jnp.repeat(v, 4, 1)
    s = jnp.einsum("bhsd,bhtd->bhst", q, k) * np.float32(0.125)
    i, j = (jax.lax.broadcasted_iota("int32", s.shape, d) for d in (2, 3))
    return jnp.einsum("bhst,bhte->bhse", _softmax(jnp.where(i >= j, s, -jnp.inf)), v)


def _decode(q: Any, past_k: Any, new_k: Any, past_v: Any, new_v: Any) -> Any:
    return _attention(q, jnp.concatenate([past_k, new_k], 2), jnp.concatenate([past_v, new_v], 2))


def _layernorm(x: Any, g: Any, b: Any) -> Any:
    c = x - jnp.mean(x, -1, keepdims=True)
    return c * jax.lax.rsqrt(jnp.mean(c * c, -1, keepdims=True) + np.float32(1e-5)) * g + b


def _rmsnorm(x: Any, g: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + np.float32(1e-6)) * g


def _rope(x: Any, c: Any, s: Any) -> Any:
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * c - b * s, b * c + a * s], -1)


def _conv(stride: int, pad: int, groups: int = 1) -> Callable[..., Any]:
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, (stride, stride), ((pad, pad), (pad, pad)), feature_group_count=groups
    )


def _maxpool(x: Any) -> Any:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))


def _embedding(table: Any, ids: Any) -> Any:
    numbers = jax.lax.GatherDimensionNumbers((2,), (0,), (0,))
    return jax.lax.gather(table, ids[..., None], numbers, (1, table.shape[1]), mode="clip")


def _bf16(a: Any, b: Any) -> Any:
    return jax.lax.dot(a.astype("float32"), b.astype("float32")).astype("bfloat16")


def _transposed(stride: int, low: int, high: int, dilation: int = 1) -> Callable[..., Any]:
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), ((low, high), (low, high)), lhs_dilation=(stride, stride), rhs_dilation=(dilation, dilation)
    )


def _scatter(write: Callable[..., Any], mode: str = "clip") -> Callable[..., Any]:
    numbers = jax.lax.ScatterDimensionNumbers((1,), (0,), (0,))
    return lambda x, i, u: write(x, i[:, None] % 12, u, numbers, mode=mode)


def _scatter_elements(write: Callable[..., Any]) -> Callable[..., Any]:
    numbers = jax.lax.ScatterDimensionNumbers((), (0, 1), (0, 1))

    def scatter(x: Any, i: Any, u: Any) -> Any:
        rows = jax.lax.broadcasted_iota(i.dtype, i.shape, 0)
        return write(x, jnp.concatenate([rows[..., None], i[..., None] % 12], -1), u, numbers, mode="clip")

    return scatter


def _cell(x: Any, h: Any, w: Any) -> Any:
    def step(state: Any, row: Any) -> Any:
        new = jnp.tanh(row + state @ w)
        return new, new

    return jax.lax.scan(step, h, x)


def _choice(flag: Any, a: Any, b: Any) -> Any:
    return jax.lax.cond(flag[0] > 50, lambda: a + b, lambda: a * b)


def _taken_from_joined(a: Any, b: Any, i: Any) -> Any:
    return jnp.take(jnp.concatenate([a, b]), i % 12, axis=0, mode="clip")


def _padded_gather(x: Any, i: Any) -> Any:
    return jnp.take(jnp.pad(x * 2, ((2, 3), (0, 0)), constant_values=7.0), i % 14, axis=0, mode="clip")


def _two_keys(a: Any, b: Any) -> Any:
    return jax.lax.sort((jnp.round(a), b, a), dimension=1, num_keys=2)


def _nan_sorted(x: Any) -> Any:
    return jax.lax.sort(jnp.where(x > 1, jnp.nan, x), dimension=1)


def _weights(x: Any) -> Any:
    return x * np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4)[:, :, None]


def _two_outputs(a: Any, b: Any, x: Any) -> Any:
    return jnp.concatenate([a, b], 1), jnp.sum(x, 1)


def _f32(*shapes: tuple[int, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(s, "float32") for s in shapes)


def _of(dtype: str, *shapes: tuple[int, ...]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(s, dtype) for s in shapes)


_heads = (2, 4, 50, 32)
CASES = {c.name: c for c in (
    Case("add", lambda a, b: a + b, _f32((3, 50, 77), (77,))),
    Case("gelu", lambda x: 0.5 * x * (1 + jax.lax.erf(x * np.float32(0.70710678))), _f32((3, 50, 77))),
    Case("pairs", _pairs, _f32((50,))),
    Case("integers", lambda a, b: (a // 3 + b) * (a > b), _of("int64", (5, 37), (37,))),
    Case("mask", lambda m, x: jnp.where(m, x, -1.0), (*_of("bool", (5, 37)), *_f32((5, 37)))),
    Case("layernorm", _layernorm, _f32((2, 50, 384), (384,), (384,))),
    Case("softmax", _softmax, _f32((7, 1000))),
    Case("log_softmax_long", _log_softmax, _f32((3, 9000))),
    Case("matmul_bias_relu", lambda a, b, c: jnp.maximum(a @ b + c, 0), _f32((2, 50, 200), (200, 130), (130,))),
    Case("matvec", lambda a, b: a @ b, _f32((1, 200), (200, 130))),
    Case("rmsnorm_matmul", lambda x, g, w: _rmsnorm(x, g) @ w, _f32((2, 20, 256), (256,), (256, 128))),
    Case("split_heads", lambda x, w: jnp.transpose((x @ w).reshape(2, 50, 4, 32), (0, 2, 1, 3)), _f32((2, 50, 128), (128, 128))),
    Case("merge_heads", lambda x, w: jnp.transpose(x, (0, 2, 1, 3)).reshape(2, 50, 128) @ w, _f32(_heads, (128, 100))),
    Case("attention", _attention, _f32(_heads, _heads, _heads)),
    Case("attention_197", _attention, _f32(*[(1, 3, 197, 64)] * 3)),
    Case("attention_mask", _attention, _f32(_heads, _heads, _heads, (2, 1, 1, 50))),
    Case("attention_causal_grouped", _causal_grouped, _f32((2, 8, 70, 64), (2, 2, 70, 64), (2, 2, 70, 64))),
    Case("attention_decode", _decode, _f32((2, 4, 1, 32), (2, 4, 37, 32), (2, 4, 1, 32), (2, 4, 37, 32), (2, 4, 1, 32))),
    Case("rope", _rope, _f32((2, 8, 30, 64), (30, 32), (30, 32))),
    Case("conv_3x3_stride_2", _conv(2, 1), _f32((1, 3, 33, 33), (8, 3, 3, 3))),
    Case("conv_7x7_stride_2", _conv(2, 3), _f32((1, 3, 64, 64), (16, 3, 7, 7))),
    Case("conv_1x1", _conv(1, 0), _f32((2, 64, 14, 14), (96, 64, 1, 1))),
    Case("conv_depthwise", _conv(1, 1, 32), _f32((1, 32, 14, 14), (32, 1, 3, 3))),
    Case("conv_grouped", _conv(1, 1, 4), _f32((1, 32, 14, 14), (16, 8, 3, 3))),
    Case("maxpool", _maxpool, _f32((1, 16, 33, 33))),
    Case("average", lambda x: jnp.mean(x, (2, 3)), _f32((2, 64, 7, 7))),
    Case("transpose", lambda x: jnp.transpose(x, (0, 2, 1, 3)), _f32((2, 50, 4, 32))),
    Case("concat", lambda a, b: jnp.concatenate([a, b], 1), _f32((3, 7, 20), (3, 5, 20))),
    Case("reshape", lambda x: x.reshape(35, 6) * 2, _f32((10, 21))),
    Case("sum_all", lambda x: jnp.sum(x), _f32((37, 53))),
    Case("embedding", _embedding, (*_f32((100, 64)), *_of("int64", (2, 17)))),
    Case("cumsum", lambda x: jax.lax.cumsum(x, 1), _f32((5, 70))),
    Case("argmax", lambda x: jnp.argmax(x, 1), _f32((5, 70))),
    Case("top_k", lambda x: jax.lax.top_k(x, 5), _f32((5, 70))),
    Case("sort", lambda x: jax.lax.sort(x, dimension=1), _f32((5, 70))),
    Case("conv_transposed", _transposed(2, 2, 2), _f32((1, 4, 9, 9), (6, 4, 3, 3))),
    Case("conv_transposed_uneven", _transposed(3, 2, 3), _f32((2, 4, 7, 7), (5, 4, 4, 4))),
    Case("conv_transposed_dilated", _transposed(2, 3, 3, 2), _f32((1, 3, 5, 5), (4, 3, 3, 3))),
    Case("pad_between", lambda x: jax.lax.pad(x, np.float32(3), ((1, 2, 1), (0, 1, 2))), _f32((5, 7))),
    Case("scatter_last", _scatter(jax.lax.scatter), (*_f32((12, 9)), *_of("int64", (20,)), *_f32((20, 9)))),
    Case("scatter_add", _scatter(jax.lax.scatter_add), (*_f32((12, 9)), *_of("int64", (20,)), *_f32((20, 9)))),
    Case("scatter_max", _scatter(jax.lax.scatter_max), (*_f32((12, 9)), *_of("int64", (20,)), *_f32((20, 9)))),
    Case("scatter_mul", _scatter(jax.lax.scatter_mul), (*_f32((12, 9)), *_of("int64", (5,)), *_f32((5, 9)))),
    Case("scatter_integers", _scatter(jax.lax.scatter), (*_of("int32", (12, 9)), *_of("int64", (20,)), *_of("int32", (20, 9)))),
    Case("scatter_elements", _scatter_elements(jax.lax.scatter), (*_f32((7, 12)), *_of("int64", (5, 4)), *_f32((5, 4)))),
    Case("scatter_elements_add", _scatter_elements(jax.lax.scatter_add),
         (*_f32((7, 12)), *_of("int64", (7, 20)), *_f32((7, 20)))),
    Case("scatter_dropped",
         lambda x, i, u: jax.lax.scatter(x, i[:, None] - 30, u, jax.lax.ScatterDimensionNumbers((1,), (0,), (0,)), mode="drop"),
         (*_f32((40, 3)), *_of("int64", (9,)), *_f32((9, 3)))),
    Case("cache_update", lambda x, u, i: jax.lax.dynamic_update_slice(x, u, (i[0] * 0, i[0], i[0] * 0)),
         (*_f32((2, 30, 8), (2, 5, 8)), *_of("int32", (1,)))),
    Case("cache_read", lambda x, i: jax.lax.dynamic_slice(x, (i[0] * 0, i[0], i[0] * 0), (2, 5, 8)) * 2,
         (*_f32((2, 130, 8)), *_of("int32", (1,)))),
    Case("recurrence", _cell, _f32((6, 3, 20), (3, 20), (20, 20))),
    Case("choice", _choice, (*_of("int64", (1,)), *_f32((5, 37), (5, 37)))),
    Case("gather_joined", _taken_from_joined, (*_f32((7, 10), (5, 10)), *_of("int64", (6,)))),
    Case("gather_padded", _padded_gather, (*_f32((9, 10)), *_of("int64", (21,)))),
    Case("gather_regrouped", lambda x, i: jnp.take((x + 1).reshape(35), i % 35, mode="clip"),
         (*_f32((5, 7)), *_of("int64", (3, 11)))),
    Case("sort_payload", _two_keys, _f32((5, 40), (5, 40))),
    Case("sort_nan", _nan_sorted, _f32((5, 40))),
    Case("shift_unsigned", lambda x: jax.lax.shift_right_logical(x, jnp.full(x.shape, 2, x.dtype)), _of("uint32", (5, 37))),
    Case("constants", _weights, _f32((3, 4, 50))),
    Case("sum_of_nothing", lambda x, y: y + jnp.sum(x, 0), _f32((0, 9), (4, 9))),
    Case("joined_and_not", _two_outputs, _f32((3, 7, 20), (3, 7, 20), (5, 6))),
    Case("matmul_bf16", _bf16, _of("bfloat16", (70, 90), (90, 50))),
)}  # fmt: skip
