"""GroupQueryAttention of `com.microsoft`: the attention of language models, with a cache that knows its lengths.

Each sequence b holds t[b] = seqlens_k[b] + 1 tokens once the new ones are in, of at most T = total_sequence_length. The
first prompt (T new tokens) starts at position 0, later tokens at t[b] - S. Rows of the cache behind t[b], and outputs
of padding tokens, mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.attention import by_query
from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}


@dataclass
class _Lengths:
    """Positions, per sequence or one for all: where the new tokens start, and how many keys there are with them."""

    start: ir.Value
    total: ir.Value
    place: int | None
    """Where they start, if that is known and the same in every sequence."""
    whole: bool
    """The new tokens follow a cache that is full, in every sequence: a concatenation."""
    prompt: bool
    """The new tokens are all there is, for certain."""


@spells(SPELLINGS, "GroupQueryAttention")
def group_query_attention(s: Spelling) -> None:
    """Norms and rotation of queries and keys, the cache with the new keys in it, then the standard's Attention."""
    for name in ("k_quant_type", "v_quant_type"):
        s.only(name, "NONE", default="NONE")
    for name in ("sliding_window_cache", "kv_cache_bit_width"):
        s.only(name, 0)
    s.unread(3, "output_qk")
    query, key, value = _parts(s)
    heads, shared = int(s.attribute("num_heads")), int(s.attribute("kv_num_heads"))
    lengths = _lengths(s, query)
    query, key = _normed(s, query, 14, heads), _normed(s, key, 15, shared)
    if s.attribute("do_rotary", 0):
        query, key = _turned(s, query, heads, lengths), _turned(s, key, shared, lengths)
    plain = not (_window(s) or _sinks(s)) and s.attribute("causal", 1)
    if lengths.whole and plain:
        old = (_past(s, 3), _past(s, 4))
        outputs = s.several(
            3, "Attention", query, key, value, s.input(10), *old, **_options(s),
            q_num_heads=heads, kv_num_heads=shared, is_causal=1,
        )  # fmt: skip
        s.finish(*outputs)
        return
    query, key, value = _by_head(s, query, heads), _by_head(s, key, shared), _by_head(s, value, shared)
    keys, values = _cache(s, 3, key, lengths), _cache(s, 4, value, lengths)
    capacity = s.length(keys, 2) if s.rank(keys) is not None else s.op("Shape", keys, start=2, end=3)
    if plain:
        limit = None if lengths.prompt else lengths.total
        bias = _widened(s, s.input(10), capacity)
        y = s.op("Attention", query, keys, values, bias, None, None, limit, is_causal=1, **_options(s))
    else:
        mask = _mask(s, lengths, capacity)
        seen = _sunk(s, keys, values, mask, heads) if _sinks(s) else (keys, values, by_query(s, mask))
        y = s.op("Attention", query, *seen, **_options(s))
    s.finish(s.reshape(s.transpose(y, 0, 2, 1, 3), 0, 0, -1), keys, values)


def _past(s: Spelling, index: int) -> ir.Value | None:
    """The cache; None where it is left out, or has no rows yet."""
    past = s.input(index)
    return None if past is None or s.dim(past, 2) == 0 else past


def _options(s: Spelling) -> dict[str, Any]:
    """A scale of 0 means the usual one, a soft cap of 0 none."""
    return {name: float(s.attribute(name, 0.0)) or None for name in ("scale", "softcap")}


def _window(s: Spelling) -> int:
    """How many keys a query sees, itself among them; 0 for all."""
    return max(int(s.attribute("local_window_size", -1)), 0)


def _sinks(s: Spelling) -> bool:
    return s.attribute("smooth_softmax", -1) == 1 or s.input(11) is not None


def _parts(s: Spelling) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys and values, each (batch, length, heads * size), taken apart where they come packed."""
    query, key, value = s.required(0), s.input(1), s.input(2)
    if key is not None and value is not None:
        return query, key, value
    heads, shared = int(s.attribute("num_heads")), int(s.attribute("kv_num_heads"))
    size = s.need_dim(query, 2) // (heads + 2 * shared)
    first, second, third = s.split(query, (heads * size, shared * size, shared * size), 2)
    return first, second, third


def _normed(s: Spelling, x: ir.Value, index: int, heads: int) -> ir.Value:
    """RMSNormalization of each head, where its weight is given."""
    weight = s.input(index)
    if weight is None:
        return x
    epsilon = float(s.attribute("qk_norm_epsilon", 1e-6))
    return s.reshape(s.op("RMSNormalization", s.reshape(x, 0, 0, heads, -1), weight, epsilon=epsilon), 0, 0, -1)


def _lengths(s: Spelling, query: ir.Value) -> _Lengths:
    packed = s.required(0)
    new, total, batch = s.dim(packed, 1), s.number(s.required(6)), s.dim(packed, 0)
    past = 0 if _past(s, 3) is None else s.dim(s.input(3), 2)
    prompt = new is not None and total is not None and new == total
    # with one sequence the longest is the only one
    full = new is not None and past is not None and total == past + new
    whole = full and (batch == 1 or past == 0)
    if whole and not prompt and past is not None and total is not None:
        return _Lengths(s.ints(past, name="start"), s.ints(total, name="held"), past, whole, False)
    held = s.op("Add", s.cast(s.reshape(s.required(5), -1), ir.DataType.INT64), s.ints(1))
    if prompt:
        return _Lengths(s.ints(0, name="start"), held, 0, whole, True)
    tokens = s.length(packed, 1)
    start = s.op("Sub", held, tokens)
    if new != 1 and total is None:
        # whether this is the first prompt shows when it runs
        first = s.op("Equal", s.cast(s.reshape(s.required(6), 1), ir.DataType.INT64), tokens)
        start = s.op("Where", first, s.ints(0), start)
        if s.attribute("causal", 1):
            held = s.op("Where", first, tokens, held)
    # counted from a mask that hides more than there is, it would lie outside of the cache
    rows = _capacity(s)
    last = s.scalar(rows - new, "last") if rows is not None and new is not None else None
    return _Lengths(s.op("Clip", start, s.scalar(0), last), held, None, whole, False)


def _turned(s: Spelling, x: ir.Value, heads: int, lengths: _Lengths) -> ir.Value:
    """Rotated by the positions of the new tokens."""
    positions, packed = s.input(9), s.required(0)
    turned = 2 * s.need_dim(s.required(7), 1)
    if positions is None and lengths.place is not None:
        positions = _counted(s, lengths.place)
    if positions is None:
        steps = s.op("Range", s.scalar(0), s.squeeze(s.length(packed, 1), 0), s.scalar(1))
        positions = s.op("Add", s.unsqueeze(lengths.start, 1), s.unsqueeze(steps, 0))
    return s.op(
        "RotaryEmbedding", x, s.required(7), s.required(8), positions, num_heads=heads,
        rotary_embedding_dim=turned if turned != _head_size(s) else None,
        interleaved=int(s.attribute("rotary_interleaved", 0)) or None,
    )  # fmt: skip


def _counted(s: Spelling, start: int) -> ir.Value:
    """The positions from a known start on, (batch, length)."""
    packed = s.required(0)
    batch, length = s.dim(packed, 0), s.dim(packed, 1)
    if batch is not None and length is not None:
        return s.constant(np.tile(np.arange(start, start + length), (batch, 1)), "positions")
    end = s.op("Add", s.squeeze(s.length(packed, 1), 0), s.scalar(start))
    row = s.unsqueeze(s.op("Range", s.scalar(start), end, s.scalar(1)), 0)
    return s.op("Expand", row, s.op("Concat", s.length(packed, 0), s.ints(1), axis=0))


def _head_size(s: Spelling) -> int:
    heads, shared = int(s.attribute("num_heads")), int(s.attribute("kv_num_heads"))
    return s.need_dim(s.required(0), 2) // (heads if s.input(1) is not None else heads + 2 * shared)


def _by_head(s: Spelling, x: ir.Value, heads: int) -> ir.Value:
    """(batch, length, heads * size) as (batch, heads, length, size)."""
    return s.transpose(s.reshape(x, 0, 0, heads, -1), 0, 2, 1, 3)


def _cache(s: Spelling, index: int, new: ir.Value, lengths: _Lengths) -> ir.Value:
    """The cache, of as many rows as before or as the longest sequence needs, with the new rows in it."""
    past = _past(s, index)
    total, tokens = s.number(s.required(6)), s.dim(s.required(0), 1)
    if past is None and total == tokens:
        return new
    if past is not None and lengths.whole:
        return s.op("Concat", past, new, axis=2)
    size, shared = _head_size(s), int(s.attribute("kv_num_heads"))
    if past is None:
        empty = s.op("Concat", s.length(s.required(0), 0), s.ints(shared, 0, size), axis=0)
        zero = ir.tensor(np.zeros(1, (new.dtype or s.required(0).dtype or ir.DataType.FLOAT).numpy()))
        past = s.op("ConstantOfShape", empty, value=ir.AttrTensor("value", zero))
        rows: int | None = 0
    else:
        rows = s.dim(past, 2)
    if rows is None or total is None:
        wanted = s.cast(s.reshape(s.required(6), 1), ir.DataType.INT64)
        more = s.op("Max", s.op("Sub", wanted, s.op("Shape", past, start=2, end=3)), s.ints(0))
        past = s.op("Pad", past, s.op("Concat", s.ints(0, 0, 0, 0, 0, 0), more, s.ints(0), axis=0))
    elif total > rows:
        past = s.op("Pad", past, s.ints(0, 0, 0, 0, 0, 0, total - rows, 0, name="pads"))
    return s.op("TensorScatter", past, new, None if lengths.prompt else lengths.start, axis=2)


def _widened(s: Spelling, bias: ir.Value | None, capacity: ir.Value) -> ir.Value | None:
    """The bias with columns for the rows of the cache that are not yet in use, which nothing sees."""
    if bias is None:
        return None
    known = s.shapes.data(capacity)
    number = known[0].number if known and known[0] is not None else _capacity(s)
    if number is not None and number == s.dim(bias, -1):
        return bias
    more = s.op("Sub", s.ints(number, name="rows") if number is not None else capacity, s.length(bias, -1))
    return s.op("Pad", bias, s.op("Concat", s.ints(0, 0, 0, 0, 0, 0, 0), more, axis=0))


def _capacity(s: Spelling) -> int | None:
    """The rows of the cache, where they are known."""
    total, past = s.number(s.required(6)), s.input(3)
    rows = 0 if past is None else s.dim(past, 2)
    return None if total is None or rows is None else max(total, rows)


def _mask(s: Spelling, lengths: _Lengths, capacity: ir.Value) -> ir.Value:
    """What is added to the scores: the bias where a query sees a key, else minus infinity."""
    number = _capacity(s)
    rows = s.ints(number, name="rows") if number is not None else capacity
    key = s.op("Range", s.scalar(0), s.squeeze(rows, 0), s.scalar(1))
    steps = s.op("Range", s.scalar(0), s.squeeze(s.length(s.required(0), 1), 0), s.scalar(1))
    place = s.op("Add", s.unsqueeze(lengths.start, 1, 2, 3), s.unsqueeze(steps, 1))
    rules = []
    if s.attribute("causal", 1):
        rules.append(s.op("LessOrEqual", key, place))
        if not lengths.prompt:
            rules.append(s.op("Less", key, s.unsqueeze(lengths.total, 1, 2, 3)))
    else:
        rules.append(s.op("Less", key, s.unsqueeze(lengths.total, 1, 2, 3)))
    if _window(s):
        rules.append(s.op("Greater", key, s.op("Sub", place, s.ints(_window(s)))))
    allowed = rules[0]
    for rule in rules[1:]:
        allowed = s.op("And", allowed, rule)
    bias = _widened(s, s.input(10), capacity)
    like = s.required(0)
    seen = s.scalar_like(0.0, like, "seen") if bias is None else bias
    return s.op("Where", allowed, seen, s.scalar_like(-np.inf, like, "hidden"))


def _sunk(s: Spelling, keys: ir.Value, values: ir.Value, mask: ir.Value, heads: int) -> tuple[ir.Value, ...]:
    """One more key and value of zeros, which every query sees with the score of its head's sink (0 if none is given).

    It adds exp(sink) to the denominator of the softmax and nothing to the sum of values.
    """
    pads = s.ints(0, 0, 0, 0, 0, 0, 1, 0, name="sink_pads")
    sink, query = s.input(11), s.required(0)
    score = s.scalar_like(0.0, query, "sink") if sink is None else s.reshape(sink, 1, heads, 1, 1)
    rows = s.op("Concat", s.length(query, 0), s.ints(heads), s.length(query, 1), s.ints(1), axis=0)
    mask = s.op("Concat", s.op("Expand", mask, rows), s.op("Expand", score, rows), axis=3)
    return s.op("Pad", keys, pads), s.op("Pad", values, pads), mask
