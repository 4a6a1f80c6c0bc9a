"""SwiGLU: the gated half of a feed-forward layer."""

from porter.rewrite import fusion


@fusion
def SwiGLU(op, x, w_gate, w_up):
    """silu(x @ w_gate) * (x @ w_up), the gated half of a feed-forward layer."""
    gate = x @ w_gate
    return gate * op.Sigmoid(gate) * (x @ w_up)


@SwiGLU.also
def with_swish(op, x, w_gate, w_up):
    return op.Swish(x @ w_gate) * (x @ w_up)


@SwiGLU.when
def floating(m):
    return m.dtype("x").is_float or m.refuse("x is not floating")
