"""The error ledger: what formats must cost is what they do cost, and a planted fault is no cost of a format."""

from __future__ import annotations

import numpy as np
import pytest

from porter import graph, pipeline
from porter.check import draw
from porter.device import load_device
from porter.errors import CheckFailed, PorterError
from porter.graph import Model, constant, make_tensor
from porter.precision.contract import Formats
from porter.precision.ledger import Ledger, ledger
from porter.precision.schemes import SCHEMES
from tests.precision.test_pitfalls import linear

CONV = """<ir_version: 10, opset_import: ["": 24]>
g (float[2,32,9,9] x, float[32,32,3,3] w) => (float[2,32,7,7] y) {
  y = Conv (x, w)
}"""


def conv() -> Model:
    model = graph.parse(CONV)
    value = list(model.graph.inputs)[1]
    array = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)
    made = graph.add_initializer(model, "w/held", array)
    value.replace_all_uses_with(made)
    model.graph.inputs.remove(value)
    return model


def book(scheme: str, model: Model | None = None, device: str = "gpu:h200", options: str = "", change=None) -> Ledger:
    before, target = model or linear(), load_device(device)
    text = f"quantization.narrow{{scheme={scheme}{options}}}"
    after = pipeline.run(before, text, target, checks=False).model
    if change is not None:
        change(after)
    return ledger(before, after, Formats(scheme), target, draw(before))


@pytest.mark.parametrize("device", ["gpu:h200", "trainium:trn2", "tpu:v6e"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_err_as_their_formats_must(scheme: str, device: str) -> None:
    try:
        found = book(scheme, device=device)
    except PorterError as e:
        pytest.skip(str(e).partition("\n")[0])
    assert len(found.entries) == 2
    assert all(-2.5 < e.excess_db < 1.0 for e in found.entries), found.text()


@pytest.mark.parametrize("scheme", ["int8", "fp8", "mxfp4w"])
def test_a_convolution_too(scheme: str) -> None:
    (entry,) = book(scheme, conv()).entries
    assert -2.5 < entry.excess_db < 1.0


def test_gptq_is_below_what_its_format_must() -> None:
    assert max(e.excess_db for e in book("nvfp4w", options=",rounding=gptq,clip=mse").entries) < 0


def scales(model: Model, change) -> None:
    for name, value in model.graph.initializers.items():
        array = constant(value)
        if name.endswith("w1/scale") and array is not None:
            value.const_value = make_tensor(change(array), name=name)


def codes(model: Model, change) -> None:
    for name, value in model.graph.initializers.items():
        array = constant(value)
        if name.startswith("w1/") and "scale" not in name and array is not None:
            value.const_value = make_tensor(np.ascontiguousarray(change(array)), name=name)


FAULTS = {
    "scales of 240 for codes of 448": ("fp8w", lambda m: scales(m, lambda s: (s * (448 / 240)).astype(s.dtype))),
    "codes of a flavour that means a 16th": ("fp8w", lambda m: scales(m, lambda s: s / 16)),
    "each scale at its neighbour's place": ("int8w", lambda m: scales(m, lambda s: np.roll(s, 1))),
    "another vendor's power of two": (
        "mxfp4w",
        lambda m: scales(m, lambda s: (s.astype(np.float32) * 2).astype(s.dtype)),
    ),
    "blocks along the other axis": ("mxfp4w", lambda m: scales(m, lambda s: np.resize(s.T, s.shape))),
    "nibbles swapped": ("int4w", lambda m: codes(m, lambda c: c.reshape(-1, 2)[:, ::-1].reshape(c.shape))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_cost_of_a_format(fault: str) -> None:
    scheme, change = FAULTS[fault]
    found = book(scheme, change=change)
    assert [e.weight for e in found.unexplained] == ["w1"], found.text()
    with pytest.raises(CheckFailed, match="1 of 2 layers unexplained") as e:
        found.settle("gpu:h200")
    assert found.entries[0].layer in str(e.value)


def test_a_sample_far_beyond_the_calibrated_range_is_told() -> None:
    model, target = linear(), load_device("gpu:h200")
    after = pipeline.run(model, "quantization.narrow{scheme=int8}", target, checks=False).model
    sample = {"x": draw(model)["x"] * np.where(np.arange(64) == 5, 40, 1).astype(np.float32)}
    found = ledger(model, after, Formats("int8"), target, sample)
    with pytest.raises(CheckFailed, match="the calibrated range cuts off"):
        found.settle("gpu:h200")
