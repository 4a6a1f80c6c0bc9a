"""What is wrong with a file is found before anything is built from it, and said in words that mend it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refused import message, refusal

from porter import graph, ops
from porter.errors import PorterError

RELU = helper.make_node("Relu", ["x"], ["y"], name="act")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    path = tmp_path / "modle.onnx"
    assert message(lambda: graph.read(path)) == (
        f"{path}\n  expected an ONNX file\n  found nothing at this path\n  try  {tmp_path}/model.onnx"
    )


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "an empty file"),
        (b"hello, I am a text\n" * 20, "bytes that are no ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "bytes that are no ONNX model"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "a Git LFS pointer\n  try  git lfs pull",
        ),
    ],
)
def test_not_an_onnx_file(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert message(lambda: graph.read(path)) == f"{path}\n  expected an ONNX file\n  found {found}"


def test_a_truncated_file_at_every_length(tmp_path: Path, model: Callable) -> None:
    weights = {"w": np.ones((3, 3), np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    content = model([node], {"x": [1, 3]}, {"y": [1, 3]}, weights).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(PorterError):
            graph.load(path)
    path.write_bytes(content[:60])
    assert "a truncated file: 'graph' has " in message(lambda: graph.read(path))


def test_a_damaged_file_is_refused_or_valid_but_never_a_crash(model: Callable) -> None:
    branch = helper.make_graph(
        [helper.make_node("Clip", ["m"], ["z"], name="inner", min=0.0)], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product", doc_string="weights times x"),
        helper.make_node("If", ["c"], ["b"], name="choice", then_branch=branch, else_branch=branch),
        helper.make_node("Softmax", ["b"], ["s"], name="soft", axis=0),
        helper.make_node("Slice", ["s"], ["y"], name="part", starts=[0], ends=[2], axes=[1]),
    ]
    inputs = {"x": ["batch", 3], "c": []}
    weights = {"w": np.eye(3, dtype=np.float32)}
    proto = model(nodes, inputs, {"y": None}, weights, opset=9, types={"c": TensorProto.BOOL})
    content = proto.SerializeToString()
    graph.load(content, {"batch": 1})
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(damaged)))
            damaged[at : at + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
        try:
            graph.load(bytes(damaged), {"batch": 1})
            outcomes.add("valid")
        except PorterError as error:
            assert 1 <= str(error).count("\n") + 1 <= 4
            outcomes.add("refused")
    assert outcomes == {"valid", "refused"}


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    assert message(lambda: graph.read(tmp_path)).endswith(f"found a folder\n  try  {tmp_path}/a.onnx")


def test_a_cycle_names_its_nodes(model: Callable) -> None:
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Abs", ["b"], ["c"], name="third"),
        helper.make_node("Neg", ["c"], ["y"], name="outside"),
    ]
    text = refusal(model(nodes, {"x": [3]}, {"y": [3]}))
    cycle = text.split("the cycle ")[1]
    assert set(cycle.split(" -> ")) == {"'first'", "'second'", "'third'"}
    assert cycle.split(" -> ")[0] == cycle.split(" -> ")[-1]


def test_a_node_that_reads_itself_through_its_subgraph(model: Callable) -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["y"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [3])],
    )
    node = helper.make_node("If", ["c"], ["y"], name="branch", then_branch=inner, else_branch=inner)
    text = refusal(model([node], {"c": []}, {"y": [3]}, types={"c": TensorProto.BOOL}))
    assert "the cycle 'branch' -> 'branch'" in text


def test_an_undefined_value(model: Callable) -> None:
    node = helper.make_node("Add", ["x", "ghost"], ["y"], name="sum")
    assert refusal(model([node], {"x": [3]}, {"y": [3]})) == (
        "the model: node 'sum' (Add)\n  expected inputs that are computed\n"
        "  found 'ghost', which neither the graph's inputs, weights nor nodes define"
    )


def test_an_output_that_nothing_computes(model: Callable) -> None:
    text = refusal(model([RELU], {"x": [3]}, {"y": [3], "z": [3]}))
    assert text.endswith("expected an output that is computed\n  found output 'z', defined nowhere")


def test_two_definitions(model: Callable) -> None:
    nodes = [RELU, helper.make_node("Abs", ["x"], ["y"], name="other")]
    assert refusal(model(nodes, {"x": [3]}, {"y": [3]})) == (
        "the model\n  expected one definition of each value\n"
        "  found 'y' defined twice: node 'act' (Relu) and node 'other' (Abs)"
    )


def test_a_constant_that_is_defined_again_keeps_the_last_definition(model: Callable, witness: Callable) -> None:
    constants = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(value))) for value in (1, 2)
    ]
    proto = model([*constants, helper.make_node("Add", ["x", "c"], ["y"])], {"x": [1]}, {"y": [1]})
    before = proto.SerializeToString()
    loaded = graph.load(proto)
    assert "1 constant defined more than once, the first 'c'; the last definition was kept" in graph.notes(loaded)
    assert witness(graph.to_proto(loaded), {"x": np.float32([1])})[0] == [3]
    assert proto.SerializeToString() == before, "the caller's message was changed"


@pytest.mark.parametrize(
    "node, ending",
    [
        (
            helper.make_node("Rleu", ["x"], ["y"], name="n"),
            "an operator of ai.onnx\n  found operator Rleu\n  try  Relu",
        ),
        (
            helper.make_node("Mish", ["x"], ["y"], name="n"),
            "an operator of opset 13\n  found operator Mish\n  try  Mish exists since opset 18",
        ),
        (
            helper.make_node("Upsample", ["x"], ["y"], name="n"),
            "an operator of opset 13\n  found operator Upsample\n  try  Upsample was withdrawn before opset 13",
        ),
        (
            helper.make_node("Scaler", ["x"], ["y"], name="n", domain="ai.onnx.ml"),
            "a model of ai.onnx operators: classical machine learning has no place on these devices\n"
            "  found operator ai.onnx.ml.Scaler\n  try  keep the pre- or postprocessing outside of the model",
        ),
        (
            helper.make_node("BeamSearch", ["x"], ["y"], name="n", domain="com.microsoft"),
            "operators of ai.onnx, or those of onnxruntime that language models use\n"
            "  found operator com.microsoft.BeamSearch\n  try  export without onnxruntime's graph optimizer",
        ),
        (
            helper.make_node("Thing", ["x"], ["y"], name="n", domain="my.ops"),
            "operators of ai.onnx or functions that the model defines\n  found operator my.ops.Thing",
        ),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_unknown_operators(node: onnx.NodeProto, ending: str, model: Callable) -> None:
    proto = model([node], {"x": [3]}, {"y": [3]}, opset=13)
    assert refusal(proto) == f"the model: node 'n'\n  expected {ending}"


def test_an_unknown_operator_in_a_subgraph(model: Callable) -> None:
    inner = helper.make_graph(
        [helper.make_node("Bogus", ["x"], ["z"], name="deep")], "g", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert "node 'deep'" in refusal(model([node], {"c": [], "x": [3]}, {"y": [3]}, types={"c": TensorProto.BOOL}))


def test_functions_that_call_each_other(model: Callable) -> None:
    functions = [
        helper.make_function("f", name, ["a"], ["b"], [helper.make_node(callee, ["a"], ["b"], domain="f")],
                             [helper.make_opsetid("f", 1)])
        for name, callee in (("P", "Q"), ("Q", "P"))
    ]  # fmt: skip
    proto = model([helper.make_node("P", ["x"], ["y"], domain="f")], {"x": [3]}, {"y": [3]}, functions=functions)
    assert refusal(proto).endswith("expected functions that do not call themselves\n  found f.P -> f.Q -> f.P")


def test_types_that_do_not_fit(model: Callable) -> None:
    node = helper.make_node("Add", ["x", "i"], ["y"], name="sum")
    text = refusal(model([node], {"x": [3], "i": [3]}, {"y": [3]}, types={"i": TensorProto.INT64}))
    assert text == (
        "node 'sum' (Add)\n  expected inputs and outputs of one type\n"
        "  found 'x' of type tensor(float) and 'i' of type tensor(int64)\n  try  a Cast between them"
    )


def test_a_branch_that_does_not_run_may_contradict_itself(model: Callable) -> None:
    """Of a branch of an If it is known only when it runs; what stands outside is refused as ever."""

    def branch(name: str, axis: int) -> onnx.GraphProto:
        axes = helper.make_node("Constant", [], ["axes"], value_ints=[axis])
        squeeze = helper.make_node("Squeeze", ["x", "axes"], [name], name=f"squeeze_{name}")
        return helper.make_graph([axes, squeeze], name, [], [helper.make_tensor_value_info(name, 1, None)])

    node = helper.make_node("If", ["go"], ["y"], name="choose", then_branch=branch("p", 0), else_branch=branch("q", 1))
    proto = model([node], {"x": [1, 3], "go": []}, {"y": None}, types={"go": TensorProto.BOOL})
    loaded = graph.load(proto)
    x = np.ones((1, 3), np.float32)
    assert ops.reference(loaded, {"x": x, "go": np.array(True)})["y"].shape == (3,)
    found = message(lambda: ops.reference(loaded, {"x": x, "go": np.array(False)}))
    assert found.startswith("node 'squeeze_q' (Squeeze)"), found
    proto.graph.node.insert(0, helper.make_node("Add", ["x", "w"], ["z"], name="outside"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    assert refusal(proto).startswith("node 'outside' (Add)")


def test_a_type_the_operator_does_not_take(model: Callable) -> None:
    text = refusal(model([helper.make_node("Sin", ["x"], ["y"], name="wave")], {"x": [3]}, {"y": [3]},
                         types={"x": TensorProto.INT32, "y": TensorProto.INT32}))  # fmt: skip
    assert text.startswith("node 'wave' (Sin)\n  expected 'input' to be one of tensor(") and "tensor(int32)" in text


def test_a_window_larger_than_its_input_before_a_slice(model: Callable) -> None:
    """The standard's inference makes the dim -2 and ends the process where a Slice meets it."""
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="wide")
    cut = helper.make_node("Slice", ["c", "s", "e", "a"], ["y"])
    cuts = {"s": np.array([0]), "e": np.array([9]), "a": np.array([2])}
    text = refusal(model([conv, cut], {"x": [1, 3, 2], "w": [4, 3, 5]}, {"y": None}, cuts))
    assert text.startswith("node 'wide' (Conv)") and "a dim of -2 comes out" in text


def test_shapes_that_do_not_fit(model: Callable) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="proj")
    text = refusal(model([node], {"x": [2, 3]}, {"y": None}, {"w": np.ones((4, 5), np.float32)}))
    assert text.startswith(
        "node 'proj' (MatMul)\n  expected inputs that fit each other\n  found Incompatible dimensions"
    )
    assert "'x' float[2,3], 'w' float[4,5]" in text


@pytest.mark.parametrize(
    "node, ending",
    [
        (helper.make_node("Add", ["x"], ["y"], name="n"), "expected 2 inputs\n  found 1"),
        (
            helper.make_node("Relu", ["x"], ["y"], name="n", slope=1.0),
            "expected attributes among none\n  found 'slope'",
        ),
        (
            helper.make_node("Elu", ["x"], ["y"], name="n", alpha=1),
            "expected attribute 'alpha' of type float\n  found int",
        ),
        (helper.make_node("Concat", ["x", "x"], ["y"], name="n"), "expected an attribute 'axis'\n  found none"),
        (
            helper.make_node("MaxPool", ["x"], ["y"], name="n", kernel_shape=[2], strides=[0]),
            "expected attribute 'strides' of numbers from 1 on\n  found [0]",
        ),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_nodes_that_their_operator_does_not_allow(node: onnx.NodeProto, ending: str, model: Callable) -> None:
    proto = model([node], {"x": [3]}, {"y": None})
    with pytest.raises(PorterError) as error:
        graph.validate(graph.read(proto))
    assert str(error.value) == f"node 'n' ({node.op_type})\n  {ending}"
    with pytest.raises(PorterError):
        graph.load(proto)


def test_a_stride_of_0_is_no_division(model: Callable) -> None:
    """Dims are worked out before attributes are checked."""
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], name="n", kernel_shape=[2, 2], strides=[0, 1], auto_pad="SAME_UPPER"
    )
    expected = "node 'n' (MaxPool)\n  expected attribute 'strides' of numbers from 1 on\n  found [0, 1]"
    assert refusal(model([node], {"x": [1, 1, "h", 4]}, {"y": None})).startswith("the inputs")
    assert refusal(model([node], {"x": [1, 1, 4, 4]}, {"y": None})) == expected


def test_a_huge_tensor_without_data_takes_no_memory(model: Callable) -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [1]}, {"y": None})
    proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])
    tracemalloc.start()
    text = refusal(proto)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.startswith(
        "the model: tensor 'w'\n  expected 1099511627776 values of data for shape [1048576, 1048576]"
    )
    assert peak < 1 << 20


def test_a_huge_computed_value_takes_no_memory(model: Callable) -> None:
    node = helper.make_node("ConstantOfShape", ["s"], ["y"], name="fill")
    tracemalloc.start()
    loaded = graph.load(model([node], {}, {"y": None}, {"s": np.asarray([1 << 20, 1 << 20], np.int64)}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph.shape(loaded.graph.outputs[0]) == (1 << 20, 1 << 20) and peak < 8 << 20


@pytest.mark.parametrize("dims, kind", [([-1], TensorProto.FLOAT), ([1], 99), ([1], 0)])
def test_tensors_of_impossible_type_or_shape(dims: list[int], kind: int, model: Callable) -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [1]}, {"y": None})
    proto.graph.initializer.add(name="w", data_type=kind, dims=dims, raw_data=bytes(4))
    assert refusal(proto).startswith("the model: tensor 'w'\n")


def test_sparse_constants(model: Callable) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"),
        [1 << 40],
    )
    proto = model([helper.make_node("Constant", [], ["y"], name="c", sparse_value=sparse)], {}, {"y": None})
    assert refusal(proto) == "the model: node 'c' (Constant)\n  expected dense constants\n  found a sparse one"
    proto = model([RELU], {"x": [3]}, {"y": [3]})
    proto.graph.sparse_initializer.append(sparse)
    assert refusal(proto).endswith("expected dense weights\n  found the sparse weight 'v'\n  try  export it dense")
