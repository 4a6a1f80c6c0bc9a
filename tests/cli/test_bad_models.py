"""Models that cannot be ported: exit code 2, a message that names the place, and nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs=(), outputs=None, initializers=(), opset=17, domains=()):
    inputs = list(inputs) or [tensor("x", [2, 3])]
    outputs = list(outputs or [tensor("y", None)])
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def node(op, inputs, outputs, name=None, **attributes):
    return helper.make_node(op, inputs, outputs, name or op.lower(), **attributes)


RELU = model([node("Relu", ["x"], ["y"])])


def external(location: str) -> onnx.ModelProto:
    w = helper.make_tensor("w", TensorProto.FLOAT, [3], np.zeros(3))
    w.ClearField("float_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value=location)
    return model([node("Add", ["x", "w"], ["y"])], initializers=[w])


def linked(folder: Path) -> bytes:
    (folder.parent / "secret.bin").write_bytes(bytes(12))
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")
    return external("w.bin").SerializeToString()


CASES = {
    "no ONNX at all": (lambda f: b"hello, I am a text", [], "m.onnx"),
    "an empty file": (lambda f: b"", [], "m.onnx"),
    "a truncated file": (lambda f: RELU.SerializeToString()[:-9], [], "m.onnx"),
    "external data that is missing": (lambda f: external("gone.bin").SerializeToString(), [], "gone.bin"),
    "external data by absolute path": (lambda f: external("/etc/passwd").SerializeToString(), [], "/etc/passwd"),
    "external data above the folder": (lambda f: external("../secret.bin").SerializeToString(), [], "../secret.bin"),
    "external data through a link": (linked, [], "w.bin"),
    "a cycle": (
        lambda f: model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["a"], ["y"], "z")]),
        [],
        "add",
    ),
    "an undefined value": (lambda f: model([node("Add", ["x", "ghost"], ["y"])]), [], "ghost"),
    "wrong types": (
        lambda f: model(
            [node("Add", ["x", "i"], ["y"])], inputs=[tensor("x", [2]), tensor("i", [2], TensorProto.INT64)]
        ),
        [],
        "add",
    ),
    "an unknown operator": (lambda f: model([node("Reluu", ["x"], ["y"])]), [], "Reluu"),
    "an unknown domain": (
        lambda f: model([node("Magic", ["x"], ["y"], domain="com.acme")], domains=["com.acme"]),
        [],
        "com.acme",
    ),
    "an unbound dim": (
        lambda f: model([node("Relu", ["x"], ["y"])], inputs=[tensor("x", ["batch", 3])]),
        [],
        "--dim batch=",
    ),
    "a nameless unbound dim": (
        lambda f: model([node("Relu", ["x"], ["y"])], inputs=[tensor("x", [None, 3])]),
        [],
        "x[0]",
    ),
    "a dim that does not exist": (
        lambda f: model([node("Relu", ["x"], ["y"])], inputs=[tensor("x", ["batch", 3])]),
        ["--dim", "bach=1"],
        "batch",
    ),
    "an impossible dim": (
        lambda f: model(
            [node("Add", ["x", "w"], ["y"])],
            inputs=[tensor("x", ["n"])],
            initializers=[helper.make_tensor("w", TensorProto.FLOAT, [5], np.zeros(5))],
        ),
        ["--dim", "n=4"],
        "add",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_a_bad_model_is_explained(tmp_path, what):
    make, args, named = CASES[what]
    folder = tmp_path / "model"
    folder.mkdir()
    made = make(folder)
    (folder / "m.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    before = sorted(tmp_path.rglob("*"))
    words = ["opt", str(folder / "m.onnx"), "--passes", "cleanup", "-o", str(tmp_path / "out" / "o.onnx"), *args]
    done = subprocess.run([sys.executable, "-m", "porter.cli", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 4, done.stderr
    assert "Traceback" not in done.stderr
    assert named in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
