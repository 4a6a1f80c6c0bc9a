"""Which passes there are: those in the folders of `porter.passes`, and those of any package named by an entry point.

A folder is a package of passes (`fusion`), a module in it is a pass (`fusion.gelu`). Nothing is listed anywhere: a
new file is a new pass. An installed distribution adds its own with

    [project.entry-points."porter.passes"]
    mine = "my_package.passes"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

import networkx

from porter.errors import PorterError
from porter.pipeline.passes import Pass, Rules, order_of, pass_of, rules_of
from porter.rewrite import Rule

#: porter's own root of passes; named, not imported, since imports run from passes to porter
HOME = "porter.passes"
GROUP = "porter.passes"


@dataclass(frozen=True)
class Entry:
    """One pass that exists: its name and the module that declares it."""

    name: str
    module: str

    @property
    def package(self) -> str:
        return self.name.rpartition(".")[0]

    def load(self) -> type[Pass] | Rules:
        """The pass class, or the pass made of the module's rules. PorterError where the module declares none."""
        found = pass_of(import_module(self.module))
        if found is None:
            raise PorterError(f"module {self.module}", expected="a Pass, a @fusion or a @rewrite", found="none")
        return found


def discover(roots: Iterable[str] = ()) -> dict[str, Entry]:
    """Every pass by name; `roots` are further root packages. A name of ours cannot be taken by another package."""
    found: dict[str, Entry] = {}
    for root in dict.fromkeys([HOME, *(point.value for point in entry_points(group=GROUP)), *roots]):
        for entry in _entries(root):
            other = found.setdefault(entry.name, entry)
            if other != entry:
                raise PorterError(
                    f"pass {entry.name}", expected="one module", found=f"{other.module} and {entry.module}"
                )
    return found


@cache
def _entries(root: str) -> tuple[Entry, ...]:
    try:
        package = import_module(root)
    except ImportError as error:
        raise PorterError(f"entry point '{root}' of group {GROUP}", expected="a package", found=str(error)) from error
    found = []
    for folder in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if not folder.ispkg:
            if _declares(f"{root}.{folder.name}"):
                found.append(Entry(folder.name, f"{root}.{folder.name}"))
            continue
        inner = import_module(f"{root}.{folder.name}")
        modules = [f"{root}.{folder.name}.{info.name}" for info in pkgutil.iter_modules(inner.__path__)]
        found += [Entry(module[len(root) + 1 :], module) for module in _ordered(modules) if _declares(module)]
    return tuple(found)


def _declares(module: str) -> bool:
    return not module.rpartition(".")[2].startswith("_") and pass_of(import_module(module)) is not None


def _ordered(modules: list[str]) -> list[str]:
    """By name, but each after those that it names in `after`."""
    graph = networkx.DiGraph()
    short = {module.rpartition(".")[2]: module for module in modules if not module.rpartition(".")[2].startswith("_")}
    graph.add_nodes_from(short)
    for name, module in short.items():
        graph.add_edges_from((earlier, name) for earlier in order_of(import_module(module)) if earlier in short)
    try:
        return [short[name] for name in networkx.lexicographical_topological_sort(graph)]
    except networkx.NetworkXUnfeasible:
        circle = " -> ".join(edge[0] for edge in networkx.find_cycle(graph))
        raise PorterError("the order of passes", expected="an order", found=f"a circle: {circle}") from None


def named(name: str, roots: Iterable[str] = ()) -> tuple[Entry, ...]:
    """The passes that a word of a pipeline means: one pass, or all of a package in their order. PorterError if none."""
    everything = discover(roots)
    if name in everything:
        return (everything[name],)
    package = tuple(entry for entry in everything.values() if entry.package == name)
    if package:
        return package
    known = [*everything, *dict.fromkeys(entry.package for entry in everything.values() if entry.package)]
    near = get_close_matches(name, known, 3)
    raise PorterError(
        f"pass '{name}'", expected="the name of a pass or a package", hint=f"one of: {', '.join(near or known)}"
    )


def rules(roots: Iterable[str] = ()) -> dict[str, tuple[Rule, ...]]:
    """The rules of every pass that declares some, by pass name: what `--why` asks."""
    found = {entry.name: rules_of(import_module(entry.module)) for entry in discover(roots).values()}
    return {name: rules for name, rules in found.items() if rules}
