"""Old models mean at the home opset what they meant: onnxruntime runs both, or the old formula is computed here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests

from porter import graph
from porter.errors import PorterError

X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)


@dataclass
class Old:
    """A node of an old opset on x of shape [2, 3, 4, 5]."""

    opset: int
    op: str
    attributes: dict[str, Any] = field(default_factory=dict)
    more: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: int = 1
    shape: tuple[int, ...] = (2, 3, 4, 5)

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{'-'.join(f'{k}={v}' for k, v in self.attributes.items())}"


def values(*numbers: float, kind: type = np.float32) -> np.ndarray:
    return np.asarray(numbers, kind)


CASES = [
    *[
        Old(opset, name, {"axis": axis})
        for opset in (7, 11)
        for name in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (1, 2, 3)
    ],
    Old(11, "Softmax", {"axis": -1}),
    Old(12, "Softmax", {"axis": -2}),
    Old(7, "Clip", {"min": -0.5, "max": 0.5}),
    Old(7, "Clip", {"min": 0.0}),
    Old(9, "Clip", {}),
    Old(7, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 3, 4], "value": 1.5}),
    Old(7, "Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "reflect"}),
    Old(10, "Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "edge", "value": 3.0}),
    Old(7, "Slice", {"starts": [1, 0], "ends": [3, -1], "axes": [2, 3]}),
    Old(7, "Slice", {"starts": [0, 1], "ends": [2, 100]}),
    Old(7, "Split", {"axis": 3, "split": [1, 4]}, outputs=2),
    Old(11, "Split", {"axis": 2}, outputs=2),
    Old(13, "Split", {"axis": 2}, outputs=4),
    Old(7, "Squeeze", {"axes": [1]}, shape=(2, 1, 5)),
    Old(7, "Squeeze", {}, shape=(2, 1, 5)),
    Old(7, "Unsqueeze", {"axes": [0, 3]}),
    Old(11, "Unsqueeze", {"axes": [-1]}),
    *[
        Old(opset, name, attributes)
        for opset in (7, 13)
        for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
        for attributes in ({"axes": [1, 3], "keepdims": 0}, {})
    ],
    Old(7, "ReduceSum", {"axes": [2]}),
    Old(7, "ReduceProd", {"axes": [3]}),
    Old(7, "TopK", {"k": 2, "axis": 3}, outputs=2),
    Old(7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0]}),
    Old(7, "Upsample", {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}),
    Old(9, "Upsample", {}, {"scales": values(1, 1, 2, 2)}),
    Old(10, "Resize", {"mode": "nearest"}, {"scales": values(1, 1, 2, 3)}),
    Old(10, "Resize", {"mode": "nearest"}, {"scales": values(1, 1, 0.6, 0.6)}),
    Old(10, "Resize", {"mode": "linear"}, {"scales": values(1, 1, 1.5, 2)}),
    Old(11, "Resize", {"mode": "nearest"}, {"roi": values(), "scales": values(1, 1, 2, 2)}),
    Old(
        11, "Resize",
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        {"roi": values(), "scales": values(1, 1, 1.7, 0.6)},
    ),
    Old(
        11, "Resize", {"mode": "cubic"},
        {"roi": values(), "scales": values(), "sizes": values(2, 3, 7, 9, kind=np.int64)},
    ),
    Old(7, "Dropout", {"ratio": 0.3}),
    Old(10, "Dropout", {"ratio": 0.3}),
    Old(7, "PRelu", {}, {"slope": values(0.1, 0.2, 0.3).reshape(3, 1, 1)}),
    Old(9, "Flatten", {"axis": 2}),
    Old(9, "Scatter", {"axis": 1}, {"i": np.zeros((2, 1, 4, 5), np.int64), "u": np.ones((2, 1, 4, 5), np.float32)}),
    Old(7, "LpPool", {"kernel_shape": [2, 2], "p": 3}),
    Old(7, "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Old(7, "AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    Old(7, "BatchNormalization", {}, {k: np.abs(X[0, :, 0, i]) + 0.1 for i, k in enumerate("sbmv")}),
    Old(7, "LRN", {"size": 3}),
    Old(7, "InstanceNormalization", {}, {"s": values(1, 2, 3), "b": values(0, 1, 2)}),
    Old(7, "Cast", {"to": TensorProto.INT32}),
    Old(
        16, "GridSample", {"mode": "bicubic", "padding_mode": "border"},
        {"grid": np.tanh(X[:, :2, :, :2].transpose(0, 1, 2, 3))},
    ),
    Old(17, "DFT", {"axis": 2, "onesided": 1}, shape=(2, 3, 8, 1)),
]  # fmt: skip


def proto_of(case: Old, build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, ["x", *case.more], outputs, name="node", **case.attributes)
    types = (
        {"y0": case.attributes["to"]} if case.op == "Cast" else {"y1": TensorProto.INT64} if case.op == "TopK" else {}
    )
    return build([node], {"x": case.shape}, dict.fromkeys(outputs), case.more, opset=case.opset, types=types)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_node_means_the_same_at_the_home_opset(case: Old, model: Callable, witness: Callable) -> None:
    proto = proto_of(case, model)
    x = X.reshape(-1)[: int(np.prod(case.shape))].reshape(case.shape)
    if case.op == "Clip" and not case.attributes:
        x = x.copy()
        x.flat[0] = np.inf  # the default bounds are the largest float32
    loaded = graph.load(proto)
    assert loaded.opset_imports[""] == graph.HOME_OPSET
    before, after = witness(proto, {"x": x}), witness(graph.to_proto(loaded), {"x": x})
    for old, new in zip(before, after, strict=True):
        assert old.dtype == new.dtype and old.shape == new.shape
        # a softmax along another axis adds in another order: a few roundings of values up to 1
        loose = case.op in ("Softmax", "LogSoftmax", "GridSample", "DFT", "AveragePool")
        np.testing.assert_allclose(new, old, rtol=1e-5 if loose else 0, atol=1e-6 if loose else 0)
    onnx.checker.check_model(graph.to_proto(loaded), full_check=True)


def resize_opset_10(x: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Nearest: output / scale, down to the floor when larger, up to the ceiling when smaller (onnxruntime's rule)."""
    for axis, scale in enumerate(scales):
        size = int(np.floor(x.shape[axis] * scale))
        at = np.arange(size) / np.float32(scale)
        index = np.ceil(at) if scale < 1 else np.floor(at)
        x = np.take(x, np.minimum(index.astype(int), x.shape[axis] - 1), axis=axis)
    return x


def test_a_resize_up_and_down_becomes_two(model: Callable, witness: Callable) -> None:
    scales = values(1, 1, 0.5, 2)
    loaded = graph.load(proto_of(Old(10, "Resize", {"mode": "nearest"}, {"scales": scales}), model))
    assert [node.op_type for node in loaded.graph] == ["Resize", "Resize"]
    np.testing.assert_array_equal(witness(graph.to_proto(loaded), {"x": X})[0], resize_opset_10(X, scales))


LEGACY = [
    ("Add", {"broadcast": 1, "axis": 1}, (3,), lambda x, b: x + b.reshape(3, 1, 1)),
    ("Mul", {"broadcast": 1, "axis": 1}, (3, 4), lambda x, b: x * b.reshape(3, 4, 1)),
    ("Sub", {"broadcast": 1}, (4, 5), lambda x, b: x - b),
    ("Div", {"broadcast": 1, "axis": -2}, (4,), lambda x, b: x / b.reshape(4, 1)),
    ("PRelu", {}, (3,), lambda x, b: np.where(x < 0, x * b.reshape(3, 1, 1), x)),
    ("Add", {}, (2, 3, 4, 5), lambda x, b: x + b),
]


@pytest.mark.parametrize(
    "op, attributes, shape, expected", LEGACY, ids=lambda v: str(v) if isinstance(v, str) else None
)
def test_broadcasting_of_opset_6(
    op: str, attributes: dict, shape: tuple, expected: Callable, model: Callable, witness: Callable
) -> None:
    second = np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(np.float32)
    node = helper.make_node(op, ["x", "b"], ["y"], **attributes)
    loaded = graph.load(model([node], {"x": X.shape}, {"y": X.shape}, {"b": second}, opset=6))
    np.testing.assert_array_equal(witness(graph.to_proto(loaded), {"x": X})[0], expected(X, second))


OPSET_1 = [
    ("Cast", {"to": "INT64"}, lambda x: x.astype(np.int64)),
    ("Concat", {}, lambda x: x),
    ("Reshape", {"shape": [6, -1]}, lambda x: x.reshape(6, -1)),
    ("Pad", {"paddings": [0, 0, 1, 0, 0, 0, 0, 1]}, lambda x: np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)])),
    ("Upsample", {"height_scale": 2.0, "width_scale": 1.0}, lambda x: x.repeat(2, axis=2)),
    ("Relu", {"consumed_inputs": [0]}, lambda x: np.maximum(x, 0)),
    ("Clip", {"max": 0.25, "consumed_inputs": [0]}, lambda x: np.minimum(x, np.float32(0.25))),
    ("Dropout", {"is_test": 1}, lambda x: x),
]


@pytest.mark.parametrize("op, attributes, expected", OPSET_1, ids=[case[0] for case in OPSET_1])
def test_nodes_of_opset_1(op: str, attributes: dict, expected: Callable, model: Callable, witness: Callable) -> None:
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    types = {"y": TensorProto.INT64} if op == "Cast" else {}
    loaded = graph.load(model([node], {"x": X.shape}, {"y": None}, opset=1, types=types))
    np.testing.assert_array_equal(witness(graph.to_proto(loaded), {"x": X})[0], expected(X))


def test_selu_keeps_the_rounded_defaults_it_had(model: Callable) -> None:
    loaded = graph.load(model([helper.make_node("Selu", ["x"], ["y"])], {"x": [3]}, {"y": [3]}, opset=1))
    assert graph.attributes(loaded.graph[0]) == pytest.approx({"alpha": 1.6732, "gamma": 1.0507})


def test_roi_align_keeps_its_coordinates(model: Callable) -> None:
    more = {"rois": values(0, 0, 3, 3).reshape(1, 4), "batch": values(1, kind=np.int64)}
    loaded = graph.load(proto_of(Old(10, "RoiAlign", {"output_height": 2, "output_width": 2}, more), model))
    assert graph.attributes(loaded.graph[0])["coordinate_transformation_mode"] == "output_half_pixel"


def test_tile_of_one_axis(model: Callable, witness: Callable) -> None:
    node = helper.make_node("Tile", ["x", "tiles", "axis"], ["y"])
    weights = {"tiles": values(3), "axis": values(1)}
    loaded = graph.load(model([node], {"x": X.shape}, {"y": None}, weights, opset=1))
    np.testing.assert_array_equal(witness(graph.to_proto(loaded), {"x": X})[0], np.tile(X, (1, 3, 1, 1)))


def test_batch_normalization_of_every_element(model: Callable, witness: Callable) -> None:
    rng = np.random.default_rng(2)
    more = {name: rng.uniform(0.5, 2, (3, 4, 5)).astype(np.float32) for name in ("s", "b", "m", "v")}
    loaded = graph.load(proto_of(Old(7, "BatchNormalization", {"spatial": 0}, more), model))
    s, b, m, v = (more[name].astype(np.float64) for name in "sbmv")
    expected = (X - m) / np.sqrt(v + 1e-5) * s + b
    # five roundings of float32
    np.testing.assert_allclose(witness(graph.to_proto(loaded), {"x": X})[0], expected, rtol=5 * 2**-23, atol=5 * 2**-22)


def test_batch_normalization_in_training_is_refused(model: Callable) -> None:
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "mean", "var"], name="bn")
    weights = {name: values(1, 1, 1) for name in "sbmv"}
    proto = model([node], {"x": X.shape}, {"y": None, "mean": None}, weights, opset=9)
    with pytest.raises(PorterError) as error:
        graph.load(proto)
    assert str(error.value) == (
        "node 'bn' (BatchNormalization)\n  expected inference\n"
        "  found BatchNormalization in training mode, with its statistics as outputs"
    )


def test_a_dropout_mask_keeps_its_type(model: Callable, witness: Callable) -> None:
    node = helper.make_node("Dropout", ["x"], ["y", "mask"], name="drop")
    loaded = graph.load(model([node], {"x": [4]}, {"y": [4], "mask": [4]}, opset=7))
    y, mask = witness(graph.to_proto(loaded), {"x": X.flat[:4]})
    assert mask.dtype == np.float32 and mask.tolist() == [1, 1, 1, 1] and (y == X.flat[:4]).all()


def test_group_normalization_per_group(model: Callable, witness: Callable) -> None:
    x = np.random.default_rng(3).standard_normal((2, 6, 5)).astype(np.float32)
    proto = model(
        [helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        {"x": x.shape}, {"y": x.shape}, {"s": values(2, 3), "b": values(1, -1)}, opset=20,
    )  # fmt: skip
    loaded = graph.load(proto)
    groups = x.astype(np.float64).reshape(2, 2, -1)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (normal * [[[2], [3]]] + [[[1], [-1]]]).reshape(x.shape)
    np.testing.assert_allclose(witness(graph.to_proto(loaded), {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_a_scan_of_opset_8_runs_each_batch_element_apart(model: Callable, witness: Callable) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["out"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("s", "e")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("t", "out")],
    )
    node = helper.make_node("Scan", ["", "init", "x"], ["last", "all"], name="scan", body=body, num_scan_inputs=1)
    rng = np.random.default_rng(4)
    init, x = rng.integers(0, 9, (3, 2)).astype(np.float32), rng.integers(0, 9, (3, 5, 2)).astype(np.float32)
    proto = model([node], {"init": init.shape, "x": x.shape}, {"last": [3, 2], "all": [3, 5, 2]}, opset=8)
    last, every = witness(graph.to_proto(graph.load(proto)), {"init": init, "x": x})
    sums = init[:, None] + np.cumsum(x, axis=1)
    assert (last == sums[:, -1]).all() and (every == sums).all()


def test_steps_reach_into_subgraphs_and_functions(model: Callable, witness: Callable) -> None:
    branch = [
        helper.make_graph(
            [helper.make_node("Unsqueeze", ["x"], [name], axes=[0])], name,
            [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])],
        )
        for name in ("yes", "no")
    ]  # fmt: skip
    function = helper.make_function(
        "local", "Tail", ["a"], ["b"],
        [
            helper.make_node("Softmax", ["a"], ["s"], axis=0),
            helper.make_node("ReduceSum", ["s"], ["b"], axes=[1], keepdims=0),
        ],
        [helper.make_opsetid("", 12)],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["u"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Tail", ["u"], ["y"], domain="local"),
    ]
    proto = model(nodes, {"x": [4], "c": []}, {"y": [1]}, opset=12, types={"c": TensorProto.BOOL}, functions=[function])
    loaded = graph.load(proto)
    assert {f.opset_imports[""] for f in loaded.functions.values()} == {graph.HOME_OPSET}
    feeds = {"x": X.flat[:4], "c": np.asarray(True)}
    np.testing.assert_allclose(witness(graph.to_proto(loaded), feeds)[0], [1.0], rtol=1e-6)


def test_a_newer_model_keeps_its_opset(model: Callable) -> None:
    newest = onnx.defs.onnx_opset_version()
    loaded = graph.load(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, {"y": [3]}, opset=newest))
    assert loaded.opset_imports[""] == newest > graph.HOME_OPSET


def test_every_new_node_names_its_source(model: Callable) -> None:
    loaded = graph.load(proto_of(Old(11, "Softmax", {"axis": 1}), model))
    assert len(loaded.graph) == 3
    assert {graph.source_name(node) for node in loaded.graph} == {"node"}


@pytest.mark.parametrize("kind", ["simple", "pytorch-converted", "pytorch-operator"])
def test_the_standards_old_cases(kind: str, witness: Callable) -> None:
    """ONNX ships these at opset 6 to 12, with recorded outputs."""
    checked = 0
    for case in load_model_tests(kind=kind):
        proto = onnx.load(f"{case.model_dir}/model.onnx")
        weights = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in weights]
        described = [value.type.HasField("tensor_type") for value in [*inputs, *proto.graph.output]]
        if not all(described) or any(entry.domain not in ("", "ai.onnx") for entry in proto.opset_import):
            continue
        data = f"{case.model_dir}/test_data_set_0"
        feeds = {v.name: numpy_helper.to_array(onnx.load_tensor(f"{data}/input_{i}.pb")) for i, v in enumerate(inputs)}
        places = {f"{name}[{i}]": size for name, array in feeds.items() for i, size in enumerate(array.shape)}
        if 0 in places.values():
            continue
        free = {place: places[place] for dim in graph.dims(graph.read(proto)) for place in dim.places}
        loaded = graph.to_proto(graph.load(proto, free))
        try:
            results = witness(loaded, feeds)
        except Exception:
            with pytest.raises(Exception):  # noqa: B017  what onnxruntime cannot run, it could not run before
                witness(proto, feeds)
            continue
        for index, result in enumerate(results):
            expected = numpy_helper.to_array(onnx.load_tensor(f"{data}/output_{index}.pb"))
            if expected.dtype.kind in "fiub":
                # the tolerance of ONNX's own backend test runner
                np.testing.assert_allclose(result, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name)
        checked += 1
    assert checked >= 15


def test_the_standards_node_cases_keep_their_meaning(witness: Callable) -> None:
    """Of every operator that changed between its case's opset and the home opset, the first case."""
    from porter.graph.upgrade import TABLE

    changed = {op for op, _ in TABLE}
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        proto = case.model
        opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 99)
        name = proto.graph.node[0].op_type
        arrays = [*case.data_sets[0][0], *case.data_sets[0][1]]
        plain = all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in arrays)
        if opset >= graph.HOME_OPSET or name not in changed or name in seen or not plain:
            continue
        feeds = {value.name: array for value, array in zip(proto.graph.input, case.data_sets[0][0], strict=True)}
        try:
            before = witness(proto, feeds)
        except Exception:  # onnxruntime has no kernel for it
            continue
        seen.add(name)
        for old, new in zip(before, witness(graph.to_proto(graph.load(proto)), feeds), strict=True):
            assert old.shape == new.shape and np.array_equal(old, new, equal_nan=True), case.name
    assert len(seen) >= 20


def test_no_operator_of_the_table_is_unknown() -> None:
    from porter.graph.upgrade import TABLE

    known = {entry.name for entry in onnx.defs.get_all_schemas_with_history() if entry.domain == ""}
    versions = {(entry.name, entry.since_version) for entry in onnx.defs.get_all_schemas_with_history()}
    assert {op for op, _ in TABLE} <= known
    assert set(TABLE) <= versions


def test_the_ir_version_follows_the_opset(model: Callable) -> None:
    loaded = graph.load(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, {"y": [3]}, opset=7, ir_version=3))
    assert isinstance(loaded, ir.Model)
    onnx.checker.check_model(graph.to_proto(loaded), full_check=True)
