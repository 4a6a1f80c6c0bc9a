"""Integers that a program states and a device cannot hold: what needs more bits than its registers have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from porter.tile.program import Full, Iota, Load, Program, walk


def beyond(program: Program, bits: int) -> int | None:
    """A number of a 64-bit type, constant or coordinate, that `bits` bits do not hold; None where they hold all.

    The ends of the 64-bit range count as held: they stand for 'less than all' and 'more than all', which the ends of
    the narrow range are as well.
    """
    for dtype, number in _stated(program):
        wide = np.iinfo(dtype)
        if number not in (wide.min, wide.max) and not fits(number, dtype, bits):
            return number
    return None


def fits(number: int, dtype: str, bits: int) -> bool:
    """Whether `bits` bits, with a sign where the dtype has one, hold the number."""
    signed = np.dtype(dtype).kind == "i"
    return -(1 << bits - 1) <= number < 1 << bits - 1 if signed else 0 <= number < 1 << bits


def _stated(program: Program) -> Iterator[tuple[str, int]]:
    for s in walk(program.body):
        if not isinstance(s, Full | Iota | Load) or s.type.dtype not in ("int64", "uint64"):
            continue
        match s:
            case Full(value=value):
                yield s.type.dtype, int(value)
            case Iota(affine=affine):
                for end in affine.bounds(lambda a: program.axis(a).extent):
                    yield s.type.dtype, end
            case Load(pad=pad) if pad is not None:
                yield s.type.dtype, int(pad)
