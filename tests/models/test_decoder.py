"""The trained decoder: its two graphs agree, onnxruntime runs them, and it knows the text that was held back from it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from porter import graph, ops
from porter.check.measure import perplexity

sys.path.insert(0, str(Path(__file__).parent))
from corpus import held_back, library, training
from decoder import DECODER

HERE = Path(__file__).parent


def session(stem: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        str(HERE / "decoder" / f"{stem}.onnx"), options, providers=["CPUExecutionProvider"]
    )


def ran(model: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([v.name for v in model.get_outputs()], model.run(None, inputs), strict=True))


def test_the_files_are_small_and_so_is_the_decoder() -> None:
    assert max(p.stat().st_size for p in (HERE / "decoder").iterdir()) < 12 * 2**20
    assert 4e6 < sum(np.prod(shape) for shape in DECODER.parameters().values()) < 5e6


def test_decode_goes_on_where_prefill_stopped() -> None:
    tokens = held_back()[None, :24].astype(np.int64)
    prefill, decode = session("prefill"), session("decode")
    whole, part = (ran(prefill, {"input_ids": t}) for t in (tokens, tokens[:, :16]))
    for i in range(16, 24):
        cache = {n.replace("present", "past"): a for n, a in part.items() if n != "logits"}
        part = ran(decode, {"input_ids": tokens[:, i : i + 1], **cache})
        np.testing.assert_allclose(part["logits"][:, 0], whole["logits"][:, i], atol=1e-4)
    np.testing.assert_allclose(part["present.3.value"], whole["present.3.value"], atol=1e-5)


def test_it_has_learned_and_porter_reads_it_as_onnxruntime_does() -> None:
    text = held_back()
    tokens = np.stack([text[i * 9000 :][:128] for i in range(8)]).astype(np.int64)
    model = graph.load(HERE / "decoder" / "prefill.onnx", {"batch": 8, "seq": 128})
    ours = ops.evaluate(model, {"input_ids": tokens}, ops.source)["logits"]
    theirs = ran(session("prefill"), {"input_ids": tokens})["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert perplexity(theirs, tokens) < 6  # of 256 bytes


def test_the_text_held_back_is_not_trained_on() -> None:
    assert (library() / "heapq.py").is_file()
    held, seen = (x.astype(np.uint8).tobytes() for x in (held_back(), training()))
    assert b"def heapify(x):" in held and b"def heapify(x):" not in seen


def test_the_graph_is_the_function_that_is_trained() -> None:
    jax = pytest.importorskip("jax")
    import ml_dtypes
    import train_decoder

    raw = np.fromfile(HERE / "decoder" / "weights.bin", ml_dtypes.bfloat16).astype(np.float32)
    parameters, at = {}, 0
    for name, shape in DECODER.parameters().items():
        size = int(np.prod(shape))
        parameters[name], at = raw[at : at + size].reshape(shape), at + size
    tokens = held_back()[None, :40]
    with jax.default_device(jax.devices("cpu")[0]):
        trained = np.asarray(train_decoder.logits(parameters, tokens, DECODER))
    got = ran(session("prefill"), {"input_ids": tokens.astype(np.int64)})["logits"]
    np.testing.assert_allclose(trained, got, atol=2e-4)
