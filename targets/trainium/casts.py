"""Casts: engines convert on the way out of any instruction, to the nearest and held at the ends of a range.

A tile program truncates towards zero and keeps the lowest bits of integers, so both are said before; bits read as another
type are a view.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from porter.targets.trainium import integers
from porter.targets.trainium.instructions import DTYPES
from porter.targets.trainium.layout import Layout
from porter.targets.trainium.writer import Place
from porter.tile.program import Cast

if TYPE_CHECKING:
    from porter.targets.trainium.emit import Emitter


def cast(e: Emitter, s: Cast, layout: Layout) -> Place:
    """The value in another type, in this layout or spread as its argument is."""
    old, new = e.plan.types[s.arg].dtype, s.type.dtype
    arg = e.place(s.arg, layout.part)
    lying = Layout(layout.part, arg.layout.free)
    floats = np.dtype(old).kind not in "biu"
    if s.bits:
        return replace(arg, dtype=new, bits=arg.bits or DTYPES[old] != DTYPES[new])
    if DTYPES[old] == DTYPES[new] and "bool" not in (old, new):
        return arg
    if new == "bool":
        return e.select.emit("ne", s.name, layout, new, [arg, 0.0 if floats else 0])
    if floats and np.dtype(new).kind in "iu":
        whole = e.select._language("trunc", f"{s.name}_whole", lying, "float32", arg)
        return e.select.copy(s.name, layout, new, whole)
    if old != "bool" and not floats and not _holds(new, old):
        return integers.wrapped(e.select, s.name, lying, new, arg)
    return e.select.copy(s.name, lying, new, arg)


def _holds(wide: str, narrow: str) -> bool:
    """Whether one type's numbers are all another's: a float's, or an integer's of at least the same range."""
    if np.dtype(wide).kind not in "iu":
        return True
    large, small = np.iinfo(DTYPES[wide]), np.iinfo(DTYPES[narrow])
    return bool(large.min <= small.min and small.max <= large.max)
