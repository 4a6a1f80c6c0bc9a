"""docs/tile.md shows what the code prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from porter.tile.canonical import canonical
from porter.tile.form_text import show as show_form
from porter.tile.limits import Limits
from porter.tile.pull import pull
from porter.tile.text import show
from porter.tile.tiler import tile

PAGE = Path(__file__).parents[2] / "docs" / "tile.md"
LIMITS = Limits(dot_m=(1, 16), dot_n=(1, 32), dot_k=(1, 32))


def test_the_page_shows_what_the_code_prints() -> None:
    text = PAGE.read_text()
    names: dict[str, Any] = {"jnp": jnp}
    blocks = re.findall(r"```(?:python)?\n(.*?)```", text, re.S)
    exec(next(b for b in blocks if b.startswith("def attention")), names)
    types = [jax.ShapeDtypeStruct(s, "float32") for s in ((50, 32), (70, 32), (70, 16))]
    meaning = jax.make_jaxpr(names["attention"])(*types)
    form = pull(meaning, ["q", "k", "v"], ["y"])
    program = tile(meaning, LIMITS, name="attention", inputs=["q", "k", "v"], outputs=["y"])
    for printed in (show_form(form), show_form(canonical(form)), show(program)):
        assert printed in blocks
