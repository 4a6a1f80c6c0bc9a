"""JUnit XML and SARIF of check, port and compare hold to their public schemas, and say what the command found."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.check import forms
from porter.check.forms import Case

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
xmlschema = pytest.importorskip("xmlschema", reason="xmlschema is not installed")

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"


@pytest.fixture(scope="module")
def valid():
    """valid(junit, sarif) fails where a file does not hold to its schema, and returns both parsed."""
    sarif_schema = jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text()))
    junit_schema = xmlschema.XMLSchema(str(SCHEMAS / "junit-10.xsd"))

    def held(junit: str, sarif: str):
        junit_schema.validate(junit)
        document = json.loads(sarif)
        sarif_schema.validate(document)
        return ElementTree.fromstring(junit), document

    with pytest.raises(jsonschema.ValidationError):
        sarif_schema.validate({"version": "2.1.0", "runs": [{"results": []}]})
    with pytest.raises(xmlschema.XMLSchemaException):
        junit_schema.validate("<testsuites><testsuite name='x'/></testsuites>")
    return held


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models with a blank")
    w = numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3, d]) for n, d in (("x", 8), ("y", 4)))
    made = {}
    for name, axis in (("right", 1), ("wrong", 0)):
        nodes = [helper.make_node("MatMul", ["x", "w"], ["s"], "/dense<&>"),
                 helper.make_node("Softmax", ["s"], ["y"], "/softmax", axis=axis)]  # fmt: skip
        graph = helper.make_graph(nodes, "g", [x], [y], [w])
        made[name] = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), made[name])
    return made


def porter(folder: Path, *words: object) -> tuple[int, str, str, str]:
    """Exit code, stdout, JUnit and SARIF of a command."""
    line = [sys.executable, "-m", "porter.cli", *map(str, words), "--junit", "j.xml", "--sarif", "s.sarif"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder)
    assert (folder / "j.xml").is_file(), done.stderr
    return done.returncode, done.stdout, (folder / "j.xml").read_text(), (folder / "s.sarif").read_text()


def test_check_different_names_the_node(valid, models, tmp_path):
    code, _, junit, sarif = porter(tmp_path, "check", models["right"], models["wrong"])
    suite, document = valid(junit, sarif)
    assert code == 1 and suite.find("testsuite").get("failures") == "1"
    results = document["runs"][0]["results"]
    assert {r["ruleId"] for r in results} == {"porter/function"}
    assert results[0]["locations"][0]["logicalLocations"][0]["name"] == "/softmax"
    assert "%20" in results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]


def test_check_equivalent_has_no_results_and_unknown_a_note(valid, models, tmp_path):
    code, _, junit, sarif = porter(tmp_path, "check", models["right"], models["right"])
    suite, document = valid(junit, sarif)
    assert (code, document["runs"][0]["results"], suite.find("testsuite").get("failures")) == (0, [], "0")
    code, _, junit, sarif = porter(tmp_path, "check", models["right"], models["wrong"], "--method", "field")
    suite, document = valid(junit, sarif)
    assert code == 3 and suite.find("testsuite").get("skipped") == "1"
    assert [r["level"] for r in document["runs"][0]["results"]] == ["note"]


def test_a_port_with_budgets_and_a_baseline(valid, models, tmp_path):
    words = ["port", models["right"], "--target", "toy", "--json", "-o"]
    code, out, junit, sarif = porter(tmp_path, *words, "first", "--budget", "latency_ms=1e9,memory_gb=1")
    suite, document = valid(junit, sarif)
    assert (code, document["runs"][0]["results"], suite.find("testsuite").get("failures")) == (0, [], "0")
    assert {c.get("name") for c in suite.iter("testcase")} >= {"toy:toy kernels", "toy:toy end_to_end"}
    last = json.loads(out)
    last["targets"][0]["figures"]["latency_s"] /= 2
    (tmp_path / "last.json").write_text(json.dumps(last))
    code, out, junit, sarif = porter(
        tmp_path, *words, "second", "--budget", "memory_gb=1e-9", "--budget", "usd_per_thousand_runs=1",
        "--baseline", tmp_path / "last.json",
    )  # fmt: skip
    suite, document = valid(junit, sarif)
    assert code == 1 and suite.find("testsuite").get("failures") == "2"
    assert {r["ruleId"] for r in document["runs"][0]["results"]} == {"porter/budget"}
    now = json.loads(out)
    assert [c["figure"] for c in now["changes"]] == ["latency_s"] and now["changes"][0]["worse"]
    assert any("memory_gb is" in line for line in now["targets"][0]["missed"])
    assert "usd_per_thousand_runs is not known" in " ".join(now["targets"][0]["missed"]), "toy has no price"
    code, _, _, _ = porter(tmp_path, *words, "third", "--budget", "usd_per_thousand_runs=1", "--price", "toy:toy=2")
    assert code == 0


def test_a_baseline_that_is_none_is_said(models, tmp_path):
    (tmp_path / "bad.json").write_text('{"targets": [{}]}')
    line = [sys.executable, "-m", "porter.cli", "port", models["right"], "--target", "toy", "-o", tmp_path / "o",
            "--baseline", tmp_path / "bad.json"]  # fmt: skip
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "a document of porter port --json" in done.stderr, done.stderr


def test_compare_has_the_same_forms(valid, models, tmp_path):
    code, _, junit, sarif = porter(
        tmp_path, "compare", models["right"], "--target", "gpu,tpu", "--quick", "--budget", "latency_ms=1e-9"
    )
    suite, document = valid(junit, sarif)
    assert code == 1 and suite.find("testsuite").get("failures") == "2"
    assert {r["ruleId"] for r in document["runs"][0]["results"]} == {"porter/budget"}


def test_what_xml_cannot_say_is_spelled_out(valid):
    case = Case("a\x00b", "step", 'bell \x07, <tag> & "quote"', uri="C:\\models\\a b.onnx", node="/n", tensor="t")
    suite, document = valid(forms.junit("s\x1b", "porter.port", [case, Case("fine")]), forms.sarif([case]))
    assert next(suite.iter("failure")).get("message") == 'bell \\x07, <tag> & "quote"'
    assert (
        document["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        == "C%3A/models/a%20b.onnx"
    )
