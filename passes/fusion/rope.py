"""RotaryEmbedding: positions as rotations, of the two halves of each head against each other."""

from porter.passes.fusion._halves import half
from porter.rewrite import fusion


@fusion
def RotaryEmbedding(op, x, cos, sin, *, low, middle, start, end, axes):
    """x cos + (-x_high, x_low) sin, where x_low and x_high are the halves of x's last axis."""
    turned = op.Concat(-op.Slice(x, start, end, axes, [1]), op.Slice(x, low, middle, axes, [1]), axis=-1)
    return x * cos + turned * sin


@RotaryEmbedding.when
def halves_of_heads(m):
    dims = m.shape("x")
    if dims is None or len(dims) != 4:
        return m.refuse(f"x has shape {dims}, not (batch, heads, positions, head)")
    width = dims[-1]
    ranges = [int(m[name].reshape(-1)[0]) for name in ("low", "middle", "start", "end")]
    found = tuple(slice(a, b).indices(width)[:2] for a, b in (ranges[:2], ranges[2:]))
    if int(m["axes"].reshape(-1)[0]) % 4 != 3 or found != ((0, width // 2), (width // 2, width)):
        return m.refuse(f"{found} of {width} are not the two halves of the last axis")
    return True


@RotaryEmbedding.to
def rotary(op, x, cos, sin, m):
    batch, _, positions, width = m.shape("x")
    caches = []
    for name in ("cos", "sin"):
        dims = m.shape(name)
        if dims is None or dims[-3:] not in ((1, positions, width), (positions, width)):
            return m.refuse(f"{name} has shape {dims}: it is not one angle per position, equal for all heads")
        cache = half(op, m.value(name))
        if cache is None:
            return m.refuse(f"the two halves of {name} are not known to be equal")
        cache = op.Reshape(cache, [dims[0] if len(dims) == 4 else 1, positions, width // 2])
        caches.append(
            cache
            if (len(dims) == 4 and dims[0] == batch) or batch == 1
            else op.Expand(cache, [batch, positions, width // 2])
        )
    return op.RotaryEmbedding(x, *caches)
