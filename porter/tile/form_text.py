"""The axis form as text, for reading: one line per value, with its axes."""

from __future__ import annotations

from porter.tile.form import Cast, Const, Dot, Elementwise, Form, Index, Iota, Load, Reduce


def show(form: Form) -> str:
    """The form as in docs/tile.md: loads, elementwise operations, reductions and dots; then what is stored."""
    names: dict[int, str] = {}

    def index(i: Index) -> str:
        return str(i.affine) if i.gather is None else f"@{names[i.gather]} + {i.affine}"

    lines = [f"axes {', '.join(f'{a}:{n}' for a, n in form.axes.items())}"]
    for i in form.reachable():
        node = form[i]
        names[i] = f"v{len(names)}"
        match node:
            case Load(param=p, view=view, index=at, pad=pad):
                what = f"load {form.params[p].name}({', '.join(map(str, view))})[{', '.join(map(index, at))}]"
                what += "" if pad is None else f" pad {pad}"
            case Const(value=value):
                names[i] = repr(value)
                continue
            case Iota(affine=affine):
                what = f"iota {affine}"
            case Elementwise(op=op, args=args):
                what = f"{op} {', '.join(names[a] for a in args)}"
            case Cast(arg=arg, bits=bits):
                what = f"cast {'bits ' if bits else ''}{names[arg]}"
            case Reduce(op=op, arg=arg, axes=over):
                what = f"reduce {op} {names[arg]} over {', '.join(over)}"
            case Dot(a=a, b=b, axes=over, scales=scales):
                what = f"dot {names[a]}, {names[b]} over {', '.join(over)}"
                what += f" scaled by {', '.join(names[s] for s in scales)}" if scales else ""
        axes = ", ".join(a for a in form.axes if a in form.axes_of(i))
        lines.append(f"{names[i]}: {node.dtype}<{axes}> = {what}")
    for s in form.stores:
        where = f"{form.params[s.out].name}({', '.join(map(str, s.view))})[{', '.join(map(index, s.index))}]"
        lines.append(f"store {where} = {names[s.value]}")
    return "\n".join(lines) + "\n"
