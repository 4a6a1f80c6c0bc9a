"""Finds chains of elementwise steps that are one function of the Scalar engine's tables: gelu, silu and their kin.

Exporters spell them in a dozen ways, so the chain is not matched but tried: what lies between a value and the one value
that it depends on is computed on sample points in float64 and held against each function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from porter.targets.trainium.instructions import COMPOSED
from porter.tile.elementwise import ELEMENTWISE
from porter.tile.program import Cast, Elementwise, Full, Program, walk

Step = Full | Elementwise | Cast

LONGEST = 14  # steps of a chain: tanh's gelu takes nine
POINTS = np.concatenate([np.linspace(-9, 9, 41), [0.0, 1e-3, -1e-3]])
ALIKE = 2.0**-20  # relative to the largest value: constants of a model are float32


def find(program: Program) -> dict[str, tuple[str, str]]:
    """For each value that is a table function of another: the function, and the other value."""
    made = {s.name: s for s in walk(program.body) if isinstance(s, Full | Elementwise | Cast)}
    order = {s.name: i for i, s in enumerate(walk(program.body)) if isinstance(s, Full | Elementwise | Cast)}
    found: dict[str, tuple[str, str]] = {}
    for name, s in made.items():
        if isinstance(s, Elementwise) and s.type.dtype == "float32" and s.op in ("mul", "log", "log1p", "div"):
            match = _chain(name, made, order)
            if match is not None:
                found[name] = match
    return found


def _chain(name: str, made: Mapping[str, Step], order: Mapping[str, int]) -> tuple[str, str] | None:
    """The table function that this value is, walking back from it until one value is left."""
    axes = made[name].type.axes
    frontier, chain = {name}, []
    for _ in range(LONGEST):
        inner = [n for n in frontier if isinstance(made.get(n), Elementwise)]
        if not inner:
            return None
        latest = max(inner, key=order.__getitem__)
        s = made[latest]
        assert isinstance(s, Elementwise)
        if s.type.dtype != "float32" or s.type.axes != axes:
            return None
        chain.append(s)
        frontier = (frontier - {latest}) | {a for a in s.args if not isinstance(made.get(a), Full)}
        if len(frontier) == 1 and len(chain) > 1:
            source = next(iter(frontier))
            function = _function(source, chain[::-1], made)
            if function is not None:
                return function, source
    return None


def _function(source: str, chain: list[Elementwise], made: Mapping[str, Step]) -> str | None:
    values: dict[str, np.ndarray] = {source: POINTS}
    for s in chain:
        for a in s.args:
            constant = made.get(a)
            if isinstance(constant, Full):
                values[a] = np.asarray(constant.value, np.float64)
        with np.errstate(all="ignore"):
            values[s.name] = np.asarray(ELEMENTWISE[s.op][1](*(values[a] for a in s.args)), np.float64)
    result = np.broadcast_to(values[chain[-1].name], POINTS.shape)
    for name, function in COMPOSED.items():
        wanted = function.meaning(POINTS)
        if np.abs(result - wanted).max() <= ALIKE * np.abs(wanted).max():
            return name
    return None
