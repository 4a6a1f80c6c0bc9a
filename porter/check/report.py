"""Results of checks for people and for machines: text, JUnit XML, SARIF.

Rule ids are stable: porter/function, porter/rounding, porter/budget, porter/interface, porter/undecided.
"""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

from porter.check.result import Result
from porter.check.verdict import Finding, number

RULES = {
    "function": "The two models compute different functions.",
    "rounding": "The second model rounds more than the formats of the first do.",
    "budget": "The second model misses a precision budget.",
    "interface": "The two models have different inputs or outputs.",
    "undecided": "Whether the two models are equivalent could not be decided.",
}
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


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
    failed = [f for f in result.outputs if not f.ok]
    cases = result.outputs or (None,)
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"porter check {result.models[0]} {result.models[1]}"),
        tests=str(len(cases)),
        failures=str(len(failed) or int(result.verdict == "different")),
        errors="0",
        skipped=str(int(result.verdict == "unknown")),
    )
    for f in cases:
        name = f"output {f.tensor}" if f is not None else "models"
        case = ElementTree.SubElement(suite, "testcase", classname="porter.check", name=_xml(name))
        if result.verdict == "unknown":
            ElementTree.SubElement(case, "skipped", message=_xml(result.message))
        elif result.verdict == "different" and (f is None or not f.ok):
            what = f.text() if f is not None else result.message
            failure = ElementTree.SubElement(case, "failure", type=f"porter/{result.cause}", message=_xml(what))
            failure.text = _xml(result.message)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(result: Result) -> str:
    """SARIF 2.1.0: each divergence a result with its node as logical location; none when equivalent."""
    results = []
    if result.verdict == "unknown":
        results.append(_sarif_result("undecided", result.message, result.models[1], None, "note"))
    elif result.verdict == "different":
        if result.first_divergence is not None:
            f = result.first_divergence
            results.append(_sarif_result(result.cause, f"first divergence: {f.text()}", result.models[1], f, "error"))
        failed = [f for f in result.outputs if not f.ok]
        results += [
            _sarif_result(result.cause, f"output '{f.tensor}': {f.text()}", result.models[1], f, "error")
            for f in failed
        ]
        if not results:
            results.append(_sarif_result(result.cause, result.message, result.models[1], None, "error"))
    rules = [{"id": f"porter/{k}", "shortDescription": {"text": v}} for k, v in RULES.items()]
    driver = {"name": "porter", "informationUri": "https://pypi.org/project/onnx-porter/", "rules": rules}
    document = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(document, indent=2) + "\n"


def _sarif_result(rule: str, message: str, model: str, f: Finding | None, level: str) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(model)}}}
    if f is not None and f.node:
        location["logicalLocations"] = [
            {"name": f.node, "fullyQualifiedName": f"{f.node}:{f.tensor}", "kind": "element"}
        ]
    return {"ruleId": f"porter/{rule}", "ruleIndex": list(RULES).index(rule), "level": level,
            "message": {"text": message}, "locations": [location]}  # fmt: skip


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.replace("\\", "/"))


def _metrics(f: Finding) -> str:
    if f.distance is None:
        return f.limit
    d = f.distance
    return f"SQNR {d.sqnr_db:.1f} dB, max abs {number(d.max_abs)}, max rel {number(d.max_rel)}, cosine {d.cosine:.6f}"


def _xml(words: str) -> str:
    """Without the control characters that XML 1.0 has no way to say."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 32 else repr(c)[1:-1] for c in words)
