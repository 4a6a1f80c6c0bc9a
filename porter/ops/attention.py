"""Attention, rotary position embedding, the cache update, and linear attention."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from porter.errors import PorterError
from porter.ops.namespace import fed, is_float, normal
from porter.ops.registry import op
from porter.ops.types import dtype_of


def _heads(xp, x, heads):
    """(batch, length, heads * size) as (batch, heads, length, size); four axes pass as they are."""
    if x.ndim == 4:
        return x
    if not heads:
        raise PorterError("Attention", expected="q_num_heads and kv_num_heads with inputs of rank 3", found="none")
    batch, length, width = x.shape
    return xp.transpose(xp.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


@op("Attention", since=23, fed=("q", "k", "v"))
def attention(
    xp,
    q,
    k,
    v,
    attn_mask=None,
    past_key=None,
    past_value=None,
    nonpad_kv_seqlen=None,
    *,
    is_causal=0,
    kv_num_heads=None,
    left_window_size=-1,
    q_num_heads=None,
    qk_matmul_output_mode=0,
    right_window_size=-1,
    scale=None,
    softcap=0.0,
    softmax_precision=None,
    outputs=1,
    types=(),
):
    """softmax(q @ k.T * scale + mask) @ v; query heads may share a key head; a row that sees nothing gives 0."""
    rank = q.ndim
    q, k, v = _heads(xp, q, q_num_heads), _heads(xp, k, kv_num_heads), _heads(xp, v, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None:
        k, v = xp.concatenate([past_key, k], axis=2), xp.concatenate([past_value, v], axis=2)
    batch, heads, length, size = q.shape
    shared, total = k.shape[1], k.shape[2]
    scores_shape = (batch, heads, length, total)

    # heads (g, r): r query heads read key head g
    grouped = heads != shared
    if grouped:
        q = xp.reshape(q, (batch, shared, heads // shared, length, size))
    raw = xp.einsum("bgrsd,bgtd->bgrst" if grouped else "bgsd,bgtd->bgst", q, k)
    raw = xp.reshape(raw * (1.0 / math.sqrt(size) if scale is None else scale), scores_shape)
    capped = softcap * xp.tanh(raw / softcap) if softcap > 0 else raw

    allowed = _allowed(xp, length, total, past, nonpad_kv_seqlen, is_causal, left_window_size, right_window_size)
    scores = capped if attn_mask is None else _masked(xp, capped, attn_mask, total)
    if allowed is not None:
        scores = xp.where(allowed, scores, xp.full((), -np.inf, scores.dtype))

    wide = scores.dtype if softmax_precision is None else xp.float_type(dtype_of(softmax_precision))
    if wide.itemsize > scores.dtype.itemsize:
        scores = xp.cast(scores, wide)
    top = xp.max(scores, axis=-1, keepdims=True)
    e = xp.exp(scores - top)
    p = xp.cast(e / xp.sum(e, axis=-1, keepdims=True), capped.dtype)
    p = fed(xp, p, types[2])
    out = xp.reshape(p, (batch, shared, heads // shared, length, total)) if grouped else p
    y = xp.einsum("bgrst,bgtd->bgrsd" if grouped else "bgst,bgtd->bgsd", out, v)
    y = xp.reshape(y, (batch, heads, length, v.shape[3]))
    # causal alone always leaves a key to see; anything else may hide a whole row, which is 0 and not 0 / 0
    if attn_mask is not None or nonpad_kv_seqlen is not None or max(left_window_size, right_window_size) >= 0:
        blind = xp.equal(top, -np.inf)
        y = xp.where(blind, xp.full((), 0, y.dtype), y)
        p = xp.where(blind, xp.full((), 0, p.dtype), p) if outputs > 3 else p
    if rank == 3:
        y = xp.reshape(xp.transpose(y, (0, 2, 1, 3)), (batch, length, heads * v.shape[3]))
    return (y, k, v, (raw, capped, scores, p)[qk_matmul_output_mode])[:outputs]


def _masked(xp, scores, mask, total):
    """Scores with the mask: a boolean one selects, a float one adds; what it is too short for is hidden."""
    missing = total - mask.shape[-1]
    floating = is_float(mask.dtype)
    if missing > 0:
        mask = xp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], -np.inf if floating else False)
    return scores + mask if floating else xp.where(mask, scores, xp.full((), -np.inf, scores.dtype))


def _allowed(xp, length, total, past, lengths, causal, left, right):
    """Which keys a query may see by position, broadcastable to (batch, heads, length, total); None for all."""
    if not causal and left < 0 and right < 0 and lengths is None:
        return None
    key = xp.reshape(xp.arange(total), (1, total))
    query = xp.reshape(xp.arange(length), (length, 1))
    if lengths is not None:
        lengths = xp.reshape(lengths, (-1, 1, 1, 1))
        place = query + (lengths - length)
    else:
        place = query + past if past else query
    rules = []
    if causal:
        rules.append(xp.less_equal(key, place))
    if left >= 0:
        rules.append(xp.less_equal(place - key, left))
    if right >= 0:
        rules.append(xp.less_equal(key - place, right))
    if lengths is not None:
        rules.append(xp.less(key, lengths))
    return reduce(xp.logical_and, rules)


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    xp, x, cos_cache, sin_cache, position_ids=None, *, interleaved=0, num_heads=None, rotary_embedding_dim=0
):
    """Pairs (a, b) of each head turned by the position's angle: (cos*a - sin*b, sin*a + cos*b)."""
    shape = x.shape
    if x.ndim == 3:
        x = xp.reshape(x, (shape[0], shape[1], num_heads, shape[2] // num_heads))
    else:
        x = xp.transpose(x, (0, 2, 1, 3))
    batch, length, heads, size = x.shape
    turned = rotary_embedding_dim or size
    half = turned // 2
    if position_ids is not None:
        cos_cache, sin_cache = (xp.take(cache, position_ids, 0) for cache in (cos_cache, sin_cache))
    cos, sin = (xp.reshape(cache, (*cache.shape[:2], 1, half)) for cache in (cos_cache, sin_cache))

    def cut(low, high, step=1):
        return xp.slice(x, (0, 0, 0, low), (batch, length, heads, high), (1, 1, 1, step))

    a, b = (cut(0, turned, 2), cut(1, turned, 2)) if interleaved else (cut(0, half), cut(half, turned))
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        pair = [xp.reshape(part, (batch, length, heads, half, 1)) for part in (real, imaginary)]
        parts = [xp.reshape(xp.concatenate(pair, axis=4), (batch, length, heads, turned))]
    else:
        parts = [real, imaginary]
    y = xp.concatenate([*parts, cut(turned, size)] if turned < size else parts, axis=3)
    return xp.reshape(y, shape) if len(shape) == 3 else xp.transpose(y, (0, 2, 1, 3))


@op("TensorScatter", since=24, moves=True)
def tensor_scatter(xp, past_cache, update, write_indices=None, *, axis=-2, mode="linear"):
    """The cache with `update` written along `axis` from each batch element's index on, wrapping in mode circular."""
    axis = normal(axis, past_cache.ndim)
    batch, size, steps = past_cache.shape[0], past_cache.shape[axis], update.shape[axis]
    start = xp.full((batch,), 0, np.int64) if write_indices is None else write_indices
    at = xp.reshape(start, (batch, 1)) + xp.reshape(xp.arange(steps), (1, steps))
    at = xp.remainder(at, size) if mode == "circular" else at
    shape = [1] * update.ndim
    shape[0], shape[axis] = batch, steps
    return xp.scatter_along_axis(past_cache, xp.broadcast_to(xp.reshape(at, shape), update.shape), update, axis, "none")
