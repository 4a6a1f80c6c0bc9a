"""Every kernel, under the limits of every family: the tile program means what the jaxpr means, and its text parses back."""

from __future__ import annotations

import contextlib
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
        scale = max(float(np.sqrt(np.mean(w64**2))), 1e-30)
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


def _without(body: tuple[Statement, ...], name: str) -> tuple[Statement, ...]:
    """The body with one mask turned into the value it masks."""
    out: list[Statement] = []
    for s in body:
        if isinstance(s, For):
            s = replace(s, body=_without(s.body, name))
        elif isinstance(s, Mask) and s.name == name:
            s = replace(s, identity=float("nan") if s.type.dtype == "float32" else s.identity, axis=s.axis)
        out.append(s)
    return tuple(out)


@pytest.mark.parametrize("name", ["softmax", "layernorm", "attention_197", "log_softmax_long", "cumsum"])
def test_a_dropped_mask_is_seen(name: str) -> None:
    case = CASES[name]
    inputs = case.inputs()
    program = tile(case.meaning(), Limits(**LIMITS["gpu"]), name=name)
    masks = [s.name for s in walk(program.body) if isinstance(s, Mask)]
    assert masks
    for mask in masks:
        broken = Program(program.name, program.params, program.axes, _without(program.body, mask))
        with contextlib.suppress(CheckFailed):
            assert not close(run(broken, inputs), case.outputs(inputs)), mask
