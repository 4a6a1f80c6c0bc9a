"""What the tests of this family share: kernels lowered and run, snippets of NKI run under the rules."""

from __future__ import annotations

import sys
import textwrap
from functools import cache
from pathlib import Path

import numpy as np

from porter.device import Device, load_device
from porter.targets.trainium import target
from porter.targets.trainium.limits import chip
from porter.targets.trainium.simulator import Machine
from porter.tile.program import Program
from porter.tile.target import Emitted, Kernel
from porter.tile.text import parse
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parents[2] / "tile"))
from kernels import CASES

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n\n\n"
# Engines sum in another order (of up to a few hundred products) and multiply by reciprocals instead of dividing.
ROUNDING = 2.0**-18


@cache
def device(name: str = "trn2") -> Device:
    return load_device(f"trainium:{name}")


@cache
def program(name: str) -> Program:
    """The tile program of a kernel that every target is tried on."""
    return tile(CASES[name].meaning(), target.limits(device()), name=name)


def lowered(p: Program | str, on: str = "trn2") -> Emitted:
    p = parse(p) if isinstance(p, str) else p
    return target.lower(Kernel(p.name, p, None), device(on))


def distance(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference, in units of the wanted tensor's rms; inf where one is NaN and the other is not."""
    worst = 0.0
    for g, w in zip(got, wanted, strict=True):
        g64, w64 = g.astype(np.float64), w.astype(np.float64)
        same = (g64 == w64) | (np.isnan(g64) & np.isnan(w64))
        finite = w64[np.isfinite(w64)]
        scale = max(float(np.sqrt(np.mean(finite**2))) if finite.size else 1.0, 1e-30)
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(g64 - w64) / scale)
        worst = max(worst, float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0)))
    return worst


def snippet(body: str, *inputs: np.ndarray, on: str = "trn2") -> list[np.ndarray]:
    """Run the body of a kernel with parameters p0, p1, ... and the result out: float32[128, 512]."""
    names = [f"p{i}" for i in range(len(inputs))]
    text = HEAD + f"def kernel({', '.join([*names, 'out'])}):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    machine = Machine(chip(device(on)))
    given = [machine.tensor(x, n) for x, n in zip(inputs, names, strict=True)]
    out = machine.blank((128, 512), "float32", "out")
    machine.load(text, "kernel")["kernel"](*given, out)
    machine.memories.check_capacity("kernel")
    return [out.array]


def drawn(p: Program) -> list[np.ndarray]:
    """Inputs for a program: numbers, small integers that may be places, and flags."""
    rng = np.random.default_rng(3)
    made = []
    for x in p.inputs:
        dtype = np.dtype(x.dtype)
        if dtype.kind == "b":
            made.append(rng.integers(0, 4, x.shape) > 0)
        elif dtype.kind in "iu":
            made.append(rng.integers(0, 45, x.shape).astype(dtype))
        else:
            made.append(rng.standard_normal(x.shape).astype(dtype))
    return made
