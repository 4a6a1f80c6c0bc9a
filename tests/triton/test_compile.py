"""Compilation without a device: results by content, products read back, crashes survived, equal bytes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from porter.triton import compile as compiling
from porter.triton import ptx
from porter.triton.compile import Job, Result, compile
from porter.triton.dots import Product
from porter.triton.emit import emit

pytest.importorskip("triton", reason="the gpu extra is not installed")

sys.path.insert(0, str(Path(__file__).parent))
from samples import NAMES, sample


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "porter" / "triton"


def job(name: str, arch: int = 90) -> Job:
    return Job(name, emit(sample(name)).text, arch)


def test_a_kernel_becomes_a_cubin_with_what_it_needs(own_cache: Path) -> None:
    first, second = compile([job("transpose"), job("softmax")])
    assert first.ok and first.cubin.startswith(b"\x7fELF") and ".entry transpose" in first.ptx
    assert second.ok and 0 < second.registers < 255 and second.spills == 0 and second.warps == 4
    assert first.shared > 0  # a transpose goes through shared memory
    assert len(list(own_cache.glob("*.json"))) == 2


def test_equal_text_gives_equal_bytes_and_is_compiled_once(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    first = compile([job("softmax")])[0]
    again = compile([job("softmax")], no_cache=True)[0]
    assert first.cubin == again.cubin and first.ptx == again.ptx and first == again
    assert "/" not in first.ptx.replace("//", "")  # no paths
    asked: list[Job] = []
    monkeypatch.setattr(compiling, "_compile", lambda j: asked.append(j) or again)
    assert compile([job("softmax")] * 3) == [first] * 3 and not asked
    assert compile([job("softmax", 100)] * 2) == [again] * 2 and len(asked) == 1
    kept = next(own_cache.glob("*.json"))
    kept.write_text("{")
    compile([job("softmax"), job("softmax", 100)])
    assert len(asked) == 2  # the damaged one


def test_a_kernel_that_does_not_compile_says_why() -> None:
    text = emit(sample("softmax")).text.replace("tl.exp(d)", "tl.exp(c)")
    result = compile([Job("softmax", text)])[0]
    assert not result.ok and result.message == "Expected dtype ['fp32', 'fp64'] but got int32"


def test_a_compiler_that_dies_is_a_verdict_and_the_next_kernel_compiles() -> None:
    text = emit(sample("softmax")).text + "\nimport os\nos._exit(11)\n"
    dead, alive = compile([Job("softmax", text), job("softmax")])
    assert not dead.ok and dead.message == "the compiler ended with code 11 on kernel softmax"
    assert alive.ok
    assert compile([job("transpose")])[0].ok


def test_triton_ir_names_no_gpu() -> None:
    result = compile([replace(job("matmul"), stage="ttir")])[0]
    assert result.ok and "inputPrecision = bf16x6" in result.ttir and not result.cubin
    assert "ttg." not in result.ttir and "cuda" not in result.ttir


def test_products_are_read_back_from_the_compiled_kernel() -> None:
    sources = {name: emit(sample(name)) for name in ("matmul", "conv_channels_last", "matmul_bf16")}
    results = dict(zip(sources, compile([Job(n, s.text) for n, s in sources.items()]), strict=True))
    assert results["matmul"].units == ("mma.bf16",)  # 16 rows are too few for a warpgroup
    assert results["conv_channels_last"].units == ("wgmma.tf32",)
    assert results["matmul_bf16"].units == ("wgmma.bf16",)
    assert ptx.dots(results["matmul"].ttgir) == {((1, 16, 32, 32), "bfloat16"): 6}
    assert ptx.dots(results["conv_channels_last"].ttgir) == {((1, 128, 16, 16), "tf32"): 3}
    for name, source in sources.items():
        assert ptx.mismatch(source.products, results[name].ttir, results[name].ttgir) is None


@pytest.mark.parametrize("instead", ["tf32", "bf16x3", "tf32x3", "ieee"])
def test_another_product_than_asked_is_named(instead: str) -> None:
    source = emit(sample("matmul"))
    text = source.text.replace('input_precision="bf16x6"', f'input_precision="{instead}"')
    result = compile([Job("matmul", text)])[0]
    found = "fp32" if instead == "ieee" else instead
    assert ptx.mismatch(source.products, result.ttir, result.ttgir) == (
        f"the product [16, 32] x [32, 32] is asked for as bf16x6, and requested of Triton as {found}"
    )


def test_passes_are_counted_where_the_request_looks_right() -> None:
    """A compiler that takes the request for bf16x6 and multiplies once is caught in the GPU IR."""
    asked = Product("bf16x6", 1, 64, 64, 32)
    line = ("%1 = ttng.warp_group_dot %a, %b, %c : !ttg.memdesc<64x32x{0}, #s> * !ttg.memdesc<32x64x{0}, #s>"
            " -> tensor<64x64xf32>\n")  # fmt: skip
    request = ("%1 = tt.dot %a, %b, %c, inputPrecision = bf16x6 : tensor<64x32xf32> * tensor<32x64xf32>"
               " -> tensor<64x64xf32>\n")  # fmt: skip
    assert ptx.mismatch([asked], request, line.format("bf16") * 6) is None
    assert ptx.mismatch([asked], request, line.format("bf16") * 12) is None  # a peeled loop
    assert "compiled as bf16" in str(ptx.mismatch([asked], request, line.format("bf16")))
    assert "compiled as bf16x3" in str(ptx.mismatch([asked], request, line.format("bf16") * 3))
    assert "compiled as tf32" in str(ptx.mismatch([asked], request, line.format("f32")))
    assert "compiled as none" in str(ptx.mismatch([asked], request, ""))
    assert ptx.mismatch([asked, asked], request * 2, line.format("bf16") * 12) is None
    assert "compiled as bf16x3" in str(ptx.mismatch([asked, asked], request * 2, line.format("bf16") * 6))


def test_matrix_instructions_are_told_apart() -> None:
    text = """
        wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, p, 1, 1;
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1}, {%r2};
        @%p tcgen05.mma.cta_group::1.kind::f16 [ %r1 + 0 ], %rd46, %rd47, %r62, %p12;
        // mma.sync is no instruction here
    """
    assert ptx.units(text) == ("mma.tf32", "tcgen05.f16", "wgmma.bf16")
    assert ptx.units("fma.rn.f32 %f1, %f2, %f3, %f4;") == ()


def test_a_kept_result_of_another_make_is_not_read(own_cache: Path) -> None:
    compile([job("softmax")])
    path = next(own_cache.glob("*.json"))
    document = json.loads(path.read_text())
    assert compiling._read(document) == compile([job("softmax")])[0]
    assert compiling._read({**document, "more": 1}) is None and compiling._read([]) is None
    assert isinstance(compiling._read(document), Result)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [90, 100, 103, 107])
def test_every_sample_compiles(arch: int) -> None:
    sources = {name: emit(sample(name)) for name in NAMES}
    for (name, source), result in zip(sources.items(), compile([job(name, arch) for name in NAMES]), strict=True):
        assert result.ok, f"{name}: {result.message}"
        assert ptx.mismatch(source.products, result.ttir, result.ttgir) is None
