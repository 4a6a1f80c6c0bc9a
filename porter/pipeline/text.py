"""Pipelines as text: `cleanup, fusion, quantization.weights{bits=4}, layout` read and printed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from porter.errors import PorterError
from porter.pipeline.discovery import named
from porter.pipeline.passes import Pass, Rules

_ITEM = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Stage:
    """One pass of a pipeline under its name; `group` is the word of the pipeline that brought it."""

    name: str
    work: Pass
    group: str = ""

    def __str__(self) -> str:
        """The name, and the options that are not the default."""
        if isinstance(self.work, Rules):
            return self.name
        default = {f.name: f.default for f in dataclasses.fields(self.work)}
        given = {name: getattr(self.work, name) for name, usual in default.items() if getattr(self.work, name) != usual}
        inner = ", ".join(f"{name}={_spell(value)}" for name, value in given.items())
        return f"{self.name}{{{inner}}}" if inner else self.name


def parse(text: str, roots: Iterable[str] = ()) -> tuple[Stage, ...]:
    """The stages that a text means. A package name stands for its passes in order; its options go to those that have
    them.

    PorterError names the word that is wrong, with the nearest that exist.
    """
    stages: list[Stage] = []
    position = 0
    while text[position:].strip():
        found = _ITEM.match(text, position)
        if found is None:
            raise PorterError(
                f"pipeline '{text}' at '{text[position:].strip()}'",
                expected="name or name{option=value, ...}, separated by commas",
                hint="cleanup, fusion, layout{channels_last=1}",
            )
        position = found.end()
        stages.extend(_stages(found[1], _options(found[1], found[2] or ""), tuple(roots)))
    return tuple(stages)


def show(stages: Iterable[Stage]) -> str:
    """The text that `parse` reads back to equal stages."""
    return ", ".join(str(stage) for stage in stages)


def _stages(name: str, options: dict[str, str], roots: tuple[str, ...]) -> list[Stage]:
    loaded = [(entry, entry.load()) for entry in named(name, roots)]
    known = {field for _, work in loaded if isinstance(work, type) for field in _fields(work)}
    for option in options:
        if option not in known:
            near = get_close_matches(option, sorted(known), 1)
            raise PorterError(
                f"option '{option}' of pass {name}",
                expected=f"one of {', '.join(sorted(known))}" if known else "no options",
                hint=f"{name}{{{near[0]}={options[option]}}}" if near else None,
            )
    made = []
    for entry, work in loaded:
        if isinstance(work, type):
            types = _fields(work)
            mine = {key: _value(f"{name}{{{key}}}", types[key], text) for key, text in options.items() if key in types}
            made.append(Stage(entry.name, work(**mine), name))
        else:
            made.append(Stage(entry.name, work, name))
    return made


def _fields(work: type[Pass]) -> dict[str, Any]:
    hints = get_type_hints(work)
    return {field.name: hints[field.name] for field in dataclasses.fields(work)}


def _options(name: str, text: str) -> dict[str, str]:
    found = {}
    for part in filter(str.strip, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise PorterError(f"options of pass {name}", expected="option=value", found=part.strip())
        found[key.strip()] = value.strip()
    return found


def _value(where: str, kind: Any, text: str) -> Any:
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        return kind(text) if kind in (int, float, str) else text
    except (KeyError, ValueError):
        raise PorterError(where, expected=getattr(kind, "__name__", str(kind)), found=text) from None


def _spell(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
