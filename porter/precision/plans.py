"""What a port does about precision: its plan, and after it the audit and the error ledger of what became codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from porter.check import Budget
from porter.check import budgets as check_budgets
from porter.device import Device
from porter.errors import PorterError
from porter.graph import Model, unread
from porter.pipeline import run
from porter.pipeline.text import Stage, parse
from porter.precision import audit, blocks
from porter.precision.calibrate import Samples
from porter.precision.contract import Formats
from porter.precision.growth import Growth, grown
from porter.precision.layers import products_of_weights
from porter.precision.ledger import ledger
from porter.precision.schemes import SCHEMES, least
from porter.precision.search import Found, search
from porter.precision.stages import FIRST, PRECISIONS, UNCHECKED, pipeline, stages

__all__ = ["FIRST", "PRECISIONS", "Plan", "audited", "explained", "known", "narrowed", "pipeline", "plan"]


@dataclass(frozen=True)
class Plan:
    """What one port does about precision: the pipeline, the formats of each layer, and what a search found."""

    name: str
    stages: tuple[Stage, ...]
    formats: Formats | None = None
    found: Found | None = None
    floor: float = least("bf16")  # dB that the model keeps where nobody gave a budget
    growth: Growth | None = None  # what the model makes of its layers' errors, where nobody gave a budget

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The contract's own budgets; empty where it has none."""
        return check_budgets(self.formats.budgets) if self.formats is not None else ()


def plan(
    precision: str, budgets: Sequence[Budget], model: Model, device: Device, sample: Mapping[str, np.ndarray],
    calibrate: Samples = "", progress: Callable[[str, int, int], None] = lambda *_: None,
    methods: Mapping[str, str] = MappingProxyType({}),
) -> Plan:  # fmt: skip
    """The plan of a precision: a name, 'auto' (searched), or the path of a contract."""
    if precision in ("fp32", "bf16"):
        return Plan(precision, parse(pipeline(precision, budgets)))
    found = None
    if precision in SCHEMES:
        formats = Formats(precision, methods=methods)
    elif precision == "auto":
        found = search(model, device, budgets, sample, calibrate=calibrate, progress=progress, methods=methods)
        formats = found.formats
    else:
        formats = Formats.read(precision)
        formats = replace(formats, methods={**formats.methods, **methods})
    given = tuple(budgets) or check_budgets(formats.budgets)
    count = products_of_weights(model)
    if precision not in SCHEMES:
        given = given or (Budget("sqnr_db", UNCHECKED),)
    made = Plan(precision, stages(formats, given, calibrate, count), formats, found)
    measured = None
    if not budgets and not formats.budgets and not unread(model):
        pair = narrowed(made, model, device)
        entries = ledger(*pair, formats, device, sample).entries
        made = replace(made, growth=grown(pair[0], entries, sample) if entries else None)
        measured = made.growth.least if made.growth is not None else None
    floor = least(precision, count, formats.methods.get("cache", "none"), measured)
    return replace(made, stages=stages(formats, given, calibrate, count, measured), floor=floor)


def known(precision: str) -> None:
    """Raises PorterError for what is no precision: neither a name nor the path of a contract."""
    if precision not in (*PRECISIONS, "auto") and not precision.endswith(".toml"):
        raise PorterError(
            "--precision", expected=f"one of {', '.join(PRECISIONS)}, auto, or a contract's .toml", found=precision
        )


def narrowed(plan: Plan, model: Model, device: Device) -> tuple[Model, Model]:
    """The model before its weights become codes, and after."""
    place = next(i for i, s in enumerate(plan.stages) if s.name == "quantization.narrow")
    before = run(model, plan.stages[:place], device, checks=False).model
    return before, run(before, plan.stages[place : place + 1], device, checks=False).model


def explained(
    plan: Plan, pair: tuple[Model, Model], device: Device, sample: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The error ledger of a port's narrow layers as a metric. Raises CheckFailed where formats do not explain an error."""
    if plan.formats is None:
        return {}
    found = ledger(*pair, plan.formats, device, sample)
    found.settle(device.name)
    grew = plan.growth
    return found.metric() | (
        {"model": {"expected_db": round(grew.expected, 2), "scatter_db": round(grew.scatter, 2), "floor_db": plan.floor}}
        if grew is not None else {}
    )  # fmt: skip


def audited(
    plan: Plan,
    pair: tuple[Model, Model],
    device: Device,
    final: Model,
    launches: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]],
    rows: list[audit.Row] | None = None,
) -> dict[str, Any]:
    """The audit of a port as a metric. Raises CheckFailed where what was built differs from the plan without a rule.

    launches    (source layers, products asked of the kernel's text, products in the compiled kernel); a kernel on the host
                multiplies as 'host'
    pair        the model before and after its weights became codes
    rows        receives the rows of the audit, one a layer, for who wants to show them
    """
    if plan.formats is None:
        return {}
    seen = list(launches)
    before, narrow = pair
    audit.flavours(narrow, device)
    blocks.along_the_sum(narrow, device)
    blocks.by_the_rule(before, narrow, plan.formats, device)
    blocks.kept(before, narrow, device)
    built, compiled = (audit.products_of((s, row) for s, row in ((x[0], x[i]) for x in seen)) for i in (1, 2))
    found = audit.audit(before, final, plan.formats, device, built, compiled)
    if (stage := next((s for s in plan.stages if s.name == "quantization.cache"), None)) is not None:
        audit.flavours(run(narrow, (stage,), device, checks=False).model, device)
        found.caches = audit.cached(before, final, plan.formats.methods["cache"], device)
    if rows is not None:
        rows += found.rows
    found.settle(device)
    return found.metric()
