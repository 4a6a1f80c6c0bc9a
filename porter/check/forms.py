"""What was found, as CI systems read it: JUnit XML and SARIF 2.1.0, for every command that judges.

    cases = [Case("output logits", "rounding", "3 of 4096 elements moved", uri="b.onnx", node="/layer.3/norm")]
    junit("porter check a.onnx b.onnx", "porter.check", cases), sarif(cases)

Rule ids are stable: porter/function, porter/rounding, porter/budget, porter/interface, porter/step, porter/undecided.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree

RULES = {
    "function": "The two models compute different functions.",
    "hidden": "The two models compute different functions, which the rounding of the first hides.",
    "rounding": "The second model rounds more than the formats of the first do.",
    "budget": "A budget is missed.",
    "interface": "The two models have different inputs or outputs.",
    "undecided": "Whether the two models are equivalent could not be decided.",
    "step": "A step of a port broke its contract.",
}
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True)
class Case:
    """One thing that was judged.

    rule     of RULES, what is wrong; '' where nothing is
    level    'error' fails, 'note' says that it could not be judged
    details  more lines, for who opens the case
    uri      the file that is wrong; node and tensor: where in it
    """

    name: str
    rule: str = ""
    message: str = ""
    level: Literal["error", "note"] = "error"
    details: str = ""
    uri: str = ""
    node: str = ""
    tensor: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.rule) and self.level == "error"


def junit(suite: str, classname: str, cases: Sequence[Case]) -> str:
    """One test case each; notes are skipped ones."""
    found = ElementTree.Element(
        "testsuite",
        name=plain(suite),
        tests=str(len(cases)),
        failures=str(sum(c.failed for c in cases)),
        errors="0",
        skipped=str(sum(bool(c.rule) and not c.failed for c in cases)),
    )
    for c in cases:
        case = ElementTree.SubElement(found, "testcase", classname=classname, name=plain(c.name))
        if c.failed:
            said = ElementTree.SubElement(case, "failure", type=f"porter/{c.rule}", message=plain(c.message))
            said.text = plain(c.details or c.message)
        elif c.rule:
            ElementTree.SubElement(case, "skipped", message=plain(c.message))
    root = ElementTree.Element("testsuites")
    root.append(found)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(cases: Sequence[Case]) -> str:
    """Each case with a rule is a result, its node as logical location."""
    rules = [{"id": f"porter/{k}", "shortDescription": {"text": v}} for k, v in RULES.items()]
    driver = {"name": "porter", "informationUri": "https://pypi.org/project/onnx-porter/", "rules": rules}
    run = {"tool": {"driver": driver}, "results": [_result(c) for c in cases if c.rule]}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _result(case: Case) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(case.uri.replace("\\", "/"))}}}
    if case.node:
        full = f"{case.node}:{case.tensor}" if case.tensor else case.node
        location["logicalLocations"] = [{"name": case.node, "fullyQualifiedName": full, "kind": "element"}]
    return {"ruleId": f"porter/{case.rule}", "ruleIndex": list(RULES).index(case.rule), "level": case.level,
            "message": {"text": case.message}, "locations": [location]}  # fmt: skip


def plain(words: str) -> str:
    """Without the control characters that XML 1.0 has no way to say."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 32 else repr(c)[1:-1] for c in words)
