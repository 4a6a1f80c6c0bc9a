"""Random operators: the distributions, held against their moments; the same seed gives the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from porter import graph, ops
from porter.ops.namespace import NotKnown


def drawn(text: str, **feeds: np.ndarray) -> np.ndarray:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> {text}')
    onnx.checker.check_model(model)
    (y,) = ops.evaluate(graph.load(model), feeds, ops.source).values()
    return y


def near(value: float, expected: float, deviation: float, count: int) -> bool:
    """Within five standard errors: once in a million by chance, and the seed is fixed."""
    return abs(value - expected) < 5 * deviation / np.sqrt(count)


def test_normal_numbers() -> None:
    y = drawn(
        "g () => (float[200,200] y) { y = RandomNormal <shape = [200, 200], mean = 2.0, scale = 3.0, seed = 1.0> () }"
    )
    assert (y.dtype, y.shape) == (np.float32, (200, 200))
    assert near(y.mean(), 2, 3, y.size)
    assert near(y.std(), 3, 3 / np.sqrt(2), y.size)
    assert near((np.abs(y - 2) < 3).mean(), 0.6827, 0.4655, y.size)


def test_uniform_numbers() -> None:
    y = drawn(
        "g () => (double[40000] y) { y = RandomUniform <shape = [40000], low = -1.0, high = 3.0, seed = 2.0, dtype = 11> () }"
    )
    assert y.dtype == np.float64
    assert y.min() >= -1
    assert y.max() < 3
    assert near(y.mean(), 1, 4 / np.sqrt(12), y.size)
    assert near((y < 0).mean(), 0.25, 0.433, y.size)


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_like_an_input(op: str) -> None:
    x = np.zeros((3, 5), np.float16)
    same = drawn(f"g (float16[3,5] x) => (float16[3,5] y) {{ y = {op} (x) }}", x=x)
    other = drawn(f"g (float16[3,5] x) => (float[3,5] y) {{ y = {op} <dtype = 1> (x) }}", x=x)
    assert (same.dtype, same.shape, other.dtype) == (np.float16, (3, 5), np.float32)
    assert np.unique(same).size > 5


def test_bernoulli_and_multinomial() -> None:
    p = np.repeat(np.float32([[0.1], [0.5], [1.0], [0.0]]), 10000, axis=1)
    y = drawn("g (float[4,10000] x) => (float[4,10000] y) { y = Bernoulli <seed = 3.0> (x) }", x=p)
    assert set(np.unique(y)) <= {0, 1}
    assert near(y[0].mean(), 0.1, 0.3, 10000)
    assert near(y[1].mean(), 0.5, 0.5, 10000)
    assert (y[2].min(), y[3].max()) == (1, 0)
    logits = np.log(np.float32([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]) + np.float32(1e-30))
    text = "g (float[2,3] x) => (int64[2,20000] y) { y = Multinomial <sample_size = 20000, dtype = 7, seed = 4.0> (x) }"
    z = drawn(text, x=logits)
    assert z.dtype == np.int64
    for k, chance in enumerate((0.2, 0.3, 0.5)):
        assert near((z[0] == k).mean(), chance, np.sqrt(chance * (1 - chance)), 20000)
    assert (z[1] == 1).all()


def test_a_seed_is_a_draw_in_every_namespace() -> None:
    text = "g () => (float[9] y) { y = RandomNormal <shape = [9], seed = %s> () }"
    assert np.array_equal(drawn(text % "1.0"), drawn(text % "1.0"))
    assert not np.array_equal(drawn(text % "1.0"), drawn(text % "2.0"))
    model = graph.load(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> {text % "1.0"}'))
    np.testing.assert_allclose(ops.reference(model, {})["y"], drawn(text % "1.0"))


def test_the_host_draws_what_depends_on_data() -> None:
    import jax

    text = '<ir_version: 10, opset_import: ["" : 22]> g (float[3] x) => (float[3] y) { y = Bernoulli (x) }'
    model = graph.load(onnx.parser.parse_model(text))
    with pytest.raises(NotKnown, match="random numbers"):
        jax.eval_shape(
            lambda x: ops.evaluate(model, {"x": x}, ops.jax_namespace), jax.ShapeDtypeStruct((3,), np.float32)
        )
