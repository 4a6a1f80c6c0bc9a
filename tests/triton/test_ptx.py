"""Products are read back by shape: two of one shape and different precision do not hide each other."""

from __future__ import annotations

from porter.triton.dots import Product
from porter.triton.ptx import mismatch

_TTIR = (
    "tt.dot %a, %b, %c : tensor<64x32xbf16> * tensor<32x32xbf16> -> tensor<64x32xf32>\n"
    "tt.dot %d, %e, %f, inputPrecision = bf16x6 : tensor<64x32xf32> * tensor<32x32xf32> -> tensor<64x32xf32>\n"
)
_PASS = "tt.dot %a, %b, %c : tensor<64x32xbf16> * tensor<32x32xbf16> -> tensor<64x32xf32>\n"


def _product(precision: str) -> Product:
    return Product(precision=precision, batch=1, m=64, n=32, k=32)


def test_seven_passes_are_one_narrow_product_and_one_of_six() -> None:
    asked = [_product("bfloat16"), _product("bf16x6")]
    assert mismatch(asked, _TTIR, _PASS * 7) is None


def test_a_product_that_lost_passes_is_seen_beside_a_narrow_one() -> None:
    asked = [_product("bfloat16"), _product("bf16x6")]
    found = mismatch(asked, _TTIR, _PASS * 4)
    assert found == "the product [64, 32] x [32, 32] is asked for as bf16x6, and compiled as bf16x3"


def test_a_contraction_cut_into_pieces_counts_once() -> None:
    half = _PASS.replace("64x32xbf16", "64x16xbf16").replace("32x32xbf16", "16x32xbf16")
    ttir = _TTIR.splitlines(keepends=True)[0]
    assert mismatch([_product("bfloat16")], ttir, half * 2) is None
    assert mismatch([_product("bfloat16")], ttir, half) == (
        "the product [64, 32] x [32, 32] is asked for as bfloat16, and compiled as none"
    )
