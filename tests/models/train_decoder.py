"""Train the small decoder that porter's low precision is measured on, and write it as ONNX: `train_decoder.py`.

A byte-level Llama-style decoder (grouped-query attention, RoPE, RMSNorm, SwiGLU) learns the sources of Python's standard
library as they lie on the machine where this runs. No text is kept: the modules named in `corpus.HELD_BACK` are never
trained on, and are read again wherever perplexity is measured. The learning rate follows the clock, so that any number of
minutes gives a finished model; a run goes on from its checkpoint. Another machine or another Python makes other weights:
figures are compared within one run only.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
import jax.numpy as jnp
import numpy as np
from corpus import held_back, training
from decoder import DECODER, Decoder, Parameters, save

SHORT, LONG = 128, 256
"""Bytes of a sequence: short ones learn faster per second, the last fifth of the time teaches the longer ones."""
TOKENS = 1024
PEAK, WEIGHT_DECAY, BETAS = 2e-3, 0.1, (0.9, 0.95)


def initial(shape: Decoder, seed: int) -> Parameters:
    """Normal weights by fan-in, the two that write to the residual smaller by the depth, gains of one."""
    random = np.random.default_rng(seed)

    def drawn(name: str, size: tuple[int, ...]) -> np.ndarray:
        if len(size) == 1:
            return np.ones(size, np.float32)
        residual = name.endswith(("o_proj", "down_proj"))
        deviation = 0.02 if name == "embed" else size[0] ** -0.5 / ((2 * shape.layers) ** 0.5 if residual else 1)
        return random.normal(0, deviation, size).astype(np.float32)

    return {name: drawn(name, size) for name, size in shape.parameters().items()}


def normalized(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + DECODER.epsilon) * gain


def rotated(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)


def logits(p: Parameters, tokens: jax.Array, shape: Decoder) -> jax.Array:
    batch, length = tokens.shape
    cosine, sine = (jnp.asarray(t[:length]) for t in shape.rotary(length))
    x = jnp.asarray(p["embed"])[tokens]
    mask = jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0, -1e9)
    for i in range(shape.layers):
        of = partial(lambda i, part: p[f"layers.{i}.{part}"], i)
        h = normalized(x, of("attention_norm"))
        q, k, v = ((h @ of(f"{part}_proj")).reshape(batch, length, -1, shape.head).swapaxes(1, 2) for part in "qkv")
        q, k = rotated(q, cosine, sine), rotated(k, cosine, sine)
        q = (
            q.reshape(batch, shape.kv_heads, -1, shape.head) * shape.head**-0.5
        )  # the queries of a group side by side: one product per group
        scores = (q @ k.swapaxes(2, 3)).reshape(batch, shape.heads, length, length) + mask
        weights = jax.nn.softmax(scores).reshape(batch, shape.kv_heads, -1, length)
        mixed = (weights @ v).reshape(batch, shape.heads, length, shape.head).swapaxes(1, 2).reshape(batch, length, -1)
        x = x + mixed @ of("o_proj")
        h = normalized(x, of("mlp_norm"))
        x = x + (jax.nn.silu(h @ of("gate_proj")) * (h @ of("up_proj"))) @ of("down_proj")
    return normalized(x, p["norm"]) @ p["head"]


def loss(p: Parameters, tokens: jax.Array, shape: Decoder) -> jax.Array:
    """Mean cross entropy of each next byte, in nats."""
    scores = jax.nn.log_softmax(logits(p, tokens[:, :-1], shape))
    return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], -1))


@partial(jax.jit, static_argnames="shape", donate_argnums=(0, 1, 2))
def step(p, first, second, tokens, count, rate, shape: Decoder):
    """One step of AdamW, the gradient clipped to length 1, no decay on gains."""
    value, gradient = jax.value_and_grad(loss)(p, tokens, shape)
    length = jnp.sqrt(sum(jnp.sum(g * g) for g in gradient.values()))
    gradient = {n: g * jnp.minimum(1, 1 / length) for n, g in gradient.items()}
    a, b = BETAS
    first = {n: a * first[n] + (1 - a) * g for n, g in gradient.items()}
    second = {n: b * second[n] + (1 - b) * g * g for n, g in gradient.items()}
    for n in p:
        move = first[n] / (1 - a**count) / (jnp.sqrt(second[n] / (1 - b**count)) + 1e-8)
        p = p | {n: p[n] - rate * (move + (WEIGHT_DECAY * p[n] if p[n].ndim > 1 else 0))}
    return p, first, second, value


def rate_at(progress: float, count: int) -> float:
    """A short rise by steps, a plateau, and a straight fall to nothing over the last half of the time."""
    return PEAK * min(1, count / 100) * min(1, 2 * (1 - progress))


def batch(text: np.ndarray, length: int, random: np.random.Generator) -> np.ndarray:
    starts = random.integers(0, len(text) - length - 1, TOKENS // length)
    return text[starts[:, None] + np.arange(length + 1)]


def train(minutes: float, checkpoint: Path, seed: int) -> Parameters:
    text, held = training(), held_back()
    random = np.random.default_rng(seed)
    p = initial(DECODER, seed)
    first, second = ({n: np.zeros_like(a) for n, a in p.items()} for _ in range(2))
    count, spent = 0, 0.0
    if checkpoint.exists():
        with np.load(checkpoint) as kept:
            count, spent = int(kept["count"]), float(kept["spent"])
            p, first, second = ({n: kept[f"{part}/{n}"] for n in p} for part in ("p", "first", "second"))
        random = np.random.default_rng((seed, count))
    start, saved = time.monotonic() - spent, time.monotonic()
    recent = 0.0
    while (progress := (time.monotonic() - start) / max(60 * minutes, 1e-9)) < 1:
        count += 1
        tokens = batch(text, SHORT if progress < 0.8 else LONG, random)
        p, first, second, value = step(p, first, second, tokens, float(count), rate_at(progress, count), DECODER)
        recent = float(value) if not recent else 0.98 * recent + 0.02 * float(value)
        if count % 20 == 0:
            print(f"step {count:5}  {progress:6.1%}  loss {recent:.4f}", flush=True)
        if time.monotonic() - saved > 120:
            store(checkpoint, p, first, second, count, time.monotonic() - start)
            saved = time.monotonic()
            print(
                f"step {count:5}  held back {float(loss(p, held[: 32 * 129].reshape(32, 129), DECODER)):.4f}",
                flush=True,
            )
    store(checkpoint, p, first, second, count, time.monotonic() - start)
    return {n: np.asarray(a) for n, a in p.items()}


def store(path: Path, p: Parameters, first: Parameters, second: Parameters, count: int, spent: float) -> None:
    trees = {"p": p, "first": first, "second": second}
    beside = path.with_name(path.name + ".part.npz")
    np.savez(
        beside,
        count=count,
        spent=spent,
        **{f"{part}/{n}": np.asarray(a) for part, tree in trees.items() for n, a in tree.items()},
    )
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40, help="how long to train, by the clock")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("decoder.npz"), help="where the state of training is kept"
    )
    parser.add_argument(
        "--export", type=Path, default=Path(__file__).parent / "decoder", help="the folder that gets the ONNX files"
    )
    parser.add_argument("--export-only", action="store_true", help="write the checkpoint as it is, without training")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    save(
        train(0 if arguments.export_only else arguments.minutes, arguments.checkpoint, arguments.seed),
        DECODER,
        arguments.export,
    )


if __name__ == "__main__":
    main()
