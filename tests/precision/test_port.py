"""Ports in few bits, whole: the error ledger in the document, methods in the contract, and a contract that gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import graph
from porter.check import budgets, draw
from porter.device import default_devices, load_device
from porter.errors import PorterError
from porter.porting.port import port
from porter.precision.contract import Formats, methods
from tests.precision.test_faults import one_weight
from tests.precision.test_kernels import weighted
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


def searched(document: dict[str, Any], metric: str) -> float:
    """What a target's search reached in the program, its figures held to their order."""
    assert document["status"] == "ok", document["message"]
    found = document["search"]
    assert found["bound_s"] <= found["predicted_s"] * (1 + 1e-9) and found["predicted_s"] < found["bf16_s"]
    return float(document["end_to_end"]["budgets"][metric])


def test_auto_keeps_its_budget_and_its_contract_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"calibrate": [dict(draw(linear(), seed)) for seed in range(3)], "cache": False}
    methods = "clip=mse,rounding=gptq"
    devices = [load_device(d) for d in ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")]
    limits = budgets(["sqnr_db=24"])
    first = port(
        saved, targets=devices, out=tmp_path / "all", precision="auto", budgets=limits, methods=methods, **given
    )
    for device, target in zip(devices, first.to_json()["targets"], strict=True):
        assert searched(target, "sqnr_db") >= 24
        made = tmp_path / "all" / device.slug
        kept = Formats.read(made / "precision.toml")
        assert kept.budgets == {"sqnr_db": 24.0} and kept.methods == {"clip": "mse", "rounding": "gptq"}
        mine = tmp_path / f"{device.slug}.toml"
        mine.write_text((made / "precision.toml").read_text())
        port(saved, targets=[device], out=tmp_path / device.slug, precision=str(mine), **given)
        assert content(made) == content(tmp_path / device.slug)
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["precision"] == "precision.toml"  # the file that lies in the bundle


@pytest.mark.slow
def test_the_decoder_is_searched_for_every_target_by_one_command(tmp_path: Path) -> None:
    """`--precision auto --budget kl=0.02 --target all`: within the budget for each, and each contract gives the same bytes."""
    model = Path(__file__).parent.parent / "models" / "decoder" / "prefill.onnx"
    given = ["port", str(model), "--dim", "batch=1", "--dim", "seq=32", "--json"]

    def ran(*words: str) -> list[dict[str, Any]]:
        done = subprocess.run([sys.executable, "-m", "porter.cli", *given, *words], capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: some target's toolchain is not installed here
        return list(json.loads(done.stdout)["targets"])

    targets = ran("--precision", "auto", "--budget", "kl=0.02", "--target", "all", "-o", str(tmp_path / "all"))
    assert [t["target"] for t in targets] == list(default_devices())
    for t in targets:
        assert searched(t, "kl") <= 0.02
        slug = t["target"].replace(":", "-")
        mine = tmp_path / f"{slug}.toml"
        mine.write_text((tmp_path / "all" / slug / "precision.toml").read_text())
        ran("--precision", str(mine), "--target", t["target"], "-o", str(tmp_path / slug))
        assert content(tmp_path / "all" / slug) == content(tmp_path / slug)


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


@pytest.mark.parametrize("device, scheme, product", [
    ("gpu:h200", "fp8", "float8_e4m3fn"), ("gpu:h200", "int8", "int8"), ("trainium:trn2", "fp8", "float8_e4m3"),
    ("maia:200", "fp8", "float8_e4m3fn"), ("tpu:v6e", "int8", "int8"), ("tpu:v7x", "fp8", "float8_e4m3fn"),
])  # fmt: skip
def test_a_convolution_with_a_border_multiplies_codes(device: str, scheme: str, product: str, tmp_path: Path) -> None:
    """Outside the picture the pad is a code of 0: scales do not stay with the terms for its sake."""
    model = one_weight("y = Conv <pads=[1,1,1,1]> (x, w)", "2,16,8,8", (32, 16, 3, 3), "2,32,8,8")
    graph.save(model, tmp_path / "conv.onnx")
    where = tmp_path / "out"
    done = port(tmp_path / "conv.onnx", targets=[load_device(device)], out=where, precision=scheme, emulate=True)
    (target,) = done.to_json()["targets"]
    assert target["status"] == "ok", target["message"]
    (audited,) = (s["metric"] for s in target["steps"] if s["name"] == "audit")
    assert audited["multiply_adds"] == {product: 1.0}


@pytest.mark.parametrize("device", ["gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200"])
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_a_convolution_in_blocks_is_multiplied_as_bfloat16(device: str, channels: int, tmp_path: Path) -> None:
    """A block that fills the channels has a scale per place of the window, which the sum runs over as well."""
    model = one_weight("y = Conv <pads=[1,1,1,1]> (x, w)", f"2,{channels},8,8", (32, channels, 3, 3), "2,32,8,8")
    graph.save(model, tmp_path / "conv.onnx")
    done = port(tmp_path / "conv.onnx", targets=[load_device(device)], out=tmp_path / "out", precision="mxfp8w")
    (target,) = done.to_json()["targets"]
    assert target["status"] == "ok", target["message"]
    (audited,) = (s["metric"] for s in target["steps"] if s["name"] == "audit")
    assert audited["multiply_adds"] == {"bfloat16": 1.0}


@pytest.mark.parametrize("device, scheme, product", [
    ("gpu:h200", "fp8", "float8_e4m3fn"), ("gpu:h200", "int8", "int8"), ("trainium:trn2", "fp8", "float8_e4m3"),
    ("maia:200", "fp8", "float8_e4m3fn"), ("tpu:v6e", "int8", "int8"), ("tpu:v7x", "fp8", "float8_e4m3fn"),
])  # fmt: skip
def test_codes_that_another_kernel_made_are_padded_as_codes(
    device: str, scheme: str, product: str, tmp_path: Path
) -> None:
    """The second convolution loads codes from memory: outside the picture is a code of 0, before any scale."""
    model = weighted("""<ir_version: 10, opset_import: ["": 24]>
    g (float[2,16,8,8] x, float[32,16,3,3] w1, float[32,32,3,3] w2) => (float[2,32,4,4] y) {
      a = Conv <pads=[1,1,1,1]> (x, w1)
      b = Relu (a)
      y = Conv <pads=[0,0,1,1], strides=[2,2]> (b, w2)
    }""")
    graph.save(model, tmp_path / "conv.onnx")
    where = tmp_path / "out"
    done = port(tmp_path / "conv.onnx", targets=[load_device(device)], out=where, precision=scheme, emulate=True)
    (target,) = done.to_json()["targets"]
    assert target["status"] == "ok", target["message"]
    (audited,) = (s["metric"] for s in target["steps"] if s["name"] == "audit")
    assert audited["multiply_adds"] == {product: 1.0}
