"""Weights and activations as codes in the graph: what stands there, and how far the numbers move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.check import draw
from porter.device import load_device
from porter.porting.kernels import program_of
from porter.precision.schemes import SCHEMES, least
from porter.tile.canonical import canonical
from porter.tile.form import Cast, Dot, Form
from tests.precision.test_pitfalls import linear


def narrow(scheme: str, device: str = "gpu:b200") -> graph.Model:
    return pipeline.run(linear(), f"quantization.narrow{{scheme={scheme}}}", load_device(device), checks=False).model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_a_valid_model_within_its_own_budget(scheme: str) -> None:
    before, after = linear(), narrow(scheme)
    graph.validate(after)
    sample = draw(before)
    truth, got = (ops.evaluate(m, dict(sample), xp)["y"] for m, xp in ((before, ops.float64), (after, ops.source)))
    assert 10 * np.log10(np.sum(truth**2) / np.sum((got - truth) ** 2)) >= least(scheme)
    assert not any(n in after.graph.initializers for n in ("w1", "w2"))


def test_more_bits_lose_less() -> None:
    sample = draw(linear())
    truth = ops.evaluate(linear(), dict(sample), ops.float64)["y"]
    error = {
        s: np.std(ops.evaluate(narrow(s), dict(sample), ops.source)["y"] - truth)
        for s in ("int8w", "fp8w", "nvfp4w", "mxfp4w")
    }
    assert error["int8w"] < error["fp8w"] < error["nvfp4w"] < error["mxfp4w"]


def product(scheme: str, *, integer: tuple[str, ...] = ()) -> tuple[Form, Dot]:
    """The canonical form of the first kernel that multiplies, and its dot."""
    text = f"quantization.narrow{{scheme={scheme}}}, quantization.decoded, tiling.partition"
    model = pipeline.run(linear(), text, load_device("gpu:b200"), checks=False).model
    for kernel in program_of(model).kernels.values():
        assert kernel.form is not None
        form = canonical(kernel.form, integer=integer)
        for i in form.reachable():
            if isinstance(dot := form[i], Dot):
                return form, dot
    raise AssertionError("no kernel multiplies")


def test_fp8_operands_meet_as_they_are() -> None:
    form, dot = product("fp8")
    assert form[dot.a].dtype == form[dot.b].dtype == "float8_e4m3fn"


def test_int8_operands_meet_as_integers_only_where_the_unit_has_them() -> None:
    form, dot = product("int8", integer=("int8",))
    assert (form[dot.a].dtype, form[dot.b].dtype, dot.dtype) == ("int8", "int8", "int32")
    form, dot = product("int8")
    assert isinstance(form[dot.a], Cast) and form[dot.a].dtype == form[dot.b].dtype == "bfloat16"


@pytest.mark.parametrize("device", ["gpu:h200", "trainium:trn2", "tpu:v6e"])
def test_operands_of_two_formats_meet_in_bfloat16(device: str) -> None:
    """Codes of four bits with a scale per block, and activations in eight: both are decoded by the kernel that multiplies."""
    text = "quantization.narrow{scheme=mxfp4a8}, quantization.bf16"
    model = pipeline.run(linear(), text, load_device(device), checks=False).model
    for node in model.graph:
        if node.op_type == "MatMul":
            casts = [v.producer() for v in node.inputs]  # type: ignore[union-attr]
            assert all(c is not None and c.op_type == "Cast" for c in casts)
    kinds = {graph.dtype(n.outputs[0]).name for n in model.graph if n.op_type == "QuantizeLinear"}  # type: ignore[union-attr]
    assert kinds == {"float8_e4m3fn"}


def test_a_fused_node_with_two_weights_gets_its_activation_once() -> None:
    model = graph.parse(
        """<ir_version: 10, opset_import: ["" : 24]>
        g (float[8,64] x, float[64,96] w_gate, float[64,96] w_up) => (float[8,96] y) {
          gate = MatMul (x, w_gate)
          s = Sigmoid (gate)
          silu = Mul (gate, s)
          up = MatMul (x, w_up)
          y = Mul (silu, up)
        }"""
    )
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        made = graph.add_initializer(model, str(value.name), rng.standard_normal((64, 96)).astype(np.float32) / 8)
        value.replace_all_uses_with(made)
        model.graph.inputs.remove(value)
    ops.infer(model)
    stages = "cleanup, fusion, quantization.narrow{scheme=fp8}"
    after = pipeline.run(model, stages, load_device("gpu:h200"), checks=False).model
    assert [n.op_type for n in after.graph if n.domain == "porter"] == ["SwiGLU"]
    unread = [v.name for n in after.graph for v in n.outputs if not v.uses() and not v.is_graph_output()]
    assert unread == [], "nothing is decoded that nobody reads"


def test_two_weights_of_a_fused_node_do_not_meet_each_other() -> None:
    """On a unit that multiplies blocks by blocks, the gate's and the other half's blocks still meet a plain activation."""
    folder = Path(__file__).parents[1] / "models" / "decoder"
    model = graph.load(folder / "prefill.onnx", {"batch": 1, "seq": 8})
    text = "cleanup, fusion, layout, quantization.narrow{scheme=nvfp4a8}, quantization.bf16"
    made = pipeline.run(model, text, load_device("gpu:b200"), checks=False).model
    gated = [n for n in made.graph if n.op_type == "SwiGLU"]
    assert len(gated) == 6
    assert {v.producer().op_type for n in gated for v in n.inputs} == {"Cast"}  # type: ignore[union-attr]
