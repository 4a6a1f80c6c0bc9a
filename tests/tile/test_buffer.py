"""Buffers: what is alive at once never shares bytes, in any kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.tile.buffer import Life, bufferize, plan
from porter.tile.limits import Limits
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from kernels import CASES, LIMITS

lives = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=25)


@given(lives)
def test_contemporaries_lie_apart_and_the_plan_is_tight_enough(drawn: list[tuple[int, int, int]]) -> None:
    named = [Life(f"b{i}", size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(drawn)]
    found = plan(named, 16)
    for i, x in enumerate(named):
        for y in named[i + 1 :]:
            if x.meets(y):
                a, b = found.offsets[x.name], found.offsets[y.name]
                assert a + x.bytes <= b or b + y.bytes <= a
    assert all(o % 16 == 0 for o in found.offsets.values())
    assert found.bytes <= sum(-(-x.bytes // 16) * 16 for x in named)


@pytest.mark.parametrize("name", ["attention_197", "matmul_bias_relu", "log_softmax_long"])
def test_carries_share_and_peaks_are_below_the_sum(name: str) -> None:
    program = tile(CASES[name].meaning(), Limits(**LIMITS["toy"]), name=name)
    buffers = bufferize(program, lambda name, statement: "vmem")
    distinct = {(b.offset, b.bytes, n) for n, b in buffers.of.items()}
    assert buffers.peak["vmem"] < sum(size for _, size, _ in distinct)
