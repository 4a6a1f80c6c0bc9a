"""Faults that pass silently elsewhere, planted one by one: each is caught, and its message is held to the word."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.check import draw
from porter.device import load_device
from porter.errors import PorterError
from porter.formats import scaling
from porter.graph import Model
from porter.graph.edit import remember_sources
from porter.graph.values import SOURCE
from porter.porting import lowering
from porter.porting.kernels import program_of
from porter.precision import audit, blocks, plans
from porter.precision.contract import Formats
from porter.precision.layers import layers
from porter.tile.target import target_of
from tests.precision.test_pitfalls import linear, narrowed

E4M3FN = np.dtype(ml_dtypes.float8_e4m3fn)


def named(model: Model) -> Model:
    """The layers as exporters name them."""
    for node, name in zip(model.graph, ("/up", "/act", "/down"), strict=True):
        node.metadata_props[SOURCE] = name
    return model


def held(model: Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Model:
    """The model with one weight changed."""
    value = model.graph.initializers[name]
    value.const_value = graph.make_tensor(change(value.const_value.numpy().copy()), name=name)
    return model


def said(work: Callable[[], object]) -> str:
    with pytest.raises(PorterError) as error:
        work()
    return str(error.value)


def test_e4m3_scaled_for_448_sent_to_trn2() -> None:
    model = narrowed("gpu:h200", "fp8w", named(linear()))
    beyond = int(np.sum((model.graph.initializers["w1/float8_e4m3fn"].const_value.numpy().view(np.uint8) & 127) >= 120))
    assert said(lambda: audit.flavours(model, load_device("trainium:trn2"))) == (
        "trainium:trn2: weight 'w1/float8_e4m3fn' of layer /up\n"
        "  expected E4M3 codes up to 240\n"
        f"  found {beyond} codes of 256 and more: scaled for 448\n"
        "  try  --precision fp8w for this device"
    )


def test_and_is_rescaled_where_porter_ports_it() -> None:
    """The pass halves the codes and doubles the scales: the numbers stay, but for subnormal ones."""
    model = narrowed("gpu:h200", "fp8w", named(linear()))
    x = {"x": np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)}
    before = ops.evaluate(model, dict(x), ops.source)["y"]
    after = pipeline.run(model, "quantization.flavour", load_device("trainium:trn2"), checks=False).model
    audit.flavours(after, load_device("trainium:trn2"))
    got = ops.evaluate(after, dict(x), ops.source)["y"]
    assert np.max(np.abs(got - before)) < 2.0**-12 * np.max(np.abs(before))


def test_negative_zero_of_b11fnuz() -> None:
    def planted(codes: np.ndarray) -> np.ndarray:
        codes[2, 3] = -0.0
        return codes

    clean = narrowed("tpu:v6e", "fp8w", named(linear()))
    audit.flavours(clean, load_device("tpu:v6e"))  # porter's own codes hold none
    model = held(clean, "w2/float8_e4m3fn", planted)
    assert said(lambda: audit.flavours(model, load_device("tpu:v6e"))) == (
        "tpu:v6e: weight 'w2/float8_e4m3fn' of layer /down\n"
        "  expected no -0 codes\n"
        "  found 1: 0x80 is NaN in float8_e4m3b11fnuz"
    )
    mended = pipeline.run(model, "quantization.flavour", load_device("tpu:v6e"), checks=False).model
    audit.flavours(mended, load_device("tpu:v6e"))


def test_mx_blocks_along_the_wrong_axis_after_a_transpose() -> None:
    model = narrowed("gpu:b200", "mxfp8", named(linear()))
    blocks.along_the_sum(model, load_device("gpu:b200"))
    down = next(n for n in model.graph if graph.source_name(n) == "/down" and n.op_type == "MatMul")
    turned = graph.new_value("turned", np.dtype(np.float32), (64, 64))
    node = graph.new_node("Transpose", [down.inputs[1]], {"perm": [1, 0]}, outputs=[turned])
    graph.insert_before(down, [node])
    down.replace_input_with(1, turned)
    assert said(lambda: blocks.along_the_sum(model, load_device("gpu:b200"))) == (
        "gpu:b200: weight 'w2/float8_e4m3fn' of layer /down\n"
        "  expected blocks along axis 1, which the product sums over\n"
        "  found blocks along axis 0\n"
        "  try  quantize after the transpose"
    )


@pytest.mark.parametrize("rule", ["ocp", "aws"])
def test_scales_recomputed_by_another_vendors_rule(rule: scaling.Rule) -> None:
    source = named(linear())
    model = narrowed("gpu:b200", "mxfp4w", named(linear()))
    formats, device = Formats("mxfp4w"), load_device("gpu:b200")
    blocks.by_the_rule(source, model, formats, device)
    weight = graph.constant(source.graph.initializers["w1"])
    assert weight is not None
    other = scaling.blocked(weight, "float4_e2m1fn", 0, 32, scale="float8_e8m0fnu", rule=rule).scale
    held(model, "w1/scale", lambda _: other)
    assert said(lambda: blocks.by_the_rule(source, model, formats, device)) == (
        "gpu:b200: scales of weight 'w1' of layer /up\n"
        "  expected the nvidia rule\n"
        f"  found the {rule} rule, in 100% of 128 blocks\n"
        "  try  carry the scales that the codes were made with"
    )


def test_scales_of_a_file_computed_again() -> None:
    source = narrowed("gpu:b200", "mxfp4w", named(linear()))
    changed = held(graph.clone(source), "w2/scale", lambda s: (s.astype(np.float32) * 2).astype(s.dtype))
    device = load_device("gpu:b200")
    blocks.kept(source, graph.clone(source), device)
    assert said(lambda: blocks.kept(source, changed, device)) == (
        "gpu:b200: block scales 'w2/scale' of layer /down\n"
        "  expected those of the model's file\n"
        "  found 128 of 128 others\n"
        "  try  scales are carried, never computed again"
    )


def experts() -> Model:
    """Four experts, each a layer of its own, mixed."""
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float[8,64] x, float[64,64] w0, float[64,64] w1, float[64,64] w2, float[64,64] w3) => (float[8,64] y) {
      [expert_0] a = MatMul (x, w0)
      [expert_1] b = MatMul (x, w1)
      [expert_2] c = MatMul (x, w2)
      [expert_3] d = MatMul (x, w3)
      y = Sum (a, b, c, d)
    }"""
    model = graph.parse(text)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        made = graph.add_initializer(model, str(value.name), rng.standard_normal((64, 64)).astype(np.float32))
        value.replace_all_uses_with(made)
        model.graph.inputs.remove(value)
        made.name = value.name
    remember_sources(model)
    ops.infer(model)
    return model


def audited(before: Model, after: Model, asked: str, product: str, device: str) -> None:
    built = {layer.name.partition("+")[0]: (product,) for layer in layers(before)}
    audit.audit(before, after, Formats(asked), load_device(device), built, {}).settle(load_device(device))


def test_a_skipped_expert() -> None:
    text = "quantization.narrow{scheme=fp8w}"
    whole = pipeline.run(experts(), text, load_device("gpu:h200"), checks=False).model
    audited(experts(), whole, "fp8w", "bfloat16", "gpu:h200")
    skipped = pipeline.run(experts(), text, load_device("gpu:h200"), checks=False, limit=3).model
    assert said(lambda: audited(experts(), skipped, "fp8w", "bfloat16", "gpu:h200")) == (
        "gpu:h200: precision audit, 1 of 4 layers\n"
        "  expected the formats that were asked for\n"
        "  found expert_3: weight 'w3' asked as float8_e4m3fn, stored as float32\n"
        "  try  a precision contract that asks for what the device has"
    )


def test_four_bits_asked_and_eight_built() -> None:
    model = narrowed("gpu:b200", "fp8w", named(linear()))
    assert said(lambda: audited(named(linear()), model, "nvfp4w", "bfloat16", "gpu:b200")) == (
        "gpu:b200: precision audit, 2 of 2 layers\n"
        "  expected the formats that were asked for\n"
        "  found /up: weight 'w1' asked as float4_e2m1fn, stored as float8_e4m3fn; "
        "/down: weight 'w2' asked as float4_e2m1fn, stored as float8_e4m3fn\n"
        "  try  a precision contract that asks for what the device has"
    )


def test_an_integer_product_above_two_to_the_24_on_trainium() -> None:
    model = graph.parse("""<ir_version: 10, opset_import: ["": 24]>
    g (int8[4,2048] x, int8[2048,8] w) => (int32[4,8] y) { [long] y = MatMulInteger (x, w) }""")
    remember_sources(model)
    ops.infer(model)
    device = load_device("trainium:trn2")
    for work in (lambda: audit.integers(model, device), lambda: pipeline.run(model, "quantization.flavour", device)):
        assert said(work) == (
            "trainium:trn2: an integer product of length 2048 in layer long\n"
            "  expected an int32 accumulator\n"
            "  found float32, exact to 2**24 = 16777216; the sum may reach 33032192\n"
            "  try  QuantizeLinear and DequantizeLinear around MatMul"
        )


def test_nan_in_a_weight_before_four_bits() -> None:
    def planted(weight: np.ndarray) -> np.ndarray:
        weight[3, 5] = np.nan
        return weight

    model = held(named(linear()), "w2", planted)
    assert said(lambda: narrowed("gpu:b200", "mxfp4w", model)) == (
        "weight 'w2' of layer /down as float4_e2m1fn\n  expected finite numbers\n  found nan at [3, 5]"
    )


def test_a_decoded_weight_in_memory() -> None:
    """A kernel that only decodes writes the weight wide: the bytes that were asked for are not those that are read."""
    model = named(linear())
    text = "quantization.narrow{scheme=int4w}, quantization.bf16, quantization.decoded, quantization.packed"
    after = pipeline.run(model, text, load_device("gpu:h200"), checks=False).model
    decoding = [n for n in after.graph if n.domain == "porter"]
    after.graph.outputs.extend(
        [n.outputs[0] for n in decoding]
    )  # somebody else reads them: the partition keeps them apart
    after = pipeline.run(after, "tiling.partition", load_device("gpu:h200"), checks=False).model
    assert said(lambda: audited(named(linear()), after, "int4w", "bfloat16", "gpu:h200")) == (
        "gpu:h200: precision audit, 2 of 2 layers\n"
        "  expected the formats that were asked for\n"
        "  found /up: weight 'w1' decoded into float32 by a kernel of its own: memory holds it wide; "
        "/down: weight 'w2' decoded into float32 by a kernel of its own: memory holds it wide\n"
        "  try  a precision contract that asks for what the device has"
    )


def test_a_wrong_product_of_a_sum_shorter_than_a_block() -> None:
    """Such a layer has one scale per channel, which excuses how it is decoded and never what it is multiplied as."""

    def short() -> Model:
        return one_weight("y = MatMul (x, w)", "8,8", (8, 256), "8,256")

    after = narrowed("gpu:h200", "nvfp4w", short())
    audited(short(), after, "nvfp4w", "bfloat16", "gpu:h200")
    assert "/layer: product asked as bfloat16, built as float8_e4m3fn" in said(
        lambda: audited(short(), after, "nvfp4w", "float8_e4m3fn", "gpu:h200")
    )


def one_weight(call: str, x: str, w: tuple[int, ...], y: str) -> Model:
    """A model of one layer named /layer."""
    shape = ",".join(map(str, w))
    model = graph.parse(
        f'<ir_version: 10, opset_import: ["": 24]>\ng (float[{x}] x, float[{shape}] w) => (float[{y}] y) {{ {call} }}'
    )
    value = model.graph.inputs[1]
    made = graph.add_initializer(model, "held", np.random.default_rng(0).standard_normal(w).astype(np.float32))
    value.replace_all_uses_with(made)
    model.graph.inputs.remove(value)
    made.name = "w"
    model.graph.node(0).metadata_props[SOURCE] = "/layer"
    ops.infer(model)
    return model


def judged(model: Model, built: dict[str, tuple[str, ...]]) -> audit.Row:
    device = load_device("gpu:h200")
    after = pipeline.run(model, "quantization.narrow{scheme=fp8w}", device, checks=False).model
    (row,) = audit.audit(model, after, Formats("fp8w"), device, built, {}).rows
    return row


LAYERS = {
    "one row": ("y = MatMul (x, w)", "1,64", (64, 64), "1,64"),
    "one column": ("y = MatMul (x, w)", "8,2048", (2048, 1), "8,1"),
    "one column: depthwise": ("y = Conv <group=128, pads=[1,1,1,1]> (x, w)", "1,128,8,8", (128, 1, 3, 3), "1,128,8,8"),
    "a sum over 27": ("y = Conv <pads=[1,1,1,1]> (x, w)", "1,3,8,8", (64, 3, 3, 3), "1,64,8,8"),
    "": ("y = MatMul (x, w)", "8,64", (64, 64), "8,64"),
}


@pytest.mark.parametrize("rule", LAYERS)
@pytest.mark.parametrize("product", [(), ("vector",)])
def test_a_kernel_without_a_product_needs_a_rule_that_names_the_layers_shape(
    rule: str, product: tuple[str, ...]
) -> None:
    row = judged(one_weight(*LAYERS[rule]), {"/layer": product})
    if rule:
        assert row.rule.startswith(rule.partition(":")[0]) and not row.wrong
    else:
        assert (row.rule, row.wrong) == ("", "product asked as bfloat16, none in its kernel")


@pytest.mark.parametrize("rule", LAYERS)
def test_a_layer_in_no_kernel_fails_whatever_its_shape(rule: str) -> None:
    assert judged(one_weight(*LAYERS[rule]), {}).wrong == "no kernel carries the layer"
    assert judged(one_weight(*LAYERS[rule]), {"/layer": ("host",)}).wrong == "product asked as bfloat16, built as host"


@pytest.mark.parametrize("device", ["gpu:h200", "trainium:trn2", "maia:200"])
@pytest.mark.parametrize("rule", LAYERS)
def test_what_the_targets_really_build_of_such_layers_has_a_product_or_its_rule(rule: str, device: str) -> None:
    model, place = one_weight(*LAYERS[rule]), load_device(device)
    plan = plans.plan("int8w", (), model, place, dict(draw(model)))
    final = pipeline.run(model, plan.stages, place, checks=False).model
    program = program_of(final)
    rows: list[audit.Row] = []
    lowered = lowering.emit(program, target_of(place.family), place)
    plans.audited(plan, plans.narrowed(plan, model, place), place, final, lowering.products(program, lowered), rows)
    (row,) = rows
    assert not row.wrong and (row.rule or "bfloat16" in row.product)
