"""Warps and stages, by the rules that their module states."""

from __future__ import annotations

import sys
from pathlib import Path

from porter.tile.text import parse
from porter.triton.launch import options

sys.path.insert(0, str(Path(__file__).parent))
from samples import sample

SHARED = 232448


def matmul(m: int, n: int, k: int, dtype: str = "float32"):
    return parse(f"""kernel mm {{
      in x: {dtype}[1024, 1024]
      in w: {dtype}[1024, 1024]
      out y: float32[1024, 1024]
      axis m: 1024 by {m} grid
      axis n: 1024 by {n} grid
      axis k: 1024 by {k} loop
      zero: float32<m, n> = full 0.0
      for k {{
        carry s: float32<m, n> = acc from zero next more
        xt: {dtype}<m, k> = load x(1024, 1024)[m, k]
        wt: {dtype}<n, k> = load w(1024, 1024)[k, n]
        more: float32<m, n> = dot xt, wt over k plus acc as fp32
      }}
      store y(1024, 1024)[m, n] = s
    }}""")


def test_a_product_has_a_warpgroup_and_more_where_its_result_is_large() -> None:
    assert options(matmul(16, 16, 32), SHARED)["num_warps"] == 4
    assert options(matmul(64, 64, 32), SHARED)["num_warps"] == 4
    assert options(matmul(128, 64, 32), SHARED)["num_warps"] == 8
    assert options(matmul(256, 256, 32), SHARED)["num_warps"] == 8


def test_stages_are_as_many_as_half_the_shared_memory_holds() -> None:
    assert options(matmul(128, 64, 32), SHARED)["num_stages"] == 3  # 24576 bytes a stage
    assert options(matmul(128, 128, 64), SHARED)["num_stages"] == 1  # 65536 bytes a stage
    assert options(matmul(128, 128, 64, "bfloat16"), SHARED)["num_stages"] == 3  # 32768 bytes a stage


def test_elementwise_tiles_have_eight_lanes_a_thread() -> None:
    assert options(sample("transpose"), SHARED)["num_warps"] == 1  # 256 lanes
    assert options(sample("layernorm"), SHARED)["num_warps"] == 4  # 1024 lanes
