"""Ports in few bits, whole: the error ledger in the document, methods in the contract, and a contract that gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import graph
from porter.check import budgets, draw
from porter.device import load_device
from porter.errors import PorterError
from porter.porting.port import port
from porter.precision.contract import Formats, methods
from tests.precision.test_pitfalls import linear

H200 = load_device("gpu:h200")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "linear.onnx"
    graph.save(linear(), path)
    return path


def ported(path: Path, out: Path, **options: Any) -> dict[str, Any]:
    document = port(path, targets=[H200], out=out, cache=False, **options).to_json()["targets"][0]
    assert document["status"] == "ok", document["message"]
    return document


def content(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_port_says_what_its_formats_cost_each_layer(saved: Path, tmp_path: Path) -> None:
    document = ported(saved, tmp_path / "out", precision="fp8")
    step = next(s for s in document["steps"] if s["name"] == "format_errors")
    assert step["metric"]["layers"] == 2 and step["metric"]["unexplained"] == 0 and abs(step["metric"]["excess_db"]) < 1
    assert {"layer", "predicted_db", "observed_db"} <= step["metric"]["most"][0].keys()


def test_auto_keeps_its_budget_and_its_contract_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    given = {"calibrate": [dict(draw(linear(), seed)) for seed in range(3)], "methods": "clip=mse,rounding=gptq"}
    first = ported(saved, tmp_path / "a", precision="auto", budgets=budgets(["sqnr_db=24"]), **given)
    assert first["end_to_end"]["sqnr_db"] >= 24
    contract = tmp_path / "a" / "precision.toml"
    kept = Formats.read(contract)
    assert kept.budgets == {"sqnr_db": 24.0} and kept.methods == {"clip": "mse", "rounding": "gptq"}
    (tmp_path / "mine.toml").write_text(contract.read_text())
    ported(saved, tmp_path / "b", precision=str(tmp_path / "mine.toml"), calibrate=given["calibrate"])
    a, b = content(tmp_path / "a"), content(tmp_path / "b")
    assert {n for n in a if a[n] != b.get(n)} <= {"manifest.json", "report.json"} and a.keys() == b.keys()
    assert a["precision.toml"] == b["precision.toml"]
    manifests = [json.loads((tmp_path / n / "manifest.json").read_text()) for n in "ab"]
    assert [m["precision"] for m in manifests] == ["precision.toml"] * 2  # the file that lies in the bundle


def test_samples_may_come_from_an_iterator(saved: Path, tmp_path: Path) -> None:
    samples = [dict(draw(linear(), seed)) for seed in range(3)]
    ported(saved, tmp_path / "a", precision="fp8", calibrate=samples)
    ported(saved, tmp_path / "b", precision="fp8", calibrate=(s for s in samples))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_methods_are_words_that_exist() -> None:
    assert methods("rounding=gptq, clip=mse") == {"clip": "mse", "rounding": "gptq"}
    for word, message in (("rounding=up", "nearest, gptq"), ("round=gptq", "clip, rounding"), ("alpha=2", "0 to 1")):
        with pytest.raises(PorterError, match=message):
            methods(word)
    made = Formats("int4w", {"*": "int8w"}, {"kl": 0.5}, methods("smooth=smoothquant,alpha=0.7"))
    assert Formats.read(made.text()) == made


def test_a_floor_follows_the_models_own_layers() -> None:
    from porter.precision.schemes import least

    assert least("int8w", 40) == pytest.approx(least("int8w") - 6.02, abs=0.01)
    assert least("bf16", 1000) == 30 and np.isfinite(least("fp8", 0))
