"""What is saved reads back the same, is written whole or not at all, and copies no weight that it need not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from porter import graph
from porter.errors import PorterError


@pytest.fixture
def dense(model: Callable) -> graph.Model:
    """A matrix product and a bias, 4 KB and 16 bytes of weights."""
    weights = {"w": np.arange(1024, dtype=np.float32).reshape(256, 4), "b": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Add", ["m", "b"], ["y"], name="add"),
    ]
    return graph.load(model(nodes, {"x": [1, 256]}, {"y": [1, 4]}, weights))


@pytest.mark.parametrize("external", [False, True])
def test_a_saved_model_is_the_same(external: bool, dense: graph.Model, tmp_path: Path) -> None:
    path = graph.save(dense, tmp_path / "new" / "folder" / "m.onnx", external=external)
    again = graph.load(path)
    assert graph.text(again) == graph.text(dense)
    files = {p.name for p in path.parent.iterdir()}
    assert files == ({"m.onnx", "m.onnx.data"} if external else {"m.onnx"})
    array = graph.constant(again.graph.initializers["w"])
    assert array is not None and (array == np.arange(1024).reshape(256, 4)).all()


def test_external_weights_move_along(dense: graph.Model, tmp_path: Path) -> None:
    first = graph.load(graph.save(dense, tmp_path / "a" / "m.onnx", external=True))
    inside = graph.load(graph.save(first, tmp_path / "b" / "m.onnx", external=False))
    outside = graph.load(graph.save(first, tmp_path / "c" / "m.onnx", external=True))
    os.remove(tmp_path / "a" / "m.onnx.data")
    assert graph.text(inside) == graph.text(outside) == graph.text(dense)


def test_saving_over_the_files_that_are_mapped(dense: graph.Model, tmp_path: Path) -> None:
    path = graph.save(dense, tmp_path / "m.onnx", external=True)
    loaded = graph.load(path)
    graph.save(loaded, path, external=True)
    assert graph.text(graph.load(path)) == graph.text(loaded) == graph.text(dense)


def test_the_same_model_gives_the_same_bytes(dense: graph.Model, tmp_path: Path) -> None:
    paths = [graph.save(graph.clone(dense), tmp_path / name / "m.onnx", external=True) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len({p.with_name("m.onnx.data").read_bytes() for p in paths}) == 1


def test_saving_leaves_the_model_as_it_was(dense: graph.Model, tmp_path: Path) -> None:
    before = {name: value.const_value for name, value in dense.graph.initializers.items()}
    graph.save(dense, tmp_path / "m.onnx", external=True)
    graph.to_proto(dense)
    assert all(value.const_value is before[name] for name, value in dense.graph.initializers.items())


def test_a_shared_tensor_is_written_once(dense: graph.Model, tmp_path: Path) -> None:
    tensor = dense.graph.initializers["w"].const_value
    assert tensor is not None
    copy = graph.add_initializer(dense, "w2", tensor)
    copy.name = "w2"
    path = graph.save(dense, tmp_path / "m.onnx", external=True)
    assert path.with_name("m.onnx.data").stat().st_size == 4096


def test_a_folder_that_cannot_be_written(dense: graph.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PorterError) as error:
        graph.save(dense, tmp_path / "file" / "m.onnx")
    assert error.value.expected == "a place that can be written"


@pytest.mark.parametrize("external", [False, True])
def test_a_failure_leaves_the_old_file(
    external: bool, dense: graph.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PorterError, match="No space left on device"):
        graph.save(dense, path, external=external)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_too_long_for_one_file(dense: graph.Model, tmp_path: Path) -> None:
    """Four gigabytes of zeros that take no disk: a sparse file, mapped and never read."""
    path = graph.save(dense, tmp_path / "m.onnx", external=True)
    with open(path.with_name("m.onnx.data"), "r+b") as file:
        file.truncate(5 << 30)
    import onnx

    proto = onnx.load(path, load_external_data=False)
    big = proto.graph.initializer.add(name="big", data_type=1, dims=[1 << 30], data_location=1)
    for key, value in (("location", "m.onnx.data"), ("offset", "4096"), ("length", str(4 << 30))):
        big.external_data.add(key=key, value=value)
    proto.graph.node.add(op_type="Identity", input=["big"], output=["z"], name="id")
    path.write_bytes(proto.SerializeToString())
    loaded = graph.load(path)
    array = graph.constant(loaded.graph.initializers["big"])
    assert array is not None and array.shape == (1 << 30,) and array[-1] == 0
    with pytest.raises(PorterError) as error:
        graph.to_proto(graph.clone(loaded))
    assert error.value.hint == "save it with external=True"
