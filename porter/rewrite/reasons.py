"""Why a rule did not fit at a node: how far each came, and what was missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from porter.errors import PorterError
from porter.graph import Model, Node, source_name
from porter.rewrite.driver import all_graphs
from porter.rewrite.match import Miss
from porter.rewrite.rule import Match, Rule

#: how many steps below the node a pattern's root may stand
REACH = 16


@dataclass(frozen=True)
class Answer:
    """What one rule says of one node: it fits, or how many of its operators did and what was missing."""

    rule: str
    fits: bool
    matched: int
    wanted: int
    reason: str

    def __str__(self) -> str:
        if self.fits:
            return f"{self.rule}: fits"
        return f"{self.rule}: {self.matched} of {self.wanted} operators fit; {self.reason}"


def why(model: Model, node: Node | str, rules: Iterable[Rule]) -> list[Answer]:
    """One answer per rule that has an operator in common with the place, the nearest first.

    A node is named by itself, by its source layer, or by one of its outputs. PorterError if there is none, with the
    nearest names.
    """
    where = find(model, node) if isinstance(node, str) else node
    answers = [answer for rule in rules if (answer := _ask(rule, where)) is not None]
    return sorted(answers, key=lambda a: (not a.fits, -a.matched / a.wanted))


def find(model: Model, name: str) -> Node:
    """The node of that name, source name or output name."""
    nodes = [node for graph in all_graphs(model) for node in graph]
    for matches in (
        lambda node: node.name == name,
        lambda node: name in source_name(node).split("+"),
        lambda node: any(value.name == name for value in node.outputs),
    ):
        for node in nodes:
            if matches(node):
                return node
    from difflib import get_close_matches

    known = [text for node in nodes for text in (node.name, source_name(node)) if text]
    near = get_close_matches(name, known, 3)
    raise PorterError(
        f"node '{name}'", expected="a node of the model", hint=f"one of: {', '.join(near)}" if near else None
    )


def _ask(rule: Rule, node: Node) -> Answer | None:
    best: Miss | None = None
    for root in _below(node):
        found = rule.match(root)
        match found:
            case Match() if node in found.binding.nodes:
                return Answer(rule.name, True, len(found.binding.nodes), len(found.binding.nodes), "")
            case Miss() if node in found.nodes and (best is None or len(found.nodes) > len(best.nodes)):
                best = found
    if best is None:
        return None
    return Answer(rule.name, False, len(best.nodes), max(best.wanted, len(best.nodes)), best.reason)


def _below(node: Node) -> list[Node]:
    """The node and what is computed from it, nearest first, as far as a pattern reaches."""
    found, layer = {node: None}, [node]
    for _ in range(REACH):
        layer = [user for above in layer for value in above.outputs for user, _ in value.uses() if user not in found]
        found.update(dict.fromkeys(layer))
        if not layer or len(found) > 500:
            break
    return list(found)
