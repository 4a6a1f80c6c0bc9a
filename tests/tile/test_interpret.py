"""The interpreter is strict: what is not declared is poison, what is written twice or never is an error."""

from __future__ import annotations

import numpy as np
import pytest

from porter.errors import CheckFailed
from porter.tile import interpret
from porter.tile.interpret import run
from porter.tile.text import parse

ROWS = """kernel rows {{
  in x: float32[5, 6]
  out y: float32[5]
  axis i: 5 by 2 grid
  axis j: 6 by 8 resident
  v0: float32<i, j> = load x(5, 6)[i, j]{pad}
  v1: float32<i> = reduce add v0 over j
  store y(5)[i] = v1
}}
"""


def test_lanes_without_a_pad_value_are_poison() -> None:
    x = np.ones((5, 6), np.float32)
    assert np.isnan(run(parse(ROWS.format(pad="")), [x])[0]).all()
    assert (run(parse(ROWS.format(pad=" pad 0.0")), [x])[0] == 6).all()


def test_an_element_that_is_written_twice_is_named() -> None:
    text = ROWS.format(pad=" pad 0.0").replace("store y(5)[i] = v1", "store y(5)[i] = v1\n  store y(5)[i] = v1")
    with pytest.raises(CheckFailed, match=r"y\[0\] is written more than once"):
        run(parse(text), [np.ones((5, 6), np.float32)])


def test_an_element_that_is_never_written_is_named() -> None:
    text = ROWS.format(pad=" pad 0.0").replace("axis i: 5 by 2", "axis i: 4 by 2")
    with pytest.raises(CheckFailed, match=r"y\[4\] is written never"):
        run(parse(text), [np.ones((5, 6), np.float32)])


def test_a_gather_past_the_table_is_seen() -> None:
    text = """kernel rows {
  in t: float32[4]
  in i: int64[3]
  out y: float32[3]
  axis n: 3 by 3 resident
  v0: int64<n> = load i(3)[n]
  v1: float32<n> = load t(4)[@v0 + 0]
  store y(3)[n] = v1
}
"""
    program, table = parse(text), np.arange(4, dtype=np.float32)
    assert run(program, [table, np.array([3, 0, 1])])[0].tolist() == [3, 0, 1]
    with pytest.raises(CheckFailed, match="a lane outside t"):
        run(program, [table, np.array([3, 4, 1])])


def test_a_grid_too_large_for_one_piece_runs_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(30, dtype=np.float32).reshape(5, 6)
    monkeypatch.setattr(interpret, "MAX_LANES", 16)
    assert np.array_equal(run(parse(ROWS.format(pad=" pad 0.0")), [x])[0], x.sum(1))
