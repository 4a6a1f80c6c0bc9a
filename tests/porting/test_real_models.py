"""Real models, ported to every family and run from their bundles, against what PyTorch and onnxruntime recorded for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import bundle
from porter.device import load_device
from porter.porting.port import port

MODELS = Path(__file__).parents[3] / "shared" / "models"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the folder of real models is not beside the project"),
]
FAMILIES = ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")
CASES = {
    "mnist_cntk_op8/model.onnx": (),
    "resnet_small/model.onnx": ("batch=x[0]",),
    "bert_small/model.onnx": ("batch=input_ids[0]", "seq=input_ids[1]"),
    "minilm_l6_int8w/model.onnx": ("batch=input_ids[0]", "seq=input_ids[1]"),
    "vit_small/model.onnx": ("batch=pixel_values[0]",),
    "llama_gqa/prefill.onnx": ("batch=input_ids[0]", "seq=input_ids[1]"),
    "llama_gqa/decode.onnx": tuple(
        f"{place}={place}" for place in ("input_ids[0]", "attention_mask[0]", "attention_mask[1]", "past.0.key[2]")
    ),
}  # fmt: skip


def recorded(model: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and outputs of the first recorded case."""
    path = MODELS / model
    file = path.with_name(f"{path.stem}.io_0.npz")
    if file.exists():
        arrays = dict(np.load(file))
        return (
            {k[3:]: v for k, v in arrays.items() if k.startswith("in|")},
            {k[4:]: v for k, v in arrays.items() if k.startswith("out|")},
        )
    sys.path.insert(0, str(MODELS))
    import inputs

    feeds, _ = next(inputs.cases(path.parent.name))
    return feeds, dict(np.load(path.with_name("golden_0.npz")))


def bound(words: tuple[str, ...], feeds: dict[str, np.ndarray]) -> dict[str, int]:
    dims = {}
    for word in words:
        name, _, place = word.rpartition("=")
        value, _, axis = place.rstrip("]").rpartition("[")
        dims[name] = feeds[value].shape[int(axis)]
    return dims


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", FAMILIES)
@pytest.mark.parametrize("model", CASES)
def test_a_bundle_reproduces_what_was_recorded(model: str, device: str, precision: str, tmp_path: Path) -> None:
    feeds, wanted = recorded(model)
    chosen = load_device(device)
    result = port(
        MODELS / model, targets=[chosen], out=tmp_path / "out", dims=bound(CASES[model], feeds), precision=precision
    )
    report: dict[str, Any] = result.to_json()["targets"][0]
    assert report["status"] == "ok", report.get("message")
    assert report["kernels"]["host"] == 0
    assert report["kernels"]["checked"] == report["kernels"]["unique"]
    assert report["end_to_end"]["sqnr_db"] >= (90 if precision == "fp32" else 30)
    outputs, how = bundle.run(bundle.read(tmp_path / "out"), {k: feeds[k] for k in feeds})
    assert how.host == 0
    for name, value in wanted.items():
        if name in outputs:
            error = np.sqrt(np.mean((outputs[name].astype(np.float64) - value) ** 2))
            signal = np.sqrt(np.mean(value.astype(np.float64) ** 2))
            # the report's figure is of other inputs: 10 dB of room; what was recorded is itself float32, good for 110 dB
            assert 20 * np.log10(signal / max(error, 1e-30)) >= min(report["end_to_end"]["sqnr_db"], 110) - 10, name
