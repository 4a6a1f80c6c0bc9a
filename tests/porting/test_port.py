"""A port from file to bundle: what the document says, what a broken part does to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from porter import bundle
from porter.device import load_device
from porter.porting import port as module
from porter.porting.port import port
from porter.targets.toy import Toy
from porter.tile.target import Emitted

sys.path.insert(0, str(Path(__file__).parent))
import models

TOY = load_device("toy:toy")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def save(model: onnx.ModelProto) -> Path:
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


def ported(path: Path, out: Path, **options: Any) -> dict[str, Any]:
    return port(path, targets=[options.pop("device", TOY)], out=out, cache=False, **options).to_json()["targets"][0]


@pytest.mark.parametrize("emulate", [False, True])
def test_a_decoder_ports_with_every_check(saved: Any, tmp_path: Path, emulate: bool) -> None:
    report = ported(saved(models.decoder()), tmp_path / "out", dims={"batch": 2}, emulate=emulate)
    assert report["status"] == "ok", report.get("message")
    assert report["kernels"]["host"] == 0
    assert report["kernels"]["checked"] == report["kernels"]["unique"]
    assert report["end_to_end"]["executor"] == ("emitted" if emulate else "tile")
    assert report["end_to_end"]["witness"] == "onnxruntime"
    assert report["end_to_end"]["sqnr_db"] >= 90
    assert all(s["status"] == "ok" for s in report["steps"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_port_says_which_step_made_its_error(saved: Any, tmp_path: Path, precision: str) -> None:
    report = ported(saved(models.decoder()), tmp_path / "out", dims={"batch": 2}, precision=precision)
    book = report["ledger"]
    for output in {e["output"] for e in book}:
        entries = [e for e in book if e["output"] == output]
        assert sum(e["share"] for e in entries) == pytest.approx(1.0)
        assert entries[0]["step"] == "the model's own rounding" and entries[-1]["step"] == "kernels"
        assert all(e["share"] == pytest.approx(e["format"] + e["accumulation"]) for e in entries)
        assert all(e["excess_db"] == pytest.approx(e["error_db"] - e["predicted_db"], abs=1e-6) for e in entries)
        assert not any(e["unexplained"] for e in entries), entries
        if precision == "bf16":
            assert max(entries, key=lambda e: e["share"])["step"] == "quantization.bf16"
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert kept["ledger"] == book


def test_equal_layers_share_their_kernels(saved: Any, tmp_path: Path) -> None:
    two = ported(saved(models.decoder(2)), tmp_path / "two", dims={"batch": 1})["kernels"]
    five = ported(saved(models.decoder(5)), tmp_path / "five", dims={"batch": 1})["kernels"]
    assert five["unique"] == two["unique"]
    assert five["calls"] == two["calls"] * 5 / 2


def test_a_bundle_runs_as_the_model_does(saved: Any, tmp_path: Path) -> None:
    path = saved(models.convnet())
    assert ported(path, tmp_path / "out")["status"] == "ok"
    x = np.random.default_rng(3).standard_normal((1, 3, 17, 19)).astype(np.float32)
    outputs, how = bundle.run(bundle.read(tmp_path / "out"), {"x": x})
    wanted = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    assert np.allclose(outputs["logits"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert how.host == 0


def test_equal_ports_are_equal_to_the_byte(saved: Any, tmp_path: Path) -> None:
    path = saved(models.convnet())
    for name in ("a", "b"):
        ported(path, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_bf16_costs_what_bf16_costs(saved: Any, tmp_path: Path) -> None:
    report = ported(saved(models.decoder()), tmp_path / "out", dims={"batch": 2}, precision="bf16")
    assert report["status"] == "ok", report.get("message")
    assert 30 <= report["end_to_end"]["sqnr_db"] <= 70
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert any(b["dtype"] == "bfloat16" and b["space"] == "weight" for b in manifest["buffers"])
    assert any(b["dtype"] == "bfloat16" and b["space"] == "arena" for b in manifest["buffers"])


class _WrongEmitter(Toy):
    """Leaves the gelu's half out."""

    def lower(self, kernel: Any, device: Any) -> Emitted:
        made = super().lower(kernel, device)
        return replace(made, text=made.text.replace("toy.vector('erf'", "toy.vector('tanh'"))


class _WrongProduct(Toy):
    """Multiplies float32 in one bf16 pass, in its tile programs already."""

    def limits(self, device: Any) -> Any:
        return replace(super().limits(device), float32_product="bf16")


class _Refuses(Toy):
    """Compiles nothing."""

    def toolchain(self, device: Any) -> Any:
        from porter.tile.target import Toolchain

        return Toolchain("toycc", "1")

    def compile(self, emitted: Sequence[Emitted], device: Any) -> list[Any]:
        from porter.tile.target import Compiled

        return [Compiled(e.kernel.name, False, f"kernel {e.kernel.name}: too beautiful") for e in emitted]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (_WrongEmitter(), ("toy text against its tile program", "/layer.0/act")),
        (_WrongProduct(), ("tile program against its function", "/layer.0/up", "multiplies float32 as bf16")),
        (_Refuses(), ("the toolchain refuses kernel", "too beautiful")),
    ],
    ids=["emitter", "product", "toolchain"],
)
def test_what_is_wrong_on_purpose_is_stopped_and_named(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Toy, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(module, "target_of", lambda family: target)
    report = ported(saved(models.decoder(1)), tmp_path / "out", dims={"batch": 2})
    assert report["status"] == "failed"
    for word in words:
        assert word in report["message"]
    assert not (tmp_path / "out").exists()


def test_several_targets_stand_in_one_folder_or_in_none(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = saved(models.convnet()), tmp_path / "out"
    both = [TOY, load_device("trainium:trn2")]
    document = port(path, targets=both, out=out, cache=False).to_json()
    assert [t["status"] for t in document["targets"]] == ["ok", "ok"]
    assert sorted(p.name for p in out.iterdir()) == ["toy-toy", "trainium-trn2"]
    assert document["targets"][1]["bundle"] == str(out / "trainium-trn2")
    assert any(s["name"] == "whole_program" for s in document["targets"][1]["steps"])
    monkeypatch.setattr(module, "target_of", lambda family: _WrongProduct())
    assert port(path, targets=[TOY, TOY], out=tmp_path / "bad", cache=False).exit_code == 1
    assert not (tmp_path / "bad").exists()
