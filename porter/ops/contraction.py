"""Products of matrices: MatMul, Gemm, Einsum, determinants."""

from __future__ import annotations

import numpy as np

from porter.ops.namespace import is_float
from porter.ops.registry import op


@op("MatMul", fed=("a", "b"))
def matmul(xp, a, b):
    """a @ b, batched as numpy does."""
    return xp.matmul(a, b)


@op("Gemm", since=7, fed=("a", "b"))
def gemm(xp, a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    """alpha * A' @ B' + beta * C."""
    a = xp.transpose(a, (1, 0)) if transA else a
    b = xp.transpose(b, (1, 0)) if transB else b
    y = xp.matmul(a, b)
    y = y if alpha == 1.0 else _times(xp, alpha, y)
    if c is None:
        return y
    return y + (c if beta == 1.0 else _times(xp, beta, c))


def _times(xp, factor, x):
    """A float attribute times x; integers multiply in double and drop the fraction."""
    return factor * x if is_float(x.dtype) else xp.cast(xp.cast(x, np.float64) * factor, x.dtype)


@op("Einsum", since=12, fed=("inputs",))
def einsum(xp, *inputs, equation):
    """Sum of products over the letters that the result does not name."""
    return xp.einsum(equation, *inputs)


@op("Det", since=11)
def det(xp, x):
    """Determinant of the matrices in the last two axes, by expansion along the first row."""
    n = x.shape[-1]
    lead = x.ndim - 2

    def cut(y, rows, columns):
        return xp.slice(
            y,
            (0,) * lead + (rows[0], columns[0]),
            (*y.shape[:-2], rows[1], columns[1]),
        )

    if n > 4:  # n! terms: elimination instead, which only numbers known to be real can do
        return xp.determinant(x)
    if n == 1:
        return xp.reshape(x, x.shape[:-2])
    total = None
    for j in range(n):
        parts = [cut(x, (1, n), (a, b)) for a, b in ((0, j), (j + 1, n)) if a < b]
        minor = det(xp, xp.concatenate(parts, axis=lead + 1))
        term = xp.reshape(cut(x, (0, 1), (j, j + 1)), x.shape[:-2]) * minor
        total = term if total is None else (total - term if j % 2 else total + term)
    return total
