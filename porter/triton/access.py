"""Addresses and masks: an access of a tile program as a pointer expression and the conditions for using it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from porter.tile.affine import Affine
from porter.tile.program import Access, Index
from porter.triton.scope import Scope

INT32 = (1 << 31) - 1


@dataclass(frozen=True)
class Address:
    """pointer: an expression whose dimensions are `axes`. conditions: each aligned to them; a lane must meet all."""

    pointer: str
    axes: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def mask(self) -> str | None:
        return " & ".join(self.conditions) if self.conditions else None


def affine(scope: Scope, form: Affine, want: tuple[str, ...], wide: bool = False) -> str:
    """The form over the lanes' coordinates; scalars first, so that they are added once."""
    terms = sorted(form.terms, key=lambda t: (scope.size[t[0]] > 1, scope.program.axes.index(scope.program.axis(t[0]))))
    text = ""
    for axis, k in terms:
        if scope.program.axis(axis).extent == 1:
            continue  # its one coordinate is 0
        name = scope.aligned(scope.coordinate[axis], scope.lanes([axis]), want)
        name = f"tl.cast({name}, tl.int64)" if wide else name
        part = name if abs(k) == 1 else f"{name} * {abs(k)}"
        text += f" {'-' if k < 0 else '+'} {part}" if text or k < 0 else part
    if form.const or not text:
        text += f" {'-' if form.const < 0 else '+'} {abs(form.const)}" if text else str(form.const)
    return text.removeprefix(" ")


@dataclass(frozen=True)
class _Check:
    """Which ends of a dimension an index must be held against: where it is gathered, or can leave the view on lanes
    inside every extent (a padded window)."""

    under: bool
    over: bool

    @staticmethod
    def of(scope: Scope, index: Index, extent: int) -> _Check:
        low, high = index.affine.bounds(lambda a: scope.program.axis(a).extent)
        return _Check(index.gather is not None or low < 0, index.gather is not None or high >= extent)

    def covers(self, scope: Scope, index: Index, extent: int) -> bool:
        """Whether lanes past an extent, too, stay inside the view or meet a check."""
        low, high = index.affine.bounds(lambda a: scope.program.axis(a).steps * scope.program.axis(a).tile)
        return (self.under or low >= 0) and (self.over or high < extent)

    def excludes(self, scope: Scope, index: Index, extent: int, axis: str) -> bool:
        """Whether every lane past the extent of this axis fails the check, so that no mask of its own is needed."""
        k = index.affine.coefficient(axis)
        if index.gather is not None or not self.over or k <= 0:
            return False
        beyond = index.affine.substitute({axis: Affine((), scope.program.axis(axis).extent)})
        return beyond.bounds(lambda a: scope.program.axis(a).extent)[0] >= extent


def _needs_inside(scope: Scope, access: Access, axis: str, padded: bool) -> bool:
    """Whether a load's lanes past the extent of a ragged axis must be masked: because they would leave the tensor, or
    because a sum over the axis counts on their pad. (Where both operands of a product are padded with 0, either mask
    looks idle, until the other operand's lane holds Inf.)"""
    indices = [(i, extent, _Check.of(scope, i, extent)) for i, extent in zip(access.index, access.view, strict=True)]
    if any(check.excludes(scope, i, extent, axis) for i, extent, check in indices):
        return False
    for i, extent, check in indices:
        gathered = i.gather is not None and axis in scope.values[i.gather].axes
        if (gathered or axis in i.affine.axes) and not check.covers(scope, i, extent):
            return True
    return padded and axis in scope.summed


def address(scope: Scope, access: Access, name: str, *, store: bool = False, padded: bool = False) -> Address:
    """Where each lane of an access lies, and which conditions a lane must meet to be read or written.

    name: stems the names of indices that need a check. store: all lanes inside every extent stay inside the view, and
    no other is written. padded: lanes that are not read hold a pad. Offsets are int32 where the tensor's fit.
    """
    named = {a for i in access.index for a in i.affine.axes}
    for i in access.index:
        if i.gather is not None:
            named |= set(scope.values[i.gather].axes)
    axes = scope.lanes(named)
    wide = math.prod(access.view) > INT32
    ragged = [a for a in axes if a in scope.inside and (store or _needs_inside(scope, access, a, padded))]
    conditions = [scope.aligned(scope.inside[a], (a,), axes) for a in ragged]
    plain, checked, stride = Affine(), "", math.prod(access.view)
    for position, (extent, index) in enumerate(zip(access.view, access.index, strict=True)):
        stride //= max(extent, 1)
        check = _Check(False, False) if store else _Check.of(scope, index, extent)
        if index.gather is None and not (check.under or check.over):
            plain = plain + index.affine * stride
            continue
        text = affine(scope, index.affine, axes)
        if index.gather is not None:
            gathered = scope.operand(scope.values[index.gather], axes)
            text = gathered if text == "0" else f"{gathered} + {text}"
        at = scope.fresh(f"{name}_{position}")
        scope.write(f"{at} = {text}")
        conditions += [f"({at} >= 0)"] if check.under else []
        conditions += [f"({at} < {extent})"] if check.over else []
        term = f"tl.cast({at}, {'tl.int64' if wide else 'tl.int32'})" if wide or index.gather else at
        checked += f" + {term}" + (f" * {stride}" if stride != 1 else "")
    offset = affine(scope, plain, axes, wide)
    offset = "" if offset == "0" else f" - {offset[2:]}" if offset.startswith("- ") else f" + {offset}"
    return Address(f"{scope.params[access.param]}{checked}{offset}", axes, tuple(conditions))
