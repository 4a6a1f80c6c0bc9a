"""How convolutions and window reductions are pulled: an index that is the sum of an output's place and a window's.

A stretched operand (a transposed convolution) has elements at multiples of D only. The output's place o = D q + r and the
window's place f = D g + h then meet an element exactly where h follows from r: the sum over f becomes one over g.
"""

from __future__ import annotations

from dataclasses import dataclass

from porter.tile.affine import Affine
from porter.tile.elementwise import identity
from porter.tile.flat import Equation
from porter.tile.form import Cast, Cut, Dot, Elementwise, Index, Reduce
from porter.tile.pull import Position, Puller

ZERO = Index(Affine())
STRETCHED = 256  # elements of a stretched dimension that a sum may run over


def product(p: Puller, x: int, y: int, axes: list[str], dtype: str) -> int:
    """Sum of products; a plain product where nothing is summed. Operands that were widened are multiplied as they lie."""
    if not axes:
        return p.form.add(Elementwise("mul", (p.form.add(Cast(x, dtype)), p.form.add(Cast(y, dtype))), dtype))
    return p.form.add(Dot(x, y, tuple(sorted(axes)), dtype))


def convolution(p: Puller, e: Equation, at: Position, _: int) -> int:
    s = e.settings
    numbers, groups = s["dimension_numbers"], s["feature_group_count"]
    if s["batch_group_count"] != 1:
        raise Cut("a convolution with batch groups")
    x, w = e.operands
    xs, ws, out = p.shape(x), p.shape(w), p.shape(e.outputs[0])
    n_at, c_at = numbers.lhs_spec[:2]
    o_at, i_at = numbers.rhs_spec[:2]
    channel = at[numbers.out_spec[1]]
    per_group, inside = out[numbers.out_spec[1]] // groups, ws[i_at]
    feature = p.axis(f"e{e.number}c", inside)
    axes = list(feature.axes)
    x_at: list[Index] = [ZERO] * len(xs)
    w_at: list[Index] = [ZERO] * len(ws)
    x_at[n_at], w_at[o_at], w_at[i_at] = at[numbers.out_spec[0]], channel, Index(feature)
    x_at[c_at], counts = Index(feature), p.form.const(True, "bool")
    if groups > 1:
        group, _within = p.regroup((channel,), (groups * per_group,), (groups, per_group))
        x_at[c_at] = p.plus(p.scaled(group, inside, 0), Index(feature))
    for k, (d, f) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], strict=True)):
        o = at[numbers.out_spec[2 + k]]
        place = p.scaled(o, s["window_strides"][k], -s["padding"][k][0])
        name, dilation, stretch = f"e{e.number}w{k}", s["rhs_dilation"][k], s["lhs_dilation"][k]
        if stretch == 1 or xs[d] == 1:
            new = p.axis(name, ws[f])
            axes += new.axes
            x_at[d], w_at[f] = p.plus(place, Index(new * dilation)), Index(new)
        else:
            found = _stretched(p, place, name, ws[f], xs[d], dilation, stretch)
            x_at[d], w_at[f] = found.operand, found.window
            axes += found.axes
            if found.counts is not None:
                counts = p.form.ew("and", counts, found.counts)
    zero, zero_w = p.form.const(0, p.dtype(x)), p.form.const(0, p.dtype(w))
    weight = p.form.ew("select", counts, p.padded(w, tuple(w_at), zero_w), zero_w)
    return product(p, p.padded(x, tuple(x_at), zero), weight, axes, p.dtype(e.outputs[0]))


@dataclass(frozen=True)
class _Stretched:
    """Indices of operand and window along a stretched dimension, axes to sum over, and where the product counts."""

    operand: Index
    window: Index
    axes: tuple[str, ...]
    counts: int | None = None


def _stretched(p: Puller, place: Index, name: str, window: int, extent: int, dilation: int, stretch: int) -> _Stretched:
    """Where place + dilation * f is the `stretch`-fold of an index into the operand (of `extent` elements).

    place = D q + r with 0 <= r < D, f = D g - r: then (place + f) / D = q + g, for g from 0 to what the longest r needs;
    outside the window the weight counts as 0. Where D does not divide the axes of `place`, the sum runs over the operand
    instead, f = (D i - place) / dilation.
    """
    if place.gather is None and dilation == 1:
        try:
            whole, part = p.decode(place.affine, stretch)
            new = p.axis(name, (window + stretch - 2) // stretch + 1)
            return _Stretched(Index(whole + new), Index(new * stretch - part), new.axes)
        except Cut:
            pass
    if extent > STRETCHED:
        raise Cut("a stretched convolution whose stride does not divide its output")
    new = p.axis(name + "i", extent)
    distance = p.plus(p.scaled(place, -1, 0), Index(new * stretch))
    if dilation == 1:
        return _Stretched(Index(new), distance, new.axes)
    place_in, by = p.gathered(distance), p.form.const(dilation, "int32")
    counts = p.form.ew("eq", p.form.ew("rem", place_in, by), p.form.const(0, "int32"))
    return _Stretched(Index(new), Index(Affine(), p.form.ew("div", place_in, by)), new.axes, counts)


def window(op: str):  # type: ignore[no-untyped-def]
    def rule(p: Puller, e: Equation, at: Position, _: int) -> int:
        s = e.settings
        if any(d != 1 for d in s["base_dilation"]):
            raise Cut("a window over a dilated operand")
        axes: list[str] = []
        position = []
        for d, i in enumerate(at):
            new = p.axis(f"e{e.number}w{d}", s["window_dimensions"][d])
            axes += new.axes
            position.append(
                p.plus(p.scaled(i, s["window_strides"][d], -s["padding"][d][0]), Index(new * s["window_dilation"][d]))
            )
        dtype = p.dtype(e.outputs[0])
        x = p.padded(e.operands[0], tuple(position), p.form.const(identity(op, dtype), dtype))
        return p.form.add(Reduce(op, x, tuple(sorted(axes)), dtype)) if axes else x

    return rule
