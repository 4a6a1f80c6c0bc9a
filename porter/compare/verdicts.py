"""A comparison for CI systems: each target a test case, each missed budget a failure; JUnit XML and SARIF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porter.check import forms
from porter.check.forms import Case


def junit(document: Mapping[str, Any]) -> str:
    """One test case per target."""
    cases = []
    for t in document["targets"]:
        if t["missed"]:
            cases.append(Case(t["target"], "budget", t["missed"][0], details="\n".join(t["missed"])))
        elif not t["runs"]:
            cases.append(Case(t["target"], "undecided", str(t["why"]), "note"))
        else:
            cases.append(Case(t["target"]))
    return forms.junit(f"porter compare {document['model']}", "porter.compare", cases)


def sarif(document: Mapping[str, Any]) -> str:
    """SARIF 2.1.0: each missed budget a result under the checker's rule of budgets."""
    uri = document["model"].split(", ")[-1]
    return forms.sarif(
        [
            Case(t["target"], "budget", f"{t['target']}: {line}", uri=uri)
            for t in document["targets"]
            for line in t["missed"]
        ]
    )
