"""A precision contract: formats per layer and the budgets they keep, as a TOML file to be kept, given back and diffed.

default = "fp8"

[formats]                     # glob patterns of source layers; the first that fits decides
"/lm_head*" = "bf16"
"*mlp*" = "nvfp4w"

[methods]                     # how weights and ranges are found, where not plainly
rounding = "gptq"

[budgets]
kl = 0.02
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from porter.errors import PorterError
from porter.precision.schemes import SCHEMES

#: words of the methods, and what each may be; `alpha` is smoothquant's, `cache` a decoder's keys and values, `per` its scales
METHODS = {
    "clip": ("none", "mse", "percentile", "entropy"),
    "rounding": ("nearest", "gptq"),
    "ranges": ("minmax", "percentile", "mse", "entropy"),
    "smooth": ("none", "smoothquant", "awq"),
    "alpha": (),
    "cache": ("none", "fp8", "mxfp8", "mxfp4", "nvfp4"),
    "per": ("head", "channel"),
}
WIDE = "bf16"  # a layer that is left as the rest of the model is


@dataclass(frozen=True)
class Formats:
    """The scheme of each layer, by pattern."""

    default: str = WIDE
    patterns: Mapping[str, str] = field(default_factory=dict)
    budgets: Mapping[str, float] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)

    def of(self, layer: str) -> str:
        """The scheme of a source layer. A pattern equal to the name fits even where it has glob characters."""
        return next((s for p, s in self.patterns.items() if p == layer or fnmatchcase(layer, p)), self.default)

    def text(self) -> str:
        """The file, the same bytes for the same contract."""
        lines = [f"default = {json.dumps(self.default)}", "", "[formats]"]
        lines += [f"{json.dumps(p)} = {json.dumps(s)}" for p, s in self.patterns.items()]
        if self.methods:
            lines += ["", "[methods]", *(f"{m} = {json.dumps(self.methods[m])}" for m in METHODS if m in self.methods)]
        lines += ["", "[budgets]", *(f"{json.dumps(m)} = {float(v)!r}" for m, v in self.budgets.items())]
        return "\n".join(lines) + "\n"

    def write(self, path: str | Path) -> None:
        Path(path).write_text(self.text())

    @staticmethod
    def read(path: str | Path) -> Formats:
        """The contract of a file, or of its text. Raises PorterError for what is none, and names unknown formats."""
        try:
            page = tomllib.loads(str(path) if "\n" in str(path) else Path(path).read_text())
        except (OSError, tomllib.TOMLDecodeError) as e:
            raise PorterError(
                f"precision contract {path}", expected="a TOML file", found=str(e).partition("\n")[0]
            ) from None
        unknown = page.keys() - {"default", "formats", "budgets", "methods"}
        chosen = methods(page.get("methods", {}), f"precision contract {path}")
        made = Formats(
            str(page.get("default", WIDE)), dict(page.get("formats", {})), dict(page.get("budgets", {})), chosen
        )
        wrong = [s for s in (made.default, *made.patterns.values()) if s not in (*SCHEMES, WIDE)]
        if unknown or wrong:
            raise PorterError(
                f"precision contract {path}",
                expected=f"default, formats, methods, budgets; formats of {', '.join((*SCHEMES, WIDE))}",
                found=", ".join(map(str, [*sorted(unknown), *wrong])),
            )
        return made


def methods(words: Mapping[str, object] | str, where: str = "--methods") -> dict[str, str]:
    """Weight methods from {'rounding': 'gptq'} or 'rounding=gptq,clip=mse'. Raises PorterError for what is none."""
    if isinstance(words, str):
        pairs = [word.partition("=") for word in words.split(",") if word.strip()]
        words = {name.strip(): value.strip() for name, _, value in pairs}
    for name, value in words.items():
        known = METHODS.get(name)
        if known is None:
            raise PorterError(where, expected=f"methods of {', '.join(METHODS)}", found=name)
        if known and value not in known:
            raise PorterError(f"{where}: {name}", expected=", ".join(known), found=str(value))
        if not known and not 0 <= _number(value) <= 1:
            raise PorterError(f"{where}: {name}", expected="a number of 0 to 1", found=str(value))
    return {name: str(words[name]) for name in METHODS if name in words}


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return -1.0
