"""What a comparison found, tensor by tensor, and how it says so.

output 'logits' changed
  3 of 4096 elements moved; worst at [0, 17]: 1.2031 became 1.1875, allowed 0.004
  first at node '/layer.3/norm' (LayerNormalization), tensor 'h3': 41 of 4096 elements moved; ...
  on draw 0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from porter.check.measure import Distance


@dataclass(frozen=True)
class Finding:
    """One tensor, judged: how far after is from the reference, what was allowed, and which layer made it.

    `limit` is a sentence part that names the number and the limit it crossed; empty when nothing was crossed.
    `matched` says how a tensor in the middle was found in the other model: 'name', 'provenance', 'value', ...
    """

    tensor: str
    ok: bool
    distance: Distance | None
    limit: str = ""
    node: str = ""
    operator: str = ""
    inputs: str = ""
    matched: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """One line: how many elements moved, the worst of them, and the limit."""
        if self.distance is None or (self.limit and not self.distance.size):  # of two shapes, no element is compared
            return self.limit
        d = self.distance
        where = f" at {list(d.worst)}" if d.worst else ""
        became = f"{number(d.expected)} became {number(d.actual)}"
        return f"{d.moved} of {d.size} elements moved; worst{where}: {became}" + (
            f", {self.limit}" if self.limit else ""
        )

    def json(self) -> dict[str, Any]:
        """As in the documents that porter writes."""
        metric = self.distance.json() if self.distance is not None else {}
        return {
            "tensor": self.tensor,
            "ok": self.ok,
            "node": self.node,
            "operator": self.operator,
            "inputs": self.inputs,
            "limit": self.limit,
            **({"matched_by": self.matched} if self.matched else {}),
            **metric,
            **self.values,
        }


@dataclass(frozen=True)
class Verdict:
    """Whether `after` keeps its contract: the outputs, and where it first went wrong.

    `message` is empty when ok; `decided_by` says which method decided ('numeric', 'field', 'labels').
    """

    ok: bool
    contract: str
    outputs: tuple[Finding, ...]
    first_divergence: Finding | None = None
    message: str = ""
    decided_by: str = "numeric"
    chance: float | None = None

    @property
    def worst(self) -> Finding | None:
        """The output that fails, else the one with the lowest SQNR; None where nothing was compared."""
        measured = [f for f in self.outputs if f.distance is not None]
        failed = [f for f in self.outputs if not f.ok]
        if failed:
            return failed[0]
        return min(measured, key=lambda f: f.distance.sqnr_db if f.distance else 0.0, default=None)

    @property
    def metric(self) -> dict[str, Any]:
        """max_abs, max_rel, ulp, sqnr_db (at most 300, never null) and cosine, each of the worst output."""
        distances = [f.distance for f in self.outputs if f.distance is not None]
        return {
            "max_abs": max((d.max_abs for d in distances), default=0.0),
            "max_rel": max((d.max_rel for d in distances), default=0.0),
            "ulp": max((d.ulp for d in distances), default=0.0),
            "sqnr_db": min((d.sqnr_db for d in distances), default=300.0),
            "cosine": min((d.cosine for d in distances), default=1.0),
        }

    def json(self) -> dict[str, Any]:
        """As in the documents that porter writes."""
        first = self.first_divergence
        return {
            "ok": self.ok,
            "contract": self.contract,
            "decided_by": self.decided_by,
            "metric": self.metric,
            "outputs": [f.json() for f in self.outputs],
            "first_divergence": None if first is None else first.json(),
            "message": self.message,
        }


def message(findings: tuple[Finding, ...], first: Finding | None, subject: str = "") -> str:
    """The lines for people: which output, by how much, where it began, and on which inputs."""
    failed = next((f for f in findings if not f.ok), None)
    if failed is None:
        return ""
    lines = [
        f"{subject + ' changed ' if subject else ''}output '{failed.tensor}'{'' if subject else ' changed'}",
        f"  {failed.text()}",
    ]
    if first is not None:
        how = f", matched by {first.matched}" if first.matched not in ("", "name") else ""
        lines.append(f"  first at node '{first.node}' ({first.operator}), tensor '{first.tensor}'{how}: {first.text()}")
    elif failed.node:
        lines.append(f"  made by node '{failed.node}' ({failed.operator})")
    if failed.inputs:
        lines.append(f"  on {failed.inputs}")
    return "\n".join(lines)


def number(x: float) -> str:
    """Five significant digits: enough to see a difference, few enough to read."""
    return f"{x:.5g}"
