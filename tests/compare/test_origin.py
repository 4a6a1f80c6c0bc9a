"""Whose figure a time is: the vendor compiler's where it counts all that a kernel does, the model's else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.compare.comparing import compare
from porter.device import load_device
from porter.targets import tpu

V6E = load_device("tpu:v6e")


def _compared(path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    document = compare(path, targets=[V6E], dims={"m": 8}, **options).to_json()
    return document, document["targets"][0]


def test_a_time_of_the_vendors_takes_the_place_of_the_models(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu.Tpu, "vendor_seconds", lambda self, emitted, device: {e.kernel.name: 5e-6 for e in emitted})
    document, t = _compared(product)
    assert t["latency_s"] == pytest.approx(5e-6 + 1e-6), "the vendor's figure, and the start"
    assert t["origin"]["latency_s"] == t["origin"]["per_second"] == "vendor compiler"
    assert t["origin"]["memory"] == t["origin"]["error"] == "model"
    assert [c["origin"] for c in document["matrix"]["layers"][0]["cells"]] == ["vendor compiler"]
    assert any("1 of 1 launches are timed by the vendor's compiler" in line for line in document["hangs_on"])


def test_an_estimate_asks_no_compiler(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu.Tpu, "vendor_seconds", lambda *_: pytest.fail("asked"))
    _, t = _compared(product, quick=True)
    assert t["origin"]["latency_s"] == "model" and t["vendor_timed"] == [0, 1]


def test_a_product_in_six_passes_is_not_counted_by_xla(product: Path) -> None:
    _, t = _compared(product)
    assert t["precision"] == "bf16x6" and t["origin"]["latency_s"] == "model" and t["vendor_timed"][0] == 0


@pytest.mark.slow
def test_libtpu_times_a_convolution_in_bfloat16(tmp_path: Path) -> None:
    if tpu.target.toolchain(V6E) is None:
        pytest.skip("libtpu is not installed")
    w = (np.random.default_rng(0).standard_normal((64, 64, 3, 3)) * 0.1).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", 64, 32, 32]) for n in "xy")
    node = helper.make_node("Conv", ["x", "w"], ["y"], "/conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    path = tmp_path / "conv.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    document, t = _compared(path, precision="bf16")
    timed, of = t["vendor_timed"]
    assert timed > 0
    # XLA moves no fewer bytes than the tensors have: its time is at least what they take at the device's bandwidth
    cell = next(c for layer in document["matrix"]["layers"] for c in layer["cells"] if c["origin"] == "vendor compiler")
    assert cell["seconds"] - 1e-6 > 0.5 * cell["bytes"] / float(V6E["memory.hbm.bytes_per_s"])
    assert t["origin"]["latency_s"] == ("vendor compiler" if timed == of else "model")
