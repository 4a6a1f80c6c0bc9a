"""Every kernel as the tpu emits it, against its tile program; and which ones go to XLA, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tpu_support import CASES, COMMON, LARGER, TIGHT, both, emitted, ulps

# Sums run in another order than the tile interpreter's, and exp differs from numpy's in its last bit: a few roundings
# of the largest value (the worst seen is 4.2).
ULPS = 16

STABLEHLO = {
    "conv_3x3_stride_2": "a padded window that moves",
    "conv_7x7_stride_2": "a padded window that moves",
    "conv_depthwise": "a padded window that moves",
    "conv_grouped": "a padded window that moves",
    "maxpool": "a padded window that moves",
    "reshape": "would be copied into the layout of Pallas blocks",
    "embedding": "gathered by computed indices",
    "conv_transposed": "a padded window that moves",
    "conv_transposed_uneven": "a padded window that moves",
    "conv_transposed_dilated": "gathered by computed indices",
    "pad_between": "gathered by computed indices",
    "scatter_mul": "Mosaic has no reduction by mul of float32",
    "cache_update": "gathered by computed indices",
    "cache_read": "gathered by computed indices",
    "gather_joined": "gathered by computed indices",
    "gather_padded": "gathered by computed indices",
    "gather_regrouped": "gathered by computed indices",
}
CARRIED = {"recurrence": 4}  # each of its six turns hands on, through tanh, the differences of the one before


@pytest.mark.parametrize("name", [*COMMON, "batched_matmul", "one_row_into_heads", "heads_into_one_row", "dot_product"])
def test_the_text_computes_what_its_tile_program_does(name: str) -> None:
    assert ulps(*both(emitted(name))) < ULPS * CARRIED.get(name, 1)


@pytest.mark.parametrize(
    "name", [*LARGER, "layernorm", "softmax", "attention_causal_grouped", "rope", "matmul_bf16", "integers"]
)
def test_so_it_does_in_the_smallest_tiles(name: str) -> None:
    assert ulps(*both(emitted(name, TIGHT))) < ULPS


@pytest.mark.parametrize("name", CASES)
def test_what_blocks_cannot_say_goes_to_xla_with_the_reason(name: str) -> None:
    e = emitted(name)
    assert e.language == ("stablehlo" if name in STABLEHLO else "pallas"), e.why
    assert STABLEHLO.get(name, "each access is one block") in e.why


def test_loops_stay_in_the_kernel() -> None:
    assert "lax.fori_loop(0, 4, step_" in emitted("looped_matmul", TIGHT).text


@pytest.mark.parametrize("name", ["looped_attention", "conv_7x7_stride_2"])
def test_equal_kernels_have_equal_text_without_paths(name: str) -> None:
    text = emitted(name, TIGHT).text
    assert text == emitted(name, TIGHT).text
    assert "/" not in text.replace(" / ", "").replace("1/1", "") and ".py" not in text and "loc(" not in text


def test_a_module_stands_alone() -> None:
    space: dict[str, object] = {}
    exec(emitted("attention").text, space)
    assert callable(space["attention"])


def test_int64_is_int32_inside_and_int64_again_outside() -> None:
    e = emitted("integers")
    assert "int64" not in e.text
    assert [x.dtype.name for x in both(e)[0]] == ["int64"]
