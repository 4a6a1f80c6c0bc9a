"""A comparison for CI systems: each target a test case, each missed budget a failure; JUnit XML and SARIF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from porter.check.report import RULES, SARIF_SCHEMA


def junit(document: Mapping[str, Any]) -> str:
    """One test case per target."""
    targets = document["targets"]
    failed = [t for t in targets if t["missed"]]
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"porter compare {document['model']}"),
        tests=str(len(targets)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(sum(not t["runs"] and not t["missed"] for t in targets)),
    )
    for t in targets:
        case = ElementTree.SubElement(suite, "testcase", classname="porter.compare", name=_xml(t["target"]))
        if t["missed"]:
            failure = ElementTree.SubElement(case, "failure", type="porter/budget", message=_xml(t["missed"][0]))
            failure.text = _xml("\n".join(t["missed"]))
        elif not t["runs"]:
            ElementTree.SubElement(case, "skipped", message=_xml(str(t["why"])))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(document: Mapping[str, Any]) -> str:
    """SARIF 2.1.0: each missed budget a result under the checker's rule of budgets."""
    rules = [{"id": f"porter/{k}", "shortDescription": {"text": v}} for k, v in RULES.items()]
    where = [
        {"physicalLocation": {"artifactLocation": {"uri": quote(document["model"].split(", ")[-1].replace("\\", "/"))}}}
    ]
    results = [
        {
            "ruleId": "porter/budget",
            "ruleIndex": list(RULES).index("budget"),
            "level": "error",
            "message": {"text": f"{t['target']}: {line}"},
            "locations": where,
        }
        for t in document["targets"]
        for line in t["missed"]
    ]
    driver = {"name": "porter", "informationUri": "https://pypi.org/project/onnx-porter/", "rules": rules}
    return (
        json.dumps(
            {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]},
            indent=2,
        )
        + "\n"
    )


def _xml(words: str) -> str:
    """Without the control characters that XML 1.0 has no way to say."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 32 else repr(c)[1:-1] for c in words)
