"""From a kernel's meaning to its tile program on one device: pull, bring to canonical form, choose sizes, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from porter.tile.block_scales import scaled
from porter.tile.canonical import canonical
from porter.tile.choose import choose
from porter.tile.codes import spelled
from porter.tile.form import Form
from porter.tile.limits import Limits
from porter.tile.program import Program
from porter.tile.pull import pull
from porter.tile.schedule import schedule
from porter.tile.verify import verify


def tile(
    meaning: Any, limits: Limits, *, name: str = "kernel", inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Program:  # fmt: skip
    """The tile program of a jaxpr. Raises Cut, with the reason, where the jaxpr is no affine loop nest."""
    return tile_form(pull(meaning, inputs, outputs), limits, name=name)


def tile_form(form: Form, limits: Limits, *, name: str = "kernel") -> Program:
    """The tile program of an axis form."""
    form = scaled(form, limits.block_scaled)
    form = canonical(form, keep_last=limits.apart, integer=limits.integer)
    form = spelled(form, limits.lacking, limits.saturating)
    program = schedule(form, choose(form, limits), name, product=limits.float32_product)
    verify(program)
    return program
