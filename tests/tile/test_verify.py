"""The verifier's rules, each with a program that breaks it, to the word."""

from __future__ import annotations

import pytest

from porter.errors import CheckFailed, PorterError
from porter.tile.text import parse, show
from porter.tile.verify import verify

GOOD = """kernel rows {
  in x: float32[10, 6]
  out y: float32[10]
  axis i: 10 by 4 grid
  axis j: 6 by 4 loop
  v0: float32<i> = full 0.0
  for j {
    carry v2: float32<i> = v1 from v0 next v5
    v3: float32<i, j> = load x(10, 6)[i, j] pad 0.0
    v4: float32<i> = reduce add v3 over j
    v5: float32<i> = add v1, v4
  }
  store y(10)[i] = v2
}
"""


def test_a_good_program_verifies_and_prints_as_it_was_read() -> None:
    program = parse(GOOD)
    verify(program)
    assert show(program) == GOOD


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("load x(10, 6)[i, j] pad 0.0", "load x(10, 6)[i, j + 1]", r"j \+ 1 runs from 1 to 6"),
        ("load x(10, 6)[i, j]", "load x(9, 6)[i, j]", r"expected a view of x\[10, 6\]"),
        ("store y(10)[i] = v2", "store y(10)[0] = v2", "an address that names every axis of the value"),
        ("store y(10)[i] = v2", "store x(10, 6)[i, 0] = v2", "expected an output"),
        ("next v5", "next v4_", "next of type"),
        ("v5: float32<i> = add v1, v4", "v5: float32<i> = add v1, v9", "values defined in this block"),
        ("v4: float32<i> = reduce add v3 over j", "v4: float32<i, j> = reduce add v3 over j", r"expected axes \['i'\]"),
        ("v0: float32<i> = full 0.0", "v0: float32<j> = full 0.0", "loop axes only inside their loops"),
        ("v4: float32<i> = reduce", "v3: float32<i> = reduce", "expected one definition"),
        ("axis j: 6 by 4 loop", "axis j: 6 by 4 resident", "a resident tile of at least 6"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(CheckFailed, match=message):
        verify(parse(GOOD.replace(old, new)))


def test_two_instances_that_write_one_element_are_refused() -> None:
    text = """kernel twice {
  in x: float32[8]
  out y: float32[4]
  axis i: 8 by 2 grid
  axis k: 4 by 4 resident
  v0: float32<k> = load x(8)[k]
  store y(4)[k] = v0
}
"""
    with pytest.raises(CheckFailed, match=r"parallel instances write disjoint elements.*\n.*\['i'\] missing"):
        verify(parse(text))


def test_an_address_that_repeats_is_refused() -> None:
    text = """kernel overlap {
  in x: float32[12]
  out y: float32[9]
  axis i: 4 by 1 grid
  axis k: 3 by 3 resident
  v0: float32<i, k> = load x(12)[3*i + k]
  store y(9)[2*i + k] = v0
}
"""
    with pytest.raises(CheckFailed, match="different for different coordinates"):
        verify(parse(text))


def test_a_line_that_is_no_statement_is_named() -> None:
    with pytest.raises(PorterError, match=r"tile program, line 6\n.*a statement\n.*nonsense"):
        parse(GOOD.replace("v0: float32<i> = full 0.0", "nonsense"))
