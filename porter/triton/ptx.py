"""What a compiled kernel multiplies with: matrix instructions in PTX, products in Triton's IR, against the request.

The PTX says which unit and which formats; the GPU IR says how many products of parts each `tl.dot` became, which in PTX
is spread over tiles and warps.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from porter.formats.matmul import PRECISIONS
from porter.triton.dots import Product

# tcgen05.mma carries shapes and formats in a descriptor (PTX ISA, 9.7.16), only its kind in the name.
_UNITS = (
    ("wgmma", re.compile(r"\bwgmma\.mma_async\S*\.m\d+n\d+k\d+\.[fs]\d+\.(\w+)\.")),
    ("mma", re.compile(r"\bmma\.sync\S*\.m\d+n\d+k\d+\.row\.col\.[fs]\d+\.(\w+)\.")),
    ("tcgen05", re.compile(r"\btcgen05\.mma\S*\.kind::(\w+)")),
)
_DOT = re.compile(
    r"\b(tt\.dot_scaled|tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma_scaled|ttng\.tc_gen5_mma)\s([^:]*) : (.*)$",
    re.MULTILINE,
)
# Operands with block scales: their formats stand beside the products, and name them as porter.tile.block_scales does.
_BLOCKS = re.compile(r"lhs = (\w+) rhs = (\w+)")
_SCALED = {("e4m3", "i8"): "mxfp8", ("e2m1", "i8"): "mxfp4", ("e2m1", "f8E4M3FN"): "nvfp4"}
_MIXED = {("e2m1", "e4m3", "i8"): "mxfp4a8"}
_SHAPED = re.compile(r"(?:tensor|!ttg\.memdesc)<((?:\d+x)+)(\w+)")
_NAMES = {"bf16": "bfloat16", "f16": "float16", "f64": "float64", "i8": "int8",
          "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2"}  # fmt: skip

_SCHEMES = {"tf32": ((3, "tf32x3"), (1, "tf32")), "bfloat16": ((6, "bf16x6"), (3, "bf16x3"), (1, "bf16"))}
_OPERANDS = {"bf16": "bfloat16", "fp16": "float16"}  # a product of float32 in one pass has narrowed its operands

# A warpgroup multiplies 64 rows (PTX ISA, wgmma.mma_async: m64). Smaller tiles go to mma.sync, for which Triton widens 8-bit
# floats to float16: every code is exact there, at half the rate. The audit reports it as built.
_WIDER, _WARPGROUP_ROWS = {"float8_e4m3fn": "float16", "float8_e5m2": "float16"}, 64


def units(ptx: str) -> tuple[str, ...]:
    """The matrix instructions of a kernel by unit and operand kind, e.g. ('wgmma.bf16',); 'tcgen05.f16' is bf16 too."""
    return tuple(sorted({f"{unit}.{kind}" for unit, pattern in _UNITS for kind in pattern.findall(ptx)}))


def dots(ttgir: str) -> Counter[tuple[tuple[int, int, int, int], str]]:
    """Products in Triton's GPU IR: how many per (batch, m, n, k) and operand format; float32 is 'tf32' or 'fp32'."""
    found: Counter[tuple[tuple[int, int, int, int], str]] = Counter()
    for operation, arguments, kinds in _DOT.findall(ttgir):
        shape, dtype = _shape(operation, arguments, kinds)
        if dtype == "f32":
            cut = operation != "tt.dot" or "inputPrecision = tf32" in arguments
            dtype = "tf32" if cut else "fp32"
        found[shape, _NAMES.get(dtype, dtype)] += 1
    return found


def _shape(operation: str, arguments: str, kinds: str) -> tuple[tuple[int, int, int, int], str]:
    """(batch, m, n, k) and the left operand's format, of the types of a product's operands."""
    found = _SHAPED.findall(kinds)
    (left, dtype), (right, _) = found[0], found[2 if operation == "tt.dot_scaled" else 1]
    if (blocks := _BLOCKS.search(arguments)) is not None:
        scales = found[1 if operation == "tt.dot_scaled" else 3][1]
        same = blocks[1] == blocks[2]
        named = _SCALED.get((blocks[1], scales)) if same else _MIXED.get((*sorted(blocks.groups()), scales))
        dtype = named or f"{blocks[1]} by {blocks[2]} with scales of {scales}"
    *batch, m, k = map(int, left[:-1].split("x"))
    return (batch[0] if batch else 1, m, int(right[:-1].split("x")[-1]), k), dtype


def realized(product: Product, count: int, found: Counter[tuple[tuple[int, int, int, int], str]]) -> str:
    """How products of that shape are really multiplied, in the words of Product.precision: 'tf32' for one pass of tf32.

    count: how many `tl.dot` of the text have the shape. Loops that the compiler peels repeat products, they never
    lose passes, so the passes found are the largest known scheme that the count allows.
    """
    shape = (product.batch, product.m, product.n, product.k)
    formats = {dtype: n // count for (at, dtype), n in found.items() if at == shape}
    if not formats:
        return "none"
    if product.precision in formats and product.precision not in ("tf32", "fp32"):
        return product.precision  # narrow operands, as they are
    dtype, passes = max(formats.items(), key=lambda item: item[1])
    return next((name for least, name in _SCHEMES.get(dtype, ()) if passes >= least), dtype)


def _passes(product: Product) -> tuple[str, int]:
    """The operand format of a product's passes in the GPU IR, and how many there are."""
    known = PRECISIONS.get(product.precision)
    return ({"tfloat32": "tf32"}.get(known.format, known.format) if known else product.precision), product.passes


def requested_otherwise(products: Sequence[Product], ttir: str) -> str | None:
    """A sentence about the first product for which Triton's own IR holds another request than the tile program."""
    held: dict[tuple[int, int, int, int], set[str]] = {}
    for operation, arguments, kinds in _DOT.findall(ttir):
        shape, dtype = _shape(operation, arguments, kinds)
        if dtype == "f32":
            named = re.search(r"inputPrecision = (\w+)", arguments)
            dtype = {"ieee": "fp32"}.get(named[1], named[1]) if named else "fp32"
        held.setdefault(shape, set()).add(_NAMES.get(dtype, dtype))
    for p in products:
        found = held.get((p.batch, p.m, p.n, p.k), set())
        if p.precision not in found and _OPERANDS.get(p.precision) not in found:
            return f"{_described(p)} is asked for as {p.precision}, and requested of Triton as {_listed(found)}"
    return None


def mismatch(products: Sequence[Product], ttir: str, ttgir: str) -> str | None:
    """A sentence about the first product that is requested, or compiled, otherwise than the tile program asks; None
    when all are as asked."""
    wrong = requested_otherwise(products, ttir)
    if wrong:
        return wrong
    found = _whole(dots(ttgir), {(p.batch, p.m, p.n, p.k) for p in products})
    for p in products:
        alike = [q for q in products if (q.batch, q.m, q.n, q.k) == (p.batch, p.m, p.n, p.k)]
        others = [_passes(q) for q in alike if q.precision != p.precision]
        rest = found.copy()
        for dtype, n in others:
            rest[(p.batch, p.m, p.n, p.k), dtype] -= n
        got = realized(p, len(alike) - len(others), rest)
        widened = _WIDER.get(p.precision) if p.m < _WARPGROUP_ROWS else None
        if got not in (p.precision, _OPERANDS.get(p.precision), widened):
            return f"{_described(p)} is asked for as {p.precision}, and compiled as {got}"
    return None


def _whole(
    found: Counter[tuple[tuple[int, int, int, int], str]], asked: set[tuple[int, int, int, int]]
) -> Counter[tuple[tuple[int, int, int, int], str]]:
    """Products by the shapes that were asked for: the compiler may cut a contraction into shorter ones, all of which run."""
    joined: Counter[tuple[tuple[int, int, int, int], str]] = Counter()
    for (at, dtype), n in found.items():
        longer = [s for s in asked if s[:3] == at[:3] and s[3] % at[3] == 0]
        whole = at if at in asked or not longer else min(longer)
        joined[whole, dtype] += n * at[3] // whole[3]
    return +joined


def _described(p: Product) -> str:
    batch = f"{p.batch} x " if p.batch > 1 else ""
    return f"the product {batch}[{p.m}, {p.k}] x [{p.k}, {p.n}]"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
