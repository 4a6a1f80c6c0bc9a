"""Running a bundle: launches in order over one real arena, through a target's `execute`; the host for what is ONNX."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from porter.bundle import Buffer, Kernel, Launch, Manifest, Model, Tensor, lives, plan, read, run, write
from porter.device import Device, load_device
from porter.errors import PorterError
from porter.tile import interpret
from porter.tile.affine import Affine
from porter.tile.program import Access, Axis, Elementwise, Index, Load, Param, Program, Store, Tile
from porter.tile.target import Emitted, Target
from porter.tile.text import show


def kernel(name: str, op: str, arity: int) -> Program:
    """out = op(in0, ...), 8 numbers, 4 at a time."""
    here = Access("out0", (8,), (Index(Affine.of("i")),))
    loads = tuple(Load(f"v{i}", Tile("float32", ("i",)), replace(here, param=f"in{i}")) for i in range(arity))
    body = Elementwise("r", Tile("float32", ("i",)), op, tuple(v.name for v in loads))
    params = (*(Param(f"in{i}", (8,), "float32") for i in range(arity)), Param("out0", (8,), "float32", True))
    return Program(name, params, (Axis("i", 8, 4, "grid"),), (*loads, body, Store(here, "r")))


class Interpreted(Target):
    """A target whose text is the tile program's."""

    family, language = "test", "tile"
    seen: list[str]

    def limits(self, device):
        raise NotImplementedError

    def lower(self, kernel, device):
        raise NotImplementedError

    def execute(self, emitted: Emitted, inputs, device: Device, points=None):
        self.seen.append(emitted.text)
        return interpret.run(emitted.kernel.program, inputs)


@pytest.fixture
def target(monkeypatch):
    found = Interpreted()
    found.seen = []
    monkeypatch.setattr("porter.tile.target.target_of", lambda family: found)
    return found


def host_model() -> bytes:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [8]) for n in ("a", "b"))
    graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"], "neg")], "host", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


ADD, MUL = kernel("add", "add", 2), kernel("mul", "mul", 2)
LAUNCHES = (
    Launch("add", ("x", "w"), ("t0",)),
    Launch("mul", ("t0", "t0"), ("t1",)),
    Launch("neg", ("t1",), ("t2",)),
    Launch("add", ("t2", "t1"), ("t3",)),
    Launch("add", ("t3", "x"), ("y",)),
)


@pytest.fixture
def bundle(tmp_path):
    """y = (-(x + w)^2 + (x + w)^2) + x, its four intermediates in an arena of two or three."""
    space = {"x": "input", "y": "output", "w": "weight"}
    names = ["x", "w", "y", "t0", "t1", "t2", "t3"]
    bare = [Buffer(n, "float32", (2, 4), space.get(n, "arena")) for n in names]
    planned = plan(lives(LAUNCHES, bare))
    kernels = [Kernel(p.name, "tile", f"kernels/{p.name}.py", tile=f"kernels/{p.name}.tile") for p in (ADD, MUL)]
    manifest = Manifest(
        target="toy:toy",
        model=Model("m.onnx", "0" * 64, 24),
        precision="fp32",
        inputs=(Tensor("x", "float32", (2, 4), "x"),),
        outputs=(Tensor("y", "float32", (8,), "y"),),
        kernels=(*kernels, Kernel("neg", "onnx", "host/neg.onnx", why="for the test")),
        launches=LAUNCHES,
        buffers=tuple(replace(b, offset=planned.offsets.get(b.name)) for b in bare),
        arena_bytes=planned.bytes,
    )
    files = {f"kernels/{p.name}.tile": show(p) for p in (ADD, MUL)}
    files |= {f"kernels/{p.name}.py": f"the text of {p.name}" for p in (ADD, MUL)}
    weights = {"w": np.arange(8, dtype=np.float32).reshape(2, 4)}
    return read(write(tmp_path / "b", manifest, {**files, "host/neg.onnx": host_model()}, weights))


X = {"x": np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)}


def test_the_launch_list_is_the_program(bundle, target):
    steps = []
    outputs, how = run(bundle, X, lambda what, done, total: steps.append((what, done, total)))
    np.testing.assert_array_equal(outputs["y"], X["x"].reshape(8))
    assert outputs["y"].shape == (8,)
    assert target.seen == ["the text of add", "the text of mul", "the text of add", "the text of add"]
    assert (how.launches, how.kernels, how.host) == (5, 3, 1)
    assert "simulated" in how.on and "toy:toy" in how.on
    assert steps == [(launch.kernel, i, 5) for i, launch in enumerate(LAUNCHES)]
    assert bundle.manifest.arena_bytes < 4 * 256


def test_a_wrong_plan_is_a_wrong_result(bundle, target):
    """Everything at offset 0: the arena is real memory, so t2 overwrites t1 while t1 is alive."""
    crowded = tuple(replace(b, offset=0) if b.space == "arena" else b for b in bundle.manifest.buffers)
    outputs, _ = run(replace(bundle, manifest=replace(bundle.manifest, buffers=crowded)), X)
    assert not np.array_equal(outputs["y"], X["x"].reshape(8))


def test_inputs_are_checked_before_anything_runs(bundle, target):
    with pytest.raises(PorterError, match="input 'x' is missing"):
        run(bundle, {})
    assert target.seen == []


def test_the_device_of_a_bundle_is_its_own(bundle, target):
    asked = []
    target.execute = lambda emitted, inputs, device, points=None: (
        asked.append(device),
        interpret.run(emitted.kernel.program, inputs),
    )[1]
    run(bundle, X)
    assert set(asked) == {load_device("toy:toy")}
    own = replace(bundle.manifest, device=load_device("maia").document())
    run(replace(bundle, manifest=own), X)
    assert asked[-1].name == "maia:200" and asked[-1]["memory.hbm.bytes"] == 216_000_000_000
    onnx.checker.check_model(bundle.path / "host" / "neg.onnx")
