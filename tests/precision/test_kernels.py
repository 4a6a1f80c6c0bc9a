"""Few bits in kernels: what each target multiplies, what lies in memory, and that the port passes all of its checks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.device import load_device
from porter.formats import of
from porter.graph import Model
from porter.passes.quantization.packed import Packing
from porter.porting.kernels import program_of
from porter.porting.port import port
from porter.precision.schemes import SCHEMES, multiplies, scheme_of
from porter.tile import interpret
from porter.tile.canonical import canonical
from porter.tile.form import Dot, Load
from porter.tile.program import walk
from porter.tile.target import Kernel, target_of
from porter.tile.text import parse, show
from porter.tile.tiler import tile_form
from tests.precision.test_pitfalls import linear

WEIGHTS = ("int4w", "mxfp8w", "mxfp4w", "nvfp4w")
DEFAULTS = ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")
FAST = {("int4w", "gpu:h200"), ("nvfp4w", "tpu:v6e"), ("mxfp4w", "trainium:trn2"), ("nvfp4w", "maia:200")}


def ported(tmp_path: Path, target: str, precision: str, model: Model | None = None) -> tuple[dict[str, Any], Path]:
    """The document of a port of two layers, and the bundle."""
    tmp_path.mkdir(exist_ok=True)
    graph.save(model or linear(), tmp_path / "m.onnx")
    out = tmp_path / "out"
    result = port(tmp_path / "m.onnx", targets=[load_device(target)], out=out, precision=precision)
    found = result.to_json()["targets"][0]
    assert found["status"] == "ok", found["message"]
    return found, out


def audit_of(document: dict[str, Any]) -> dict[str, Any]:
    return next(s["metric"] for s in document["steps"] if s["name"] == "audit")


@pytest.mark.parametrize("precision, target", [
    pytest.param(p, t, marks=() if (p, t) in FAST else pytest.mark.slow) for p in WEIGHTS for t in DEFAULTS
])  # fmt: skip
def test_weights_of_few_bits_are_decoded_in_the_kernel_and_multiplied_as_bfloat16(
    tmp_path: Path, precision: str, target: str
) -> None:
    document, out = ported(tmp_path, target, precision)
    assert document["kernels"]["host"] == 0 and document["kernels"]["unique"] == document["kernels"]["calls"]
    found = audit_of(document)
    assert found["multiply_adds"] == {"bfloat16": 1.0}
    coding = {"int4w": "int4", "mxfp8w": "float8_e4m3fn"}.get(precision, "float4_e2m1fn")
    assert found["bytes"][coding] == 2 * 64 * 64 * of(coding).bits // 8
    weights = (out / "weights.safetensors").stat().st_size
    scales = {"int4w": 4 * 256, "mxfp8w": 256, "mxfp4w": 256, "nvfp4w": 512 + 8}[precision]
    assert weights <= 2 * 64 * 64 * of(coding).bits // 8 + scales + 2048  # the rest is the header


@pytest.mark.slow
@pytest.mark.parametrize("target", [*DEFAULTS, "gpu:b200", "tpu:v7x", "trainium:trn3"])
@pytest.mark.parametrize("precision", SCHEMES)
def test_every_scheme_on_every_kind_of_device(tmp_path: Path, precision: str, target: str) -> None:
    """Two layers, nothing on the host; products are those that the device's page promises, or wider by the page's own rate."""
    document, _ = ported(tmp_path, target, precision, wide())
    device = load_device(target)
    promised = multiplies(scheme_of(precision), device)
    alike = (
        {"trainium:trn2": {"float8_e4m3"}, "tpu:v6e": {"bfloat16"}}.get(target, set())
        if promised == "float8_e4m3fn"
        else set()
    )
    assert set(audit_of(document)["multiply_adds"]) <= {promised, *alike}
    assert document["kernels"]["host"] == 0


@pytest.mark.parametrize("precision, target", [
    ("fp8", "trainium:trn2"),
    *(pytest.param(p, t, marks=pytest.mark.slow) for p, t in [
        ("fp8", "trainium:trn3"), ("mxfp8", "trainium:trn3"), ("mxfp4", "trainium:trn3"), ("mxfp4a8", "gpu:b200"),
    ]),
])  # fmt: skip
def test_a_decoder_is_multiplied_as_asked_in_every_layer(tmp_path: Path, precision: str, target: str) -> None:
    """Kernels of several products: gated ones sum two of them over one axis."""
    model = Path(__file__).parents[1] / "models" / "decoder" / "prefill.onnx"
    result = port(
        model, targets=[load_device(target)], out=tmp_path / "o", precision=precision, dims={"batch": 1, "seq": 16}
    )
    found = result.to_json()["targets"][0]
    assert found["status"] == "ok", found["message"]
    product = multiplies(scheme_of(precision), load_device(target))
    product = {"trainium:trn2": "float8_e4m3"}.get(target, product)
    assert all(product in kind.split("+") for kind in audit_of(found)["multiply_adds"])


def test_fp8_on_trn2_is_multiplied_under_the_name_of_its_own_e4m3(tmp_path: Path) -> None:
    document, out = ported(tmp_path, "trainium:trn2", "fp8")
    assert audit_of(document)["multiply_adds"] == {"float8_e4m3": 1.0}
    text = "".join(p.read_text() for p in (out / "kernels").glob("*.py"))
    assert "nl.float8_e4m3," in text and "float8_e4m3fn" not in text


def test_fp8_on_trn3_is_multiplied_as_ocps(tmp_path: Path) -> None:
    document, _ = ported(tmp_path, "trainium:trn3", "fp8")
    assert audit_of(document)["multiply_adds"] == {"float8_e4m3fn": 1.0}


@pytest.mark.parametrize("precision, product, words", [
    ("mxfp8", "mxfp8", {"float8_e4m3fn_x4"}), ("mxfp4", "mxfp4a8", {"float8_e4m3fn_x4", "float4_e2m1fn_x4"}),
])  # fmt: skip
def test_blocks_on_trn3_are_products_of_codes_and_scales(
    tmp_path: Path, precision: str, product: str, words: set[str]
) -> None:
    document, out = ported(tmp_path, "trainium:trn3", precision, wide())
    assert audit_of(document)["multiply_adds"] == {product: 1.0} and document["kernels"]["host"] == 0
    text = "".join(p.read_text() for p in (out / "kernels").glob("*matmul*.py"))
    assert text.count("nisa.nc_matmul_mx(") == 2 and "nisa.nc_matmul(" not in text
    assert set(re.findall(r"nl\.(\w+_x4)", text)) == words


def test_fp8_on_trn2_and_trn3_runs_two_rows_of_a_long_sum_at_once(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float[8,256] x, float[256,64] w) => (float[8,64] y) { y = MatMul (x, w) }"""
    for name in ("trn2", "trn3"):
        document, out = ported(tmp_path / name, f"trainium:{name}", "fp8", weighted(text))
        assert set(audit_of(document)["multiply_adds"]) == {{"trn2": "float8_e4m3", "trn3": "float8_e4m3fn"}[name]}
        kernels = "".join(p.read_text() for p in (out / "kernels").glob("*.py"))
        assert kernels.count("perf_mode=nisa.matmul_perf_mode.double_row") == 1


def packed_form(scheme: str) -> Any:
    text = f"quantization.narrow{{scheme={scheme}}}, quantization.bf16, quantization.decoded, quantization.packed, tiling.partition"
    model = pipeline.run(linear(), text, load_device("gpu:h200"), checks=False).model
    kernels = [k for k in program_of(model).kernels.values() if k.form is not None]
    assert all(k.form is not None for k in kernels)
    return [canonical(k.form) for k in kernels if k.form is not None]


@pytest.mark.parametrize("scheme", ["int4w", "mxfp4w", "nvfp4w"])
def test_a_byte_is_loaded_once_for_its_two_codes_and_each_half_of_the_sum_is_a_product(scheme: str) -> None:
    for form in packed_form(scheme):
        nodes = [form[i] for i in form.reachable()]
        assert sum(isinstance(n, Dot) for n in nodes) == 2
        assert sum(isinstance(n, Load) and n.dtype == "uint8" for n in nodes) == 1
        assert all(form[n.a].dtype == form[n.b].dtype == "bfloat16" for n in nodes if isinstance(n, Dot))


@pytest.mark.parametrize("kind", ["int4", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("axis, group", [(0, 8), (0, 4), (1, 6), (2, 2)])
def test_every_code_of_four_bits_comes_back_from_its_half_of_a_byte(kind: str, axis: int, group: int) -> None:
    """The pass's function, run by the reference, decodes what `pack` wrote, bit for bit, on each axis."""
    rng = np.random.default_rng(0)
    codes = of(kind).codes()[rng.integers(0, 16, (8, 6, 2))]
    codes[0, 0, 0], codes[1, 0, 0] = of(kind).codes()[8], of(kind).codes()[0]  # -0 of e2m1 beside 0
    packing = Packing(kind, codes.shape, axis, group)
    assert packing.pack(codes).size == codes.size // 2
    text = f"""<ir_version: 10, opset_import: ["": 24]>
    g (float[1] x, {onnx_name(kind)}[8,6,2] codes) => (float[8,6,2] y) {{
      one = Constant <value = float {{1.0}}> ()
      d = DequantizeLinear (codes, one)
      y = Add (d, x)
    }}"""
    model = graph.parse(text)
    held = graph.add_initializer(model, "w/codes", codes)
    given = next(v for v in model.graph.inputs if v.name == "codes")
    given.replace_all_uses_with(held)
    model.graph.inputs.remove(given)
    ops.infer(model)
    after = pipeline.run(model, "quantization.packed{packed=1}", load_device("gpu:h200"), checks=False).model
    assert any(n.domain == "porter" for n in after.graph)
    x = {"x": np.zeros(1, np.float32)}
    got = ops.evaluate(after, dict(x), ops.source)["y"]
    np.testing.assert_array_equal(got, codes.astype(np.float32))


def onnx_name(kind: str) -> str:
    return {"float4_e2m1fn": "float4e2m1"}.get(kind, kind)


def wide(rows: int = 8) -> Model:
    """x @ w1 -> relu -> @ w2, 128 wide: two blocks of a unit's least."""
    text = f"""<ir_version: 10, opset_import: ["": 24]>
    g (float[{rows},128] x, float[128,128] w1, float[128,128] w2) => (float[{rows},128] y) {{
      a = MatMul (x, w1)
      b = Relu (a)
      y = MatMul (b, w2)
    }}"""
    return weighted(text)


def weighted(text: str) -> Model:
    """The model of a text with seeded weights for every input but the first."""
    model, rng = graph.parse(text), np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        dims = graph.shape(value)
        assert dims is not None
        made = graph.add_initializer(model, f"{value.name}_", rng.standard_normal(dims).astype(np.float32) / 8)
        value.replace_all_uses_with(made)
        model.graph.inputs.remove(value)
    ops.infer(model)
    return model


@pytest.mark.parametrize("precision, device, unit", [
    ("mxfp8", "gpu:b200", "mxf8f6f4"), ("mxfp4a8", "gpu:b200", "mxf8f6f4"),
    ("mxfp4", "gpu:b200", "mxf4"), ("nvfp4", "gpu:b200", "mxf4nvf4"),
    pytest.param("nvfp4", "gpu:gb300", "mxf4nvf4", marks=pytest.mark.slow),
])  # fmt: skip
def test_block_scaled_operands_on_blackwell_meet_as_they_lie(
    tmp_path: Path, precision: str, device: str, unit: str
) -> None:  # fmt: skip
    """Tiles of 128 rows, though the model has 8: below, the compiler would decode and multiply as bfloat16."""
    document, out = ported(tmp_path, device, precision, wide())
    found = audit_of(document)
    assert found["multiply_adds"] == {precision: 1.0} and document["kernels"]["host"] == 0
    text = "".join(p.read_text() for p in (out / "kernels").glob("*.py"))
    assert text.count("tl.dot_scaled(") in (1, 2) and "tl.dot(" not in text
    kernels = json.loads((out / "manifest.json").read_text())["kernels"]
    assert {p for k in kernels for p in (k["compiled"] or {}).get("products", ())} == {f"tcgen05.{unit}"}


def test_a_layer_that_is_no_rows_of_whole_blocks_is_multiplied_as_bfloat16_and_the_rule_says_so(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 24]>
    g (float[8,96] x, float[96,64] w1, float[64,32] w2) => (float[8,32] y) {
      a = MatMul (x, w1)
      y = MatMul (a, w2)
    }"""
    document, _ = ported(tmp_path, "gpu:b200", "nvfp4", weighted(text))
    rules = audit_of(document)["by_rule"]
    assert rules == {"nvfp4 multiplied as bfloat16: the other operand is no rows of whole blocks of 16": 2}


@pytest.mark.parametrize("scheme", ["mxfp8", "mxfp4", "nvfp4", "mxfp4a8"])
def test_scaled_products_are_those_of_the_decoded_operands(scheme: str) -> None:
    """Codes of up to four significant bits and their scales: the unit's product is that of the decoded operands."""
    text = f"quantization.narrow{{scheme={scheme}}}, quantization.bf16, quantization.decoded, quantization.packed, tiling.partition"
    model = pipeline.run(wide(), text, load_device("gpu:b200"), checks=False).model
    kernel = next(k for k in program_of(model).kernels.values() if "matmul" in k.op and len(k.alone.graph.inputs) > 3)
    limits = target_of("gpu").limits(load_device("gpu:b200"))
    made = tile_form(kernel.form, limits, name="k")
    plain = tile_form(kernel.form, replace(limits, block_scaled=()), name="k")
    assert any(getattr(s, "scales", ()) for s in walk(made.body)) and parse(show(made)) == made
    assert not any(getattr(s, "scales", ()) for s in walk(plain.body))
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(100, 140, p.shape).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
        if p.dtype == "float8_e8m0fnu" else rng.integers(0, 256, p.shape).astype(np.uint8)
        if p.dtype == "uint8" else rng.standard_normal(p.shape).astype(np.dtype(p.dtype))
        for p in made.inputs
    ]  # fmt: skip
    a, b = (interpret.run(p, inputs)[0].astype(np.float64) for p in (made, plain))
    np.testing.assert_allclose(a, b, rtol=0, atol=2.0**-20 * np.abs(a).max())


def test_fp8_on_hopper_is_checked_under_the_14_bits_of_its_unit(tmp_path: Path) -> None:
    """The text asks for partial sums of the tile in float32, and is run as the unit adds: other numbers than float32's sums."""
    _, out = ported(tmp_path, "gpu:h200", "fp8", wide(64))
    text = next(p.read_text() for p in sorted((out / "kernels").glob("*matmul*.py")) if "tl.dot(" in p.read_text())
    assert "max_num_imprecise_acc=32" in text
    target, hopper, blackwell = target_of("gpu"), load_device("gpu:h200"), load_device("gpu:b200")
    assert target.fp8_accumulator(hopper) == "hopper_fp8" and target.fp8_accumulator(blackwell) == "float32"
    tiles = [parse(p.read_text()) for p in sorted((out / "kernels").glob("*matmul*.tile"))]
    tile = next(t for t in tiles if t.outputs[0].dtype == "float32")
    rng = np.random.default_rng(0)
    inputs = [np.abs(rng.standard_normal(p.shape)).astype(np.dtype(p.dtype)) for p in tile.inputs]
    plain, unit = (interpret.run(tile, inputs, fp8=f)[0].astype(np.float64) for f in ("float32", "hopper_fp8"))
    apart = np.max(np.abs(unit - plain)) / np.max(np.abs(plain))
    assert 2.0**-20 < apart < 32 * 2.0**-13


@pytest.mark.parametrize("device, product", [("tpu:v7x", "float8_e4m3fn"), ("tpu:v6e", "bfloat16")])
def test_fp8_on_a_tpu_meets_as_it_lies_where_that_is_faster(device: str, product: str) -> None:
    text = "quantization.narrow{scheme=fp8}, quantization.bf16, quantization.decoded, tiling.partition"
    chip, target = load_device(device), target_of("tpu")
    model = pipeline.run(wide(128), text, chip, checks=False).model
    kernel = [k for k in program_of(model).kernels.values() if "matmul" in k.op][-1]
    tile = tile_form(kernel.form, target.limits(chip), name=kernel.name)
    emitted = target.lower(Kernel(kernel.name, tile, kernel.meaning), chip)
    assert emitted.language == "pallas" and emitted.products == (product,)
    assert ("astype(jnp.bfloat16)" in emitted.text) is (product == "bfloat16")
