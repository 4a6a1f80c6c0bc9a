"""How a BlockSpec sees each access of a tile program: the view, the block, the index map, and the slice inside the
kernel.

A BlockSpec cuts an array into equal blocks and names a block per grid point. So each dimension of an access must be
indexed by one axis of stride 1 (others only move the block), and Mosaic adds the rule of positions: the last two block
dimensions are multiples of (8, 128), or whole. What does not fit raises CannotEmit with the sentence for the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from porter.targets.tpu.chip import Geometry
from porter.tile.affine import Affine
from porter.tile.program import Access, Program
from porter.tile.target import CannotEmit

Layout = tuple[str | None, ...]  # the axis along each array dimension; None: a dimension of length 1


@dataclass(frozen=True)
class Roles:
    """Which axes the Pallas grid walks, in order (a loop that became its last dimension included)."""

    program: Program
    grid: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)  # an axis as Python text: its tile index

    def text(self, form: Affine) -> str:
        """A form over tile indices, as a Python expression."""
        return str(form.substitute({a: Affine.of(self.names.get(a, a)) for a in form.axes}))

    def wide(self, axis: str) -> bool:
        """Whether the axis has more than one lane in a tile."""
        return self.program.axis(axis).tile > 1

    def inside(self, axis: str) -> bool:
        """Whether a loop in the kernel walks the axis, so that a block must hold all of it."""
        return axis not in self.grid and self.program.axis(axis).steps > 1

    def start(self, form: Affine) -> Affine:
        """A coordinate form at the first lane of each tile, over tile indices."""
        new = {}
        for name in form.axes:
            a = self.program.axis(name)
            new[name] = Affine.of(name, a.tile) if a.steps > 1 else Affine()
        return form.substitute(new)


@dataclass(frozen=True)
class Operand:
    """A parameter as one BlockSpec sees it. A block dimension of None is squeezed; index counts blocks."""

    param: str
    shape: tuple[int, ...]
    block: tuple[int | None, ...]
    index: tuple[Affine, ...]


@dataclass(frozen=True)
class Reference:
    """One access: the operand it goes through, the subscript inside the kernel, and the layout of what is there."""

    operand: Operand
    subscript: tuple[str, ...]
    layout: Layout
    held: tuple[int, ...] | None = None  # the block's own shape where the kernel splits or merges dimensions of it
    pads: tuple[
        tuple[int, int], ...
    ] = ()  # lanes before and after the block in each dimension, which read the pad value

    @property
    def whole(self) -> bool:
        return all(s == ":" for s in self.subscript)


@dataclass(frozen=True)
class _Dim:
    size: int
    form: Affine  # over coordinates
    wide: str | None
    window: tuple[int, int, int, int] | None = (
        None  # lanes padded before and after, and the part of the dimension between
    )


def see(access: Access, roles: Roles, chip: Geometry, *, column: bool = False, store: bool = False) -> Reference:
    """The access through a BlockSpec. column: a vector stands upright ([N, 1] and not [1, N])."""
    dims: list[_Dim] = []
    for size, index in zip(access.view, access.index, strict=True):
        if index.gather is not None:
            raise CannotEmit(f"{access.param} is gathered by computed indices, which a BlockSpec cannot do")
        low, high = index.affine.bounds(lambda a: roles.program.axis(a).extent)
        if low < 0 or high >= size:
            dims.append(_window(access.param, size, index.affine, roles, store))
            continue
        dims += _split(access.param, size, index.affine, roles, chip)
    dims = [d for d in dims if d.size > 1 or d.window]
    dims = _stand(access.param, dims, column)
    blocks, indices, subscript, layout = [], [], [], []
    pads: list[tuple[int, int]] = []
    for position, d in enumerate(dims):
        multiple = chip.multiple(len(dims) - 1 - position)
        block, at, inner = _block(access.param, d, roles, multiple, store)
        minor = position >= len(dims) - 2
        if minor and block is None and d.size == 1:
            block, inner = 1, ":"
        if minor and (block is None or (block != d.size and block % multiple)):
            raise CannotEmit(_why(access.param, block or 1, d.size, multiple, last=position == len(dims) - 1))
        blocks.append(block)
        indices.append(at)
        if block is not None:
            subscript.append(inner)
            if inner == ":" or ":" in inner or inner.startswith("pl.ds"):
                layout.append(d.wide)
                pads.append(d.window[:2] if d.window else (0, 0))
    operand = Operand(access.param, tuple(d.size for d in dims), tuple(blocks), tuple(indices))
    if any(d.window for d in dims):
        return Reference(operand, tuple(subscript), tuple(layout), None, tuple(pads))
    found = Reference(operand, tuple(subscript), tuple(layout))
    return _regrouped(found, roles.program.param(access.param).shape, chip)


def _regrouped(r: Reference, shape: tuple[int, ...], chip: Geometry) -> Reference:
    """The same access with the parameter's own dimensions where the view splits or merges them and blocks hold them
    whole.

    Split heads are an example: [S, H, D] of a parameter [S, H*D]. As a view, XLA would copy the tensor into another
    tiled layout; Mosaic does it in registers.
    """
    o, own = r.operand, [n for n in shape if n > 1]
    if not r.whole or bitcast(shape, o.shape, chip) or len(own) < 2 or any(n == 1 for n in o.shape):
        return r
    sizes: list[int] = []
    blocks: list[int | None] = []
    index: list[Affine] = []
    rest, seen = list(own), list(zip(o.shape, o.block, o.index, strict=True))
    while seen:
        group, mine = [seen.pop(0)], [rest.pop(0)]
        while (a := prod(g[0] for g in group)) != (b := prod(mine)):
            if a < b:
                group.append(seen.pop(0))
            else:
                mine.append(rest.pop(0))
        whole = all(size == block for size, block, _ in group)
        if len(group) == len(mine) or not whole or min(len(group), len(mine)) > 1:
            sizes += [g[0] for g in group]
            blocks += [g[1] for g in group]
            index += [g[2] for g in group]
        else:
            sizes += mine
            blocks += mine
            index += [Affine()] * len(mine)
    new = Operand(o.param, tuple(sizes), tuple(blocks), tuple(index))
    if len(sizes) < 2 or not bitcast(shape, new.shape, chip) or not _legal(new, chip):
        return r
    held = tuple(b for b in blocks if b is not None)
    return Reference(new, (":",) * len(held), r.layout, held)


def _legal(o: Operand, chip: Geometry) -> bool:
    """Whether the last two block dimensions are multiples of a tile, or whole."""
    places = ((len(o.shape) - 1, chip.lanes), (len(o.shape) - 2, chip.sublanes))
    return all(
        o.block[i] == o.shape[i] or ((o.block[i] or 1) % multiple == 0 and o.block[i] is not None)
        for i, multiple in places
    )


def bitcast(a: tuple[int, ...], b: tuple[int, ...], chip: Geometry) -> bool:
    """Whether a reshape moves nothing in memory tiled by (sublanes, lanes): the same lanes, and rows in whole tiles."""
    a, b = tuple(n for n in a if n > 1), tuple(n for n in b if n > 1)
    if a == b or (len(a) < 2 and len(b) < 2):
        return True
    if not a or not b or a[-1] != b[-1]:
        return False
    rows = (a[-2:-1] or (1,))[0], (b[-2:-1] or (1,))[0]
    return rows[0] == rows[1] or all(r % chip.sublanes == 0 for r in rows)


def _why(param: str, block: int, size: int, multiple: int, *, last: bool) -> str:
    where = "lanes" if last else "sublanes"
    return (f"a block of {param} has {block} of {size} {where}: neither a multiple of {multiple} nor whole, "
            "as the last two block dimensions must be")  # fmt: skip


def _window(param: str, size: int, form: Affine, roles: Roles, store: bool) -> _Dim:
    """A dimension that an access leaves on a side: its part inside, between lanes of the pad value, if one tile spans
    it all."""
    if store or len(form.terms) != 1 or form.terms[0][1] != 1 or roles.program.axis(form.axes[0]).steps > 1:
        raise CannotEmit(f"the index {form} of {param} leaves 0..{size - 1}: a padded window that moves")
    extent, before = roles.program.axis(form.axes[0]).extent, max(0, -form.const)
    start, stop = max(0, form.const), min(size, extent + form.const)
    if stop <= start or extent < 2:
        raise CannotEmit(f"the index {form} of {param} is never inside 0..{size - 1}")
    return _Dim(size, form, form.axes[0], (before, extent - before - (stop - start), start, stop))


def _wide(form: Affine, roles: Roles) -> list[str]:
    return [a for a in form.axes if roles.wide(a)]


def _split(param: str, size: int, form: Affine, roles: Roles, chip: Geometry) -> list[_Dim]:
    """One dimension as several, by mixed radix, until each has at most one axis with lanes, of stride 1."""
    wide = _wide(form, roles)
    if not wide:
        return [_Dim(size, form, None)]
    if len(form.terms) == 1 and form.terms[0][1] == 1:
        return [_Dim(size, form, wide[0])]
    if len(wide) == 1 and form.coefficient(wide[0]) == 1 and not roles.inside(wide[0]):
        a = roles.program.axis(wide[0])
        start = roles.start(form)
        if (
            not a.ragged
            and all(k % a.tile == 0 for _, k in start.terms)
            and start.const % a.tile == 0
            and a.tile % chip.lanes == 0
        ):
            return [_Dim(size, form, wide[0])]
    terms = sorted(form.terms, key=lambda t: -t[1])
    if terms[-1][1] < 0:
        raise CannotEmit(f"the index {form} of {param} runs backwards")
    dims, rest, const = [], size, form.const
    for name, k in terms:
        extent = roles.program.axis(name).extent
        digit, const = divmod(const, k)
        if rest % k:
            raise CannotEmit(f"the index {form} of {param} does not divide its {size} elements evenly")
        if extent + digit > rest // k:
            raise CannotEmit(f"the index {form} of {param} is an overlapping window")
        dims.append(_Dim(rest // k, Affine.of(name) + digit, name if roles.wide(name) else None))
        rest = k
    return [*dims, _Dim(rest, Affine((), const), None)]


def _stand(param: str, dims: list[_Dim], column: bool) -> list[_Dim]:
    """At least two dimensions: a vector lies in a row or stands in a column; a lone row of a table gets a unit beside
    it."""
    unit = _Dim(1, Affine(), None)
    if len(dims) == 1 and dims[0].wide is None:
        return [*dims, unit, unit]
    if len(dims) < 2:
        dims = [*dims, unit] if column and dims else [unit] * (2 - len(dims)) + dims
    if dims[-1].wide is None and dims[-1].size > 1:
        if any(d.wide for d in dims):
            raise CannotEmit(f"{param} is read at single lanes ({dims[-1].form} of {dims[-1].size}): strided elements")
        return [*dims, unit, unit]
    if dims[-2].wide is None and dims[-2].size > 1:
        if any(d.wide for d in dims[:-2]):
            raise CannotEmit(f"{param} is read at one row of {dims[-2].size} per block: strided rows")
        return [*dims[:-1], unit, dims[-1]]
    return dims


def _block(param: str, d: _Dim, roles: Roles, multiple: int, store: bool) -> tuple[int | None, Affine, str]:
    """The block's size along a dimension, its index map over tile indices, and the subscript inside the kernel."""
    if d.window is not None:
        first, last = d.window[2:]
        return d.size, Affine(), ":" if (first, last) == (0, d.size) else f"{first}:{last}"
    start = roles.start(d.form)
    looped = any(roles.inside(a) for a in start.axes)
    if d.wide is None:
        if looped:
            if multiple > 1:
                raise CannotEmit(f"a loop walks {param} by single elements of its last two dimensions ({d.form})")
            return d.size, Affine(), roles.text(start)
        return None, start, ""
    a = roles.program.axis(d.wide)
    if looped:
        aligned = all(k % multiple == 0 for _, k in start.terms) and start.const % multiple == 0
        if not aligned or a.ragged:
            wanted = f"which must divide {a.extent} and be a multiple of {multiple}"
            raise CannotEmit(f"a loop walks {param} in steps of {a.tile}, {wanted}")
        return d.size, Affine(), f"pl.ds(pl.multiple_of({roles.text(start)}, {a.tile}), {a.tile})"
    if a.steps == 1 and not start.axes:
        if a.extent == d.size:
            return d.size, Affine(), ":"
        divides = start.const % a.tile == 0 and a.tile % multiple == 0
        if store or not divides:  # part of a dimension: all of it lies in the block, sliced in the kernel
            return d.size, Affine(), f"{start.const}:{start.const + a.tile}"
    if start.const % a.tile or any(k % a.tile for _, k in start.terms):
        raise CannotEmit(f"a block of {param} begins at {d.form}, which is no multiple of its {a.tile} elements")
    if store and a.ragged and (start.const or len(start.terms) > 1 or a.extent != d.size):
        raise CannotEmit(f"the last block of {param} would overwrite its neighbour ({d.form} of {d.size})")
    return a.tile, Affine(tuple((n, k // a.tile) for n, k in start.terms), start.const // a.tile), ":"
