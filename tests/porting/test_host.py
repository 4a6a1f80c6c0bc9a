"""What a device cannot run is run by the host, from a bundle too: shapes that depend on data, bodies that read from outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter import bundle
from porter.device import default_devices, load_device
from porter.errors import PorterError
from porter.porting.port import port


def made(nodes: list, inputs: dict, outputs: dict, weights: dict) -> onnx.ModelProto:  # type: ignore[type-arg]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def ported(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], folder: Path, target: str = "toy"
) -> tuple[dict, dict]:  # type: ignore[type-arg]
    onnx.save(model, folder / "m.onnx")
    result = port(folder / "m.onnx", targets=[load_device(target)], out=folder / "out", cache=False)
    assert result.exit_code == 0
    outputs, _ = bundle.run(bundle.read(folder / "out"), feeds)
    return outputs, result.to_json()["targets"][0]["kernels"]["host_ops"]


def test_a_shape_that_depends_on_data(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"], perm=[1, 0]),
    ]
    model = made(nodes, {"x": (TensorProto.FLOAT, [2, 4])}, {"rows": TensorProto.INT64, "r": TensorProto.FLOAT}, {})
    x = np.array([[1, -1, 2, 0], [0, 0, 0, 3]], np.float32)
    outputs, host = ported(model, {"x": x}, tmp_path)
    assert outputs["rows"].tolist() == [[0, 0], [0, 2], [1, 3]]
    assert set(host) == {"NonZero", "Transpose"}


def test_a_body_that_reads_from_outside(tmp_path: Path) -> None:
    i, flag, state = ("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("s", TensorProto.FLOAT, [3])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "y"], ["t"]),  # y is computed outside
            helper.make_node("ReduceSum", ["t"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "limit"], ["go"]),
            helper.make_node("Identity", ["t"], ["row"]),
        ],
        "body", [helper.make_tensor_value_info(n, t, s) for n, t, s in (i, flag, state)],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("go", TensorProto.BOOL, []), ("t", TensorProto.FLOAT, [3]),
                                                                ("row", TensorProto.FLOAT, [3]))],
    )  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["y"]),
        helper.make_node("Loop", ["many", "", "x"], ["end", "rows"], body=body),
    ]
    model = made(
        nodes, {"x": (TensorProto.FLOAT, [3]), "limit": (TensorProto.FLOAT, [])},
        {"end": TensorProto.FLOAT, "rows": TensorProto.FLOAT}, {"two": np.float32(2), "many": np.int64(10)},
    )  # fmt: skip
    x = np.array([1, 2, 3], np.float32)
    outputs, host = ported(model, {"x": x, "limit": np.float32(25)}, tmp_path)
    assert outputs["rows"].tolist() == [[3, 6, 9], [5, 10, 15]]
    assert outputs["end"].tolist() == [5, 10, 15]
    assert host == {"Loop": "control flow: how many turns it takes is computed, and with it the shape of rows"}


def stepped(most: int) -> onnx.ModelProto:
    """s + x, again and again while the sum is below a limit, and how often; nothing is collected."""
    i, flag, state = ("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("s", TensorProto.FLOAT, [3])
    count = ("n", TensorProto.INT64, [])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "x"], ["t"]),
            helper.make_node("Add", ["n", "one"], ["more"]),
            helper.make_node("ReduceSum", ["t"], ["total"], keepdims=0),
            helper.make_node("Less", ["total", "limit"], ["go"]),
        ],
        "body", [helper.make_tensor_value_info(n, t, d) for n, t, d in (i, flag, state, count)],
        [helper.make_tensor_value_info(n, t, d)
         for n, t, d in (("go", TensorProto.BOOL, []), ("t", TensorProto.FLOAT, [3]), ("more", TensorProto.INT64, []))],
    )  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["first"], keepdims=0),
        helper.make_node("Less", ["first", "limit"], ["begin"]),
        helper.make_node("Loop", ["most", "begin", "x", "zero"], ["end", "times"], body=body),
    ]
    return made(
        nodes, {"x": (TensorProto.FLOAT, [3]), "limit": (TensorProto.FLOAT, [])},
        {"end": TensorProto.FLOAT, "times": TensorProto.INT64},
        {"most": np.int64(most), "one": np.int64(1), "zero": np.int64(0)},
    )  # fmt: skip


@pytest.mark.parametrize("target", ["toy", *default_devices()])
def test_a_loop_of_few_turns_that_may_end_sooner_is_the_devices(target: str, tmp_path: Path) -> None:
    x = np.float32([1, 2, 3])
    for limit, times in ((0, 0), (7, 1), (25, 4), (1000, 5)) if target == "toy" else ((25, 4),):
        folder = tmp_path / str(limit)
        folder.mkdir()
        outputs, host = ported(stepped(5), {"x": x, "limit": np.float32(limit)}, folder, target)
        assert outputs["times"] == times
        assert outputs["end"].tolist() == ((times + 1) * x).tolist()
        assert host == {}


def test_a_loop_that_reads_a_computed_place_stays_a_loop(tmp_path: Path) -> None:
    """Its last turn reads x at 2, there is no 3: a turn past the end would read outside."""
    i, flag, state = ("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("s", TensorProto.FLOAT, [])
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "i"], ["here"]),
            helper.make_node("Add", ["s", "here"], ["t"]),
            helper.make_node("Less", ["t", "limit"], ["go"]),
        ],
        "body", [helper.make_tensor_value_info(n, t, d) for n, t, d in (i, flag, state)],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), helper.make_tensor_value_info("t", TensorProto.FLOAT, [])],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["most", "", "start"], ["end"], body=body)]
    proto = made(
        nodes, {"x": (TensorProto.FLOAT, [3]), "limit": (TensorProto.FLOAT, [])}, {"end": TensorProto.FLOAT},
        {"most": np.int64(5), "start": np.float32(0)},
    )  # fmt: skip
    outputs, host = ported(proto, {"x": np.float32([1, 2, 3]), "limit": np.float32(6)}, tmp_path)
    assert outputs["end"] == 6
    assert list(host) == ["Loop"]


def test_a_loop_of_as_many_turns_as_it_takes_is_the_hosts(tmp_path: Path) -> None:
    outputs, host = ported(stepped(2**62), {"x": np.float32([1, 2, 3]), "limit": np.float32(25)}, tmp_path)
    assert outputs["times"] == 4
    assert host == {"Loop": "control flow: how many turns it takes is computed"}


SEQUENCES = {
    "SequenceAt": ([helper.make_node("SequenceAt", ["s", "at"], ["part"])], lambda r, y, at: [r, y, r][at]),
    "SequenceInsert": (
        [
            helper.make_node("SequenceInsert", ["s", "y", "at"], ["more"]),
            helper.make_node("ConcatFromSequence", ["more"], ["part"], axis=0),
        ],
        lambda r, y, at: np.concatenate([*[r, y, r][:at], y, *[r, y, r][at:]]),
    ),
    "SequenceErase": (
        [
            helper.make_node("SequenceErase", ["s", "at"], ["less"]),
            helper.make_node("ConcatFromSequence", ["less"], ["part"], axis=0),
        ],
        lambda r, y, at: np.concatenate([v for i, v in enumerate([r, y, r]) if i != at]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "target"),
    [("SequenceInsert", "toy"), ("SequenceErase", "toy"), *(("SequenceAt", t) for t in ("toy", *default_devices()))],
)
def test_a_place_in_a_sequence_that_is_computed(op: str, target: str, tmp_path: Path) -> None:
    read, wanted = SEQUENCES[op]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("SequenceConstruct", ["r", "y", "r"], ["s"]),
        *read,
        helper.make_node("Neg", ["part"], ["z"]),
    ]
    tensor = (TensorProto.FLOAT, [2, 3])
    model = made(nodes, {"x": tensor, "y": tensor, "at": (TensorProto.INT64, [])}, {"z": TensorProto.FLOAT}, {})
    x, y = np.float32([[1, -2, 3], [-4, 5, -6]]), np.float32([[7, 8, 9], [1, 2, 3]])
    feeds = {"x": x, "y": y, "at": np.int64(1)}
    outputs, host = ported(model, feeds, tmp_path, target)
    np.testing.assert_array_equal(outputs["z"], -wanted(np.maximum(x, 0), y, 1))
    assert host[op] == "a sequence whose length or places are computed"
    assert "Relu" not in host


def test_an_output_that_is_a_sequence_is_refused_by_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "y"], ["pair"]),
        helper.make_node("SequenceErase", ["pair", "at"], ["s"]),
    ]
    tensor = (TensorProto.FLOAT, [2])
    model = made(nodes, {"x": tensor, "y": tensor, "at": (TensorProto.INT64, [])}, {}, {})
    model.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(PorterError, match="output 's'"):
        port(tmp_path / "m.onnx", targets=[load_device("toy")], out=tmp_path / "out", cache=False)


WIDE = {
    "a number": np.int64(2**40 + 3),
    "a count": np.arange(8, dtype=np.int64) * 2**33,
    "a row": np.random.default_rng(0).integers(2**33, 2**40, 8),
    "a weight": np.random.default_rng(0).integers(2**33, 2**40, (4, 8)),
}


@pytest.mark.parametrize("target", default_devices())
@pytest.mark.parametrize("what", WIDE)
def test_an_integer_of_more_than_32_bits(what: str, target: str, tmp_path: Path) -> None:
    """Where integers have 32 bits the host adds it, and says so; the others add it themselves."""
    nodes = [helper.make_node("Add", ["x", "c"], ["z"])]
    inputs = {"x": (TensorProto.INT64, [4, 8])}
    x = np.arange(32).reshape(4, 8)
    outputs, host = ported(made(nodes, inputs, {"z": TensorProto.INT64}, {"c": WIDE[what]}), {"x": x}, tmp_path, target)
    np.testing.assert_array_equal(outputs["z"], x + WIDE[what])
    narrow = target.split(":")[0] in ("tpu", "trainium")
    (*why,) = host.values()
    assert len(why) == narrow and all("it holds integers in 32 bits, and the constant" in w for w in why)


@pytest.mark.parametrize("target", ["tpu:v6e", "trainium:trn2"])
def test_the_end_of_64_bits_is_the_end_of_32(target: str, tmp_path: Path) -> None:
    """What stands for 'more than all' keeps a kernel on the device."""
    nodes = [helper.make_node("Min", ["x", "c"], ["z"])]
    inputs = {"x": (TensorProto.INT64, [4, 8])}
    x = np.arange(32).reshape(4, 8)
    model = made(nodes, inputs, {"z": TensorProto.INT64}, {"c": np.int64(2**63 - 1)})
    outputs, host = ported(model, {"x": x}, tmp_path, target)
    np.testing.assert_array_equal(outputs["z"], x)
    assert host == {}


def branch(name: str, shape: list[int]) -> onnx.GraphProto:
    """x in a shape, squared; x has been in another one outside."""
    nodes = [
        helper.make_node("Constant", [], [f"{name}_s"], value=numpy_helper.from_array(np.array(shape, np.int64))),
        helper.make_node("Reshape", ["flat", f"{name}_s"], [f"{name}_r"]),
        helper.make_node("Mul", [f"{name}_r", f"{name}_r"], [f"{name}_y"]),
    ]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])


def rates(other: list[int]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Reshape", ["x", "six"], ["flat"]),
        helper.make_node("Equal", ["rate", "sixteen"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("a", [2, 3]), else_branch=branch("b", other)),
    ]
    return made(
        nodes, {"x": (TensorProto.FLOAT, [3, 2]), "rate": (TensorProto.INT64, [])}, {"y": TensorProto.FLOAT},
        {"six": np.array([6], np.int64), "sixteen": np.int64(16)},
    )  # fmt: skip


def test_a_branch_that_cannot_run_with_these_shapes_is_not_taken(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs, host = ported(rates([5, 5]), {"x": x, "rate": np.int64(16)}, tmp_path)
    np.testing.assert_array_equal(outputs["y"], np.square(x.reshape(2, 3)))
    assert host == {}


def test_branches_of_two_shapes_stay_control_flow(tmp_path: Path) -> None:
    """Their reshapes read one from outside, and chains of them are joined across the graphs."""
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs, host = ported(rates([1, 6]), {"x": x, "rate": np.int64(8)}, tmp_path)
    np.testing.assert_array_equal(outputs["y"], np.square(x.reshape(1, 6)))
    assert host == {"If": "control flow: the branch is computed, and with it the shape of y"}


def test_what_has_no_elements_needs_no_kernel_and_no_host(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Slice", ["r", "past", "past"], ["none"]),
        helper.make_node("Abs", ["none"], ["still_none"]),
        helper.make_node("Concat", ["still_none", "r"], ["y"], axis=0),
        helper.make_node("ReduceSum", ["still_none"], ["zero"], keepdims=0),
    ]
    model = made(
        nodes, {"x": (TensorProto.FLOAT, [3, 2])},
        {"y": TensorProto.FLOAT, "still_none": TensorProto.FLOAT, "zero": TensorProto.FLOAT}, {"past": np.array([9])},
    )  # fmt: skip
    x = np.array([[1, -1], [2, 0], [0, 3]], np.float32)
    outputs, host = ported(model, {"x": x}, tmp_path)
    assert outputs["y"].tolist() == np.maximum(x, 0).tolist()
    assert outputs["still_none"].shape == (0, 2)
    assert outputs["zero"] == 0
    assert host == {}


@pytest.mark.parametrize("target", ["gpu:h200", "tpu:v6e", "trainium:trn2"])
def test_pairs_that_turn_side_by_side_in_a_part_of_each_head(target: str, tmp_path: Path) -> None:
    """The pairs are put beside each other again, and what does not turn after them: one kernel of the device's own."""
    turn = helper.make_node(
        "RotaryEmbedding", ["x", "cos", "sin"], ["y"], interleaved=1, num_heads=3, rotary_embedding_dim=6
    )
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((2, 5, 30)).astype(np.float32),
        **{n: rng.standard_normal((2, 5, 3)).astype(np.float32) for n in ("cos", "sin")},
    }
    model = made([turn], {n: (TensorProto.FLOAT, a.shape) for n, a in feeds.items()}, {"y": TensorProto.FLOAT}, {})
    model.opset_import[0].version = 23
    heads, cos, sin = feeds["x"].reshape(2, 5, 3, 10), feeds["cos"][:, :, None], feeds["sin"][:, :, None]
    wanted = heads.copy()
    wanted[..., 0:6:2] = cos * heads[..., 0:6:2] - sin * heads[..., 1:6:2]
    wanted[..., 1:6:2] = sin * heads[..., 0:6:2] + cos * heads[..., 1:6:2]
    outputs, host = ported(model, feeds, tmp_path, target)
    np.testing.assert_allclose(outputs["y"], wanted.reshape(2, 5, 30), rtol=2e-6, atol=2e-6)
    assert host == {}
