"""What the tpu tests share: the common kernels and larger ones, lowered, and held against their tile programs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from porter.device import load_device
from porter.targets.tpu import target
from porter.tile.interpret import run
from porter.tile.limits import Limits
from porter.tile.target import Emitted, Kernel
from porter.tile.text import parse
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parents[2] / "tile"))
from kernels import CASES as COMMON
from kernels import Case, _attention, _causal_grouped, _f32, _layernorm, _log_softmax

needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="the tpu extra is not installed")
V6E = load_device("tpu:v6e")
FULL = target.limits(V6E)
# The smallest legal tiles: every axis that can be cut is, so that grids, loops and ragged edges appear in small
# kernels.
TIGHT = Limits(
    dot_m=(8, 16), dot_n=(128, 128), dot_k=(128, 128), elements=1 << 14, resident=256, whole=64, elementwise=1024,
    multiples=(128, 8), ragged_loops=False, float32_product="bf16x6",
)  # fmt: skip


def swiglu(x, g, u):  # type: ignore[no-untyped-def]
    h = x @ g
    return h / (1 + jnp.exp(-h)) * (x @ u)


# Larger than the common ones, so that loops and grids remain.
LARGER = {c.name: c for c in (
    Case("looped_matmul", lambda a, b, c: jnp.maximum(a @ b + c, 0), _f32((50, 512), (512, 300), (300,))),
    Case("looped_attention", _attention, _f32(*[(1, 2, 512, 64)] * 3)),
    Case("looped_grouped_attention", _causal_grouped, _f32((1, 8, 256, 128), (1, 2, 256, 128), (1, 2, 256, 128))),
    Case("looped_layernorm", _layernorm, _f32((1, 37, 1024), (1024,), (1024,))),
    Case("looped_log_softmax", _log_softmax, _f32((13, 1280))),
    Case("column", lambda a, b: a * b[:, None] + a, _f32((100, 500), (100,))),
    Case("sum_of_columns", lambda x: jnp.sum(x, 0), _f32((384, 500))),
    Case("vector_times_matrix", lambda a, b: a @ b, _f32((1, 1024), (1024, 300))),
    Case("matrix_times_vector", lambda a, b: a @ b, _f32((300, 1024), (1024,))),
    Case("dot_product", lambda a, b: jnp.dot(a, b), _f32((1024,), (1024,))),
    Case("outer_product", lambda a, b: a[:, None] * b[None, :], _f32((100,), (300,))),
    Case("batched_matmul", lambda a, b: a @ b, _f32((3, 50, 256), (3, 256, 200))),
    Case("transposed_right", lambda a, b: a @ b.T, _f32((50, 256), (200, 256))),
    Case("swiglu", swiglu, _f32((40, 256), (256, 384), (256, 384))),
    Case("transposed", lambda x: jnp.transpose(x, (0, 2, 1)), _f32((2, 256, 300))),
    Case("part_of_lanes", lambda x: x[:, 128:384] * 2, _f32((40, 512))),
    Case("causal_mask", lambda x: jnp.where(jnp.arange(99)[:, None] >= jnp.arange(200)[None], x, 0.0), _f32((99, 200))),
    Case("one_row_into_heads", lambda x, w: (x @ w).reshape(8, 32), _f32((1, 256), (256, 256))),
    Case("heads_into_one_row", lambda x, w: x.reshape(1, 256) @ w, _f32((8, 32), (256, 128))),
)}  # fmt: skip
CASES = {**COMMON, **LARGER}

MATMUL = """
kernel matmul {
  in a: float32[50, 300]
  in b: float32[300, 200]
  out y: float32[50, 200]
  axis m: 50 by 16 grid
  axis n: 200 by 128 grid
  axis k: 300 by 128 loop
  z: float32<m, n> = full 0.0
  for k {
    carry acc: float32<m, n> = inner from z next sum
    left: float32<m, k> = load a(50, 300)[m, k] pad 0.0
    right: float32<n, k> = load b(300, 200)[k, n] pad 0.0
    sum: float32<m, n> = dot left, right over k plus inner as bf16x6
  }
  store y(50, 200)[m, n] = acc
}
"""


def matmul():  # type: ignore[no-untyped-def]
    """A product whose contraction is a ragged loop: it only runs as a grid dimension, and only with its pads."""
    program = parse(MATMUL)
    rng = np.random.default_rng(0)
    return program, [rng.standard_normal(p.shape).astype(np.float32) for p in program.inputs]


def emitted(name: str, limits: Limits = FULL) -> Emitted:
    meaning = CASES[name].meaning()
    return target.lower(Kernel(name, tile(meaning, limits, name=name), meaning), V6E)


def ulps(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference, in float32 roundings of the largest value; infinite where only one is NaN."""
    worst = 0.0
    for g, w in zip(got, wanted, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        if g.dtype.kind in "iub":
            assert np.array_equal(g, w)
            continue
        g, w = g.astype(np.float64), w.astype(np.float64)
        apart = np.where(np.isnan(g) & np.isnan(w), 0, np.abs(g - w))
        unit = np.finfo(np.float32).eps * max(float(np.nanmax(np.abs(w))), 1e-30)
        worst = max(worst, float("inf") if np.isnan(apart).any() else float(apart.max()) / unit)
    return worst


def both(e: Emitted, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the emitted text computes, and what its tile program does."""
    inputs = CASES[e.kernel.name].inputs(seed)
    return target.execute(e, inputs, V6E), run(e.kernel.program, inputs)


__all__ = ["CASES", "COMMON", "FULL", "LARGER", "TIGHT", "V6E", "both", "emitted", "jax", "matmul", "ulps"]
