"""RMSNormalization, as exporters spell it."""

from porter.rewrite import fusion


@fusion
def RMSNormalization(op, x, scale, *, axes, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * scale, over the last axes."""
    square = op.either(op.Pow(x, 2.0), x * x)
    root = op.Sqrt(op.ReduceMean(square, axes, keepdims=1) + epsilon)
    return op.either(x * op.either(op.Reciprocal(root), 1.0 / root), x / root) * scale


@RMSNormalization.when
def last_axes(m):
    rank, axes = m.rank("x"), sorted(int(a) for a in m["axes"].reshape(-1))
    if rank is None:
        return m.refuse("the rank of x is not known")
    axes = sorted(a % rank for a in axes)
    if axes != list(range(rank - len(axes), rank)):
        return m.refuse(f"the mean is taken over axes {axes} of {rank}, not the last ones")
    if m["epsilon"].size != 1:
        return m.refuse("epsilon is not one number")
    return m.set(axis=-len(axes))


@RMSNormalization.when
def scale_of_those_axes(m):
    whole, scale = m.shape("x"), m.shape("scale")
    if whole is None or scale is None or scale != whole[m["axis"] :]:
        return m.refuse(f"scale has shape {scale}, x {whole}")
    return True
