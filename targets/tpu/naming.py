"""Names in emitted text: the tile program's own, as Python identifiers that shadow nothing."""

from __future__ import annotations

import keyword
import re

_TAKEN = {"jax", "jnp", "lax", "pl", "pltpu", "carry", "HIGHEST"}


class Names:
    """Gives each name of a program one identifier; different names never meet."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._used: set[str] = set(_TAKEN)

    def __call__(self, name: str) -> str:
        if name not in self._given:
            self._given[name] = self.fresh(name)
        return self._given[name]

    def fresh(self, like: str) -> str:
        """An identifier that nothing else has."""
        text = re.sub(r"\W", "_", like).strip("_") or "x"
        if text[0].isdigit():
            text = "v" + text
        if keyword.iskeyword(text):
            text += "_"
        wanted, n = text, 2
        while text in self._used:
            text, n = f"{wanted}_{n}", n + 1
        self._used.add(text)
        return text
