"""Normalizations of `com.microsoft`: with a residual before them, by root mean square, and behind embeddings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porter.graph.contrib.spelling import Spelling, Table, spells

SPELLINGS: Table = {}


@spells(SPELLINGS, "LayerNormalization")
def layer_normalization(s: Spelling) -> None:
    """As the standard's, which took it over in opset 17."""
    given = {key: s.attribute(key) for key in ("axis", "epsilon", "stash_type")}
    count = max(i + 1 for i in range(len(s.node.outputs)) if i == 0 or s.needed(i))
    s.finish(*s.several(count, "LayerNormalization", s.required(0), s.required(1), s.input(2), **given))


@spells(SPELLINGS, "SimplifiedLayerNormalization")
def simplified_layer_normalization(s: Spelling) -> None:
    """The standard's RMSNormalization; 1 / root mean square apart, where something reads it."""
    x = s.required(0)
    axis, epsilon = int(s.attribute("axis", -1)), float(s.attribute("epsilon", 1e-5))
    stash = int(s.attribute("stash_type", 1))
    y = s.op("RMSNormalization", x, s.required(1), axis=axis, epsilon=epsilon, stash_type=stash)
    s.finish(y, _inverse(s, x, axis, epsilon, stash) if s.needed(1) else None)


def _inverse(s: Spelling, x: ir.Value, axis: int, epsilon: float, stash: int) -> ir.Value:
    rank = s.need_rank(x)
    x = s.cast(x, ir.DataType(stash))
    mean = s.op("ReduceMean", s.op("Mul", x, x), s.ints(*range(axis % rank, rank), name="axes"), keepdims=1)
    small = s.constant(np.asarray(epsilon).astype(ir.DataType(stash).numpy()), "epsilon")
    return s.op("Reciprocal", s.op("Sqrt", s.op("Add", mean, small)))


@spells(SPELLINGS, "SkipLayerNormalization")
def skip_layer_normalization(s: Spelling) -> None:
    """LayerNormalization of input + skip + bias, and that sum."""
    total = _skip(s, s.input(4))
    y = s.op("LayerNormalization", total, s.required(2), s.input(3), epsilon=_epsilon(s))
    s.finish(y, None, None, total)


@spells(SPELLINGS, "SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(s: Spelling) -> None:
    """RMSNormalization of input + skip + bias, and that sum."""
    total = _skip(s, s.input(3))
    s.finish(s.op("RMSNormalization", total, s.required(2), epsilon=_epsilon(s)), None, None, total)


def _epsilon(s: Spelling) -> float:
    return float(s.attribute("epsilon", 1e-12))


def _skip(s: Spelling, bias: ir.Value | None) -> ir.Value:
    s.unread(1, "mean")
    s.unread(2, "inv_std_var")
    total = s.op("Add", s.required(0), s.required(1))
    return total if bias is None else s.op("Add", total, bias)


@spells(SPELLINGS, "EmbedLayerNormalization")
def embed_layer_normalization(s: Spelling) -> None:
    """LayerNormalization of word + position + segment embedding; how many words the mask holds; the sum."""
    ids, segments, words, positions, kinds = (s.input(index) for index in range(5))
    mask, places = s.input(7), s.input(8)
    assert ids is not None and words is not None and positions is not None
    if places is not None:
        place = s.op("Gather", positions, places, axis=0)
    else:
        place = s.op("Slice", positions, s.ints(0), s.length(ids, 1), s.ints(0))
    total = s.op("Add", s.op("Gather", words, ids, axis=0), place)
    if segments is not None and kinds is not None:
        total = s.op("Add", total, s.op("Gather", kinds, segments, axis=0))
    y = s.op("LayerNormalization", total, s.required(5), s.required(6), epsilon=_epsilon(s))
    s.finish(y, _words(s, ids, mask) if s.needed(1) else None, total)


def _words(s: Spelling, ids: ir.Value, mask: ir.Value | None) -> ir.Value:
    """How many ones each row of the mask has, in int32; zeros without a mask."""
    if mask is None:
        zero = ir.tensor(np.zeros(1, np.int32))
        return s.op("ConstantOfShape", s.length(ids, 0), value=ir.AttrTensor("value", zero))
    one = s.constant(np.ones((), mask.dtype.numpy() if mask.dtype is not None else np.int32), "one")
    ones = s.cast(s.op("Equal", mask, one), ir.DataType.INT32)
    return s.op("ReduceSum", ones, s.ints(1, name="axes"), keepdims=0)
