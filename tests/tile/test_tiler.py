"""Every kernel, under the limits of every family: the tile program means what the jaxpr means, and its text parses back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.errors import CheckFailed
from porter.tile.interpret import run
from porter.tile.limits import Limits
from porter.tile.program import For, Mask, Program, Statement, walk
from porter.tile.text import parse, show
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from kernels import CASES, LIMITS


def close(got: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Equal but for the order of float32 sums of unit-variance products."""
    for g, w in zip(got, wanted, strict=True):
        g64, w64 = g.astype(np.float64), w.astype(np.float64)
        scale = max(float(np.sqrt(np.nanmean(w64**2))), 1e-30)
        tolerance = 2**-8 if g.dtype.name == "bfloat16" else 2e-6
        if not np.allclose(g64, w64, rtol=0, atol=tolerance * scale * 8, equal_nan=True):
            return False
    return True


@pytest.mark.parametrize("family", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_keeps_its_meaning(name: str, family: str) -> None:
    case = CASES[name]
    inputs = case.inputs()
    program = tile(case.meaning(), Limits(**LIMITS[family]), name=name)
    assert show(parse(show(program))) == show(program)
    assert close(run(program, inputs), case.outputs(inputs))


def _poisoned(body: tuple[Statement, ...], name: str, poison: float) -> tuple[Statement, ...]:
    """The body with one mask dropped: its lanes past the extent hold anything, here `poison`."""
    out: list[Statement] = []
    for s in body:
        if isinstance(s, For):
            s = replace(s, body=_poisoned(s.body, name, poison))
        elif isinstance(s, Mask) and s.name == name:
            s = replace(s, identity=poison)
        out.append(s)
    return tuple(out)


def _poisons(dtype: str) -> tuple[float, ...]:
    """What lanes that nobody declared may hold; a mask is needed if one of them shows."""
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return (True, False)
    if kind.kind in "iu":
        return (int(np.iinfo(kind).max) // 2, int(np.iinfo(kind).min) // 2, 1)
    return (float("nan"),)


@pytest.mark.parametrize("name", CASES)
def test_each_mask_dropped_in_turn_is_seen(name: str) -> None:
    """Of the family that masks: tiles there are powers of two, elsewhere they end where the extent does."""
    case = CASES[name]
    inputs = case.inputs()
    program = tile(case.meaning(), Limits(**LIMITS["gpu"]), name=name)
    wanted = case.outputs(inputs)

    def shows(mask: Mask, poison: float) -> bool:
        body = _poisoned(program.body, mask.name, poison)
        try:
            return not close(run(Program(program.name, program.params, program.axes, body), inputs), wanted)
        except CheckFailed:
            return True

    for mask in [s for s in walk(program.body) if isinstance(s, Mask)]:
        assert any(shows(mask, poison) for poison in _poisons(mask.type.dtype)), mask
