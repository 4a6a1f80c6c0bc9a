"""Operands of nc_matmul_mx: codes as elements of four, a scale for each 8 partitions of them.

    codes    [partitions, free]   float8_e4m3fn_x4 or float4_e2m1fn_x4, a multiple of 32 partitions
    scales   [partitions, free]   float8_e8m0fnu: those of partitions 32 q to 32 q + 31 lie in partitions 32 q to 32 q + 3

Sums and stationary sides that are no such multiples are filled up with codes of 0.
[nki.isa.nc_matmul_mx, nki.isa.quantize_mx, nki/deep-dives/mxfp-matmul.rst]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from porter.targets.trainium.depth import QUAD
from porter.targets.trainium.instructions import GROUP, QUADRANT, SCALES
from porter.targets.trainium.writer import Place, Size, View

if TYPE_CHECKING:
    from porter.targets.trainium.emit import Emitter

X4 = {"float8_e4m3fn": "float8_e4m3fn_x4", "uint8": "float4_e2m1fn_x4"}


@dataclass(frozen=True)
class Slab:
    """A place's columns: all, or those of one lane of the batch axes (`at`, in units of one lane's columns)."""

    place: Place
    columns: Size
    at: str = ""

    @property
    def text(self) -> str:
        if not self.at:
            return self.place.text
        return f"{self.place.text}[:, ({self.at}) * ({self.columns}):({self.at} + 1) * ({self.columns})]"

    @property
    def view(self) -> View:
        return View(self.text, (self.place.buffer,))


def codes_of(place: Place) -> int:
    """How many of a place's lanes are an element of four codes."""
    return QUAD // (2 if place.dtype == "uint8" else 1)


def codes(e: Emitter, slab: Slab, side: Size, still: bool) -> View:
    """Elements of four codes in whole quadrants; an even number of columns where they stand still."""
    w, place, inner = e.w, slab.place, codes_of(slab.place)
    rows = w.size(place.layout.part)
    kind = X4[place.dtype]
    wanted = even(side) if still else side
    if not rows.symbols and rows.number % QUADRANT == 0 and wanted == side:
        return View(f"{slab.text}.view(nl.{kind})", (place.buffer,))
    filled = w.room(f"{place.buffer.name}_filled", quadrants(rows), wanted * inner, place.dtype, "sbuf")
    w.call("memset", dst=View(filled.name, (filled,)), value=0 if place.dtype == "uint8" else 0.0)
    w.call("tensor_copy", dst=View(f"{filled.name}[0:{rows}, 0:{side * inner}]", (filled,)), src=slab.view)
    return View(f"{filled.name}.view(nl.{kind})", (filled,))


def scales(e: Emitter, slab: Slab, side: Size, still: bool) -> View:
    """Scales in the first partitions of the quadrants of their codes."""
    w, place = e.w, slab.place
    blocks = w.size(place.layout.part)
    rows = quadrants(blocks * GROUP)
    wanted = even(side) if still else side
    whole = not blocks.symbols and blocks.number % SCALES == 0 and wanted == side
    if whole and rows.number == QUADRANT:
        return View(f"{slab.text}.view(nl.float8_e8m0fnu)", (place.buffer,))
    spread = w.room(f"{place.buffer.name}_spread", rows, wanted, place.dtype, "sbuf")
    if not whole:
        w.call("memset", dst=View(spread.name, (spread,)), value=0)
    at = w.name("quadrant")
    with w.block(f"for {at} in range({_over(blocks, SCALES)}):", repeats=True):
        many = SCALES if whole else f"min({SCALES}, {blocks} - {SCALES} * {at})"
        here = f"{spread.name}[{QUADRANT} * {at}:{QUADRANT} * {at} + {many}, 0:{side}]"
        there = f"{slab.text}[{SCALES} * {at}:{SCALES} * {at} + {many}, :]"
        w.call("dma_copy", dst=View(here, (spread,)), src=View(there, (place.buffer,)))
    return View(f"{spread.name}.view(nl.float8_e8m0fnu)", (spread,))


def quadrants(rows: Size) -> Size:
    """The partitions of whole quadrants that hold so many."""
    most = -(-rows.most // QUADRANT) * QUADRANT
    return Size(most, (), most)


def even(side: Size) -> Size:
    """So many columns, or one more."""
    if side.number % 2 == 0:
        return side
    if not side.symbols:
        return Size(side.number + 1, (), side.number + 1)
    return Size(1, (f"(({side} + 1) // 2 * 2)",), side.most + side.most % 2)


def _over(count: Size, by: int) -> str:
    return str(-(-count.number // by)) if not count.symbols else f"({count} + {by - 1}) // {by}"
