"""Products of integers and of 8-bit floats: what the text asks for, that libtpu takes it, and the rate that is counted."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from porter.device import load_device
from porter.targets.tpu import target
from porter.targets.tpu.toolchain import compile
from porter.tile.target import Emitted, Kernel
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from tpu_support import needs_libtpu

WAYS = [("int8", "int8", "int8"), ("int8", "int4", "int8"), ("int4", "int8", "int8"), ("int4", "int4", "int4")]


def emitted(a: str, b: str, device: str, k: int = 256) -> Emitted:
    """A scale times the float32 product of [16, k] and [k, 128] codes."""
    place = load_device(device)
    meaning = jax.make_jaxpr(lambda x, y: (x.astype("float32") @ y.astype("float32")) * 0.5)(
        jax.ShapeDtypeStruct((16, k), a), jax.ShapeDtypeStruct((k, 128), b)
    )
    return target.lower(Kernel("k", tile(meaning, target.limits(place), name="k"), meaning), place)


def codes(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    top = 8 if kind == "int4" else 128
    return np.random.default_rng(0).integers(-top, top, shape).astype(kind)


@pytest.mark.parametrize("a, b, product", WAYS)
@pytest.mark.parametrize("device", ["tpu:v5e", "tpu:v6e"])
def test_integers_meet_in_the_widest_of_their_formats(a: str, b: str, product: str, device: str) -> None:
    e = emitted(a, b, device)
    assert (e.language, e.products) == ("pallas", (product,))
    x, y = codes(a, (16, 256)), codes(b, (256, 128))
    got = target.execute(e, [x, y], load_device(device))[0]
    assert np.array_equal(got, (x.astype(np.int64) @ y.astype(np.int64)) * 0.5)  # below 2**24: exact in float32


@pytest.mark.parametrize("a, b, _", WAYS)
def test_without_a_product_of_integers_they_are_bfloat16(a: str, b: str, _: str) -> None:
    assert emitted(a, b, "tpu:v7x").products == ("bfloat16",)


@needs_libtpu
@pytest.mark.parametrize("device", ["tpu:v5e", "tpu:v6e", pytest.param("tpu:v7x", marks=pytest.mark.slow)])
def test_libtpu_takes_every_one(device: str) -> None:
    kinds = ["float8_e4m3fn"] if device == "tpu:v7x" else []
    made = [emitted(a, b, device) for a, b, _ in WAYS] + [emitted(k, k, device) for k in kinds]
    assert [(v.ok, v.message) for v in compile(made, load_device(device))] == [(True, "")] * len(made)


def test_products_are_counted_at_the_rate_of_their_operands() -> None:
    """A product of one shape: int8 at twice the bf16 rate, int4 at twice that again; fp8 at its own where the unit has it."""

    def rate(a: str, b: str, device: str) -> float:
        """To that of a product as long as the vector unit's part is short."""
        place = load_device(device)
        short, long = (target.seconds(emitted(a, b, device, k).kernel.program, place)["compute"] for k in (8192, 16384))
        return 2 * 16 * 128 * 8192 / (long - short)

    v6e, v7x = load_device("tpu:v6e"), load_device("tpu:v7x")
    assert rate("int8", "int8", "tpu:v6e") == pytest.approx(v6e["peak.int8"])
    assert rate("int4", "int4", "tpu:v6e") == pytest.approx(v6e["peak.int4"])
    assert rate("float8_e4m3fn", "float8_e4m3fn", "tpu:v7x") == pytest.approx(v7x["peak.fp8"])
    assert rate("float8_e4m3fn", "float8_e4m3fn", "tpu:v6e") == pytest.approx(v6e["peak.bf16"])
