"""Weights in files beside the model: mapped, confined to its folder, and refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refused import message

from porter import graph

RELU = helper.make_node("Relu", ["x"], ["y"], name="act")


@pytest.fixture
def outside(tmp_path: Path, model: Callable) -> Callable[..., Path]:
    """A model beside weights.bin of 64 bytes, its tensor's entry changed."""

    def write(**entries: str) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "weights.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
        proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"y": [4]})
        tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "weights.bin", "offset": "16", "length": "16"} | entries).items():
            tensor.external_data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        return folder / "m.onnx"

    return write


def test_external_data_is_mapped(outside: Callable) -> None:
    loaded = graph.load(outside())
    array = graph.constant(loaded.graph.initializers["w"])
    assert array is not None and array.tolist() == [4, 5, 6, 7]
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("constant", [False, True])
def test_shapes_that_lie_in_a_file_are_read(constant: bool, model: Callable, tmp_path: Path) -> None:
    """Weights, or values of Constant nodes, all of them moved to a file: the rules need those that are shapes."""
    held = numpy_helper.from_array(np.array([2, -1]), "shape")
    nodes = [helper.make_node("Constant", [], ["shape"], value=held)] if constant else []
    nodes.append(helper.make_node("Reshape", ["x", "shape"], ["y"]))
    proto = model(nodes, {"x": [4, 3]}, {"y": None}, {} if constant else {"shape": np.array([2, -1])})
    options = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": constant}
    onnx.save_model(proto, tmp_path / "m.onnx", location="w.bin", **options)
    loaded = graph.load(tmp_path / "m.onnx")
    assert (tmp_path / "w.bin").stat().st_size == 16
    assert graph.shape(loaded.graph.outputs[0]) == (2, 6)


def test_a_model_read_by_a_relative_path(outside: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    path = outside(location="../secret.bin")
    (path.parent.parent / "secret.bin").write_bytes(bytes(64))
    monkeypatch.chdir(path.parent)
    assert "which leads out of it" in message(lambda: graph.read("m.onnx"))


@pytest.mark.parametrize(
    "entries, ending",
    [
        ({"location": "/etc/hostname"}, "external data in the model's folder\n  found the path '/etc/hostname'"),
        (
            {"location": "../weights.bin"},
            "external data in the model's folder\n  found '../weights.bin', which leads out of it",
        ),
        ({"location": "a/../../b"}, "external data in the model's folder\n  found 'a/../../b', which leads out of it"),
        ({"location": ""}, "the name of a file beside the model\n  found external data without a location"),
        ({"location": "gone.bin"}, "its data in 'gone.bin' beside the model\n  found no such file"),
        (
            {"offset": "52"},
            "bytes 52 to 68 of 'weights.bin'\n  found a file of 64 bytes\n  try  fetch or export the weights again",
        ),
        ({"offset": "-4"}, "a byte offset of its external data\n  found '-4'"),
        ({"length": "12"}, "16 bytes of external data for shape [4]\n  found length 12"),
    ],
)  # fmt: skip
def test_external_data_that_is_missing_short_or_elsewhere(entries: dict, ending: str, outside: Callable) -> None:
    path = outside(**entries)
    assert message(lambda: graph.read(path)) == f"{os.path.realpath(path)}: tensor 'w'\n  expected {ending}"


def test_a_link_out_of_the_folder(outside: Callable) -> None:
    path = outside(location="link.bin")
    target = path.parent.parent / "elsewhere.bin"
    target.write_bytes(bytes(64))
    (path.parent / "link.bin").symlink_to(target)
    assert f"found 'link.bin', a link to '{target}'" in message(lambda: graph.read(path))


def test_a_link_within_the_folder(outside: Callable) -> None:
    path = outside(location="link.bin")
    (path.parent / "link.bin").symlink_to("weights.bin")
    value = graph.read(path).graph.initializers["w"]
    assert graph.constant(value).tolist() == [4, 5, 6, 7]  # type: ignore[union-attr]


def test_external_data_of_a_constant_is_confined_too(outside: Callable, model: Callable) -> None:
    path = outside()
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../weights.bin")
    path.write_bytes(model([helper.make_node("Constant", [], ["y"], value=tensor)], {}, {"y": [4]}).SerializeToString())
    assert "tensor 'c'" in message(lambda: graph.read(path))


def test_external_data_without_a_folder(outside: Callable) -> None:
    content = outside().read_bytes()
    assert message(lambda: graph.read(content)).endswith("try  give the path of the model's file")
