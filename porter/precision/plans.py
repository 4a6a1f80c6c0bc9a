"""The pipeline of each precision: the words that `--precision` stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from porter.check import Budget
from porter.check import budgets as check_budgets
from porter.device import Device
from porter.errors import PorterError
from porter.graph import Model
from porter.pipeline import run
from porter.pipeline.text import Stage, parse
from porter.precision import audit, blocks
from porter.precision.contract import Formats
from porter.precision.schemes import SCHEMES, least
from porter.precision.search import Found, search

PRECISIONS = ("fp32", "bf16", *SCHEMES)
FIRST, LAST = "cleanup, fusion, layout", "quantization.flavour, quantization.decoded, quantization.packed, tiling.partition"
UNCHECKED = -300.0  # dB: a user's budget in another metric decides, at the end of the port


def pipeline(precision: str, budgets: Sequence[Budget] = (), **options: str) -> str:
    """The pipeline text; `options` are those of quantization.narrow (formats, clip, calibrate, method).

    A user's budget takes the place of the precision's own in every step: sqnr_db is held after each, others at the end.
    """
    if precision == "fp32":
        return f"{FIRST}, {LAST}"
    given = [b.limit for b in budgets if b.metric == "sqnr_db" and b.output is None]
    floor = max(given) if given else UNCHECKED if budgets else least(precision)
    wide = f"quantization.bf16{{db={floor!r}}}"
    if precision == "bf16":
        return f"{FIRST}, {wide}, {LAST}"
    words = {"scheme": precision, "db": repr(floor), **{k: v for k, v in options.items() if v}}
    return f"{FIRST}, quantization.narrow{{{','.join(f'{k}={v}' for k, v in words.items())}}}, {wide}, {LAST}"


@dataclass(frozen=True)
class Plan:
    """What one port does about precision: the pipeline, the formats of each layer, and what a search found."""

    name: str
    stages: tuple[Stage, ...]
    formats: Formats | None = None
    found: Found | None = None

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The contract's own budgets; empty where it has none."""
        return check_budgets(self.formats.budgets) if self.formats is not None else ()


def plan(
    precision: str, budgets: Sequence[Budget], model: Model, device: Device, sample: Mapping[str, np.ndarray], calibrate: str = "",
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Plan:  # fmt: skip
    """The plan of a precision: a name, 'auto' (searched), or the path of a contract."""
    if precision in ("fp32", "bf16"):
        return Plan(precision, parse(pipeline(precision, budgets)))
    if precision in SCHEMES:
        return Plan(precision, _stages(precision, budgets, "", calibrate), Formats(precision))
    found = None
    if precision == "auto":
        found = search(model, device, budgets, sample, calibrate=calibrate, progress=progress)
    formats = found.formats if found is not None else Formats.read(precision)
    given = tuple(budgets) or check_budgets(formats.budgets) or (Budget("sqnr_db", UNCHECKED),)
    return Plan(precision, _stages("int8w", given, formats.text(), calibrate), formats, found)


def _stages(base: str, budgets: Sequence[Budget], formats: str, calibrate: str) -> tuple[Stage, ...]:
    return tuple(
        replace(s, work=replace(s.work, formats=formats, calibrate=calibrate)) if s.name == "quantization.narrow" else s  # type: ignore[call-arg]
        for s in parse(pipeline(base, budgets))
    )


def known(precision: str) -> None:
    """Raises PorterError for what is no precision: neither a name nor the path of a contract."""
    if precision not in (*PRECISIONS, "auto") and not precision.endswith(".toml"):
        raise PorterError(
            "--precision", expected=f"one of {', '.join(PRECISIONS)}, auto, or a contract's .toml", found=precision
        )


def audited(
    plan: Plan,
    model: Model,
    device: Device,
    final: Model,
    launches: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]],
    rows: list[audit.Row] | None = None,
) -> dict[str, Any]:
    """The audit of a port as a metric. Raises CheckFailed where what was built differs from the plan without a rule.

    launches    (source layers, products asked of the kernel's text, products in the compiled kernel); a kernel on the host
                multiplies as 'host'
    rows        receives the rows of the audit, one a layer, for who wants to show them
    """
    if plan.formats is None:
        return {}
    seen = list(launches)
    before = run(model, FIRST, device, checks=False).model
    narrow = run(before, plan.stages[len(parse(FIRST)) :][:1], device, checks=False).model
    audit.flavours(narrow, device)
    blocks.along_the_sum(narrow, device)
    blocks.by_the_rule(before, narrow, plan.formats, device)
    blocks.kept(before, narrow, device)
    built, compiled = (audit.products_of((s, row) for s, row in ((x[0], x[i]) for x in seen)) for i in (1, 2))
    found = audit.audit(before, final, plan.formats, device, built, compiled)
    if rows is not None:
        rows += found.rows
    found.settle(device)
    extra = (
        {"seconds_bf16": plan.found.seconds_bf16, "seconds": plan.found.seconds, "bound": plan.found.bound}
        if plan.found
        else {}
    )
    return {**found.metric(), **extra}
