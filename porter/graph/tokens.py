"""The words that the text of a model is made of, and taking them one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from porter.errors import PorterError

_TOKEN = re.compile(
    r"""\s*(?:\#(?![0-9a-f]{64})[^\n]*(?:\n|$)\s*)*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf\b|nan\b)(?![\w]))
    | (?P<hash>\#[0-9a-f]{64})
    | (?P<arrow>=>)
    | (?P<word>[A-Za-z_/][\w./:-]*)
    | (?P<mark>[][(){}<>=,:?@.])
    | (?P<end>$)
    )""",
    re.VERBOSE,
)

T = TypeVar("T")


@dataclass
class Token:
    """A word, what kind of word it is, and where it starts."""

    kind: str
    text: str
    at: int


class Words:
    """A text, read word by word; every refusal names the line."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.token = self.next_token()

    def next_token(self) -> Token:
        found = _TOKEN.match(self.text, self.at)
        if found is None:
            line = self.text.count("\n", 0, self.at) + 1
            raise PorterError(f"line {line}", expected="the text of a model", found=f"'{self.text[self.at :][:20]}'")
        self.at = found.end()
        kind = found.lastgroup or "end"
        return Token(kind, found[kind], found.start(kind))

    def fail(self, expected: str) -> NoReturn:
        line = self.text.count("\n", 0, self.token.at) + 1
        raise PorterError(
            f"line {line}", expected=expected, found=f"'{self.token.text}'" if self.token.text else "the end"
        )

    def take(self, text: str) -> bool:
        if self.token.text == text and self.token.kind != "string":
            self.token = self.next_token()
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            self.fail(f"'{text}'")

    def name(self, what: str = "a name") -> str:
        token = self.token
        if token.kind not in ("word", "string"):
            self.fail(what)
        self.token = self.next_token()
        return json.loads(token.text) if token.kind == "string" else token.text

    def string(self) -> str:
        if self.token.kind != "string":
            self.fail("a quoted text")
        return self.name()

    def integer(self) -> int:
        token = self.token
        if token.kind != "number" or not re.fullmatch(r"[-+]?\d+", token.text):
            self.fail("an integer")
        self.token = self.next_token()
        return int(token.text)

    def listed(self, close: str, item: Callable[[], T]) -> list[T]:
        """Items between commas up to a closing mark, which is taken too."""
        items: list[T] = []
        while not self.take(close):
            if items:
                self.need(",")
            items.append(item())
        return items
