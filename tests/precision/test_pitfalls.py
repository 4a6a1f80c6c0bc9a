"""What goes wrong silently elsewhere, one test each: every difference between chips is a legalization or a message."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.device import load_device
from porter.errors import CheckFailed, PorterError
from porter.graph import Model
from porter.porting.kernels import program_of
from porter.precision import audit, plans
from porter.precision.contract import Formats
from porter.precision.layers import layers
from porter.precision.schemes import MXFP4, MXFP8, SCHEMES, flavour, legal, multiplies, scheme_of
from porter.targets.trainium.limits import chip
from porter.targets.trainium.simulator import Machine
from porter.tile.block_scales import MIXED, PRODUCTS
from porter.tile.target import Emitted, Kernel, target_of
from porter.tile.tiler import tile_form
from porter.triton.roofline import rate

E4M3FN = np.dtype(ml_dtypes.float8_e4m3fn)


def linear(seed: int = 0) -> Model:
    """x @ w1 -> relu -> @ w2, 64 wide."""
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float[8,64] x, float[64,64] w1, float[64,64] w2) => (float[8,64] y) {
      a = MatMul (x, w1)
      b = Relu (a)
      y = MatMul (b, w2)
    }"""
    model = graph.parse(text)
    rng = np.random.default_rng(seed)
    for value in list(model.graph.inputs)[1:]:
        made = graph.add_initializer(model, f"{value.name}", rng.standard_normal((64, 64)).astype(np.float32) / 8)
        value.replace_all_uses_with(made)
        model.graph.inputs.remove(value)
        made.name = value.name
    ops.infer(model)
    return model


def narrowed(device: str, scheme: str = "fp8", model: Model | None = None) -> Model:
    target = load_device(device)
    return pipeline.run(
        model or linear(), f"quantization.narrow{{scheme={scheme},method=minmax}}", target, checks=False
    ).model


def codes(model: Model) -> list[np.ndarray]:
    return [t.const_value.numpy() for t in model.graph.initializers.values() if t.const_value.numpy().dtype == E4M3FN]


def test_int8_is_kept_in_memory_and_multiplied_as_bfloat16_where_the_unit_has_no_integers() -> None:
    for name in ("trainium:trn2", "tpu:v7x", "tpu:8i", "gpu:b300"):
        device = load_device(name)
        found = legal(scheme_of("int8"), device)
        assert found.scheme.weight.format == "int8" and "bfloat16" in found.why[0] and name in found.why[0]
        assert multiplies(scheme_of("int8"), device) == "bfloat16"
    for name in ("gpu:h200", "gpu:b200", "tpu:v6e"):
        assert multiplies(scheme_of("int8"), load_device(name)) == "int8"


def test_an_integer_product_above_two_to_the_24_is_refused_where_sums_are_float32() -> None:
    model = graph.parse("""<ir_version: 10, opset_import: ["": 24]>
    g (int8[4,2048] x, int8[2048,8] w) => (int32[4,8] y) { [n1] y = MatMulInteger (x, w) }""")
    ops.infer(model)
    with pytest.raises(CheckFailed, match="length 2048 in layer"):
        audit.integers(model, load_device("trainium:trn2"))
    audit.integers(model, load_device("gpu:h200"))


def test_e4m3_is_scaled_for_the_flavour_of_the_device() -> None:
    assert [flavour(load_device(d)) for d in ("gpu:h200", "trainium:trn2", "tpu:v6e", "trainium:trn3")] == [
        "float8_e4m3fn", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"
    ]  # fmt: skip
    assert max(float(np.abs(c.astype(np.float32)).max()) for c in codes(narrowed("gpu:h200"))) == 448.0
    assert max(float(np.abs(c.astype(np.float32)).max()) for c in codes(narrowed("trainium:trn2"))) == 240.0


def test_e4m3_scaled_for_448_is_caught_on_trn2_and_the_layer_named() -> None:
    audit.flavours(narrowed("trainium:trn2"), load_device("trainium:trn2"))
    with pytest.raises(CheckFailed, match=r"weight 'w1/float8_e4m3fn' of layer .*"):
        audit.flavours(narrowed("gpu:h200"), load_device("trainium:trn2"))


def test_what_is_quantized_is_clamped_before_where_casts_do_not_saturate() -> None:
    model = narrowed("trainium:trn2")
    assert [n.op_type for n in model.graph].count("Clip") == 2
    for node in list(model.graph):
        if node.op_type == "Clip":
            node.outputs[0].replace_all_uses_with(node.inputs[0])
    with pytest.raises(CheckFailed, match="they do not saturate"):
        audit.flavours(model, load_device("trainium:trn2"))


def test_nan_codes_are_refused_where_they_read_as_30() -> None:
    model = narrowed("tpu:v6e")
    held = next(t for t in model.graph.initializers.values() if t.const_value.numpy().dtype == E4M3FN)
    array = held.const_value.numpy().copy()
    array[0, 0] = np.nan
    held.const_value = graph.make_tensor(array, name=held.name)
    with pytest.raises(CheckFailed, match="read as 30 in float8_e4m3b11fnuz"):
        audit.flavours(model, load_device("tpu:v6e"))


def test_block_scales_lie_along_the_contraction_axis_even_behind_a_transpose() -> None:
    model = linear()
    first = layers(model)[0]
    turned = graph.add_initializer(model, "turned", np.ascontiguousarray(first.weight.const_value.numpy().T))
    node = graph.new_node(
        "Transpose", [turned], {"perm": [1, 0]}, outputs=[graph.new_value("back", np.dtype(np.float32), (64, 64))]
    )
    graph.insert_before(first.node, [node])
    first.node.replace_input_with(1, node.outputs[0])
    assert [(x.weight.name, x.sums, x.channels) for x in layers(model)] == [("turned", 1, 0), ("w2", 0, 1)]


def test_nvfp4_and_mxfp4_are_different_numbers() -> None:
    made = {s: narrowed("gpu:b200", s) for s in ("mxfp4w", "nvfp4w")}
    x = np.random.default_rng(3).standard_normal((8, 64)).astype(np.float32)
    a, b = (ops.evaluate(m, {"x": x}, ops.source)["y"] for m in made.values())
    assert not np.array_equal(a, b)


def test_nan_in_a_weight_is_caught_before_four_bits() -> None:
    model = linear()
    held = model.graph.initializers["w2"]
    array = held.const_value.numpy().copy()
    array[3, 5] = np.nan
    held.const_value = graph.make_tensor(array, name="w2")
    with pytest.raises(PorterError, match=r"weight 'w2' of layer"):
        narrowed("gpu:b200", "mxfp4w", model)


def built(model: Model, product: str) -> dict[str, tuple[str, ...]]:
    return {layer.name.partition("+")[0]: (product,) for layer in layers(model)}


def test_the_audit_passes_what_was_asked() -> None:
    device = load_device("gpu:h200")
    found = audit.audit(linear(), narrowed("gpu:h200"), Formats("fp8"), device, built(linear(), "float8_e4m3fn"), {})
    found.settle(device)
    assert found.share == {"float8_e4m3fn": 1.0} and found.bytes["float8_e4m3fn"] == 2 * 64 * 64


def test_four_bits_asked_and_eight_built_fails() -> None:
    device = load_device("gpu:b200")
    found = audit.audit(
        linear(), narrowed("gpu:b200", "fp8w"), Formats("nvfp4w"), device, built(linear(), "bfloat16"), {}
    )
    with pytest.raises(CheckFailed, match="asked as float4_e2m1fn, stored as float8_e4m3fn"):
        found.settle(device)


def test_a_skipped_layer_fails() -> None:
    device = load_device("gpu:h200")
    skipped = pipeline.run(linear(), "quantization.narrow{scheme=fp8}", device, checks=False, limit=1).model
    found = audit.audit(linear(), skipped, Formats("fp8"), device, built(linear(), "float8_e4m3fn"), {})
    with pytest.raises(CheckFailed, match="weight 'w2' asked as float8_e4m3fn, stored as float32"):
        found.settle(device)


def test_a_product_in_another_format_fails_unless_a_rule_says_why() -> None:
    model = linear()
    for name, ok in (("tpu:v6e", True), ("tpu:v7x", False), ("gpu:h200", False)):
        device = load_device(name)
        found = audit.audit(model, narrowed(name), Formats("fp8"), device, built(model, "bfloat16"), {})
        assert (found.rows[0].wrong == "") is ok and bool(found.rows[0].rule) is ok


def test_fp8_is_not_always_twice_as_fast() -> None:
    rates = {
        d: load_device(d)["peak.fp8"] / load_device(d)["peak.bf16"]
        for d in ("tpu:v6e", "tpu:v5p", "trainium:trn1", "gpu:h200")
    }
    assert rates["tpu:v6e"] == rates["tpu:v5p"] == 1.0 and rates["gpu:h200"] == pytest.approx(2.0, rel=1e-3)


def test_the_two_e4m3_of_trn3_never_meet_in_one_product() -> None:
    assert flavour(load_device("trainium:trn3")) == "float8_e4m3fn"  # the only one that porter writes there
    machine = Machine(chip(load_device("trainium:trn3")))
    text = """import nki
import nki.isa as nisa
import nki.language as nl
def kernel(a, b):
    s = nl.ndarray((32, 32), dtype=nl.float8_e4m3, buffer=nl.sbuf)
    m = nl.ndarray((32, 32), dtype=nl.float8_e4m3fn, buffer=nl.sbuf)
    d = nl.ndarray((32, 32), dtype=nl.float32, buffer=nl.psum)
    nisa.dma_copy(dst=s, src=a)
    nisa.dma_copy(dst=m, src=b)
    nisa.nc_matmul(dst=d, stationary=s, moving=m)
"""
    given = [
        machine.tensor(np.ones((32, 32), np.dtype(d)), n) for n, d in (("a", ml_dtypes.float8_e4m3), ("b", E4M3FN))
    ]
    with pytest.raises(CheckFailed) as error:
        machine.load(text, "kernel")["kernel"](*given)
    assert "expected one E4M3 on both sides" in str(error.value)
    assert "found float8_e4m3 and float8_e4m3fn" in str(error.value)


def test_four_bits_on_trn3_save_bytes_and_no_time() -> None:
    """MXFP4 becomes FP8 in the array: the two rates are one, and so is what the cost model charges."""
    device = load_device("trainium:trn3")
    assert device["peak.mxfp4"] == device["peak.mxfp8"]
    kept = legal(scheme_of("mxfp4"), device)  # no instruction quantizes activations to MXFP4: they are MXFP8
    assert kept.scheme.activation == MXFP8 and kept.scheme.weight == MXFP4 and "E4M3 in blocks of 32" in kept.why[0]
    assert multiplies(scheme_of("mxfp4"), device) == MIXED


def test_eight_bits_meet_four_in_blocks_of_32_alone_and_at_the_rate_of_eight() -> None:
    """Kind mxf8f6f4 takes any pair of formats, scales of E8M0 and blocks of 32: NVFP4 weights have neither."""
    for name in ("gpu:b200", "gpu:gb300", "gpu:rubin", "trainium:trn3"):
        device = load_device(name)
        assert multiplies(scheme_of("mxfp4a8"), device) == MIXED
        assert multiplies(scheme_of("nvfp4a8"), device) == "bfloat16"
        assert device["peak.mxfp8"] <= device["peak.mxfp4"]
    for name in ("gpu:h200", "tpu:v7x", "trainium:trn2", "maia:200"):
        assert multiplies(scheme_of("mxfp4a8"), load_device(name)) == "bfloat16"
    b200 = load_device("gpu:b200")
    assert {multiplies(s, b200) for s in SCHEMES.values()} >= {*PRODUCTS, MIXED}
    assert rate(b200, MIXED) == b200["peak.mxfp8"] < b200["peak.mxfp4"]


def lowered(text: str, device: str) -> Emitted:
    """The one kernel of a model, as the target has it."""
    model = graph.parse(text)
    ops.infer(model)
    place, target = load_device(device), target_of(load_device(device).family)
    after = pipeline.run(model, plans.pipeline("fp32"), place, checks=False).model
    (kernel,) = program_of(after).kernels.values()
    assert kernel.form is not None
    tile = tile_form(kernel.form, target.limits(place), name=kernel.name)
    return target.lower(Kernel(kernel.name, tile, kernel.meaning), place)


def test_float16_on_a_tpu_loses_no_bit_of_its_mantissa() -> None:
    """The unit takes none: its product is that of float32, in six passes, and not of bfloat16."""
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float16[128,128] x, float16[128,128] w) => (float16[128,128] y) { y = MatMul (x, w) }"""
    assert lowered(text, "tpu:v6e").products == ("bf16x6",)


@pytest.mark.parametrize("device, product", [("gpu:h200", "bf16x6"), ("tpu:v6e", "bf16x6"), ("trainium:trn2", "fp32")])
def test_a_product_of_float32_is_asked_for_by_name_and_never_in_one_short_pass(device: str, product: str) -> None:
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float[128,128] x, float[128,128] w) => (float[128,128] y) { y = MatMul (x, w) }"""
    assert lowered(text, device).products == (product,)


def test_an_index_that_32_bits_do_not_hold_is_refused_on_trainium() -> None:
    machine = Machine(chip(load_device("trainium:trn2")))
    with pytest.raises(PorterError) as error:
        machine.tensor(np.array([1, 2**31], np.int64), "index")
    assert str(error.value).splitlines()[0] == "input index on Trainium"
