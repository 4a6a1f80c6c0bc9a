"""Kernels as jaxprs: few primitives, float32 arithmetic, casts only at loads, stores and where the model casts."""

from __future__ import annotations

import jax
import jax.extend.core
import ml_dtypes
import numpy as np
import pytest
from onnx import parser

from porter import graph, ops
from porter.errors import PorterError

BF16 = np.dtype(ml_dtypes.bfloat16)


def kernel(body, *types, opset=24):
    """The jaxpr of one function, whose inputs are (dtype, dims...) tuples or arrays."""
    text = f"""
    <ir_version: 10, opset_import: ["" : {opset}, "porter" : 1]>
    g (float[1] x) => (float[1] y) {{ y = Identity(x) }}
    <domain: "porter", opset_import: ["" : {opset}]>
    f {body}
    """
    model = graph.read(parser.parse_model(text))
    inputs = [t if isinstance(t, np.ndarray) else ops.ShapeDtype(t[1:], np.dtype(t[0])) for t in types]
    return ops.trace(next(iter(model.functions.values())), model, inputs)


def primitives(jaxpr):
    return [str(e.primitive) for e in jaxpr.eqns]


def test_softmax_is_five_primitives_and_two_broadcasts():
    names = primitives(kernel("(x) => (y) { y = Softmax(x) }", ("float32", 4, 8)))
    assert [n for n in names if n != "broadcast_in_dim"] == ["reduce_max", "sub", "exp", "reduce_sum", "div"]


def test_a_bfloat16_matmul_is_a_dot_of_casts_in_float32():
    jaxpr = kernel("(x, w) => (y) { y = MatMul(x, w) }", (BF16, 4, 8), (BF16, 8, 16))
    assert primitives(jaxpr) == ["convert_element_type", "convert_element_type", "dot_general", "convert_element_type"]
    (dot,) = [e for e in jaxpr.eqns if str(e.primitive) == "dot_general"]
    assert dot.params["preferred_element_type"] == np.float32
    assert dot.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert [v.aval.dtype for v in jaxpr.jaxpr.outvars] == [BF16]


def test_between_load_and_store_nothing_is_rounded():
    jaxpr = kernel("(x) => (y) { a = Exp(x) b = Mul(a, a) y = Neg(b) }", (BF16, 4))
    assert primitives(jaxpr) == ["convert_element_type", "exp", "mul", "neg", "convert_element_type"]


def test_an_input_that_is_read_twice_is_cast_once():
    names = primitives(kernel("(x) => (y) { a = Exp(x) b = Neg(x) y = Add(a, b) }", (BF16, 4)))
    assert names == ["convert_element_type", "exp", "neg", "add", "convert_element_type"]


def test_a_cast_in_the_model_rounds_and_widens_again():
    jaxpr = kernel("(x) => (y) { a = Cast<to=16>(x) y = Mul(a, a) }", ("float32", 4))
    kinds = [e.params["new_dtype"] for e in jaxpr.eqns if str(e.primitive) == "convert_element_type"]
    assert kinds == [BF16, np.float32, BF16]


def test_what_a_matrix_unit_reads_is_rounded_to_its_narrow_type():
    jaxpr = kernel(
        "(x, w, v) => (y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }", (BF16, 4, 8), (BF16, 8, 16), (BF16, 16, 4)
    )
    steps = [str(e.params["new_dtype"]) if n.startswith("convert") else n
             for n, e in zip(primitives(jaxpr), jaxpr.eqns, strict=True)]  # fmt: skip
    assert steps == ["float32", "float32", "dot_general", "max", "bfloat16", "float32", "float32", "dot_general",
                     "bfloat16"]  # fmt: skip


def test_probabilities_are_rounded_before_they_meet_the_values():
    jaxpr = kernel("(q, k, v) => (y) { y = Attention(q, k, v) }", *[(BF16, 1, 2, 4, 8)] * 3)
    kinds = [str(e.params["new_dtype"]) for e in jaxpr.eqns if str(e.primitive) == "convert_element_type"]
    assert kinds == ["float32", "float32", "float32", "bfloat16", "float32", "bfloat16"]


def test_a_load_that_is_only_moved_is_not_rounded_again():
    jaxpr = kernel("(x, w) => (y) { t = Transpose(x) s = Exp(x) y = MatMul(t, w) z = Add(s, s) }", (BF16, 4, 8),
                   (BF16, 4, 3))  # fmt: skip
    (dot,) = [i for i, n in enumerate(primitives(jaxpr)) if n == "dot_general"]
    assert "bfloat16" not in [str(e.params.get("new_dtype")) for e in jaxpr.eqns[:dot]]


def test_causal_attention_with_shared_heads_is_two_dots_around_a_softmax():
    names = primitives(
        kernel(
            "(q, k, v) => (y) { y = Attention<is_causal = 1>(q, k, v) }",
            ("float32", 1, 4, 8, 16),
            ("float32", 1, 2, 8, 16),
            ("float32", 1, 2, 8, 16),
        )
    )
    movement = {"broadcast_in_dim", "reshape", "iota"}
    assert [n for n in names if n not in movement] == [
        "dot_general", "mul", "le", "select_n", "reduce_max", "sub", "exp", "reduce_sum", "div", "dot_general",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "types", "wanted"),
    [
        ("(x, w) => (y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }", [("float32", 1, 3, 8, 8), ("float32", 5, 3, 3, 3)],
         ["conv_general_dilated"]),
        ("(x) => (y) { y = MaxPool<kernel_shape = [2, 2]>(x) }", [("float32", 1, 3, 8, 8)], ["reduce_window_max"]),
        ("(x) => (y) { y = GlobalAveragePool(x) }", [("float32", 1, 3, 8, 8)],
         ["reduce_sum", "broadcast_in_dim", "div"]),
        ("(x) => (y) { y = Transpose<perm = [1, 0]>(x) }", [(BF16, 3, 4)], ["transpose"]),
        ("(x) => (y) { s = Shape(x) y = Reshape(x, s) }", [("float32", 3, 4)], []),
        ("(x, i) => (y) { y = Gather(x, i) }", [("float32", 9, 4), ("int64", 5)],
         ["lt", "add", "select_n", "broadcast_in_dim", "gather"]),
    ],
)  # fmt: skip
def test_one_operator_is_one_primitive_where_one_will_do(body, types, wanted):
    assert primitives(kernel(body, *types)) == wanted


def test_no_operator_hides_a_jaxpr_in_its_jaxpr():
    body = """(x, c, s) => (y) {
        a = Gelu(x)  b = LayerNormalization(a, c, s)  d = Clip(b)  e = Erf(d)  f = Where(m, e, a)
        m = Greater(e, a)  y = Softplus(f) }"""
    body = body.replace(
        "f = Where(m, e, a)\n        m = Greater(e, a)", "m = Greater(e, a)\n        f = Where(m, e, a)"
    )
    jaxpr = kernel(body, ("float32", 4, 8), ("float32", 8), ("float32", 8))
    assert not [n for n in primitives(jaxpr) if n in ("jit", "pjit", "custom_jvp_call", "erfc", "stop_gradient")]


def test_a_known_array_is_a_constant_and_a_position_counts_in_32_bits():
    jaxpr = kernel(
        "(x, shape) => (y) { r = Reshape(x, shape) z = Constant<value_int = 0>() o = Constant<value_int = 1>() "
        "n = Constant<value_int = 128>() i = Range(z, n, o) f = Cast<to = 1>(i) y = Mul(r, f) }",
        ("float32", 2, 64),
        np.array([128], np.int64),
    )
    assert len(jaxpr.jaxpr.invars) == 1
    (iota,) = [e for e in jaxpr.eqns if str(e.primitive) == "iota"]
    assert iota.params["dtype"] == np.int32


def test_a_shape_that_depends_on_data_is_refused():
    with pytest.raises(PorterError, match="input 2 of Reshape\n  expected a value that is known before the model runs"):
        kernel("(x, shape) => (y) { y = Reshape(x, shape) }", ("float32", 4), ("int64", 1))


def test_a_traced_kernel_computes_what_the_reference_does():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 5, 8), (8,), (8,), (8, 6))]
    body = "(x, s, b, w) => (y) { n = LayerNormalization(x, s, b) m = MatMul(n, w) y = Gelu(m) }"
    jaxpr = kernel(body, *(("float32", *a.shape) for a in arrays))
    (got,) = jax.extend.core.jaxpr_as_fun(jaxpr)(*arrays)
    x, s, b, w = (a.astype(np.float64) for a in arrays)
    n = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + np.float64(np.float32(1e-5))) * s + b
    want = ops.float64.erf(n @ w / np.sqrt(2)) * 0.5 * (n @ w) + 0.5 * (n @ w)
    # a dot of 8 terms and a handful of operations in float32
    np.testing.assert_allclose(got, want, rtol=0, atol=32 * np.finfo(np.float32).eps * np.abs(want).max())
