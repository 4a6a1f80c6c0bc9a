"""Real models load, keep their meaning to the bit or a few roundings, and are never copied."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from porter import graph
from porter.errors import PorterError

# What onnxruntime rounds otherwise after loading: a softmax over float16 has another kernel at opset 24, an average
# moves one step of the quantizer behind it, and weights that are no longer inputs are packed, so that products of gates
# of up to 1 add up in another order.
ROUNDED: dict[str, Callable[[np.ndarray], float]] = {
    "squeezenet_fp16_op7": lambda y: 2**-11 * float(np.abs(y).max()),
    "scan_lstm_op9": lambda y: 2**-24,
    "micro_kws_qdq_op15": lambda y: 1.001 / 255,
    # onnxruntime's own operators by the standard's: sums of up to 128 terms in another order, five layers deep
    "reject_contrib_gpt2_op11": lambda y: 5 * 128 * 2**-24 * float(np.abs(y).max()),
}


def catalog(models: Path) -> list[str]:
    return [entry["file"] for entry in json.loads((models / "catalog.json").read_text())]


def cases_of(models: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recorded_inputs", models / "inputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def feeds_of(models: Path, file: str) -> dict[str, np.ndarray]:
    archive = (models / file).with_suffix(".io_0.npz")
    if archive.exists():
        with np.load(archive) as data:
            return {key[3:]: data[key] for key in data if key.startswith("in|")}
    return next(cases_of(models).cases(str(Path(file).parent)))[0]


def places(model: graph.Model, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    free = [place for dim in graph.dims(model) for place in dim.places]
    sizes = {f"{name}[{axis}]": size for name, array in feeds.items() for axis, size in enumerate(array.shape)}
    return {place: sizes[place] for place in free}


def test_every_model_loads_and_means_the_same(models: Path, witness: Callable) -> None:
    checked = 0
    for file in catalog(models):
        if "reject_ml" in file:
            continue
        path, feeds = models / file, feeds_of(models, file)
        loaded = graph.load(path, places(graph.read(path), feeds))
        assert loaded.opset_imports == {"": graph.HOME_OPSET}
        assert all(graph.source_name(node) for node in loaded.graph)
        before = witness(onnx.load(path), feeds)
        after = witness(graph.to_proto(loaded), feeds)
        allowed = ROUNDED.get(path.parent.name, lambda y: 0.0)
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(new, old, rtol=0, atol=allowed(old), err_msg=file)
        checked += 1
    assert checked >= 25


def test_a_model_that_is_refused(models: Path) -> None:
    with pytest.raises(PorterError) as error:
        graph.load(models / "reject_ml_domain_op9" / "model.onnx")
    assert error.value.found == "operator ai.onnx.ml.LinearClassifier"


def test_reading_copies_no_weight(tmp_path: Path, model: Callable) -> None:
    """A model whose weights are four times what the process may hold is read, bound, cloned and printed in a part."""
    from onnx import helper

    size = 1 << 30
    proto = model([helper.make_node("Add", ["x", "w"], ["y"], name="n")], {"x": ["n"]}, {"y": None})
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[size // 4], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(size)
    script = (
        "import resource\n"
        "from porter import graph\n"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"m = graph.load({str(tmp_path / 'm.onnx')!r}, {{'n': 1}})\n"
        "c = graph.clone(m)\n"
        "graph.validate(c)\n"
        "assert graph.constant(c.graph.initializers['w']).shape == (268435456,)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64 << 10, "kilobytes of memory taken"
