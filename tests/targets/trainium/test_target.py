"""The target as porter asks for it, and the record of buffers behind its capacity check."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trainium_support import CASES, device, lowered, program

from porter.errors import CheckFailed
from porter.targets.trainium import target
from porter.targets.trainium.bufferize import Buffer, Trace, check_capacity, peak
from porter.targets.trainium.limits import chip
from porter.tile.program import Program
from porter.tile.target import target_of
from porter.tile.text import parse


def one(op: str) -> Program:
    args = "x" if op == "exp" else "x, x"
    return parse(f"""
kernel {op}_kernel {{
  in p0: float32[40, 50]
  out out0: float32[40, 50]
  axis i: 40 by 40 resident
  axis j: 50 by 50 resident
  x: float32<i, j> = load p0(40, 50)[i, j]
  y: float32<i, j> = {op} {args}
  store out0(40, 50)[i, j] = y
}}
""")


def test_limits_come_from_the_device_file() -> None:
    limits = target.limits(device())
    assert (limits.dot_m, limits.dot_n, limits.dot_k) == ((1, 128), (1, 512), (1, 128))
    assert limits.partitions == 128 and not limits.power_of_two and limits.float32_product == "fp32"
    assert [chip(device(d)).generation for d in ("inf2", "trn1", "trn2", "trn3")] == [2, 2, 3, 4]
    assert [chip(device(d)).sbuf_bytes >> 10 for d in ("inf2", "trn1", "trn2", "trn3")] == [192, 192, 224, 256]
    assert chip(device()).banks == 8


def test_no_toolchain_can_be_had_here() -> None:
    assert target_of("trainium") is target
    assert target.toolchain(device()) is None and target.unchecked(device()) == ""


@pytest.mark.parametrize("on", ["inf2", "trn1", "trn2", "trn3"])
@pytest.mark.parametrize("name", ["matmul_bias_relu", "matmul_bf16", "softmax", "gelu", "attention", "rope"])
def test_time_has_its_bounds(name: str, on: str) -> None:
    bounds = target.seconds(program(name), device(on))
    assert set(bounds) == {"compute", "memory", "overhead"}
    assert all(math.isfinite(s) and s > 0 for s in bounds.values())


def test_a_reciprocal_costs_eight_clocks_and_a_table_function_is_the_scalar_engines() -> None:
    d = device()
    clocks = {op: target.seconds(one(op), d)["compute"] * d["cores.count"] for op in ("div", "add", "exp")}
    assert clocks["div"] == pytest.approx(8 * clocks["add"])
    assert clocks["exp"] == pytest.approx(40 * 50 / (d["engines.scalar.elements_per_cycle"] * d["clock.scalar"]))


def test_a_product_takes_the_time_of_its_flops() -> None:
    p = program("merge_heads")  # [2, 50, 128] times [128, 100]
    flops = 2 * 2 * 50 * 100 * 128
    assert target.seconds(p, device())["compute"] == pytest.approx(flops / device()["peak.fp32"])


def test_memory_used_is_told() -> None:
    memory = lowered(program("matmul_bias_relu")).memory
    assert 0 < memory["sbuf"] < chip(device()).sbuf_bytes
    assert memory["psum"] == 2048  # one bank


def test_integers_of_64_bits_come_back_as_such() -> None:
    inputs = CASES["integers"].inputs()
    got = target.execute(lowered(program("integers")), inputs, device())
    assert got[0].dtype == np.int64


def test_a_buffer_lives_from_its_first_use_to_its_last() -> None:
    a, b, c = (Buffer(n, "sbuf", 4) for n in "abc")
    trace = Trace()
    trace.use(a)
    trace.use(a, b)
    trace.use(b, c)
    assert peak(trace, "sbuf") == (8, (a, b))
    assert peak(trace, "psum") == (0, ())


def test_what_a_loop_uses_from_outside_lives_to_its_end() -> None:
    outside, first, second = (Buffer(n, "sbuf", 4) for n in ("outside", "first", "second"))
    trace = Trace()
    trace.use(outside)
    with trace.repeat():
        trace.use(outside, first)
        trace.use(second)
    used, alive = peak(trace, "sbuf")
    assert used == 8 and outside in alive


def test_memories_are_counted_apart_and_a_full_one_is_named() -> None:
    trace = Trace()
    a, p = Buffer("a", "sbuf", 5), Buffer("p", "psum", 2)
    trace.use(a, p)
    assert check_capacity(trace, {"sbuf": 5, "psum": 2}, "k") == {"sbuf": 5, "psum": 2}
    with pytest.raises(CheckFailed) as caught:
        check_capacity(trace, {"sbuf": 4}, "kernel k")
    assert str(caught.value) == "kernel k\n  expected at most 4 bytes of sbuf\n  found 5 live at once, a 5 among them"
