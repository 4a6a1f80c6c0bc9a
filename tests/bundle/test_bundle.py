"""Bundles: whole or not at all, the same bytes every time, verified before they are believed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from porter.bundle import Buffer, Kernel, Launch, Lazy, Manifest, Model, Tensor, read, staging, verify, write
from porter.errors import PorterError

MANIFEST = Manifest(
    target="toy:toy",
    model=Model("model.onnx", "0" * 64, 24, {"batch": 1}),
    precision="fp32",
    inputs=(Tensor("x", "float32", (2, 3), "x"),),
    outputs=(Tensor("y", "float32", (2, 4), "y"),),
    kernels=(Kernel("matmul_0", "toy", "kernels/matmul_0.py", tile="kernels/matmul_0.tile", memory={"vmem": 96}),),
    launches=(Launch("matmul_0", ("x", "w"), ("y",), ("/layer/MatMul",)),),
    buffers=(
        Buffer("x", "float32", (2, 3), "input"),
        Buffer("w", "bfloat16", (3, 4), "weight"),
        Buffer("y", "float32", (2, 4), "output"),
    ),
    versions={"porter": "0.1.0"},
)
FILES = {
    "kernels/matmul_0.py": "def matmul_0(): ...\n",
    "kernels/matmul_0.tile": b"tile",
    "report.txt": iter([b"a", b"b"]),
}
WEIGHTS = {"w": np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16)}


def files():
    return {**FILES, "report.txt": iter([b"a", b"b"])}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_written_is_read(tmp_path):
    bundle = read(write(tmp_path / "a" / "b", MANIFEST, files(), WEIGHTS))
    assert replace(bundle.manifest, files={}) == MANIFEST
    assert bundle.text("report.txt") == "ab"
    assert bundle.weights["w"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bundle.weights["w"], WEIGHTS["w"])
    assert verify(bundle) == 4
    assert os.listdir(tmp_path / "a") == ["b"]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a", MANIFEST, files(), WEIGHTS)
    write(tmp_path / "b", MANIFEST, dict(reversed(files().items())), WEIGHTS)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_weights_are_the_standard_file_and_aligned(tmp_path):
    from safetensors import safe_open

    rng = np.random.default_rng(0)
    weights = {
        "odd": rng.standard_normal((3, 5)).astype(np.float32),
        "even": rng.standard_normal((8, 16)).astype(np.float16),
        "lazy": Lazy((4, 4), np.dtype(np.int64), lambda: np.arange(16).reshape(4, 4)),
        "narrow": rng.standard_normal(7).astype(ml_dtypes.float8_e4m3),
        "none": np.zeros((0, 4), np.float32),
        "one": np.float32(7).reshape(()),
    }
    buffers = tuple(Buffer(n, np.dtype(w.dtype).name, tuple(w.shape), "weight") for n, w in weights.items())
    path = write(tmp_path / "b", replace(MANIFEST, buffers=buffers), {}, weights)
    back = read(path).weights
    for name, w in weights.items():
        assert back[name].dtype == w.dtype and back[name].shape == tuple(w.shape)
        assert np.asarray(back[name]).tobytes() == np.asarray(w).tobytes()
    raw = (path / "weights.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 64 == 0
    for name in ("even", "lazy"):
        assert header[name]["data_offsets"][0] % 64 == 0
    with safe_open(path / "weights.safetensors", "numpy") as f:
        np.testing.assert_array_equal(f.get_tensor("odd"), weights["odd"])


def test_an_existing_folder_needs_force(tmp_path):
    path = write(tmp_path / "b", MANIFEST, files(), WEIGHTS)
    before = tree(path)
    with pytest.raises(PorterError, match="exists\n  try  --force"):
        write(path, replace(MANIFEST, precision="bf16"), {}, {})
    assert tree(path) == before
    write(path, replace(MANIFEST, precision="bf16"), {}, {}, force=True)
    assert os.listdir(tmp_path) == ["b"] and os.listdir(path) == ["manifest.json"]


def test_force_never_deletes_what_porter_did_not_write(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(PorterError, match="holds files that porter did not write"):
        write(tmp_path / "home", MANIFEST, files(), WEIGHTS, force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", MANIFEST, files(), WEIGHTS, force=True)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError("bug")])
def test_a_failure_halfway_leaves_nothing(tmp_path, failure):
    def stream():
        yield b"half"
        raise failure

    with pytest.raises((KeyboardInterrupt, PorterError, ValueError)) as e:
        write(tmp_path / "new" / "deep" / "b", MANIFEST, {"z": stream()}, WEIGHTS)
    assert os.listdir(tmp_path) == []
    if isinstance(failure, OSError):
        assert str(e.value) == (
            f"cannot write {tmp_path}/new/deep/b\n  found No space left on device\n"
            "  try  free some space, or write to another disk"
        )


def test_a_really_full_disk(tmp_path):
    """A file size limit stands in for the disk: the write itself fails, as it does when the disk is full."""
    code = f"""
import resource, signal, numpy as np
from porter.bundle import write
from porter.errors import PorterError
from tests_bundle import MANIFEST
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write({str(tmp_path / "out")!r}, MANIFEST, {{"big": bytes(10000)}}, {{}})
except PorterError as e:
    print(e)
"""
    (tmp_path / "tests_bundle.py").write_text(Path(__file__).read_text())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'out'}\n  found File too large"), done.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_said_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PorterError, match="Permission denied"), staging(tmp_path / "b"):
        pytest.fail("the body must not run")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "f").write_text("")
    for dest, force in ((tmp_path / "f", True), (tmp_path / "f" / "b", False)):
        with pytest.raises(PorterError), staging(dest, force):
            pytest.fail("the body must not run")
    assert os.listdir(tmp_path) == ["f"]


def test_what_a_killed_port_left_is_swept_and_a_running_one_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".b.porter-{dead.pid}").mkdir()
    (tmp_path / f".b.porter-{os.getppid()}").mkdir()
    write(tmp_path / "b", MANIFEST, files(), WEIGHTS)
    assert sorted(os.listdir(tmp_path)) == [f".b.porter-{os.getppid()}", "b"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: (b / "report.txt").write_text("ac"), "is not the file that porter wrote"),
        (lambda b: (b / "report.txt").unlink(), "is in the manifest and not in the bundle"),
        (lambda b: (b / "evil.py").write_text(""), "is not in the manifest"),
        (lambda b: (b / "manifest.json").write_text("{"), "is not JSON"),
        (lambda b: (b / "manifest.json").write_text("{}"), "is not a porter manifest"),
        (lambda b: (b / "manifest.json").unlink(), "is not a bundle"),
    ],
)
def test_a_bundle_that_was_touched_is_refused(tmp_path, spoil, message):
    path = write(tmp_path / "b", MANIFEST, files(), WEIGHTS)
    spoil(path)
    with pytest.raises(PorterError, match=message):
        read(path)


def test_a_link_out_of_the_bundle_is_refused(tmp_path):
    path = write(tmp_path / "b", MANIFEST, files(), WEIGHTS)
    (tmp_path / "elsewhere").write_text("ab")
    (path / "report.txt").unlink()
    (path / "report.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PorterError, match="leads out of the bundle"):
        read(path)


def test_a_folder_of_bundles_names_them(tmp_path):
    write(tmp_path / "out" / "gpu-h200", MANIFEST, files(), WEIGHTS)
    with pytest.raises(PorterError, match="one of the bundles in it: gpu-h200"):
        read(tmp_path / "out")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "manifest.json"])
def test_a_file_has_its_place_in_the_bundle(tmp_path, name):
    with pytest.raises(ValueError, match="no place in a bundle"):
        write(tmp_path / "b", MANIFEST, {name: b""}, {})
