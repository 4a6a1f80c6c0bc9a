"""The encoder written by hand means what BERT means: a small one with random weights, in numpy beside onnxruntime."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "demo"))

from encoder import build

CONFIG = {
    "model_type": "bert", "hidden_act": "gelu", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2,
    "intermediate_size": 16, "layer_norm_eps": 1e-12, "vocab_size": 11, "max_position_embeddings": 9,
}  # fmt: skip


def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    h, f = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {"embeddings.word_embeddings.weight": (11, h), "embeddings.position_embeddings.weight": (9, h)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, h)}
    norms = ["embeddings.LayerNorm"]
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        norms += [at + "attention.output.LayerNorm", at + "output.LayerNorm"]
        for kind in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= {f"{at}attention.{kind}.weight": (h, h), f"{at}attention.{kind}.bias": (h,)}
        shapes |= {f"{at}intermediate.dense.weight": (f, h), f"{at}intermediate.dense.bias": (f,)}
        shapes |= {f"{at}output.dense.weight": (h, f), f"{at}output.dense.bias": (h,)}
    shapes |= {f"{n}.{part}": (h,) for n in norms for part in ("weight", "bias")}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def bert(w: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The paper's formulas, head by head, in float64."""

    def linear(x, n):
        return x @ w[n + ".weight"].T.astype(float) + w[n + ".bias"]

    def norm(x, n):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[n + ".weight"] + w[n + ".bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0].astype(float)
    x = norm(x + w["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{at}attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for s in (slice(0, 4), slice(4, 8)):
            scores = q[..., s] @ k[..., s].swapaxes(1, 2) / 2.0 + (1 - mask[:, None, :]) * -10000.0
            e = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(e / e.sum(-1, keepdims=True) @ v[..., s])
        x = norm(
            linear(np.concatenate(heads, -1), at + "attention.output.dense") + x, at + "attention.output.LayerNorm"
        )
        inner = linear(x, at + "intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(linear(inner, at + "output.dense") + x, at + "output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_the_graph_computes_bert(tmp_path):
    rng = np.random.default_rng(0)
    w = weights(rng)
    save_file(w, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    session = onnxruntime.InferenceSession(build(tmp_path).SerializeToString())
    for batch, seq in ((1, 5), (3, 9)):
        ids = rng.integers(0, 11, (batch, seq))
        mask = (np.arange(seq) < rng.integers(1, seq + 1, (batch, 1))).astype(np.int64)
        (found,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        # Entries of a unit vector, float32 sums over at most 16 terms through 2 layers: some tens of ulps of 1.
        np.testing.assert_allclose(found, bert(w, ids, mask), atol=64 * np.finfo(np.float32).eps, rtol=0)
