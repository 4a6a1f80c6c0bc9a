"""What `make formats` counts: nothing differs, and nothing is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run

from porter.formats import FORMATS

pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow"),
    pytest.mark.filterwarnings("ignore:divide by zero"),
    pytest.mark.filterwarnings("ignore:invalid value"),
]


def test_every_code_of_every_format_comes_back() -> None:
    tally = run.round_trips()
    assert tally.wrong == [] and tally.count == 2 * sum(f.codes().size for f in run.NARROW)
    assert {f.name for f in FORMATS.values() if f.bits <= 16} == {f.name for f in run.NARROW}


def test_every_conversion_is_that_of_ml_dtypes() -> None:
    tally = run.conversions()
    assert tally.wrong == [] and tally.count > 3_500_000


def test_every_direction_of_rounding_at_every_midpoint() -> None:
    tally = run.roundings()
    assert tally.wrong == [] and tally.count > 1_500_000


def test_every_block_format_by_every_rule() -> None:
    assert run.blocks().wrong == []


def test_the_164_low_bit_cases_of_onnx_bit_for_bit() -> None:
    tally = run.official("reference")
    assert tally.wrong == [] and tally.count == 164


@pytest.mark.slow
@pytest.mark.parametrize("target", run.TARGETS)
def test_the_low_bit_cases_on_each_target_bit_for_bit(target: str) -> None:
    assert run.official(target).wrong == []


def test_a_difference_is_counted_and_named() -> None:
    tally = run.Tally("x")
    tally.add(4, np.array([False, True, True, False]), "e4m3")
    assert str(tally) == "x: 4 compared, 1 differ\n  differs  e4m3: 2 of 4 differ"
