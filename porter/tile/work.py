"""How much a kernel computes under given tile sizes, what it computes again included: where partition cuts."""

from __future__ import annotations

import math
from collections.abc import Iterable

from porter.tile.form import Cast, Dot, Elementwise, Form, Reduce, children
from porter.tile.program import Axis

DEAR = frozenset(
    {
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "sin",
        "cos",
        "tan",
        "tanh",
        "erf",
        "logistic",
        "pow",
        "div",
        "sqrt",
        "rsqrt",
    }
)
DEAR_WEIGHT = 8  # operations of an elementwise function that is no single instruction, roughly


def repeats(form: Form, axes: Iterable[Axis], node: int) -> int:
    """How often a value is computed: the grid steps of the output axes that it does not have."""
    below = form.axes_of(node)
    return math.prod(a.steps for a in axes if a.role == "grid" and a.name not in below)


def work(form: Form, axes: Iterable[Axis]) -> int:
    """Operations in all: every node over its axes and those it sums, times its repeats."""
    axes = tuple(axes)
    total = 0
    for i in form.reachable():
        node = form[i]
        match node:
            case Reduce() | Dot():
                below = frozenset().union(*(form.axes_of(c) for c in children(node)))
                weight = 2 if isinstance(node, Dot) else 1
            case Elementwise(op=op):
                below, weight = form.axes_of(i), DEAR_WEIGHT if op in DEAR else 1
            case Cast():
                below, weight = form.axes_of(i), 1
            case _:
                continue
        total += weight * math.prod(form.size(a) for a in below) * repeats(form, axes, i)
    return total
