"""Attention and MultiHeadAttention of `com.microsoft`, and its RotaryEmbedding: projections, masks and caches apart."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}

_MASKED = -10000.0
"""What onnxruntime adds to a masked score unless `mask_filter_value` says otherwise."""


@spells(SPELLINGS, "RotaryEmbedding")
def rotary_embedding(s: Spelling) -> None:
    """The standard's; a single position is that of the first token of each sequence."""
    s.only("is_packed_batching", 0)
    s.only("scale", 1.0, default=1.0)
    x, cos = s.required(0), s.required(2)
    rank, turned = s.need_rank(x), int(s.attribute("rotary_embedding_dim", 0))
    heads = int(s.attribute("num_heads", 0))
    if rank == 3 and not heads:
        heads = s.need_dim(x, 2) // (turned or 2 * s.need_dim(cos, 1))
    s.finish(rotated(s, x, s.required(1), heads if rank == 3 else None, turned, s.attribute("interleaved", 0), (2, 3)))


def rotated(
    s: Spelling, x: ir.Value, positions: ir.Value, heads: int | None, turned: int, interleaved: int,
    caches: tuple[int, int],
) -> ir.Value:  # fmt: skip
    """x of rank 3 or 4 turned by its positions, (batch, length) or one for the start of all; `caches` are inputs."""
    if s.need_rank(positions) == 1 or s.dim(positions, 0) == s.dim(positions, 1) == 1 != s.dim(x, -2):
        steps = s.op("Range", s.scalar(0), s.squeeze(s.length(x, -2 if s.rank(x) == 4 else 1), 0), s.scalar(1))
        row = s.op("Add", s.reshape(positions, 1), steps)
        positions = s.op("Expand", s.unsqueeze(row, 0), s.op("Concat", s.length(x, 0), s.ints(1), axis=0))
    cos, sin = (s.required(index) for index in caches)
    options: dict[str, Any] = {
        "num_heads": heads,
        "rotary_embedding_dim": turned or None,
        "interleaved": interleaved or None,
    }
    return s.op("RotaryEmbedding", x, cos, sin, positions, **options)


@spells(SPELLINGS, "Attention")
def attention(s: Spelling) -> None:
    """The projection to queries, keys and values, then the standard's Attention; the cache holds keys and values."""
    s.only("do_rotary", 0)
    s.only("past_present_share_buffer", 0)
    s.absent(6, "past_sequence_length")
    x, weights, bias, past = s.required(0), s.required(1), s.input(2), s.input(4)
    heads = int(s.attribute("num_heads"))
    sizes = tuple(s.attribute("qkv_hidden_sizes") or (s.need_dim(weights, 1) // 3,) * 3)
    projected = s.op("MatMul", x, weights)
    if bias is not None:
        projected = s.op("Add", projected, bias)
    query, key, value = s.split(projected, sizes, 2)
    old: list[ir.Value | None] = [None, None]
    if past is not None:
        old = [s.squeeze(part, 0) for part in s.split(past, (1, 1), 0)]
    length, before = s.length(x, 1), None if past is None else s.length(past, 3)
    total = length if before is None else _sum(s, before, length)
    mask = _mask(s, s.input(3), s.input(5), total)
    y, present_key, present_value, _ = _attend(s, query, key, value, mask, old, heads)
    both = None
    if s.needed(1):
        both = s.op("Concat", s.unsqueeze(present_key, 0), s.unsqueeze(present_value, 0), axis=0)
    s.finish(y, both)


@spells(SPELLINGS, "MultiHeadAttention")
def multi_head_attention(s: Spelling) -> None:
    """The standard's Attention, after a bias; keys may come packed with queries or values, or as a cache."""
    s.absent(8, "past_sequence_length")
    s.absent(9, "cache_indirection")
    query, key, value, bias = s.required(0), s.input(1), s.input(2), s.input(3)
    heads = int(s.attribute("num_heads"))
    if key is None:
        query, key, value = _unpacked(s, query, 3)
    elif value is None:
        key, value = _unpacked(s, key, 2)
    assert value is not None
    cached = s.rank(key) == 4
    if bias is not None:
        hidden = s.need_dim(s.required(0), 2) if s.rank(s.required(0)) == 3 else heads * s.need_dim(s.required(0), 4)
        parts = s.split(bias, (hidden, hidden, s.need_dim(bias, 0) - 2 * hidden), 0)
        query = s.op("Add", query, parts[0])
        if not cached:  # a cache of cross attention has had its bias
            key, value = s.op("Add", key, parts[1]), s.op("Add", value, parts[2])
    old = [s.input(6), s.input(7)]
    if cached:  # the standard wants queries, keys and values of one rank
        query = _by_head(s, query, heads)
    total = s.length(s.input(1) or s.required(0), 2 if cached else 1)
    if old[0] is not None:
        total = _sum(s, s.length(old[0], 2), total)
    mask = _mask(s, s.input(4), s.input(5), total)
    y, *present, scores = _attend(s, query, key, value, mask, old, heads)
    if cached:
        y = s.reshape(s.transpose(y, 0, 2, 1, 3), 0, 0, -1)
    s.finish(y, *(new if s.needed(index) else None for index, new in enumerate(present, 1)), scores)


def _by_head(s: Spelling, value: ir.Value, heads: int) -> ir.Value:
    """(batch, length, heads * size) as (batch, heads, length, size)."""
    return s.transpose(s.reshape(value, 0, 0, heads, -1), 0, 2, 1, 3)


def _unpacked(s: Spelling, packed: ir.Value, parts: int) -> list[ir.Value]:
    """(batch, length, heads, parts, size) as parts of (batch, length, heads * size)."""
    return [s.reshape(s.squeeze(part, 3), 0, 0, -1) for part in s.split(packed, (1,) * parts, 3)]


def _sum(s: Spelling, left: ir.Value, right: ir.Value) -> ir.Value:
    """The sum of two lengths, a constant where both are."""
    known = [s.shapes.data(value) for value in (left, right)]
    numbers = [data[0].number if data and data[0] is not None else None for data in known]
    if None not in numbers:
        return s.ints(sum(number for number in numbers if number is not None), name="total")
    return s.op("Add", left, right)


def _attend(
    s: Spelling, query: ir.Value, key: ir.Value, value: ir.Value, mask: ir.Value | None,
    past: list[ir.Value | None], heads: int,
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None]:  # fmt: skip
    """Output, present key and value, and the masked scores if something reads them; a scale of 0 is the usual one."""
    rank4 = s.node.op_type == "MultiHeadAttention" and s.rank(s.input(1)) == 4
    scores = s.needed(3)
    options: dict[str, Any] = {
        "q_num_heads": None if rank4 else heads,
        "kv_num_heads": None if rank4 else heads,
        "scale": float(s.attribute("scale", 0.0)) or None,
        "is_causal": int(s.attribute("unidirectional", 0) and not _future_in_mask(s)) or None,
        "qk_matmul_output_mode": _MASKED_SCORES if scores else None,
    }
    y, *present = s.several(4 if scores else 3, "Attention", query, key, value, mask, *past, **options)
    return y, present[0], present[1], present[2] if scores else None


_MASKED_SCORES = 2
"""The standard's `qk_matmul_output_mode` for what goes into the softmax."""


def _mask(s: Spelling, mask: ir.Value | None, bias: ir.Value | None, total: ir.Value) -> ir.Value | None:
    """What is added to the scores, of rank 4: the filter value where the mask hides, and the bias."""
    if mask is None:
        return bias
    x = s.required(0)
    rank = s.need_rank(mask)
    if rank == 1:
        allowed = _within(s, mask, total, s.dim(mask, 0), s.dim(x, 0))
    elif rank in (2, 3):
        zero = s.constant(np.zeros((), mask.dtype.numpy() if mask.dtype is not None else np.int32), "zero")
        allowed = s.unsqueeze(s.op("Greater", mask, zero), *((1, 2) if rank == 2 else (1,)))
    else:
        s.refuse("a mask of rank 1 to 3", f"'{mask.name}' of rank {rank}")
    if _future_in_mask(s):
        allowed = s.op("And", allowed, _past(s, total))
    like = bias if bias is not None else x
    hidden = max(_filter(s), _lowest(like) / 2)
    added = s.op("Where", allowed, s.scalar_like(0.0, like, "seen"), s.scalar_like(hidden, like, "hidden"))
    return by_query(s, added) if bias is None else s.op("Add", added, bias)


def _filter(s: Spelling) -> float:
    return float(s.attribute("mask_filter_value", _MASKED))


def _lowest(like: ir.Value) -> float:
    """The lowest number of a type.

    Half of it masks as well, and a row that is masked as a whole is still a mean: onnxruntime's Attention of the
    standard takes a score of the lowest number itself for one that nothing sees.
    """
    kind = like.dtype if like.dtype is not None and like.dtype.is_floating_point() else ir.DataType.FLOAT
    return float(ml_dtypes.finfo(kind.numpy()).min)


def _future_in_mask(s: Spelling) -> bool:
    """Whether the mask hides as much as the future is hidden: a row without anything to see is a mean of both."""
    mask = s.input(3 if s.node.op_type == "Attention" else 4)
    return bool(s.attribute("unidirectional", 0)) and mask is not None and _filter(s) <= _lowest(s.required(0))


def _past(s: Spelling, total: ir.Value) -> ir.Value:
    """Which of all keys come no later than each of the last, the queries."""
    end = s.squeeze(total, 0)
    key = s.op("Range", s.scalar(0), end, s.scalar(1))
    query = s.op("Range", s.op("Sub", end, s.squeeze(s.length(s.required(0), 1), 0)), end, s.scalar(1))
    return s.op("LessOrEqual", key, s.unsqueeze(query, 1))


def by_query(s: Spelling, mask: ir.Value) -> ir.Value:
    """A mask of rank 4 with a row for each query, as onnxruntime wants the standard's."""
    length = s.dim(s.required(0), 1)
    if length is not None:
        return mask if length == 1 else s.op("Expand", mask, s.ints(1, 1, length, 1, name="rows"))
    rows = s.op("Concat", s.ints(1, 1), s.length(s.required(0), 1), s.ints(1), axis=0)
    return s.op("Expand", mask, rows)


def _within(s: Spelling, mask: ir.Value, total: ir.Value, size: int | None, batch: int | None) -> ir.Value:
    """Which keys lie before each sequence's end, and behind its start where starts are given after the ends."""
    if size is None or batch is None or size not in (batch, 2 * batch):
        found = f"'{mask.name}' of {size} elements for a batch of {batch}"
        s.refuse("a mask of one length per sequence, or of ends and starts", found)
    place = s.op("Range", s.scalar(0), s.squeeze(total, 0), s.scalar(1))
    bounds = s.split(s.cast(mask, ir.DataType.INT64), (batch,) * (size // batch), 0)
    columns = [s.unsqueeze(bound, 1, 2, 3) for bound in bounds]
    allowed = s.op("Less", place, columns[0])
    return allowed if len(columns) == 1 else s.op("And", allowed, s.op("GreaterOrEqual", place, columns[1]))
