"""Every real model: it agrees with what was recorded for it, and ports to every family.

The ports take an hour or more: `PORTER_SWEEP=FOLDER` keeps a line for each, and a test whose line is there only reads it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import graph, ops

sys.path.insert(0, str(Path(__file__).parent))
from sweep import MODELS, TARGETS, cases, dims, names, swept

THERE = (MODELS / "catalog.json").is_file()
pytestmark = pytest.mark.skipif(not THERE, reason=f"the folder of real models is absent: {MODELS}")
NAMES = list(names()) if THERE else []
LARGE = {"basic_pitch_op15", "deeplabv3_mnv2_op9", "ppocr_v3_det_en_op11", "squeezenet_fp16_op7", "super_resolution_op10",
         "ultraface_rfb320_op9", "yolox_nano_op11"}  # fmt: skip

# What an element may differ by beside the folder's own rule (a thousandth of itself and of the output's deviation), and why.
ROUNDED = {
    # onnxruntime computes in float16 what porter computes in float32 and rounds once: two units in the last place of 1
    "squeezenet_fp16_op7": 2 * 2.0**-11,
    # onnxruntime's sigmoid of very negative numbers is 2**-23 and more too large (docs/findings.md)
    "yunet_n_dyn_op11": 2.0**-22,
}

# a sum lies at the tie between two codes: in one case onnxruntime's float32 falls on the other side than float64 does
TIES = {"resnet_small_qdq"}


def complaints(outputs: dict[str, np.ndarray], wanted: dict[str, Any], room: float) -> list[str]:
    found = []
    for name, golden in wanted.items():
        if isinstance(golden, dict):
            if "sample" not in golden:
                continue
            flat = outputs[name].reshape(-1)
            assert list(outputs[name].shape) == golden["shape"]
            got = flat[np.linspace(0, flat.size - 1, min(64, flat.size)).astype(int)]
            want, spread = np.array(golden["sample"]), golden["std"] if flat.size > 1 else 1e-2
        else:
            got, want, spread = outputs[name], golden, float(np.asarray(golden, np.float64).std())
        a, b = got.astype(np.float64), np.asarray(want, np.float64)
        assert a.shape == b.shape
        apart = np.abs(a - b) - 1e-3 * np.abs(b) - 1e-3 * spread - room
        if a.size and not apart.max() <= 0:
            found.append(f"{name}: {np.abs(a - b).max():.3g} apart, deviation {spread:.3g}")
    return found


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in NAMES])
def test_it_agrees_with_what_was_recorded(name: str) -> None:
    path = names()[name]
    for feeds, wanted in cases(path):
        model = graph.load(path, dims(path, feeds))
        outputs = ops.evaluate(model, feeds, ops.source)
        found = complaints(outputs, wanted, ROUNDED.get(name, 0.0))
        if found and name in TIES:
            found = complaints(outputs, ops.evaluate(model, feeds, ops.float64), 0.0)
        assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_it_ports(name: str, target: str, tmp_path: Path) -> None:
    line = swept(name, target, Path(os.environ.get("PORTER_SWEEP", tmp_path)))
    assert line.startswith("exit 0"), line


def test_another_domain_is_refused() -> None:
    path = next(MODELS.glob("reject_ml_domain*/model.onnx"))
    words = [sys.executable, "-m", "porter.cli", "port", str(path), "--target", "toy", "-o", "unused"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "operator ai.onnx.ml.LinearClassifier" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sweep_keeps_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sweep

    monkeypatch.setattr(sweep, "ported", lambda *_: sweep.Line(0, 1.0, "done"))
    assert sweep.swept(NAMES[0], "toy", tmp_path) == "exit 0 in 1 s: done"
    monkeypatch.setattr(sweep, "ported", lambda *_: sweep.Line(1, 1.0, "again"))
    assert sweep.swept(NAMES[0], "toy", tmp_path) == "exit 0 in 1 s: done"
