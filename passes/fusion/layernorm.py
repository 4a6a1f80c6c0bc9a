"""LayerNormalization, as exporters spell it."""

import numpy as np

from porter.rewrite import fusion


@fusion
def LayerNormalization(op, x, bias, scale=None, *, axes, epsilon):
    """(x - mean(x)) / sqrt(variance(x) + epsilon) * scale + bias, over the last axes."""
    centred = x - op.ReduceMean(x, axes, keepdims=1)
    square = op.either(op.Pow(centred, 2.0), centred * centred)
    root = op.Sqrt(op.ReduceMean(square, axes, keepdims=1) + epsilon)
    normal = op.either(centred / root, centred * op.either(op.Reciprocal(root), 1.0 / root))
    return op.either(normal * scale, normal) + bias


@LayerNormalization.when
def last_axes(m):
    rank = m.rank("x")
    if rank is None:
        return m.refuse("the rank of x is not known")
    axes = sorted(int(a) % rank for a in m["axes"].reshape(-1))
    if axes != list(range(rank - len(axes), rank)):
        return m.refuse(f"the mean is taken over axes {axes} of {rank}, not the last ones")
    return m.set(axis=-len(axes)) if m["epsilon"].size == 1 else m.refuse("epsilon is not one number")


@LayerNormalization.when
def parameters_of_those_axes(m):
    whole = m.shape("x")
    for name in ("scale", "bias"):
        if name in m and (whole is None or m.shape(name) != whole[m["axis"] :]):
            return m.refuse(f"{name} has shape {m.shape(name)}, x {whole}")
    return True


@LayerNormalization.to
def layer_normalization(op, x, bias, scale, m):
    ones = np.ones(m.shape("bias"), m.dtype("x").dtype)  # a scale of ones may have been dropped as doing nothing
    return op.LayerNormalization(x, scale or ones, bias, axis=m["axis"], epsilon=m.scalar("epsilon"))
