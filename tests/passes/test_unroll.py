"""Known control flow unrolled, and recurrent layers as steps: the same results, bit for bit where the pass says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter import graph, ops, pipeline

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, weights=()) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def branches(value_then: str, value_else: str):
    then = helper.make_graph([helper.make_node("Add", ["x", value_then], ["t"])], "then", [], [info("t", FLOAT, [3])])
    other = helper.make_graph([helper.make_node("Mul", ["x", value_else], ["e"])], "else", [], [info("e", FLOAT, [3])])
    return helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)


def loop(trips: int) -> onnx.ModelProto:
    """y = x + 0 + 1 + ... and a row per turn; the body reads a value from outside."""
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=FLOAT), helper.make_node("Add", ["s", "f"], ["u"]),
            helper.make_node("Mul", ["u", "x"], ["row"]), helper.make_node("Identity", ["c"], ["d"]),
        ],
        "body", [info("i", INT64, []), info("c", BOOL, []), info("s", FLOAT, [3])],
        [info("d", BOOL, []), info("u", FLOAT, [3]), info("row", FLOAT, [3])],
    )  # fmt: skip
    node = helper.make_node("Loop", ["n", "", "x"], ["y", "rows"], body=body)
    return model(
        [node], [info("x", FLOAT, [3])], [info("y", FLOAT, [3]), info("rows", FLOAT, None)], [("n", np.array(trips))]
    )


def kinds(made: graph.Model) -> set[str]:
    return {n.op_type for n in made.graph}


X = {"x": np.array([1.5, -2, 3], np.float32)}


def same(proto: onnx.ModelProto, passes: str, feeds: dict[str, np.ndarray]) -> graph.Model:
    loaded = graph.load(proto)
    made = pipeline.run(loaded, passes).model
    want, got = ops.evaluate(loaded, feeds, ops.source), ops.evaluate(made, feeds, ops.source)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6)
    return made


@pytest.mark.parametrize("flag", [True, False])
def test_a_known_condition_leaves_one_branch(flag: bool) -> None:
    proto = model([branches("a", "a")], [info("x", FLOAT, [3])], [info("y", FLOAT, [3])],
                  [("flag", np.array(flag)), ("a", np.array([2, 3, 4], np.float32))])  # fmt: skip
    assert kinds(same(proto, "cleanup", X)) - {"Identity"} == {"Add" if flag else "Mul"}


@pytest.mark.parametrize("flag", [True, False])
def test_a_computed_condition_chooses(flag: bool) -> None:
    proto = model([branches("a", "a")], [info("x", FLOAT, [3]), info("flag", BOOL, [])], [info("y", FLOAT, [3])],
                  [("a", np.array([2, 3, 4], np.float32))])  # fmt: skip
    made = same(proto, "cleanup", {**X, "flag": np.array(flag)})
    assert {"Add", "Mul", "Where"} <= kinds(made) and "If" not in kinds(made)


@pytest.mark.parametrize("trips", [1, 4])
def test_a_loop_of_known_length_is_its_turns(trips: int) -> None:
    assert "Loop" not in kinds(same(loop(trips), "cleanup", X))


def test_a_long_loop_stays() -> None:
    assert "Loop" in kinds(same(loop(65), "cleanup.unroll", X))


@pytest.mark.parametrize("op, gates, states", [("RNN", 1, 1), ("GRU", 3, 1), ("LSTM", 4, 2)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_recurrent_layer_is_its_steps(op: str, gates: int, states: int, direction: str) -> None:
    rng, ways, hidden = np.random.default_rng(0), 2 if direction == "bidirectional" else 1, 5
    weights = [
        ("w", (ways, gates * hidden, 3)),
        ("r", (ways, gates * hidden, hidden)),
        ("b", (ways, 2 * gates * hidden)),
    ]
    names = ["Y", "H", "C"][: 1 + states]
    proto = model(
        [helper.make_node(op, ["X", "w", "r", "b"], names, direction=direction, hidden_size=hidden)], [info("X", FLOAT, [4, 2, 3])],
        [info("Y", FLOAT, [4, ways, 2, hidden]), *(info(n, FLOAT, [ways, 2, hidden]) for n in names[1:])],
        [(n, rng.standard_normal(s).astype(np.float32)) for n, s in weights],
    )  # fmt: skip
    made = same(proto, "layout.steps", {"X": rng.standard_normal((4, 2, 3)).astype(np.float32)})
    assert sum(n.op_type == op for n in made.graph) == 4 * ways
