"""The errors a user can cause, in words for the person who has one."""

from __future__ import annotations


class PorterError(Exception):
    """Bad input or usage: says where, what was expected, what was found and what to try, one plain line each."""

    exit_code = 2

    def __init__(
        self, where: str, *, expected: str | None = None, found: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(where)
        self.where = where
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        """One to four lines, however many the parts were written on."""
        lines = [_line(self.where)]
        if self.expected is not None:
            lines.append(f"  expected {_line(self.expected)}")
        if self.found is not None:
            lines.append(f"  found {_line(self.found)}")
        if self.hint is not None:
            lines.append(f"  try  {_line(self.hint)}")
        return "\n".join(lines)


class CheckFailed(PorterError):
    """A check failed, or a budget was missed."""

    exit_code = 1


class Undecided(PorterError):
    """The question could not be decided, or not everything could be checked."""

    exit_code = 3


def _line(text: str) -> str:
    """The text on one line, its control characters made visible: names come from files nobody vouches for."""
    joined = " ".join(part.strip() for part in text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
