"""A decoder whose weights are only shapes: what it says is what the same decoder with weights says, at any size."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from porter import graph
from porter.compare.comparing import compare
from porter.compare.serving import Request
from porter.device import load_device
from porter.errors import PorterError

ROOT = Path(__file__).resolve().parents[2]
REQUEST = Request("both", 2, 16, 8)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_decoder", ROOT / "bench" / "decoder.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


decoder = _generator()
SMALL = decoder.Shape(layers=2, hidden=64, heads=4, kv_heads=2, head=16, inner=96, vocabulary=128, positions=64)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(decoder.write(tmp_path_factory.mktemp("shapes"), SMALL))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two graphs with their external file, of random numbers."""
    folder = Path(decoder.write(tmp_path_factory.mktemp("weights"), SMALL))
    rng, offsets, data = np.random.default_rng(0), {}, bytearray()
    for name in ("prefill", "decode"):
        proto = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        for tensor in proto.graph.initializer:
            if tensor.name not in offsets:
                offsets[tensor.name] = len(data)
                data += (rng.standard_normal(list(tensor.dims)) * 0.1).astype(np.float32).tobytes()
            tensor.external_data.add(key="offset", value=str(offsets[tensor.name]))
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
    (folder / decoder.EXTERNAL).write_bytes(bytes(data))
    return folder


def _both(folder: Path, **options: Any) -> dict[str, Any]:
    devices = [load_device(n) for n in ("gpu:b200", "trainium:trn2")]
    paths = [folder / "prefill.onnx", folder / "decode.onnx"]
    return compare(paths, targets=devices, request=REQUEST, quick=True, **options).to_json()


@pytest.mark.parametrize(
    "precision",
    ["fp8", *(pytest.param(p, marks=pytest.mark.slow) for p in ("fp32", "bf16", "int8w", "int4w", "nvfp4w"))],
)
def test_shapes_say_what_weights_say(shapes: Path, weights: Path, precision: str) -> None:
    known, only = (_both(f, precision=precision, weights=w) for f, w in ((weights, True), (shapes, False)))
    for a, b in zip(known["targets"], only["targets"], strict=True):
        assert a["runs"] and b["runs"]
        for figure in ("precision", "memory", "latency_s", "bound", "tokens_per_s", "chips", "host", "serving"):
            assert a[figure] == b[figure], (a["target"], figure)


def test_it_says_that_numerics_were_not_checked(shapes: Path) -> None:
    document = _both(shapes, weights=False)
    assert document["weights"] == "shapes" and not document["checked"]
    assert any("numerics were not checked" in line for line in document["hangs_on"])
    assert all(t["error"] is None and t["checks"]["made"] == 0 for t in document["targets"])


def test_without_the_option_the_missing_file_is_named(shapes: Path) -> None:
    with pytest.raises(PorterError, match=r"weights\.bin"):
        compare(shapes / "decode.onnx", targets=[load_device("gpu:h200")], request=Request("decode"), quick=True)


def test_a_budget_of_the_error_cannot_be_kept_by_shapes(shapes: Path) -> None:
    from porter import check

    with pytest.raises(PorterError, match="--weights shapes"):
        compare(shapes / "decode.onnx", targets=[load_device("toy")], weights=False, budgets=check.budgets(["sqnr=3"]))


def test_a_weight_that_is_a_shape_has_no_values(shapes: Path) -> None:
    model = graph.load(shapes / "decode.onnx", {"batch": 1, "past": 4}, weights=False)
    assert len(graph.unread(model)) == 2 + 1 + SMALL.layers * 9 + 2  # the rotation, embedding, layers, norm and head
    value = model.graph.initializers["embed.weight"]
    assert graph.constant(value) is None and graph.is_unread(value) and graph.shape(value) == (128, 64)
    with pytest.raises(PorterError, match=r"weight 'embed.weight'"):
        value.const_value.numpy()  # type: ignore[union-attr]


# 70,553,706,496 parameters by hand: 80 layers of 8192 x 128 x (2 x 64 + 2 x 8) for attention, 3 x 8192 x 28672 for the gated
# part and 2 x 8192 for norms; 128256 x 8192 at both ends; 8192 for the last norm. Products and the embedding table (all but
# the norms and the tables of the rotation) are bfloat16.
PARAMETERS = 80 * (8192 * 128 * 144 + 3 * 8192 * 28672 + 2 * 8192) + 2 * 128256 * 8192 + 8192


def test_the_generator_counts_its_parameters(tmp_path: Path) -> None:
    assert decoder.SIZES["70b"].parameters == PARAMETERS == 70_553_706_496
    proto = decoder.graph(decoder.SIZES["70b"], past=True)
    sizes = {t.name: int(np.prod(t.dims)) for t in proto.graph.initializer}
    assert sum(n for name, n in sizes.items() if name not in ("cos", "sin")) == PARAMETERS


@pytest.mark.slow
def test_seventy_billion_parameters_fit_into_two_gigabytes_here(tmp_path: Path) -> None:
    folder = decoder.write(tmp_path / "70b", decoder.SIZES["70b"])
    words = ["compare", str(folder), "--target", "all", "--weights", "shapes", "--precision", "bf16", "--batch", "8",
             "--context", "2048", "--output", "256", "--json"]  # fmt: skip
    program = ("import resource, sys; from porter.cli.command import main\n"
               "try: main()\n"
               "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 2_000_000, "kilobytes"
    for t in json.loads(done.stdout)["targets"]:
        norms, rotation = 161 * 8192, 2 * 131072 * 64
        assert t["memory"]["weights_bytes"] == 2 * (PARAMETERS - norms) + 4 * (norms + rotation)
        assert t["memory"]["kv_bytes"] == 80 * 2 * 8 * 128 * 4 * 8 * 2304, "float32, as the graph has it"
        assert t["chips"] == {"gpu:h200": 2, "tpu:v6e": 8, "trainium:trn2": 2, "maia:200": 1}[t["target"]]
        read = t["memory"]["weights_bytes"] - 2 * 128256 * 8192  # a step gathers 8 rows of the embedding
        bandwidth = float(load_device(t["target"])["memory.hbm.bytes_per_s"])
        assert t["serving"]["tpot_s"] > read / bandwidth / t["chips"]
        assert t["tokens_per_s"] > 0 and (t["usd_per_million_tokens"] or t["price"] is None)
