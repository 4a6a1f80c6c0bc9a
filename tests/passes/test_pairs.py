"""Every pass on pairs of models written as text: what it does, what it refuses, and that both sides compute the same.

A file is named after the pass. A case is a title, a model, `# ->`, and the model after the pass (`unchanged` where it
refuses; then `# because NODE: WORDS` says what `--why` answers). `--update-golden` rewrites the right-hand sides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest

from porter import check, graph, ops, pipeline
from porter.check.gate import RMS_RATIO, floor
from porter.check.measure import difference, rms

FIXTURES = Path(__file__).parent / "fixtures"
RULE = "# -----\n"


@dataclass(frozen=True)
class Case:
    file: Path
    title: str
    before: str
    after: str
    because: tuple[tuple[str, str], ...]

    @property
    def passes(self) -> str:
        return self.file.stem


def cases() -> list[Case]:
    return [case for file in sorted(FIXTURES.glob("*.txt")) for case in read(file)]


def read(file: Path) -> list[Case]:
    found = []
    for block in file.read_text().split(RULE):
        title, _, rest = block.strip().partition("\n")
        before, _, after = rest.partition("# ->\n")
        because = tuple(re.findall(r"^# because ([^:]+): (.+)$", after, re.M))
        after = re.sub(r"^# because .*\n?", "", after, flags=re.M)
        found.append(Case(file, title.removeprefix("# "), before.strip(), after.strip(), because))
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.passes}: {case.title}")
def test_pair(case: Case, update_golden: bool) -> None:
    before = graph.parse(case.before)
    ops.infer(before)
    result = pipeline.run(before, case.passes, no_cache=True)
    found = graph.text(result.model, bare=True).strip()
    same = found == graph.text(before, bare=True).strip()
    if update_golden:
        rewrite_golden(case, "unchanged" if same else found)
        return
    wanted = "unchanged" if case.after == "unchanged" else graph.text(graph.parse(case.after), bare=True).strip()
    assert ("unchanged" if same else found) == wanted
    for node, words in case.because:
        answers = [answer.reason for _, answer in pipeline.why(before, node, case.passes)]
        assert any(words in reason for reason in answers), f"{words!r} is in none of {answers}"
    if not same:
        compute_the_same(before, result.model, pipeline.parse(case.passes)[0].work.contract)


def compute_the_same(before: graph.Model, after: graph.Model, contract: check.Contract) -> None:
    """Both sides by porter, and the new one by onnxruntime, each as near to float64 as its formats allow."""
    inputs = check.draw(before, seed=7)
    verdict = check.compare(before, after, contract if contract.budgets else check.rounding, inputs)
    assert verdict.ok, verdict.message
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            graph.to_proto(after).SerializeToString(), options, ["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return  # a type that onnxruntime has no kernel for
    names = [value.name for value in after.graph.outputs]
    outside = session.run(names, dict(inputs))
    truth, source = ops.evaluate(before, dict(inputs), ops.float64), ops.evaluate(after, dict(inputs), ops.source)
    for name, value in zip(names, outside, strict=True):
        # onnxruntime sums in another order: as far off as we may be, and at least a few roundings of the tensor's size
        ours = rms(difference(truth[name], source[name]))
        allowed = max(RMS_RATIO * ours, 8 * floor(truth[name], value.dtype))
        assert rms(difference(truth[name], value)) <= allowed, f"onnxruntime differs at {name}"


def rewrite_golden(case: Case, after: str) -> None:
    text = case.file.read_text()
    old = next(block for block in text.split(RULE) if block.strip().startswith(f"# {case.title}\n"))
    head, _, tail = old.partition("# ->\n")
    because = "".join(re.findall(r"^# because .*\n?", tail, re.M))
    new = f"{head}# ->\n{after}\n{because}" + ("" if because.endswith("\n") or not because else "\n")
    case.file.write_text(text.replace(old, new))
