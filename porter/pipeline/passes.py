"""What a pass is: a frozen dataclass from graph to graph whose fields are its options, with a contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from porter.check import Contract, algebraic, exact, precision, rounding
from porter.errors import PorterError
from porter.graph import Model
from porter.rewrite import Rewrite, Rule, apply


@dataclass(frozen=True)
class Pass:
    """A step from graph to graph. Fields are options, the docstring is the help, the module path is the name.

    `run` edits the model it is given (the pipeline hands it a copy) and yields a `Rewrite` after each change, with
    the model valid at that point; or returns a model. It knows nothing of checking, saving, timing or logging.
    """

    contract: ClassVar[Contract] = exact
    #: names of passes of the same package that must run earlier
    after: ClassVar[tuple[str, ...]] = ()

    def run(self, model: Model, device: Any) -> Iterator[Rewrite] | Model | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Rules(Pass):
    """The rewrites that a module declares, applied until none fits."""

    rules: tuple[Rule, ...] = ()
    claim: Contract = algebraic

    @property
    def contract(self) -> Contract:  # type: ignore[override]
        return self.claim

    def run(self, model: Model, device: Any) -> Iterator[Rewrite]:
        return apply(model, self.rules)


def pass_of(module: ModuleType) -> type[Pass] | Rules | None:
    """The one pass of a module: its `Pass` class, else its rules; None where it has neither.

    Rules are taken in the order of the module, or as its `rules` lists them; its `contract` is theirs (algebraic if
    it has none).
    """
    own = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Pass) and v.__module__ == module.__name__
    ]
    if len(own) > 1:
        raise PorterError(f"module {module.__name__}", expected="one pass", found=", ".join(c.__name__ for c in own))
    if own:
        return own[0]
    rules = rules_of(module)
    return Rules(rules, getattr(module, "contract", algebraic)) if rules else None


def rules_of(module: ModuleType) -> tuple[Rule, ...]:
    """The fusions and rewrites of a module."""
    listed = getattr(module, "rules", None)
    if isinstance(listed, tuple):
        return listed
    return tuple(v for v in vars(module).values() if isinstance(v, Rule) and v.module == module.__name__)


def order_of(module: ModuleType) -> tuple[str, ...]:
    """What the module says must run earlier: `after` of its class, or its own."""
    found = pass_of(module)
    listed = getattr(found, "after", ()) if isinstance(found, type) else ()
    return tuple(listed) or tuple(getattr(module, "after", ()))


__all__ = [
    "Contract",
    "Pass",
    "Rules",
    "algebraic",
    "exact",
    "order_of",
    "pass_of",
    "precision",
    "rounding",
    "rules_of",
]
