"""A device as data: dotted paths to facts, and where each fact comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from porter.errors import PorterError

_REQUIRED: Any = object()


@dataclass(frozen=True)
class Fact:
    """One figure. `value` is None where there is none, and `unknown` then says why."""

    value: Any = None
    source: tuple[str, ...] = ()
    assumed: str = ""  # why somebody had to assume it; empty for a sourced figure
    derived: str = ""  # the formula, where the figure was computed from others
    note: str = ""
    unknown: str = ""

    def origin(self) -> str:
        """In a few words where the figure comes from: 'N9, N1', 'derived: ...', 'assumed: ...'."""
        words = [", ".join(self.source)] if self.source else []
        words += [f"derived: {self.derived}"] if self.derived else []
        words += [f"assumed: {self.assumed}"] if self.assumed else []
        return "; ".join(words)


@dataclass(frozen=True, eq=False)
class Device:
    """The facts of one device, `family:device` by name. Paths are dotted: 'memory.hbm.bytes', 'peak.bf16'.

    Units: bytes; bytes per second; operations per second, dense, a multiply-add counted as 2; seconds; hertz; watts; US
    dollars per hour.
    """

    name: str
    facts: Mapping[str, Fact] = field(repr=False)
    sources: Mapping[str, str] = field(repr=False)
    default: bool = False
    teaching: bool = False

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]

    @property
    def title(self) -> str:
        return str(self.get("title", self.name))

    @property
    def slug(self) -> str:
        """The name as a folder: 'gpu-h200'."""
        return self.name.replace(":", "-")

    def document(self) -> dict[str, Any]:
        """The page as JSON, for a bundle or a machine that reads it; `from_document` is the inverse."""
        facts = {}
        for path, f in self.facts.items():
            entry: dict[str, Any] = {} if f.value is None else {"value": f.value}
            entry |= {"source": f.source} if f.source else {}
            facts[path] = entry | {k: v for k in ("assumed", "derived", "note", "unknown") if (v := getattr(f, k))}
        return {"name": self.name, "title": self.title, "facts": facts, "sources": dict(self.sources)}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> Device:
        """The device of a document. Raises KeyError where the document is none."""
        facts: dict[str, Fact] = {}
        for path, entry in document["facts"].items():
            words: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            facts[path] = Fact(**words)
        return Device(document["name"], facts, dict(document["sources"]))

    def fact(self, path: str) -> Fact:
        """The fact at a path, with its origin. Raises PorterError, with the nearest paths, when the page lacks it."""
        if path not in self.facts:
            from difflib import get_close_matches

            near = get_close_matches(path, self.facts, n=3, cutoff=0.5)
            raise PorterError(
                f"{self.name} has no fact '{path}'",
                hint=f"one of: {', '.join(near)}" if near else f"porter targets {self.name}",
            )
        return self.facts[path]

    def value(self, path: str) -> Any:
        """The value at a path. Raises PorterError where there is none, with the reason the page gives."""
        fact = self.fact(path)
        if fact.value is None:
            raise PorterError(f"{self.name} has no figure for '{path}'", found=fact.unknown or None)
        return fact.value

    def __getitem__(self, path: str) -> Any:
        return self.value(path)

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path, or `default` where there is none."""
        fact = self.facts.get(path)
        return default if fact is None or fact.value is None else fact.value

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    def section(self, prefix: str) -> dict[str, Any]:
        """The known values below a path: section('peak') is {'fp32': ..., 'bf16': ...}."""
        head = prefix + "."
        return {p[len(head) :]: f.value for p, f in self.facts.items() if p.startswith(head) and f.value is not None}

    def source(self, path: str) -> tuple[str, ...]:
        """The sources of a fact, written out; empty for an assumption."""
        return tuple(self.sources[i] for i in self.fact(path).source)

    def assumed(self, path: str) -> bool:
        """Whether a fact is an assumption, or was recalled and never re-read."""
        return bool(self.fact(path).assumed)
