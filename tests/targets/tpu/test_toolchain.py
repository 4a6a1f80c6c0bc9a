"""libtpu's verdicts, without a TPU: kernels, whole programs, products read back, memory held against the device."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from porter.device import load_device
from porter.targets.tpu import instructions, target, toolchain
from porter.targets.tpu.toolchain import Piece, Verdict, compile, compile_program, exceeds, kernels_of
from porter.tile.target import Emitted, Kernel
from porter.tile.text import parse
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parent))
from tpu_support import CASES, TIGHT, V6E, emitted, needs_libtpu


@needs_libtpu
def test_kernels_of_both_languages_compile_and_say_what_they_need() -> None:
    found = compile([emitted("looped_attention", TIGHT), emitted("conv_1x1"), emitted("embedding")], V6E)
    assert [(v.ok, v.message) for v in found] == [(True, "")] * 3
    assert all(v.size > 1000 and 0 < v.resources["vmem"] <= V6E["memory.vmem.bytes"] for v in found)
    assert jax.devices()[0].platform == "cpu"  # the caller's jax never saw libtpu


@needs_libtpu
def test_a_reduction_over_rows_and_columns_has_the_memory_that_mosaic_takes() -> None:
    """The largest of 2 x 2 neighbours, then their mean: two lanes of 128 are used, and twice of what is counted."""
    meaning = jax.make_jaxpr(lambda x: x.reshape(200, 2, 48, 2).max((1, 3)).mean(1))(
        jax.ShapeDtypeStruct((200, 2, 96), "float32")
    )
    e = target.lower(Kernel("pooled", tile(meaning, target.limits(V6E), name="pooled"), meaning), V6E)
    assert e.language == "pallas"
    assert [(v.ok, v.message) for v in compile([e], V6E)] == [(True, "")]


@needs_libtpu
def test_a_program_is_one_executable_the_same_every_time() -> None:
    """layernorm, then a product: its buffers by name, weights as arguments; XLA's figures are not trusted over Pallas
    calls."""
    e = emitted("rmsnorm_matmul")
    p = e.kernel.program
    arguments = [(q.name, q.shape, q.dtype) for q in p.inputs] + [("w2", (128, 64), "float32")]
    second = _stablehlo("second", (2, 20, 128), (128, 64))
    pieces = [Piece(e, tuple(q.name for q in p.inputs), ("h",)), Piece(second, ("h", "w2"), ("y",))]
    one, two = (compile_program("program", pieces, arguments, ["y"], V6E, no_cache=True) for _ in range(2))
    assert one.ok, one.message
    assert one.sha256 == two.sha256 and one == two
    assert not one.trusted and set(one.copies) == {"copy", "transpose", "reshape"}
    assert all(v > 0 for v in one.cost.values())


@needs_libtpu
def test_figures_of_plain_one_pass_stablehlo_are_the_vendors() -> None:
    e = emitted("concat")
    text, products = _export("copying", lambda a: a + 1, (64, 256))
    plain = Emitted(replace(e.kernel, name="copying"), "stablehlo", text, products=products)
    found = compile_program("copying", [Piece(plain, ("a",), ("y",))], [("a", (64, 256), "float32")], ["y"], V6E)
    assert found.ok and found.trusted and found.cost["optimal_seconds"] > 0


@needs_libtpu
def test_one_pass_of_bf16_is_read_back_from_the_compiled_program() -> None:
    """The text is right and what was compiled is not: only the HLO can tell."""
    e = _stablehlo("second", (20, 128), (128, 64))
    [found] = compile([replace(e, text=e.text.replace("HIGHEST", "DEFAULT"))], V6E)
    assert not found.ok and found.message == "kernel second: multiplies float32 as bf16, asked bf16x6"


@needs_libtpu
def test_each_kernel_is_read_back_from_the_program_that_holds_it() -> None:
    """Two products in a row, one of them compiled to a single pass: it is named, the other is not."""
    first, second = _stablehlo("first", (20, 64), (64, 128)), _stablehlo("second", (20, 128), (128, 64))
    arguments = [("x", (20, 64), "float32"), ("w1", (64, 128), "float32"), ("w2", (128, 64), "float32")]

    def read_back(*made: Emitted) -> dict[str, str]:
        pieces = [Piece(made[0], ("x", "w1"), ("h",)), Piece(made[1], ("h", "w2"), ("y",))]
        found = compile_program("program", pieces, arguments, ["y"], V6E, no_cache=True)
        kernels = kernels_of(pieces, found, V6E)
        assert all(v.resources["instructions"] > 0 and v.products for v in kernels.values())
        return {name: v.message for name, v in kernels.items()}

    assert read_back(first, second) == {"first": "", "second": ""}
    one_pass = replace(second, text=second.text.replace("HIGHEST", "DEFAULT"))
    assert read_back(first, one_pass) == {
        "first": "",
        "second": "kernel second: multiplies float32 as bf16, asked bf16x6",
    }


@needs_libtpu
def test_text_that_mosaic_refuses_fails_with_its_words() -> None:
    e = emitted("softmax")
    [found] = compile([replace(e, text=e.text.replace("jnp.exp(", "jnp.expm1("))], V6E)
    assert not found.ok and "Unimplemented primitive in Pallas TPU lowering for tc: expm1" in found.message


@needs_libtpu
def test_a_kernel_that_ends_the_compiler_takes_no_other_with_it() -> None:
    """A reshape of predicates aborts libtpu 0.0.51; the emitter goes around it (porter.targets.tpu.values)."""
    e = emitted("concat")
    assert ".astype(jnp.int32).reshape(1, 12, 1) != 0" in e.text
    aborts = e.text.replace(".astype(jnp.int32).reshape(1, 12, 1) != 0", ".reshape(1, 12, 1)")
    bad, good = compile([replace(e, text=aborts), e], V6E)
    assert not bad.ok and "the compiler ended with code" in bad.message and good.ok


def test_a_compiler_that_does_not_end_is_a_refusal_in_words(monkeypatch) -> None:
    monkeypatch.setattr(toolchain, "TIMEOUT", 0.05)
    found = compile([emitted("conv_1x1"), emitted("concat")], V6E, no_cache=True)
    assert [v.ok for v in found] == [False, False]
    assert found[0].message.endswith("the compiler did not end within 0.05 s")


def test_memory_is_held_against_the_device() -> None:
    vmem, hbm = V6E["memory.vmem.bytes"], V6E["memory.hbm.bytes"]
    assert exceeds("k", Verdict("k", True, resources={"vmem": vmem, "arguments": hbm}), V6E) == ""
    assert exceeds("k", Verdict("k", True, resources={"vmem": vmem + 1}), V6E) == (
        f"vmem of tpu:v6e holds {vmem} bytes; k asks {vmem + 1}")  # fmt: skip
    assert "hbm of tpu:v6e" in exceeds("k", Verdict("k", True, resources={"arguments": hbm, "code": 1}), V6E)


def test_chips_that_libtpu_does_not_know_are_named() -> None:
    for name in ("tpu:8t", "tpu:8i"):
        device = load_device(name)
        assert target.toolchain(device) is None
        assert target.unchecked(device) == f"{name} is not compiled: libtpu 0.0.51 has no topology for this chip"


def test_limits_come_from_the_device() -> None:
    assert target.limits(V6E).multiples == (128, 8)
    assert target.limits(load_device("tpu:8t")).multiples == (128, load_device("tpu:8t")["vector.sublanes"])
    assert target.limits(load_device("tpu:v5p")).bytes == load_device("tpu:v5p")["memory.vmem.bytes"] // 4


def test_time_is_a_roofline_that_counts_the_passes() -> None:
    program = emitted("looped_matmul").kernel.program
    once = target.seconds(parse(_show(program).replace("as bf16x6", "as bf16")), V6E)
    six = target.seconds(program, V6E)
    assert six["compute"] == pytest.approx(6 * once["compute"]) and six["memory"] == once["memory"]
    assert six["overhead"] == V6E["overhead.launch_s"]


# Slow: every spelling, every kernel, every chip that libtpu knows.


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("device", ["tpu:v5e", "tpu:v5p", "tpu:v6e", "tpu:v7x"])
def test_every_kernel_compiles_for_every_chip(device: str) -> None:
    chip = load_device(device)
    texts = []
    for name, case in CASES.items():
        meaning = case.meaning()
        for limits in (target.limits(chip), TIGHT):
            from porter.tile.tiler import tile

            texts.append(target.lower(Kernel(name, tile(meaning, limits, name=name), meaning), chip))
    failed = [v.message for v in compile(texts, chip) if not v.ok]
    assert not failed


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("device", ["tpu:v5e", "tpu:v6e", "tpu:v7x"])
def test_every_spelling_compiles(device: str) -> None:
    texts = []
    for op in instructions.SPELLING:
        for dtype in ("float32", "bfloat16", "int32", "bool"):
            if (program := _elementwise(op, dtype)) is not None:
                texts.append(target.lower(Kernel(f"{op}_{dtype}", program, None), load_device(device)))
    assert all(e.language == "pallas" for e in texts)
    failed = [v.message for v in compile(texts, load_device(device)) if not v.ok]
    assert not failed


_BITS = ("and", "or", "xor", "not", "shl", "shr")
_FOR_BOTH = (
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "max",
    "min",
    "neg",
    "abs",
    "sign",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "select",
)


def _elementwise(op: str, dtype: str):  # type: ignore[no-untyped-def]
    """A program of one operation on full tiles; None where the operation has no meaning for the dtype."""
    from porter.tile.elementwise import COMPARISONS, ELEMENTWISE

    floating = dtype in ("float32", "bfloat16")
    if (dtype == "bool" and op not in ("and", "or", "not", "select")) or (
        dtype == "int32" and op not in (*_BITS, *_FOR_BOTH)
    ):
        return None
    if floating and op in _BITS:
        return None
    count = ELEMENTWISE[op][0]
    kinds = ["bool", dtype, dtype] if op == "select" else [dtype] * count
    result = "bool" if op in COMPARISONS else dtype
    values = [f"v{i}" for i in range(count)]
    lines = [f"kernel {op}_{dtype} {{"]
    lines += [f"  in p{v}: {k}[32, 256]" for v, k in zip(values, kinds, strict=True)]
    lines += [f"  out y: {result}[32, 256]", "  axis m: 32 by 16 grid", "  axis n: 256 by 256 resident"]
    lines += [f"  {v}: {k}<m, n> = load p{v}(32, 256)[m, n]" for v, k in zip(values, kinds, strict=True)]
    lines += [f"  r: {result}<m, n> = {op} {', '.join(values)}", "  store y(32, 256)[m, n] = r", "}"]
    return parse("\n".join(lines))


def _show(program):  # type: ignore[no-untyped-def]
    from porter.tile.text import show

    return show(program)


def _export(name, function, *shapes):  # type: ignore[no-untyped-def]
    from porter.targets.tpu import xla
    from porter.xla import hlo

    with jax.enable_x64(False):
        text = hlo.stablehlo(function, [jax.ShapeDtypeStruct(s, "float32") for s in shapes], "tpu", name)
    return text, xla.realized(text)


def _stablehlo(name, a, b):  # type: ignore[no-untyped-def]
    """A product as StableHLO, beside a tile program that asks for six passes."""
    meaning = jax.make_jaxpr(lambda x, w: x @ w)(jax.ShapeDtypeStruct(a, "float32"), jax.ShapeDtypeStruct(b, "float32"))
    from porter.targets.tpu import xla
    from porter.tile.tiler import tile

    program = tile(meaning, target.limits(V6E), name=name)
    text, products = xla.stablehlo(program, meaning)
    return Emitted(Kernel(name, program, meaning), "stablehlo", text, products=products)
