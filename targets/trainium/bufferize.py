"""Buffers behind NKI tensors: who lives when, and what lives at once in SBUF and PSUM.

Destinations are explicit in NKI and their addresses are the compiler's affair, but it can only place what fits. While
text is written, the trace records which buffers each instruction touches; loops nest. From that follow the life of
every buffer and the peak of every memory.

    trace = Trace()
    trace.use(a)                    # one instruction
    with trace.repeat():            # a loop: what was made before it and is used in it lives until its end
        trace.use(a, b)
    peak(trace, "sbuf")             # (bytes, the buffers alive then)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from porter.errors import CheckFailed


@dataclass(frozen=True, eq=False)
class Buffer:
    """Room for one value: `bytes` in the unit that the memory counts (of a partition, of a core)."""

    name: str
    space: str
    bytes: int


@dataclass
class Trace:
    """Instructions in order, each a time; loops are ranges of time."""

    now: int = 0
    spans: dict[Buffer, list[int]] = field(default_factory=dict)  # first and last use
    _open: list[int] = field(default_factory=list)  # where the loops around us began
    _seen: list[set[Buffer]] = field(default_factory=list)  # what was used in each of them

    def use(self, *buffers: Buffer) -> None:
        """One instruction that reads or writes these."""
        self.now += 1
        for b in buffers:
            span = self.spans.setdefault(b, [self.now, self.now])
            span[1] = self.now
            for seen in self._seen:
                seen.add(b)

    @contextmanager
    def repeat(self) -> Iterator[None]:
        """A loop around the instructions that follow."""
        self._open.append(self.now)
        self._seen.append(set())
        yield
        began, seen = self._open.pop(), self._seen.pop()
        self.now += 1
        for b in seen:
            if self.spans[b][0] <= began:
                self.spans[b][1] = self.now


def peak(trace: Trace, space: str) -> tuple[int, tuple[Buffer, ...]]:
    """The most that lives at once in a memory, and what lives then, largest first."""
    spans = {b: s for b, s in trace.spans.items() if b.space == space}
    best, at = 0, 0
    for time in sorted({s[0] for s in spans.values()}):  # a maximum is reached where something begins
        used = sum(b.bytes for b, (first, last) in spans.items() if first <= time <= last)
        if used > best:
            best, at = used, time
    alive = [b for b, (first, last) in spans.items() if first <= at <= last]
    return best, tuple(sorted(alive, key=lambda b: (-b.bytes, b.name)))


def check_capacity(trace: Trace, limits: Mapping[str, int], where: str, unit: str = "bytes") -> dict[str, int]:
    """The peak of every memory; raises CheckFailed with a sentence where one exceeds its limit."""
    peaks = {}
    for space, limit in limits.items():
        peaks[space], alive = peak(trace, space)
        if peaks[space] > limit:
            largest = ", ".join(f"{b.name} {b.bytes}" for b in alive[:4])
            raise CheckFailed(
                where,
                expected=f"at most {limit} {unit} of {space}",
                found=f"{peaks[space]} live at once, {largest} among them",
            )
    return peaks
