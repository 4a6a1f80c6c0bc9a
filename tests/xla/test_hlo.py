"""Programs as text and bytes: the same every time, without paths, and text runs as the function did."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from porter.errors import PorterError
from porter.xla import hlo, narrow


def gelu(x):  # type: ignore[no-untyped-def]
    return 0.5 * x * (1 + lax.erf(x * np.float32(0.70710678)))


TYPES = [jax.ShapeDtypeStruct((5, 7), "float32")]


def test_text_runs_as_the_function_does() -> None:
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    for platform in ("cpu", "tpu"):
        [y] = hlo.run_text(hlo.stablehlo(gelu, TYPES, platform), [x])
        assert np.allclose(y, gelu(x), rtol=0, atol=2e-7 * 4)  # values up to 4, erf by two approximations


def test_text_can_be_called_from_another_program() -> None:
    text = hlo.stablehlo(gelu, TYPES, "cpu")
    x = np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
    [y] = jax.jit(lambda a: [r * 2 for r in hlo.call(text)(a)])(x)
    assert np.allclose(y, 2 * gelu(x), atol=1e-6)


def test_on_the_cpu_no_fusion_that_cannot_be_relied_on() -> None:
    x = np.ones((128, 128), np.float32)
    text = hlo.on_cpu(lambda a, b: a @ b).lower(x, x).compile().as_text()
    assert "dot" in text and "ynn" not in text  # jaxlib 0.10.2 left to itself makes one of a product


DTYPES = "float32 bfloat16 float16 int8 uint8 int32 int64 bool float8_e4m3fn float8_e5m2".split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_goes_through_text(dtype: str) -> None:
    with jax.enable_x64(True):
        kind = jnp.dtype(dtype)
        text = hlo.stablehlo(lambda x: x, [jax.ShapeDtypeStruct((3,), kind)], "cpu")
        [y] = hlo.run_text(text, [np.array([0, 1, 1]).astype(kind)])
    assert y.dtype == kind and y.tolist() == [0, 1, 1]


def test_equal_programs_have_equal_bytes_without_paths() -> None:
    def again(x):  # type: ignore[no-untyped-def]
        return gelu(x)

    texts = {hlo.stablehlo(f, TYPES, "tpu") for f in (gelu, again)}
    protos = {hlo.hlo_proto(f, TYPES) for f in (gelu, again)}
    assert len(texts) == len(protos) == 1
    [text], [proto] = texts, protos
    assert "loc(" not in text and __file__ not in text
    assert b".py" not in proto and b"/" not in proto.replace(b"jit(main)/", b"")


def test_a_proto_runs_as_its_function_does() -> None:
    """erf and top_k are no StableHLO when they come back from HLO."""

    def two(x, y):  # type: ignore[no-untyped-def]
        return gelu(x) + y, lax.top_k(x, 3)[1]

    x, y = (np.random.default_rng(i).standard_normal((5, 7)).astype(np.float32) for i in (0, 1))
    found = hlo.run_proto(hlo.hlo_proto(two, TYPES * 2), [x, y])
    assert np.allclose(found[0], two(x, y)[0], rtol=0, atol=1e-5) and np.array_equal(found[1], two(x, y)[1])


def test_lowering_leaves_jax_as_it_was() -> None:
    options = ("jax_include_full_tracebacks_in_locations", "jax_hlo_source_file_canonicalization_regex")
    before = [getattr(jax.config, o) for o in options]
    hlo.stablehlo(gelu, TYPES, "cpu")
    assert [getattr(jax.config, o) for o in options] == before


def test_text_that_is_no_module_is_refused() -> None:
    with pytest.raises(PorterError, match="StableHLO text"):
        hlo.call("module { nonsense }")


# 32 bits


def narrowed(function, types, precision=None):  # type: ignore[no-untyped-def]
    with jax.enable_x64(True):
        meaning = jax.make_jaxpr(function)(*types)
    with jax.enable_x64(False):
        slim = [jax.ShapeDtypeStruct(t.shape, narrow.narrow_dtype(t.dtype)) for t in types]
        return hlo.stablehlo(narrow.narrowed(meaning, precision), slim, "tpu"), slim


@pytest.mark.parametrize("function", [
    lambda x: x * jnp.int64(3) + jnp.arange(4, dtype=jnp.int64),
    lambda x: jnp.where(x > 2, x, jnp.int64(7)),
    lambda x: lax.fori_loop(0, 3, lambda i, v: v + i, x),
    lambda x: lax.cond(x[0] > 0, lambda v: v + 1, lambda v: v - 1, x),
    lambda x: jnp.cumsum(x),
    lambda x: jnp.take(jnp.arange(9, dtype=jnp.int64), x, mode="clip"),
    lambda x: jax.jit(lambda v: v // 2)(x),
])  # fmt: skip
def test_no_64_bit_type_is_left_and_the_numbers_are_the_same(function) -> None:  # type: ignore[no-untyped-def]
    with jax.enable_x64(True):
        wanted = np.asarray(function(jnp.asarray([1, 2, 3, 4], jnp.int64)))
    text, _ = narrowed(function, [jax.ShapeDtypeStruct((4,), "int64")])
    assert not hlo.element_types(text) & {"i64", "f64"}
    with jax.enable_x64(False):
        [got] = hlo.run_text(text, [np.array([1, 2, 3, 4], np.int32)])
    assert got.tolist() == wanted.tolist()


def test_a_product_of_widened_bf16_is_the_narrow_product() -> None:
    bf16 = [jax.ShapeDtypeStruct((4, 8), jnp.bfloat16), jax.ShapeDtypeStruct((4, 8), jnp.bfloat16)]
    text, _ = narrowed(lambda a, b: a.astype(jnp.float32) @ b.astype(jnp.float32).T, bf16, lax.Precision.HIGHEST)
    assert "(tensor<4x8xbf16>, tensor<8x4xbf16>) -> tensor<4x4xf32>" in text
    mixed = [bf16[0], jax.ShapeDtypeStruct((4, 8), "float32")]
    text, _ = narrowed(lambda a, b: a.astype(jnp.float32) @ b.T, mixed, lax.Precision.HIGHEST)
    assert "precision = [HIGHEST, HIGHEST]" in text and "(tensor<4x8xf32>, tensor<8x4xf32>)" in text


def test_a_scatter_adds_in_32_bits() -> None:
    """Its arithmetic is a jaxpr of its own, whose types are narrowed as well."""
    x, u, at = np.arange(10).reshape(5, 2), np.ones((3, 2), np.int64), np.array([1, 1, 4])
    with jax.enable_x64(True):
        closed = jax.make_jaxpr(lambda x, u: x.at[at].add(u))(x, u)
    with jax.enable_x64(False):
        given = [jax.ShapeDtypeStruct(a.shape, np.int32) for a in (x, u)]
        text = hlo.stablehlo(narrow.narrowed(closed), given, "tpu")
    [y] = hlo.run_text(text, [x.astype(np.int32), u.astype(np.int32)])
    assert y.tolist() == [[0, 1], [4, 5], [4, 5], [6, 7], [9, 10]]
