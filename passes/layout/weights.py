"""Weights of matrix products stored as they are read, [contracted, results], once, at compile time."""

from __future__ import annotations

import numpy as np

from porter.rewrite import rewrite


@rewrite
def gemm_weights(op, a, b, c=None, *, alpha, beta, transA):
    """a @ b^T + c reads b by columns: b is stored transposed."""
    return op.Gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=1)


@gemm_weights.to
def stored_transposed(op, a, c, m, *, alpha, beta, transA):
    weight = own_weight(m, "b")
    return None if weight is None else op.Gemm(a, weight.T.copy(), c, alpha=alpha, beta=beta, transA=transA)


@rewrite
def transposed_weights(op, a, b, *, perm):
    """a @ transposed b, where b is a weight that nothing else reads."""
    return a @ op.Transpose(b, perm=perm)


@transposed_weights.to
def transposed_once(op, a, m, *, perm):
    weight = own_weight(m, "b")
    return None if weight is None else a @ np.ascontiguousarray(weight.transpose(perm))


def own_weight(m, name):
    """The array of a weight that only this node reads; None, with the reason, of anything else."""
    value = m.value(name)
    weight = m.constant(name)
    if weight is None:
        m.refuse(f"'{value.name}' is no constant")
    elif len(value.uses()) > 1 or value.is_graph_output():
        m.refuse(f"'{value.name}' is read elsewhere too: it stays as it is")
    else:
        return weight
    return None
