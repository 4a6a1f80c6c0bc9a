"""Addresses and masks: an access of a tile program as a pointer expression and the conditions for using it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from porter.tile.affine import Affine
from porter.tile.program import Access
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


def address(scope: Scope, access: Access, name: str, store: bool = False) -> Address:
    """Where each lane of an access lies. `name` stems the names of indices that need a check.

    An index needs a check where it is gathered or can leave the view on lanes inside every extent (a padded window; a
    store's never can); a ragged axis adds its own condition. Offsets are int32 where the tensor's fit.
    """
    program = scope.program
    named = {a for i in access.index for a in i.affine.axes}
    for i in access.index:
        if i.gather is not None:
            named |= set(scope.values[i.gather].axes)
    axes = scope.lanes(named)
    wide = math.prod(access.view) > INT32
    conditions = [f"{scope.aligned(scope.inside[a], (a,), axes)}" for a in axes if a in scope.inside]
    plain, checked, stride = Affine(), "", math.prod(access.view)
    for position, (extent, index) in enumerate(zip(access.view, access.index, strict=True)):
        stride //= max(extent, 1)
        low, high = index.affine.bounds(lambda a: program.axis(a).extent)
        under, over = low < 0 and not store, high >= extent and not store
        if index.gather is None and not (under or over):
            plain = plain + index.affine * stride
            continue
        text = affine(scope, index.affine, axes)
        if index.gather is not None:
            gathered = scope.operand(scope.values[index.gather], axes)
            text = gathered if text == "0" else f"{gathered} + {text}"
            under = over = True
        at = scope.fresh(f"{name}_{position}")
        scope.write(f"{at} = {text}")
        conditions += [f"({at} >= 0)"] if under else []
        conditions += [f"({at} < {extent})"] if over else []
        term = f"tl.cast({at}, {'tl.int64' if wide else 'tl.int32'})" if wide or index.gather else at
        checked += f" + {term}" + (f" * {stride}" if stride != 1 else "")
    offset = affine(scope, plain, axes, wide)
    offset = "" if offset == "0" else f" - {offset[2:]}" if offset.startswith("- ") else f" + {offset}"
    return Address(f"{scope.params[access.param]}{checked}{offset}", axes, tuple(conditions))
