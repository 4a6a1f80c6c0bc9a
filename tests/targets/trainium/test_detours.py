"""Programs whose layout takes a detour, turned, counted, gathered or split: each run against the tile interpreter."""

from __future__ import annotations

import pytest
from trainium_support import ROUNDING, device, distance, drawn, lowered, program

from porter.targets.trainium import target
from porter.targets.trainium.depth import Deep
from porter.targets.trainium.home import homes
from porter.tile.interpret import run
from porter.tile.target import CannotEmit
from porter.tile.text import parse

PARTITIONS = 128

DETOURS = {
    "a gather of rows": """
kernel gather_rows {
  in p0: float32[50, 20]
  in p1: int64[70]
  out out0: float32[70, 20]
  axis s: 70 by 70 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(70)[s]
  x: float32<s, d> = load p0(50, 20)[@i + 0, d]
  store out0(70, 20)[s, d] = x
}
""",
    "a gather along a row": """
kernel gather_along {
  in p0: float32[30, 50]
  in p1: int64[30, 7]
  out out0: float32[30, 7]
  axis s: 30 by 16 grid
  axis d: 7 by 7 resident
  i: int64<s, d> = load p1(30, 7)[s, d]
  x: float32<s, d> = load p0(30, 50)[s, @i + 0]
  store out0(30, 7)[s, d] = x
}
""",
    "a gather with two indices and a tail": """
kernel gather_two {
  in p0: float32[9, 50, 4]
  in p1: int64[40]
  in p2: int32[40]
  out out0: float32[40, 4]
  axis s: 40 by 40 resident
  axis d: 4 by 4 resident
  i: int64<s> = load p1(40)[s]
  j: int32<s> = load p2(40)[s]
  k: int32<> = full 9
  m: int32<s> = rem j, k
  x: float32<s, d> = load p0(9, 50, 4)[@m + 0, @i + 0, d]
  store out0(40, 4)[s, d] = x
}
""",
    "a gather that can miss": """
kernel gather_pad {
  in p0: float32[30, 20]
  in p1: int64[60]
  out out0: float32[60, 20]
  axis s: 60 by 60 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(60)[s]
  x: float32<s, d> = load p0(30, 20)[@i + -5, d] pad -1.0
  store out0(60, 20)[s, d] = x
}
""",
    "a gathered operand of a product": """
kernel gather_dot {
  in p0: float32[50, 20]
  in p1: int64[33]
  in p2: float32[20, 40]
  out out0: float32[33, 40]
  axis s: 33 by 33 resident
  axis n: 40 by 40 resident
  axis d: 20 by 20 resident
  i: int64<s> = load p1(33)[s]
  x: float32<s, d> = load p0(50, 20)[@i + 0, d]
  w: float32<n, d> = load p2(20, 40)[d, n]
  y: float32<s, n> = dot x, w over d as fp32
  store out0(33, 40)[s, n] = y
}
""",
    "a batched product": """
kernel batched {
  in p0: float32[3, 17, 24]
  in p1: float32[3, 24, 19]
  out out0: float32[3, 17, 19]
  axis b: 3 by 3 resident
  axis m: 17 by 17 resident
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: float32<b, m, k> = load p0(3, 17, 24)[b, m, k]
  y: float32<b, n, k> = load p1(3, 24, 19)[b, k, n]
  z: float32<b, m, n> = dot x, y over k as fp32
  e: float32<b, m, n> = exp z
  store out0(3, 17, 19)[b, m, n] = z
}
""",
    "a batch of vectors, on the Vector engine": """
kernel depthwise {
  in p0: float32[40, 12, 5]
  in p1: float32[40, 5]
  in p2: float32[40]
  out out0: float32[40, 12]
  axis c: 40 by 40 resident
  axis y: 12 by 12 resident
  axis u: 5 by 1 loop
  z: float32<c, y> = full 0
  for u {
    carry r: float32<c, y> = s from z next t
    x: float32<c, y, u> = load p0(40, 12, 5)[c, y, u]
    w: float32<c, u> = load p1(40, 5)[c, u]
    t: float32<c, y> = dot x, w over u plus s as fp32
  }
  b: float32<c> = load p2(40)[c]
  o: float32<c, y> = add r, b
  store out0(40, 12)[c, y] = o
}
""",
    "a product of constants and a row": """
kernel ones {
  in p0: float32[24, 19]
  out out0: float32[19]
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: float32<k> = full 1.0
  y: float32<n, k> = load p0(24, 19)[k, n]
  z: float32<n> = dot x, y over k as fp32
  store out0(19)[n] = z
}
""",
    "small integers in a product": """
kernel int8_dot {
  in p0: int8[17, 24]
  in p1: int8[24, 19]
  out out0: int32[17, 19]
  axis m: 17 by 17 resident
  axis n: 19 by 19 resident
  axis k: 24 by 24 resident
  x: int8<m, k> = load p0(17, 24)[m, k]
  y: int8<n, k> = load p1(24, 19)[k, n]
  z: int32<m, n> = dot x, y over k as fp32
  store out0(17, 19)[m, n] = z
}
""",
    "coordinates across two axes of the partitions": """
kernel coordinates {
  in p0: float32[5, 6, 40]
  out out0: float32[5, 6, 40]
  axis a: 5 by 5 resident
  axis b: 6 by 4 grid
  axis c: 40 by 40 resident
  x: float32<a, b, c> = load p0(5, 6, 40)[a, b, c]
  i: int32<a, b, c> = iota 100*a + 7*b + c + -3
  f: float32<a, b, c> = cast i
  y: float32<a, b, c> = add x, f
  store out0(5, 6, 40)[a, b, c] = y
}
""",
    "a reduction whose result is wanted elsewhere": """
kernel elsewhere {
  in p0: float32[20, 30]
  in p1: float32[30, 40]
  out out0: float32[20, 40]
  axis m: 20 by 20 resident
  axis n: 40 by 40 resident
  axis k: 30 by 30 resident
  x: float32<m, k> = load p0(20, 30)[m, k]
  s: float32<k> = reduce add x over m
  c: float32<m, k> = mul x, s
  y: float32<n, k> = load p1(30, 40)[k, n]
  z: float32<m, n> = dot c, y over k as fp32
  store out0(20, 40)[m, n] = z
}
""",
    "a reduction of a reduction, too large for a partition": """
kernel pooled {
  in p0: float32[300, 13, 14]
  out out0: float32[300]
  axis c: 300 by 300 resident
  axis y: 13 by 13 resident
  axis x: 14 by 14 resident
  v: float32<c, y, x> = load p0(300, 13, 14)[c, y, x]
  w: float32<c, y, x> = mul v, v
  s: float32<c> = reduce add w over y, x
  m: float32<> = reduce max s over c
  o: float32<c> = div s, m
  store out0(300)[c] = o
}
""",
    "the same per row": """
kernel pooled_rows {
  in p0: float32[6, 200, 150]
  out out0: float32[6, 200]
  axis r: 6 by 6 resident
  axis c: 200 by 200 resident
  axis y: 150 by 150 resident
  v: float32<r, c, y> = load p0(6, 200, 150)[r, c, y]
  s: float32<r, c> = reduce add v over y
  m: float32<r> = reduce max s over c
  o: float32<r, c> = sub s, m
  store out0(6, 200)[r, c] = o
}
""",
    "two results, one of which lacks an axis": """
kernel two {
  in p0: float32[20, 30]
  out out0: float32[20, 30]
  out out1: float32[20]
  axis m: 20 by 20 resident
  axis n: 30 by 30 resident
  x: float32<m, n> = load p0(20, 30)[m, n]
  e: float32<m, n> = exp x
  s: float32<m> = reduce add e over n
  store out0(20, 30)[m, n] = e
  store out1(20)[m] = s
}
""",
    "integers summed exactly": """
kernel whole {
  in p0: int64[20, 31]
  out out0: int64[20]
  axis m: 20 by 20 resident
  axis n: 31 by 31 resident
  x: int64<m, n> = load p0(20, 31)[m, n]
  s: int64<m> = reduce add x over n
  store out0(20)[m] = s
}
""",
    "any and all": """
kernel truth {
  in p0: bool[20, 31]
  out out0: bool[20]
  out out1: bool[20]
  axis m: 20 by 20 resident
  axis n: 31 by 31 resident
  x: bool<m, n> = load p0(20, 31)[m, n]
  s: bool<m> = reduce and x over n
  t: bool<m> = reduce or x over n
  store out0(20)[m] = s
  store out1(20)[m] = t
}
""",
    "carries that change places": """
kernel places {
  in p0: float32[20, 6]
  out out0: float32[20]
  out out1: float32[20]
  axis m: 20 by 20 resident
  axis n: 6 by 1 loop
  z: float32<m> = full 0
  o: float32<m> = full 1.0
  for n {
    carry u: float32<m> = a from z next b
    carry v: float32<m> = b from o next c
    x: float32<m, n> = load p0(20, 6)[m, n]
    c: float32<m> = add a, x
  }
  store out0(20)[m] = u
  store out1(20)[m] = v
}
""",
    "backwards": """
kernel backwards {
  in p0: float32[20, 60]
  out out0: float32[20, 50]
  axis m: 20 by 20 resident
  axis n: 50 by 50 resident
  x: float32<m, n> = load p0(20, 60)[m, -1*n + 44] pad 0.0
  store out0(20, 50)[m, n] = x
}
""",
    "six axes": """
kernel six {
  in p0: float32[3, 2, 3, 2, 5, 4]
  in p1: float32[3, 3, 4]
  out out0: float32[2, 4, 3, 2, 3, 5]
  axis a: 3 by 3 resident
  axis b: 2 by 2 resident
  axis c: 3 by 3 resident
  axis d: 2 by 2 resident
  axis e: 5 by 5 resident
  axis f: 4 by 4 resident
  x: float32<a, b, c, d, e, f> = load p0(3, 2, 3, 2, 5, 4)[a, b, c, d, e, f]
  y: float32<a, c, f> = load p1(3, 3, 4)[a, c, f]
  z: float32<a, b, c, d, e, f> = add x, y
  store out0(2, 4, 3, 2, 3, 5)[b, f, c, d, a, e] = z
}
""",
}


@pytest.mark.parametrize("what", DETOURS)
@pytest.mark.parametrize("generation", ["trn1", "trn2"])
def test_a_detour_arrives(what: str, generation: str) -> None:
    p = parse(DETOURS[what])
    inputs = drawn(p)
    if p.name == "whole":
        inputs = [x + 2**24 for x in inputs]  # beyond what float32 counts
    got = target.execute(lowered(p, generation), inputs, device(generation))
    assert distance(got, run(p, inputs)) < ROUNDING


def test_every_home_gives_the_same_result() -> None:
    from porter.targets.trainium.emit import Emitter
    from porter.targets.trainium.limits import chip
    from porter.tile.target import Emitted, Kernel

    p = program("attention_mask")
    inputs = drawn(p)
    wanted = run(p, inputs)
    tried = 0
    for home in homes(p, PARTITIONS):
        emitter = Emitter(p, Deep(p, {}), chip(device()), home)
        try:
            emitter.write()
        except CannotEmit:
            continue
        emitted = Emitted(Kernel(p.name, p, None), "nki", emitter.text, program=p)
        assert distance(target.execute(emitted, inputs, device()), wanted) < ROUNDING, home
        tried += 1
    assert tried >= 5


def test_a_store_to_gathered_places_is_refused_with_the_reason() -> None:
    scatter = DETOURS["a gather of rows"].replace("[@i + 0, d]", "[s, d]").replace("[s, d] = x", "[@i + 0, d] = x")
    with pytest.raises(CannotEmit, match="a store to gathered places: NKI's scatter is not emitted"):
        lowered(scatter.replace("p0(50, 20)[s, d]", "p0(50, 20)[0, d]"))
