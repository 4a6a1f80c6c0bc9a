"""Attention: softmax of scaled and masked scores, applied to values; grouped heads where keys were repeated."""

import numpy as np

from porter.graph import shape
from porter.passes.cleanup.identity import transpose_by_nothing
from porter.passes.cleanup.shapes import transpose_pair
from porter.rewrite import fusion, rewrite

after = ("rope",)

#: what is added to a score, or put in its place, to hide it: exp of it is 0 in every float format, whatever the score
HIDDEN = -1e30


@fusion
def Attention(op, q, kt, v, mask=None, keep=None, *, a, b, c, d, e, fill):
    """softmax(scale q k^T + mask) v, wherever the exporter scales; a row that sees nothing gives zeros."""
    product = op.either(q * a, q / d, q) @ op.either(kt * b, kt)
    score = op.either(product * c, product / e, product)
    p = op.Softmax(op.either(op.Where(keep, score, fill), score + mask, score), axis=-1)
    return op.either(op.Where(op.IsNaN(p), 0.0, p), p) @ v


@Attention.when
def four_axes(m):
    dims = [m.shape(name) for name in ("q", "kt", "v")]
    if any(d is None or len(d) != 4 for d in dims) or len({d[:2] for d in dims}) != 1:
        return m.refuse(f"q, k and v are {dims}, not (batch, heads, positions, head) of one batch and number of heads")
    numbers = [m[name] for name in "abcde" if name in m]
    return all(np.size(x) == 1 for x in numbers) or m.refuse("a scale is not one number")


@Attention.when
def adds_a_mask(m):
    """A mask has a dimension of queries and one of keys; a number that is added to every score is none."""
    ranks = {len(m.shape(name) or ()) for name in ("mask", "keep") if name in m}
    return all(r >= 2 for r in ranks) or m.refuse("what is added to the scores has fewer than two dimensions")


@Attention.when
def hides_for_sure(m):
    if "fill" not in m:
        return True
    keep, fill = m.constant("keep"), float(np.max(m["fill"]))
    if fill == -np.inf or (fill <= HIDDEN and keep is not None and bool(np.all(np.any(keep, axis=-1)))):
        return True
    return m.refuse(
        f"hidden scores become {fill:g}, and a row may be hidden whole: its weights would all be equal, not zero"
    )


@Attention.to
def attention(op, q, kt, v, mask, keep, m):
    scale = 1.0
    for name in "abcde":
        scale = scale * m.scalar(name) ** (-1 if name in "de" else 1) if name in m else scale
    mask = mask if keep is None else keep
    return op.Attention(q, op.Transpose(kt, perm=(0, 1, 3, 2)), v, *([mask] if mask is not None else []), scale=scale)


@rewrite
def grouped_heads(op, q, k, v, k1, k2, k3, v1, v2, v3, mask=None, **attention):
    """Keys and values that were repeated for their group of heads."""
    keys, values = (op.Reshape(op.shared(op.Expand(op.shared(op.Reshape(x, s1)), s2)), s3)
                    for x, s1, s2, s3 in ((k, k1, k2, k3), (v, v1, v2, v3)))  # fmt: skip
    return op.either(op.Attention(q, op.shared(keys), op.shared(values), mask, **attention))


@grouped_heads.when
def each_head_repeated_in_place(m):
    for position, name in ((1, "k"), (2, "v")):
        dims, last = m.shape(name), m.node.inputs[position].producer()
        wide = shape(last.inputs[0])
        apart = shape(last.inputs[0].producer().inputs[0])
        if not dims or not wide or apart != (*dims[:2], 1, *dims[2:]) or wide != (*dims[:2], wide[2], *dims[2:]):
            return m.refuse(f"{name} is expanded from {apart} to {wide}, not repeated once per head of its group")
    return True


@grouped_heads.to
def grouped(op, q, k, v, mask, attention):
    return op.Attention(q, k, v, *([mask] if mask is not None else []), **attention)


@rewrite
def causal(op, q, k, v, mask, **attention):
    """A constant mask that shows every position itself and what came before it."""
    return op.Attention(q, k, v, mask, **attention)


@causal.when
def lower_triangle(m):
    mask, q, k = m.constant("mask"), m.shape("q"), m.shape("k")
    if mask is None or q is None or k is None or mask.ndim < 2 or m["attention"].get("is_causal"):
        return m.refuse("the mask is not a constant")
    seen = mask if mask.dtype == bool else mask == 0
    hidden = ~mask if mask.dtype == bool else mask <= HIDDEN
    triangle = np.tri(q[-2], k[-2], dtype=bool)
    fits = (
        q[-2] == k[-2]
        and mask.shape[-2:] == triangle.shape
        and np.all(seen == triangle)
        and np.all(hidden == ~triangle)
    )
    return bool(fits) or m.refuse("the mask is not the lower triangle")


@causal.to
def is_causal(op, q, k, v, attention):
    return op.Attention(q, k, v, **{**attention, "is_causal": 1})


rules = (Attention, transpose_pair, transpose_by_nothing, grouped_heads, causal)
