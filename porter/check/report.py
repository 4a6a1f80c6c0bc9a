"""Results of checks for people and for machines: text, JUnit XML, SARIF (see `forms`)."""

from __future__ import annotations

from typing import Any

from porter.check import forms
from porter.check.result import Result
from porter.check.verdict import Finding, number


def text(result: Result) -> str:
    """Verdict, evidence and one line per output, plain."""
    lines = [f"{result.verdict} ({result.method})", *(f"  {line.strip()}" for line in result.message.splitlines())]
    for f in result.outputs:
        lines.append(f"  output '{f.tensor}': {_metrics(f)}")
    lines += [f"  {line}" for line in result.explained]
    return "\n".join(lines)


def table(result: Result) -> Any:
    """The outputs as a rich table."""
    from rich.table import Table  # only a terminal needs it

    made = Table("output", "", "SQNR dB", "max abs", "max rel", "ULP", "cosine", "worst at", title=result.verdict)
    for f in result.outputs:
        d, state = f.distance, "ok" if f.ok else "[red]different[/red]"
        if d is None:
            made.add_row(f.tensor, state)
            continue
        metrics = (number(d.max_abs), number(d.max_rel), number(d.ulp), f"{d.cosine:.6f}", str(list(d.worst)))
        made.add_row(f.tensor, state, f"{d.sqnr_db:.1f}", *metrics)
    return made


def junit(result: Result) -> str:
    """One test case per output, in the XML that CI systems read."""
    cases = [_case(result, f, f"output {f.tensor}", f.text()) for f in result.outputs]
    cases = cases or [_case(result, None, "models", result.message)]
    if result.verdict == "different" and not any(c.failed for c in cases):
        cases.append(_case(result, None, "models", result.message))
    return forms.junit(f"porter check {result.models[0]} {result.models[1]}", "porter.check", cases)


def sarif(result: Result) -> str:
    """SARIF 2.1.0: each divergence a result with its node as logical location; none when equivalent."""
    cases = []
    if result.verdict == "different":
        if (f := result.first_divergence) is not None:
            cases.append(_case(result, f, "first divergence", f"first divergence: {f.text()}"))
        cases += [_case(result, f, f.tensor, f"output '{f.tensor}': {f.text()}") for f in result.outputs if not f.ok]
    if not cases:
        cases.append(_case(result, None, "models", result.message))
    return forms.sarif(cases)


def _case(result: Result, f: Finding | None, name: str, said: str) -> forms.Case:
    """What the verdict says of one tensor, or of the models as a whole."""
    node, tensor = (f.node, f.tensor) if f is not None else ("", "")
    if result.verdict == "unknown":
        return forms.Case(name, "undecided", result.message, "note", uri=result.models[1], node=node, tensor=tensor)
    if result.verdict == "equivalent" or (f is not None and f.ok):
        return forms.Case(name)
    return forms.Case(name, result.cause, said, details=result.message, uri=result.models[1], node=node, tensor=tensor)


def _metrics(f: Finding) -> str:
    if f.distance is None:
        return f.limit
    d = f.distance
    return f"SQNR {d.sqnr_db:.1f} dB, max abs {number(d.max_abs)}, max rel {number(d.max_rel)}, cosine {d.cosine:.6f}"
