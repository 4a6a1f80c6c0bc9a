"""What a model makes of its layers' errors: damped, added, or grown, as it is measured and as arithmetic has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter import graph, ops
from porter.device import load_device
from porter.graph import Model
from porter.graph.edit import remember_sources
from porter.porting.port import port
from porter.precision.growth import grown
from porter.precision.ledger import Entry

BODY = {
    "one": "y = MatMul (x, a)",
    "added": "p = MatMul (x, a) \n q = MatMul (p, b) \n y = Identity (q)",
    "damped": "p = MatMul (x, a) \n y = Add (x, p)",
    "grown": "p = MatMul (x, a) \n y = Sub (p, n)",
}
#: dB of a product with entries that err by a hundredth: of one 20; two add up to 17; beside a signal 25 times the product's in
#: power (weights of a fifth) 34; where all but a tenth of the product is taken away again it is 20 dB worse
MUST = {"one": 20.0, "added": 17.0, "damped": 34.2, "grown": 0.0}


def model(kind: str) -> tuple[Model, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    n = 128
    a, b = (rng.standard_normal((n, n)).astype(np.float32) / np.float32(np.sqrt(n)) for _ in range(2))
    a, b = a.astype(np.float32), b.astype(np.float32)
    a = a / np.float32(5) if kind == "damped" else a
    x = rng.standard_normal((64, n)).astype(np.float32)
    text = f'<ir_version: 10, opset_import: ["": 24]> g (float[{n},{n}] a, float[{n},{n}] b, float[64,{n}] n, float[64,{n}] x)'
    made = graph.parse(f"{text} => (float[64,{n}] y) {{ {BODY[kind]} }}")
    sample = {"x": x, "n": np.float32(0.9) * (x @ a)}
    for name, array in (("a", a), ("b", b)):
        value = next(v for v in made.graph.inputs if v.name == name)
        held = graph.add_initializer(made, f"{name}_held", array)
        value.replace_all_uses_with(held)
        made.graph.inputs.remove(value)
        held.name = name
    remember_sources(made)
    ops.infer(made)
    return made, sample


@pytest.mark.parametrize("kind", BODY)
def test_errors_are_followed_to_the_output(kind: str) -> None:
    made, sample = model(kind)
    entries = [Entry(w, w, "int8w", 0.01, 0.0, 0.01, 0.01) for w in ("a", "b") if f", {w})" in BODY[kind]]
    found = grown(made, entries, sample)
    assert found.expected == pytest.approx(MUST[kind], abs=0.5) and found.scatter < 0.5
    assert found.least == found.expected - 3.0


@pytest.mark.parametrize("device", ["trainium:trn2", "gpu:h200"])
def test_a_deep_model_in_four_bits_reaches_what_its_layers_must_leave(
    models: Path, device: str, tmp_path: Path
) -> None:
    """Neither much less, as errors that only add would have it on one of the two, nor much more."""
    path, out = models / "resnet_small" / "model.onnx", tmp_path / "out"
    done = port(path, targets=[load_device(device)], out=out, dims={"x[0]": 1}, precision="nvfp4w")
    (target,) = done.to_json()["targets"]
    assert target["status"] == "ok", target["message"]
    told = next(s["metric"]["model"] for s in target["steps"] if s["name"] == "format_errors")
    reached = target["end_to_end"]["sqnr_db"]
    assert reached > told["floor_db"] and abs(reached - told["expected_db"]) < 3 * told["scatter_db"]
