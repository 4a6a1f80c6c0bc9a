"""`porter port` and `porter run`, as a user has them: one small model, its bundles, its JSON, its bad days."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.bundle import read
from porter.bundle.reader import verify

PORTER = [sys.executable, "-m", "porter.cli"]
SHAPE = (6, 20)


def porter(*args: object, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PORTER, *map(str, args)], capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """y = softmax(relu(x @ w + b)), odd sizes, a free batch."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in (("w", (20, 7)), ("b", (7,)))
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", d]) for n, d in (("x", 20), ("y", 7)))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "/dense/MatMul"),
        helper.make_node("Add", ["p", "b"], ["s"], "/dense/Add"),
        helper.make_node("Relu", ["s"], ["r"], "/relu"),
        helper.make_node("Softmax", ["r"], ["y"], "/softmax", axis=-1),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def inputs(model) -> Path:
    path = model.parent / "x.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def ported(model) -> tuple[Path, dict]:
    """A port to two targets whose toolchains cost little, and its document."""
    out = model.parent / "deep" / "out"
    done = porter("port", model, "--target", "gpu:b200,trainium", "--dim", "batch=6", "-o", out, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return out, json.loads(done.stdout)


def test_the_document_has_the_promised_shape(ported, model):
    out, document = ported
    assert (document["model"], document["dims"]) == (str(model), {"batch": 6})
    assert [t["target"] for t in document["targets"]] == ["gpu:b200", "trainium:trn2"]
    for t in document["targets"]:
        assert (t["status"], t["bundle"]) == ("ok", str(out / t["target"].replace(":", "-")))
        for step in t["steps"]:
            assert set(step) == {"name", "contract", "status", "rewrites", "metric", "seconds"}
            assert step["status"] == "ok"
        kernels = t["kernels"]
        assert set(kernels) == {"calls", "unique", "checked", "languages", "host", "host_ops"}
        assert kernels["checked"] == kernels["unique"] == sum(kernels["languages"].values()) > 0
        assert (kernels["host"], kernels["host_ops"]) == (0, {})
        end = t["end_to_end"]
        assert set(end) == {"executor", "witness", "max_abs", "max_rel", "sqnr_db", "cosine"}
        assert (end["executor"], end["witness"]) == ("tile", "onnxruntime")
        assert 90 <= end["sqnr_db"] <= 300
        assert set(t["estimate"]) == {"latency_s", "bound", "origin"}
        assert t["estimate"]["latency_s"] > 0
        if t["target"].startswith("gpu"):
            assert set(t["toolchain"]) == {"name", "version", "compiled", "failed"}
            assert (t["toolchain"]["name"], t["toolchain"]["failed"]) == ("triton", 0)


@pytest.mark.parametrize("target", ["gpu-b200", "trainium-trn2"])
def test_the_bundle_runs_and_reproduces_the_model(ported, inputs, model, target, tmp_path):
    out, _ = ported
    done = porter("run", out / target, "--inputs", inputs, "-o", tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    assert "files verified" in done.stdout and "simulated" in done.stdout
    (expected,) = onnxruntime.InferenceSession(str(model)).run(None, dict(np.load(inputs)))
    found = np.load(tmp_path / "y.npz")["y"]
    # Probabilities at most 1, float32 sums of 20 terms and an exp: some ulps of 1.
    np.testing.assert_allclose(found, expected, atol=32 * np.finfo(np.float32).eps, rtol=0)


def test_the_bundle_is_described_by_inspect(ported):
    out, document = ported
    shown = json.loads(porter("inspect", out / "gpu-b200", "--json").stdout)
    kernels = document["targets"][0]["kernels"]
    assert (shown["target"], shown["languages"]) == ("gpu:b200", kernels["languages"])
    assert (shown["launches"], len(shown["kernels"])) == (kernels["calls"], kernels["unique"])
    assert shown["model"]["dims"] == {"batch": 6}


def test_inputs_of_another_shape_are_refused(ported, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 20), np.float32))
    done = porter("run", ported[0] / "gpu-b200", "--inputs", tmp_path / "x.npz")
    assert done.returncode == 2
    assert done.stderr.startswith("input 'x' has another shape\n  expected float32[6, 20]\n  found float32[5, 20]")


def test_a_changed_bundle_is_not_run(ported, inputs, tmp_path):
    import shutil

    copy = shutil.copytree(ported[0] / "gpu-b200", tmp_path / "copy")
    kernel = next((copy / "kernels").glob("*.py"))
    kernel.write_text(kernel.read_text() + "\n# a little addition\n")
    done = porter("run", copy, "--inputs", inputs)
    assert done.returncode == 2 and "is not the file that porter wrote" in done.stderr


def test_equal_ports_give_equal_bytes(ported, model, tmp_path):
    """From another folder, without the cache, in another process."""
    out, _ = ported
    args = ["--target", "gpu:b200", "--dim", "batch=6", "-o", tmp_path / "again", "--no-cache"]
    assert porter("port", model, *args, cwd=tmp_path).returncode == 0

    def tree(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    first, second = tree(out / "gpu-b200"), tree(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_an_existing_folder_is_refused_before_any_work(ported, model):
    out, _ = ported
    began = time.perf_counter()
    done = porter("port", model, "--target", "gpu:b200,trainium", "--dim", "batch=6", "-o", out)
    assert (done.returncode, done.stderr) == (
        2,
        f"{out} exists\n  try  --force to replace it, or another folder with -o\n",
    )
    assert time.perf_counter() - began < 3, "said before the model is even loaded"


@pytest.mark.slow  # where the signal falls depends on the load of the machine: run alone
@pytest.mark.parametrize("after", [0.5, 2.0, 3.5])
def test_interruption_leaves_nothing(model, tmp_path, after):
    """Ctrl-C while loading, in the passes, in the kernels: exit code 130 and a clean folder; or the port was done."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [*PORTER, "port", str(model), "--target", "gpu", "--dim", "batch=6", "-o", str(tmp_path / "new" / "out")]
    p = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    time.sleep(after)
    os.killpg(p.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = p.communicate(timeout=60)
    left = {p.name for p in tmp_path.iterdir()} - {"cache"}
    if p.returncode == 0 or left:  # it was done, and perhaps on its way out
        assert left == {"new"}
        verify(read(tmp_path / "new" / "out"))
        return
    assert "Traceback" not in err, err
    # as a shell reports it: a process that has not even set up its handler yet dies of the signal, 128 + 2
    assert (p.returncode if p.returncode >= 0 else 128 - p.returncode, left) == (130, set())


def test_a_device_of_ones_own(model, tmp_path):
    """A smaller shared memory is a limit that the kernels keep."""
    page = tmp_path / "small.toml"
    page.write_text(
        'like = "gpu:h200"\ntitle = "Small"\n[memory.shared]\nbytes_per_block = { value = 65536, assumed = "a test" }\n'
    )
    done = porter("port", model, "--device-file", page, "--dim", "batch=6", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"][0]["target"] == "gpu:small"
    kernels = json.loads((tmp_path / "out" / "manifest.json").read_text())["kernels"]
    assert all(k["compiled"]["resources"]["shared"] <= 65536 for k in kernels)
