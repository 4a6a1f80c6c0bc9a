"""Swish (SiLU): a value gated by its own sigmoid."""

from porter.rewrite import fusion

after = ("swiglu",)


@fusion
def Swish(op, x, *, alpha):
    """x * sigmoid(alpha x)."""
    return x * op.Sigmoid(alpha * x)


@Swish.also(alpha=1.0)
def silu(op, x):
    return x * op.Sigmoid(x)


@Swish.when
def one_factor(m):
    return getattr(m["alpha"], "size", 1) == 1 or m.refuse("alpha is not one number")
