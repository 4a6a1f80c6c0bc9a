"""A bias per channel added after a convolution, given to it."""

from porter.rewrite import rewrite

after = ("conv_batchnorm",)


@rewrite
def conv_bias(op, x, w, bias, **conv):
    """conv(x, w) + bias, one bias per output channel."""
    return op.Conv(x, w, **conv) + bias


@conv_bias.when
def one_per_channel(m):
    bias, w, result = m.constant("bias"), m.shape("w"), m.outputs[0].shape
    if bias is None or w is None or result is None:
        return m.refuse("the bias is not a constant")
    dims = (1,) * (len(result) - bias.ndim) + bias.shape
    return dims == (1, w[0], *(1,) * (len(result) - 2)) or m.refuse(f"shape {bias.shape} is not one number per channel")


@conv_bias.to
def with_bias(op, x, w, m, conv):
    return op.Conv(x, w, m.constant("bias").reshape(-1), **conv)
