"""The field decides the rewrites of cleanup, fusion and layout by itself, those that fold constants too."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from porter import graph, pipeline
from porter.errors import CheckFailed
from porter.pipeline.instruments import Check, Instrument

sys.path.insert(0, str(Path(__file__).parent))
from decided import LEAST, MODELS, decided, table
from equal_layers import decoder

REAL = sorted(p for p in MODELS.glob("*/*.onnx") if not p.parent.name.startswith("reject"))
RNG = np.random.default_rng(3)
CONV = """g (float[1,3,6,6] x) => (float[1,4,4,4] y) {
  c = Conv (x, w)
  y = BatchNormalization <epsilon = 1e-3> (c, gamma, beta, mean, variance) }"""
WEIGHTS = {"w": RNG.standard_normal((4, 3, 3, 3)), "gamma": RNG.uniform(0.5, 2, 4), "beta": RNG.standard_normal(4),
           "mean": RNG.standard_normal(4), "variance": RNG.uniform(0.5, 2, 4)}  # fmt: skip


def test_every_rewrite_of_a_decoder_is_decided(tmp_path):
    onnx.save(decoder(2), tmp_path / "m.onnx")
    seen = decided(tmp_path / "m.onnx", "cleanup, fusion, layout")
    lines, share = table([("decoder", seen.counts)])
    assert share == 1.0 and sum(seen.counts.values()) > 10, lines


class Seen(Instrument):
    def __init__(self):
        self.rewrites = []

    def rewritten(self, stage, rewrite):
        self.rewrites.append((stage, rewrite))


def test_what_is_folded_is_decided_unrounded_and_stored_within_half_an_ulp(model):
    before, seen = model(CONV, {k: v.astype(np.float32) for k, v in WEIGHTS.items()}), Seen()
    result = pipeline.run(before, "fusion.conv_batchnorm", no_cache=True, instruments=[seen])
    assert result.steps[0].contract == "rounding" and result.steps[0].metric["field_chance"] < 1e-9
    ((stage, rewrite),) = seen.rewrites
    assert [n.op_type for n in rewrite.after.graph] == ["Conv"] and "Sqrt" in [n.op_type for n in rewrite.meant.graph]
    assert all(np.array_equal(stored, exact.astype(np.float32)) for stored, exact in rewrite.folded)
    off = tuple((np.nextafter(stored, np.float32(9)), exact) for stored, exact in rewrite.folded)
    with pytest.raises(CheckFailed, match="further off"):
        Check().rewritten(stage, replace(rewrite, folded=off))


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="../shared is not there")
@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_nearly_every_rewrite_of_a_real_model_is_decided(path):
    from porter.errors import PorterError

    try:
        graph.read(path)
        seen = decided(path, "cleanup, fusion, layout")
    except PorterError as error:
        pytest.skip(str(error.where))
    lines, share = table([(path.parent.name, seen.counts)])
    assert share >= LEAST, "\n".join([*lines, *map(str, seen.undecided.items())])
