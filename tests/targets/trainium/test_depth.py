"""Products that take more of a sum than there are partitions: float8 in double_row mode, and MX in nc_matmul_mx."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from trainium_support import device, lowered, snippet

from porter.formats import of
from porter.targets.trainium import target
from porter.targets.trainium.signatures import check
from porter.tile import interpret
from porter.tile.program import Param, Program
from porter.tile.text import parse, show
from porter.tile.tiler import tile

E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
ROUNDING = 2.0**-18  # of sums in another order, to the largest result


def filled(p: Param) -> np.ndarray:
    """Codes of any kind (NaN of E4M3 left out), scales around 1."""
    rng = np.random.default_rng(len(p.shape) + sum(p.shape))
    if p.dtype == E8M0.name:
        return rng.integers(120, 134, p.shape).astype(np.uint8).view(E8M0)
    if p.dtype == "uint8":
        return rng.integers(0, 256, p.shape).astype(np.uint8)
    return (rng.standard_normal(p.shape) * 8).astype(np.dtype(p.dtype))


def kernel(m: int, n: int, inner: str, params: str, axes: str, loop: str = "", batch: int = 0) -> Program:
    """A product of [m, k] and [k, n] whose last statement is v9; `loop` is the axis that it sums over step by step."""
    b, at = (f"{batch}, ", "z, ") if batch else ("", "")
    around = [f"for {loop} {{", f"carry v10: float32<{at}m, n> = c from v0 next v9", *inner.splitlines(), "}"]
    lines = [f"v0: float32<{at}m, n> = full 0.0", *around] if loop else inner.splitlines()
    return parse("\n".join([
        "kernel k {", *params.splitlines(), f"out y: float32[{b}{m}, {n}]",
        *([f"axis z: {batch} by {batch} resident"] if batch else []),
        f"axis m: {m} by {m} resident", f"axis n: {n} by {n} resident", *axes.splitlines(), *lines,
        f"store y({b}{m}, {n})[{at}m, n] = {'v10' if loop else 'v9'}", "}",
    ]))  # fmt: skip


def scaled(codes: str, m: int, k: int, n: int, tile: int, batch: int = 0) -> Program:
    """A product of blocks of 32, so many at a time: of E4M3, or of bytes that hold two codes of E2M1 each."""
    width, blocks = (32 if codes == "float8_e4m3fn" else 16), k // 32
    held = blocks * width
    b, at = (f"{batch}, ", "z, ") if batch else ("", "")
    loop = "kb" if tile < blocks else ""
    return kernel(
        m, n,
        f"""v1: {codes}<{at}m, kb, ki> = load x({b}{m}, {blocks}, {width})[{at}m, kb, ki] pad 0
        v2: {codes}<{at}n, kb, ki> = load w({b}{blocks}, {width}, {n})[{at}kb, ki, n] pad 0
        v3: float8_e8m0fnu<{at}m, kb> = load sx({b}{m}, {blocks})[{at}m, kb] pad 1
        v4: float8_e8m0fnu<{at}n, kb> = load sw({b}{blocks}, {n})[{at}kb, n] pad 1
        v9: float32<{at}m, n> = dot v1, v2 over kb, ki scaled by v3, v4{" plus c" if loop else ""} as fp32""",
        f"in x: {codes}[{b}{m}, {held}]\nin w: {codes}[{b}{held}, {n}]\n"
        f"in sx: float8_e8m0fnu[{b}{m}, {blocks}]\nin sw: float8_e8m0fnu[{b}{blocks}, {n}]",
        f"axis kb: {blocks} by {tile} {'loop' if loop else 'resident'}\naxis ki: {width} by {width} resident",
        loop, batch,
    )  # fmt: skip


def mixed(m: int, k: int, n: int, tile: int, batch: int = 0) -> Program:
    """A product of blocks of 32: of E4M3 in x, in w of bytes that hold codes j and j + 16 of a block."""
    blocks = k // 32
    b, at = (f"{batch}, ", "z, ") if batch else ("", "")
    loop = "kb" if tile < blocks else ""
    return kernel(
        m, n,
        f"""v1: float8_e4m3fn<{at}m, kb, ki, kh> = load x({b}{m}, {blocks}, 2, 16)[{at}m, kb, kh, ki] pad 0
        v2: uint8<{at}n, kb, ki> = load w({b}{blocks}, 16, {n})[{at}kb, ki, n] pad 0
        v3: float8_e8m0fnu<{at}m, kb> = load sx({b}{m}, {blocks})[{at}m, kb] pad 1
        v4: float8_e8m0fnu<{at}n, kb> = load sw({b}{blocks}, {n})[{at}kb, n] pad 1
        v9: float32<{at}m, n> = dot v1, v2 over kb, ki, kh scaled by v3, v4{" plus c" if loop else ""} as fp32""",
        f"in x: float8_e4m3fn[{b}{m}, {k}]\nin w: uint8[{b}{k // 2}, {n}]\n"
        f"in sx: float8_e8m0fnu[{b}{m}, {blocks}]\nin sw: float8_e8m0fnu[{b}{blocks}, {n}]",
        f"axis kb: {blocks} by {tile} {'loop' if loop else 'resident'}\naxis ki: 16 by 16 resident\n"
        "axis kh: 2 by 2 resident", loop, batch,
    )  # fmt: skip


def float8(m: int, k: int, n: int, tile: int, batch: int = 0) -> Program:
    """A product of E4M3, so many terms of its sum at a time."""
    loop = "k" if tile < k else ""
    b, at = (f"{batch}, ", "z, ") if batch else ("", "")
    return kernel(
        m, n,
        f"""v1: float8_e4m3fn<{at}m, k> = load x({b}{m}, {k})[{at}m, k] pad 0
        v2: float8_e4m3fn<{at}n, k> = load w({b}{k}, {n})[{at}k, n] pad 0
        v9: float32<{at}m, n> = dot v1, v2 over k{" plus c" if loop else ""} as fp32""",
        f"in x: float8_e4m3fn[{b}{m}, {k}]\nin w: float8_e4m3fn[{b}{k}, {n}]",
        f"axis k: {k} by {tile} {'loop' if loop else 'resident'}", loop, batch,
    )  # fmt: skip


def agrees(p: Program, on: str = "trn3") -> str:
    """The text of a program, whose run is that of the tile program."""
    emitted = lowered(p, on)
    inputs = [filled(x) for x in p.inputs]
    got, wanted = target.execute(emitted, inputs, device(on))[0], interpret.run(p, inputs)[0]
    assert np.abs(got - wanted).max() <= ROUNDING * np.abs(wanted).max()
    check(emitted.text, "k")
    return emitted.text


SIZES = [
    (8, 128, 128, 4, 0),  # one quadrant
    (128, 512, 512, 16, 0),  # all four: what the unit takes at most
    (9, 96, 65, 3, 0),  # partitions and columns that are filled up
    (6, 1056, 700, 16, 0),  # a loop with a last block, and more columns than a bank
    (7, 64, 5, 2, 3), (6, 256, 8, 8, 2),
]  # fmt: skip


@pytest.mark.parametrize("codes", ["float8_e4m3fn", "uint8"])
@pytest.mark.parametrize("m, k, n, tile, batch", SIZES)
def test_codes_and_scales_of_blocks_meet_as_they_lie(codes: str, m: int, k: int, n: int, tile: int, batch: int) -> None:
    p = scaled(codes, m, k, n, tile, batch)
    text = agrees(p)
    kind = {"uint8": "float4_e2m1fn"}.get(codes, codes)
    assert "nisa.nc_matmul_mx(" in text and text.count(f".view(nl.{kind}_x4)") == 2 and "nisa.nc_matmul(" not in text
    assert lowered(p, "trn3").products == ({"uint8": "mxfp4"}.get(codes, "mxfp8"),)


@pytest.mark.parametrize("m, k, n, tile, batch", SIZES)
def test_codes_of_eight_bits_lie_in_the_order_of_bytes_of_two(m: int, k: int, n: int, tile: int, batch: int) -> None:
    p = mixed(m, k, n, tile, batch)
    text = agrees(p)
    assert "nisa.nc_matmul_mx(" in text and "float4_e2m1fn_x4" in text and "float8_e4m3fn_x4" in text
    assert lowered(p, "trn3").products == ("mxfp4a8",)


@pytest.mark.parametrize("on", ["trn2", "trn3"])
@pytest.mark.parametrize("m, k, n, tile, batch", [
    (8, 256, 128, 256, 0), (5, 130, 65, 130, 0), (3, 640, 700, 256, 0), (7, 192, 5, 192, 3), (1, 256, 8, 256, 0),
])  # fmt: skip
def test_a_long_sum_of_float8_runs_two_rows_at_once(on: str, m: int, k: int, n: int, tile: int, batch: int) -> None:
    text = agrees(float8(m, k, n, tile, batch), on)
    assert "perf_mode=nisa.matmul_perf_mode.double_row" in text


def gated(second: str, on: str) -> Program:
    """Two products with one activation, of which the second multiplies in another type; as the tiler has them."""

    def meaning(x: Any, g: Any, u: Any) -> Any:
        up = x.astype(second).astype("float32") @ u.astype("float32")
        return (x.astype("float32") @ g.astype("float32")) * up

    kinds = ((5, 640), "float8_e4m3fn"), ((640, 96), "float8_e4m3fn"), ((640, 96), second)
    made = jax.make_jaxpr(meaning)(*(jax.ShapeDtypeStruct(shape, kind) for shape, kind in kinds))
    return tile(made, target.limits(device(on)), name="k")


@pytest.mark.parametrize("on", ["trn2", "trn3"])
def test_two_products_of_one_sum_share_its_two_rows(on: str) -> None:
    assert agrees(gated("float8_e4m3fn", on), on).count("double_row") == 2


def test_a_sum_that_bfloat16_walks_as_well_is_as_deep_as_bfloat16_takes() -> None:
    p = gated("bfloat16", "trn3")
    assert "double_row" not in agrees(p) and lowered(p, "trn3").products == ("bfloat16", "float8_e4m3fn")


@pytest.mark.parametrize("codes", ["float8_e4m3fn", "uint8"])
def test_two_products_of_blocks_share_their_axes(codes: str) -> None:
    text = show(scaled(codes, 6, 256, 64, 8))
    again = re.sub(r"v9: (.*)", r"v9a: \1\n  v9b: \1\n  v9: float32<m, n> = mul v9a, v9b", text)
    assert agrees(parse(again)).count("nc_matmul_mx") == 2


@pytest.mark.parametrize("k, tile, on", [(128, 128, "trn2"), (129, 43, "trn2"), (256, 128, "trn1")])
def test_a_sum_that_is_short_or_odd_or_on_an_older_core_runs_one_row_at_a_time(k: int, tile: int, on: str) -> None:
    assert "perf_mode" not in agrees(float8(8, k, 16, tile), on)


def test_time_is_that_of_the_mode_that_a_product_runs_in() -> None:
    """A compute-bound product of one shape: float8 in double_row at twice the rate, blocks at the rate of MX."""

    def seconds(p: Program, on: str) -> float:
        return target.seconds(p, device(on))["compute"] / np.prod([a.extent for a in p.axes])

    long, short = float8(128, 256, 512, 256), float8(128, 128, 512, 128)
    for on in ("trn2", "trn3"):
        d = device(on)
        assert seconds(long, on) / seconds(short, on) == pytest.approx(d["peak.bf16"] / d["peak.fp8"])
    d = device("trn3")
    for codes, peak in (("float8_e4m3fn", d["peak.mxfp8"]), ("uint8", d["peak.mxfp4"] / 2)):  # two codes in a byte
        ratio = seconds(scaled(codes, 128, 512, 512, 16), "trn3") / seconds(long, "trn3")
        assert ratio == pytest.approx(d["peak.fp8"] / peak)


def golden(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[128, 4 free] numbers of a tile as the vendor's guide has them: a scale for 8 partitions of 4 elements each."""
    factor = np.exp2(scales.astype(np.float64) - 127)
    return codes.astype(np.float64) * factor.repeat(8, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float4_e2m1fn"])
def test_the_simulated_instruction_is_the_guides_formula(kind: str) -> None:
    """mxfp-matmul.rst: 4 free elements of a partition are 4 terms of the sum; scales lie in 4 rows of each quadrant."""
    rng = np.random.default_rng(0)
    table = of(kind).codes()
    finite = np.flatnonzero(np.isfinite(table.astype(np.float32)))
    bits = [rng.choice(finite, (128, 4 * n)).astype(np.uint8) for n in (128, 512)]
    scales = [rng.integers(120, 134, (16, n)).astype(np.uint8) for n in (128, 512)]
    a, b = (golden(table[x], s) for x, s in zip(bits, scales, strict=True))
    wanted = np.einsum("pmq,pnq->mn", a.reshape(128, 128, 4), b.reshape(128, 512, 4))
    held = bits if kind == "float8_e4m3fn" else [x[:, ::2] | x[:, 1::2] << 4 for x in bits]
    widths = [x.shape[1] for x in held]
    got = snippet(
        f"""
        w = nl.ndarray((128, {widths[0]}), dtype=nl.uint8, buffer=nl.sbuf)
        x = nl.ndarray((128, {widths[1]}), dtype=nl.uint8, buffer=nl.sbuf)
        nisa.dma_copy(dst=w, src=p0)
        nisa.dma_copy(dst=x, src=p1)
        sw = nl.ndarray((128, 128), dtype=nl.uint8, buffer=nl.sbuf)
        sx = nl.ndarray((128, 512), dtype=nl.uint8, buffer=nl.sbuf)
        for q in range(4):
            nisa.dma_copy(dst=sw[32 * q:32 * q + 4, :], src=p2[4 * q:4 * q + 4, :])
            nisa.dma_copy(dst=sx[32 * q:32 * q + 4, :], src=p3[4 * q:4 * q + 4, :])
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_matmul_mx(
            dst=y, stationary=w.view(nl.{kind}_x4), moving=x.view(nl.{kind}_x4),
            stationary_scale=sw, moving_scale=sx.view(nl.float8_e8m0fnu), accumulate=False,
        )
        z = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_copy(dst=z, src=y)
        nisa.dma_copy(dst=out, src=z)
        """,
        *held, *scales, on="trn3",
    )[0]  # fmt: skip
    assert np.abs(got - wanted).max() <= ROUNDING * np.abs(wanted).max()


def test_a_scale_in_the_wrong_quadrant_is_found() -> None:
    """The planted fault: scales next to each other, as they lie in memory."""
    p = scaled("float8_e4m3fn", 8, 256, 128, 8)
    emitted = lowered(p, "trn3")
    wrong = re.sub(r"\[32 \* (\w+):32 \* \w+ \+ 4", r"[4 * \1:4 * \1 + 4", emitted.text)
    assert wrong != emitted.text
    inputs = [filled(x) for x in p.inputs]
    got, wanted = target.execute(replace(emitted, text=wrong), inputs, device("trn3"))[0], interpret.run(p, inputs)[0]
    assert not np.allclose(got, wanted, rtol=1e-3)
