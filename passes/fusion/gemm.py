"""A product of two matrices with a bias, as Gemm."""

from porter.rewrite import fusion


@fusion
def Gemm(op, a, b, c):
    """a @ b + c, of matrices."""
    return a @ b + c


@Gemm.when
def matrices(m):
    ranks = m.rank("a"), m.rank("b")
    return ranks == (2, 2) or m.refuse(f"the operands have {ranks[0]} and {ranks[1]} axes, not two")


@Gemm.when
def constant_bias(m):
    if m.constant("c") is None:
        return m.refuse("the bias is not a constant")
    dims, result = m.shape("c"), tuple(m.outputs[0].shape or ())
    return (len(dims) <= 2 and dims[-1:] in ((), (1,), result[-1:])) or m.refuse(f"a bias of shape {dims} for {result}")
