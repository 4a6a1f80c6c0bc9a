"""Free dims: which are asked for, which follow, and what is said when a number cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from refused import refusal

from porter import graph
from porter.graph.sizes import Size, parse


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"/{op.lower()}/{output}", **attributes)


@pytest.fixture
def cache(model: Callable) -> onnx.ModelProto:
    """One step of attention with a cache: an exporter that names each dim of its own."""
    nodes = [
        node("Concat", "k k_new", "keys", axis=1),
        node("Concat", "v v_new", "values", axis=1),
        node("Transpose", "keys", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "scores"),
        node("Add", "scores mask", "masked"),
        node("MatMul", "masked values", "y"),
    ]
    inputs = {
        "q": ["batch", 1, 8],
        "k": ["s0", "s1", 8], "k_new": ["s0", 1, 8],
        "v": ["s2", "s3", 8], "v_new": ["s2", 1, 8],
        "mask": [1, 1, "s4"],
    }  # fmt: skip
    return model(nodes, inputs, {"y": ["batch", 1, 8], "keys": ["s0", "s1 + 1", 8]})


def bound(proto: onnx.ModelProto, dims: Mapping[str, int]) -> dict[str, tuple[int, ...] | None]:
    loaded = graph.load(proto, dims)
    return {value.name or "": graph.shape(value) for value in [*loaded.graph.inputs, *loaded.graph.outputs]}


def test_dims_are_listed_with_their_places_and_what_they_follow(cache: onnx.ModelProto) -> None:
    assert graph.dims(graph.read(cache)) == (
        graph.Dim("batch", ("q[0]",)),
        graph.Dim("s0", ("k[0]", "k_new[0]"), "batch"),
        graph.Dim("s1", ("k[1]",)),
        graph.Dim("s2", ("v[0]", "v_new[0]"), "batch"),
        graph.Dim("s3", ("v[1]",), "s1"),
        graph.Dim("s4", ("mask[2]",), "s1 + 1"),
    )


@pytest.mark.parametrize("given", [{"batch": 2, "s1": 5}, {"s2": 2, "s3": 5}, {"k[0]": 2, "mask[2]": 6}])
def test_any_name_of_a_class_binds_all_of_it(given: dict[str, int], cache: onnx.ModelProto) -> None:
    shapes = bound(cache, given)
    assert shapes["q"] == (2, 1, 8) and shapes["k"] == shapes["v"] == (2, 5, 8) and shapes["mask"] == (1, 1, 6)
    assert shapes["y"] == (2, 1, 8) and shapes["keys"] == (2, 6, 8)


def test_what_was_found_is_noted(cache: onnx.ModelProto) -> None:
    notes = graph.notes(graph.load(cache, {"batch": 2, "s1": 5}))
    assert "dim 's3' is 5, as node '/matmul/y' (MatMul) needs max(s1 + 1, s4) = s3 + 1" in notes, notes


def test_missing_dims_are_asked_for_once_each(cache: onnx.ModelProto) -> None:
    assert refusal(cache, {}) == (
        "the inputs\n  expected a number for every free dim\n  found none for 'batch' (q[0]), 's1' (k[1])\n"
        "  try  --dim batch=N --dim s1=N"
    )


def test_a_nameless_dim_is_asked_for_by_place(model: Callable) -> None:
    proto = model([node("Relu", "input", "y")], {"input": [None, None]}, {"y": None})
    assert refusal(proto, {"input[1]": 4}).endswith("found none for input[0]\n  try  --dim 'input[0]=N'")
    assert bound(proto, {"input[0]": 3, "input[1]": 4})["y"] == (3, 4)


def test_a_contradiction_names_the_node_that_sees_it(cache: onnx.ModelProto) -> None:
    assert refusal(cache, {"batch": 2, "s1": 5, "s3": 4}) == (
        "node '/add/masked' (Add)\n  expected s1 + 1 = s4, or one of them 1\n  found 6 and 5\n"
        "  try  other numbers with --dim"
    )


def test_a_broadcast_takes_one_for_any_size(model: Callable) -> None:
    proto = model([node("Add", "a b", "y")], {"a": ["n", 4], "b": ["m", 4]}, {"y": None})
    assert bound(proto, {"n": 3, "m": 1})["y"] == (3, 4)
    assert bound(proto, {"n": 1, "m": 3})["y"] == (3, 4)
    assert bound(proto, {"n": 3})["b"] == (3, 4)
    assert refusal(proto, {"n": 3, "m": 2}).startswith("node '/add/y' (Add)\n  expected n = m, or one of them 1\n")


def test_what_a_broadcast_gives_may_be_larger_than_what_it_takes(model: Callable) -> None:
    nodes = [node("Add", "a b", "ab"), node("Concat", "ab c", "y", axis=1)]
    proto = model(nodes, {"a": ["k", 2], "b": ["l", 2], "c": ["m", 3]}, {"y": None})
    assert bound(proto, {"k": 1, "l": 5, "m": 5})["y"] == (5, 5)
    assert bound(proto, {"k": 1, "m": 5})["b"] == (5, 2)
    assert bound(proto, {"m": 5})["a"] == (5, 2)
    assert "expected max(k, l) = m" in refusal(proto, {"k": 1, "l": 5, "m": 4})


@pytest.mark.parametrize("number", [0, -1])
def test_impossible_numbers(number: int, cache: onnx.ModelProto) -> None:
    assert refusal(cache, {"batch": number}) == f"dim 'batch'\n  expected a number of 1 or more\n  found {number}"


def test_an_unknown_name_gets_the_nearest(cache: onnx.ModelProto) -> None:
    text = refusal(cache, {"bacth": 2})
    assert text.startswith("dim 'bacth'\n  expected a free dim of the inputs ('batch', 's0', 's1', 's2', 's3', 's4')")
    assert text.endswith("try  --dim 'batch=2'")


def test_a_dim_of_an_output_is_not_bound(model: Callable) -> None:
    proto = model([node("NonZero", "x", "y")], {"x": [4]}, {"y": [1, "found"]}, types={"y": TensorProto.INT64})
    assert refusal(proto, {"found": 2}).endswith("found a dim of the outputs, which is inferred")


def test_a_fixed_dim_may_be_given_but_not_changed(model: Callable) -> None:
    proto = model([node("Relu", "x", "y")], {"x": [4]}, {"y": [4]})
    assert bound(proto, {"x[0]": 4})["x"] == (4,)
    assert refusal(proto, {"x[0]": 5}) == "dim 'x[0]'\n  expected 4, which the model fixes\n  found 5"


def test_a_name_and_a_place_that_disagree(cache: onnx.ModelProto) -> None:
    assert refusal(cache, {"s0": 2, "k[0]": 3}) == "dim 's0'\n  expected one number\n  found both 2 and 3 given"


def test_a_reshape_with_a_fixed_size_fixes_the_dim(model: Callable) -> None:
    proto = model([node("Reshape", "x s", "y")], {"x": ["n", 6]}, {"y": None}, {"s": np.asarray([4, 3], np.int64)})
    assert bound(proto, {}) == {"x": (2, 6), "y": (4, 3)}
    assert "n*6 = 12" in refusal(proto, {"n": 3}).replace("6*n", "n*6")


def test_dims_written_as_sums_follow_their_parts(model: Callable) -> None:
    inputs = {"a": ["past"], "b": ["new"], "c": ["past + new"], "d": ["2*past"]}
    nodes = [node("Concat", "a b c d", "y", axis=0)]
    proto = model(nodes, inputs, {"y": None})
    assert bound(proto, {"past": 3, "new": 2})["y"] == (3 + 2 + 5 + 6,)
    assert bound(proto, {"past": 3, "past + new": 5})["b"] == (2,)
    assert refusal(proto, {"past": 3, "past + new": 2}).startswith("dim '")


def test_an_input_without_a_rank(model: Callable) -> None:
    proto = model([node("Relu", "x", "y")], {"x": None}, {"y": None})
    assert refusal(proto, {}).startswith("input 'x'\n  expected a shape, or at least a rank\n  found none")
    assert bound(proto, {"x[0]": 2, "x[1]": 3})["y"] == (2, 3)


def test_shapes_are_followed_through_functions_and_shape_arithmetic(model: Callable) -> None:
    body = [
        node("Shape", "a", "s"),
        helper.make_node("Constant", [], ["i"], value_int=1),
        node("Gather", "s i", "n"),
        helper.make_node("Constant", [], ["ax"], value_ints=[0]),
        node("Unsqueeze", "n ax", "nu"),
        helper.make_node("Constant", [], ["minus"], value_ints=[-1]),
        node("Concat", "minus nu", "shape", axis=0),
        node("Reshape", "b shape", "r"),
        node("MatMul", "a r", "out"),
    ]
    function = helper.make_function("local", "F", ["a", "b"], ["out"], body, [helper.make_opsetid("", 24)])
    proto = model(
        [helper.make_node("F", ["a", "b"], ["y"], domain="local", name="call")],
        {"a": ["m", "k"], "b": ["k2", "k"]}, {"y": None}, functions=[function],
    )  # fmt: skip
    assert [dim.follows for dim in graph.dims(graph.read(proto))] == [None, None, "k"]
    assert bound(proto, {"m": 2, "k": 3})["b"] == (3, 3)


NAMES = st.sampled_from(["a", "b", "n.0"])
SIZES = st.recursive(
    st.one_of(st.integers(0, 9).map(Size.of), NAMES.map(Size.of)),
    lambda inner: st.tuples(inner, inner, st.sampled_from("+-*")).map(
        lambda t: t[0] + t[1] if t[2] == "+" else t[0] - t[1] if t[2] == "-" else t[0] * t[1]
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_arithmetic_of_sizes_is_that_of_numbers(left: Size, right: Size, a: int, b: int, n: int) -> None:
    at = {"a": Size.of(a), "b": Size.of(b), "n.0": Size.of(n)}
    x, y = left.at(at).number, right.at(at).number
    assert x is not None and y is not None
    assert (left + right).at(at).number == x + y
    assert (left - right).at(at).number == x - y
    assert (left * right).at(at).number == x * y
    quotient = (left * right).over(right)
    assert quotient is None or (quotient * right) == left * right


@settings(deadline=None)
@given(SIZES)
def test_a_size_prints_and_parses(size: Size) -> None:
    if all(coefficient > 0 for _, coefficient in size.terms):
        assert parse(str(size)) == size


@pytest.mark.parametrize("name", ["batch-size", "p2o.DynamicDimension.0", "unk__749", "a/b", "batch size"])
def test_names_that_are_no_sums(name: str) -> None:
    assert parse(name) == Size.of(name)


def test_real_decoders_ask_for_two_or_three_numbers(models: Path) -> None:
    path = models / "llama_gqa" / "decode.onnx"
    found = {dim.name: dim.follows for dim in graph.dims(graph.read(path))}
    assert [name for name, follows in found.items() if follows is None] == ["s25", "s15"]
    assert found["s43"] == "s25" and found["s53"] == "s15 + 1"
    for sizes in ({"s25": 2, "s15": 13}, {"s43": 2, "s53": 14}, {"s25": 2, "s68": 13}):
        loaded = graph.load(path, sizes)
        shapes = {value.name: graph.shape(value) for value in loaded.graph.inputs}
        assert shapes["attention_mask"] == (2, 14) and shapes["past.3.value"] == (2, 4, 13, 32)
    text = refusal(onnx.load(path), {"s25": 2, "s15": 13, "s53": 13})
    assert text.endswith("expected s53 of at least s15 + 1\n  found 13 and 14\n  try  other numbers with --dim"), text
    speech = graph.dims(graph.read(models / "tts_code_predictor_op24" / "model.onnx"))
    assert [dim.name for dim in speech if dim.follows is None] == ["batch", "sequence_len", "past_sequence_len"]


def test_a_dim_that_is_read_by_index_is_as_long_as_the_indices_reach(model: Callable) -> None:
    nodes = [
        node("Shape", "x", "n", start=1, end=2),
        node("Squeeze", "n", "count"),
        node("Range", "zero count one", "places"),
        node("Add", "places one", "later"),
        node("Gather", "table later", "y"),
    ]
    weights = {"zero": np.asarray(0, np.int64), "one": np.asarray(1, np.int64)}
    proto = model(nodes, {"x": [1, "seq"], "table": ["rows", 4]}, {"y": None}, weights)
    assert bound(proto, {"seq": 5})["table"] == (6, 4)
    assert bound(proto, {"rows": 6})["x"] == (1, 5)
    assert bound(proto, {"seq": 5, "rows": 9})["table"] == (9, 4)
    assert refusal(proto, {"seq": 5, "rows": 5}) == (
        "node '/gather/y' (Gather)\n  expected rows of at least seq + 1\n  found 5 and 6\n"
        "  try  other numbers with --dim"
    )


@pytest.mark.parametrize(("index", "least"), [(-1, 1), (-3, 3), (2, 3)])
def test_a_constant_index_asks_for_a_dim_that_long_and_binds_none(model: Callable, index: int, least: int) -> None:
    proto = model(
        [node("Gather", "x at", "y", axis=1)], {"x": [1, "seq", 4]}, {"y": None}, {"at": np.asarray([index], np.int64)}
    )
    assert [(d.name, d.follows) for d in graph.dims(graph.read(proto))] == [("seq", None)]
    assert bound(proto, {"seq": 7})["x"] == (1, 7, 4)
    assert bound(proto, {"seq": least})["x"] == (1, least, 4)
    assert "a number for every free dim" in refusal(proto, {})
    if least > 1:
        assert f"expected seq of at least {least}" in refusal(proto, {"seq": least - 1})


def test_indices_side_by_side_reach_each_in_its_own_axis(model: Callable) -> None:
    nodes = [
        node("Shape", "x", "n", start=0, end=1),
        node("Shape", "x", "m", start=1, end=2),
        node("Squeeze", "n", "rows"),
        node("Squeeze", "m", "columns"),
        node("Range", "zero rows one", "i"),
        node("Range", "zero columns one", "j"),
        node("Unsqueeze", "i last", "i1"),
        node("Unsqueeze", "i1 last", "i2"),
        node("Expand", "i2 square", "i3"),
        node("Unsqueeze", "j first", "j1"),
        node("Unsqueeze", "j1 last", "j2"),
        node("Expand", "j2 square", "j3"),
        node("Concat", "i3 j3", "places", axis=-1),
        node("GatherND", "mask places", "y"),
        node("Concat", "n m one1", "square", axis=0),
    ]
    nodes.insert(2, nodes.pop())
    weights = {
        "zero": np.asarray(0, np.int64), "one": np.asarray(1, np.int64), "one1": np.asarray([1], np.int64),
        "last": np.asarray([-1], np.int64), "first": np.asarray([0], np.int64),
    }  # fmt: skip
    proto = model(nodes, {"x": ["a", "b"], "mask": ["c", "d"]}, {"y": None}, weights)
    found = {dim.name: dim.follows for dim in graph.dims(graph.read(proto))}
    assert found == {"a": None, "b": None, "c": "a", "d": "b"}
    assert bound(proto, {"a": 2, "b": 3})["mask"] == (2, 3)


def test_a_part_from_the_end_is_as_long_as_it_is_counted(model: Callable) -> None:
    nodes = [
        node("Shape", "total", "t", start=0, end=1),
        node("Shape", "new", "n", start=0, end=1),
        node("Sub", "t n", "start"),
        node("Slice", "total start end axes", "tail"),
        node("MatMul", "tail weight", "y"),
        node("Concat", "tail other", "z", axis=1),
    ]
    weights = {
        "end": np.asarray([2**63 - 1], np.int64),
        "axes": np.asarray([0], np.int64),
        "weight": np.ones((4, 2), np.float32),
    }
    inputs = {"total": ["T", 4], "new": ["N", 4], "other": ["M", 4]}
    proto = model(nodes, inputs, {"y": None, "z": None}, weights)
    assert {dim.name: dim.follows for dim in graph.dims(graph.read(proto))} == {"T": None, "N": None, "M": "N"}
    assert bound(proto, {"T": 7, "N": 3})["other"] == (3, 4)


def test_shapes_are_told_in_the_dims_that_are_asked_for(cache: onnx.ModelProto) -> None:
    shapes = graph.shapes(graph.read(cache))
    assert shapes["v"] == ("batch", "s1", 8) and shapes["mask"] == (1, 1, "s1 + 1")
    assert shapes["masked"] == ("batch", 1, "s1 + 1") and shapes["keys"] == ("batch", "s1 + 1", 8)


def test_the_shape_of_what_depends_on_data_is_what_the_model_declares(model: Callable) -> None:
    proto = model([node("NonZero", "x", "y")], {"x": ["n"]}, {"y": [1, "found"]}, types={"y": TensorProto.INT64})
    assert graph.shapes(graph.read(proto)) == {"x": ("n",), "y": (1, "found")}


@pytest.mark.parametrize(
    ("op", "options", "height"),
    [
        ("Conv", {"pads": [1, 1, 1, 1]}, "h"),
        ("Conv", {}, "h - 2"),
        ("Conv", {"dilations": [2, 1]}, "h - 4"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, "h"),
        ("MaxPool", {"kernel_shape": [2, 2]}, "h - 1"),
        ("GlobalAveragePool", {}, 1),
    ],
)
def test_an_image_has_as_many_places_as_windows_fit(
    model: Callable, op: str, options: dict[str, object], height: str | int
) -> None:
    weights = {"w": np.zeros((2, 3, 3, 3), np.float32)} if op == "Conv" else {}
    nodes = [node(op, " ".join(["x", *weights]), "y", **options)]
    proto = model(nodes, {"x": ["n", 3, "h", 9]}, {"y": None}, weights)
    shape = graph.shapes(graph.read(proto))["y"]
    assert shape[:3] == ("n", 2 if weights else 3, height)
    bound = graph.load(proto, {"n": 1, "h": 7})
    from porter import ops

    (y,) = ops.evaluate(bound, {"x": np.zeros((1, 3, 7, 9), np.float32)}, ops.source).values()
    assert y.shape[3] == shape[3]
    assert parse(str(height)).at({"h": Size.of(7)}).number == y.shape[2]


def test_strides_divide_what_they_divide_evenly(model: Callable) -> None:
    weights = {"w": np.zeros((2, 3, 2, 2), np.float32)}
    made = lambda dims: model([node("Conv", "x w", "y", strides=[2, 2])], {"x": dims}, {"y": None}, weights)
    assert graph.shapes(graph.read(made(["n", 3, 9, 8])))["y"] == ("n", 2, 4, 4)
    assert graph.shapes(graph.read(made(["n", 3, "h", 8])))["y"][2] is None


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> {text}')


SQUEEZED = """g (float[n,4,t] x, float[1,b,6] h, float[1,24,4] w, float[1,24,6] r) => (float[s,d,q,6] y) {
  shape = Shape<start = -1>(x)
  one = Constant<value_ints = [1]>()
  zero = Constant<value_ints = [0]>()
  last = Constant<value_ints = [-1]>()
  single = Equal(shape, one)
  flag = Squeeze(single)
  flat = If (flag) <
    then_branch = short () => (a) { a = Squeeze(x, last) },
    else_branch = long () => (a) { a = Identity(x) }
  >
  line = Unsqueeze(flat, zero)
  c = Identity(h)
  y = LSTM<hidden_size = 6>(line, w, r, "", "", h, c)
}"""


def test_a_branch_is_followed_as_soon_as_its_condition_is_known() -> None:
    proto = parsed(SQUEEZED.replace('""', ""))
    found = {dim.name: dim.follows for dim in graph.dims(graph.read(proto))}
    assert found == {"n": None, "t": None, "b": "n"}
    assert bound(proto, {"n": 3, "t": 1})["h"] == (1, 3, 6)
    assert refusal(proto, {"n": 3, "t": 1, "b": 2}).endswith(
        "expected n = b\n  found 3 and 2\n  try  other numbers with --dim"
    )


def test_what_both_branches_need_is_certain_and_what_the_second_alone_needs_is_not_asked() -> None:
    text = """g (bool p, float[a,b] x, float[c,d] k) => (float[m,n] y) {
      y = If (p) <
        then_branch = one () => (z) { t = Transpose(k) s = MatMul(x, k)  u = Add(s, s)  z = MatMul(u, t) },
        else_branch = two () => (z) { s = MatMul(x, k)  z = Concat<axis = 0>(x, k) }
      >
    }"""
    proto = parsed(text)
    found = {dim.name: dim.follows for dim in graph.dims(graph.read(proto))}
    assert found == {"a": None, "b": None, "c": "b", "d": None}
    assert "expected b = c" in refusal(proto, {"a": 1, "b": 2, "c": 3, "d": 4})
    assert bound(proto, {"a": 1, "b": 2, "d": 2})["k"] == (2, 2)


def test_the_body_of_a_scan_is_followed() -> None:
    text = """g (float[b,h] s, float[t,n,h2] x, float[5,k] w) => (float[f,g] last, float[u,v,q] rows) {
      last, rows = Scan<num_scan_inputs = 1, body = turn (float[e,i] state, float[j,l] row) => (next, out) {
        both = Add(state, row)
        next = MatMul(both, w)
        out = Identity(next)
      }>(s, x)
    }"""
    proto = parsed(text)
    model = graph.read(proto)
    found = {dim.name: dim.follows for dim in graph.dims(model)}
    assert found == {"b": None, "h": "5", "t": None, "n": "b", "h2": "5", "k": "5"}
    assert graph.shapes(model)["rows"] == ("t", "b", 5)
    assert bound(proto, {"b": 2, "t": 3})["x"] == (3, 2, 5)


@pytest.mark.parametrize("turns", [3, None])
def test_the_body_of_a_loop_is_followed(turns: int | None) -> None:
    """Certain where a turn is sure to run, else suggested; state that changes has no known length."""
    count = f"n = Constant<value_int = {turns}>()" if turns else "n = Cast<to = 7>(count)"
    text = f"""g (float count, float[b,d] x, float[8,8] w) => (float[e,f] y, float[l,m] all, float[r,q,i] rows) {{
      {count}
      y, all, rows = Loop<body = turn (int64 i, bool go, float[o,p] state, float[s,u] longer) => (again, next, more, row) {{
        again = Identity(go)
        next = MatMul(state, w)
        more = Concat<axis = 0>(longer, next)
        row = Identity(next)
      }}>(n, , x, x)
    }}"""
    proto = parsed(text)
    model = graph.read(proto)
    assert {dim.name: dim.follows for dim in graph.dims(model)} == {"b": None, "d": "8"}
    told = graph.shapes(model)
    assert (told["y"], told["all"], told["rows"][0]) == (("b", "f"), ("l", "m"), turns or "r")
    if turns:
        assert "expected d = 8" in refusal(proto, {"b": 2, "d": 7})


def test_a_real_voice_detector_asks_for_one_batch(models: Path) -> None:
    path = models / "silero_vad_op16" / "model.onnx"
    found = {dim.name: dim.follows for dim in graph.dims(graph.read(path))}
    assert found == {"input[0]": None, "input[1]": None, "state[1]": "input[0]"}
    loaded = graph.load(path, {"input[0]": 2, "input[1]": 576})
    assert {v.name: graph.shape(v) for v in loaded.graph.inputs}["state"] == (2, 2, 128)
