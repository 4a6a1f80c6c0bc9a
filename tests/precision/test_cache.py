"""A decoder with its cache in few bits, ported and run as a loop: what a step hands out is held as codes and fed to the next."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import graph, ops, pipeline
from porter.bundle.execute import run
from porter.bundle.reader import read
from porter.check import measure
from porter.device import default_devices, load_device
from porter.errors import CheckFailed
from porter.formats import of
from porter.graph import Model
from porter.porting.port import port
from porter.precision import audit

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from corpus import held_back, training
from decoder import Decoder, save

FOLDER = Path(__file__).parents[1] / "models" / "decoder"
TINY = Decoder(vocabulary=32, width=64, layers=1, heads=4, kv_heads=2, head=32, hidden=64)
Arrays = dict[str, np.ndarray]


@dataclass
class Loop:
    """What a loop of a prefill and some steps found, against the float model that is given the same tokens."""

    kl: list[float] = field(default_factory=list)  # of the logits of each run
    heads: list[float] = field(default_factory=list)  # relative error of each head of each cache after the last step
    audits: list[dict[str, Any]] = field(default_factory=list)
    bits: float = 0.0  # that a number of the cache takes between two steps


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("decoder"), np.random.default_rng(3)
    drawn = {
        n: rng.standard_normal(s) / np.sqrt(s[0]) if len(s) > 1 else np.ones(s) for n, s in TINY.parameters().items()
    }
    save(drawn, TINY, folder)
    return folder


def fed(out: Mapping[str, np.ndarray]) -> Arrays:
    return {n.replace("present", "past"): np.asarray(x) for n, x in out.items() if n != "logits"}


def models(folder: Path, tokens: int, steps: int) -> Iterator[tuple[Path, dict[str, int], Model]]:
    """The prefill and each step, whose cache is one token longer."""
    for stem, dims in (
        ("prefill", {"batch": 1, "seq": tokens}),
        *(("decode", {"batch": 1, "seq": 1, "past": tokens + i}) for i in range(steps)),
    ):
        path = folder / f"{stem}.onnx"
        yield path, dims, graph.load(path, dims)


def exactly(folder: Path, text: np.ndarray, tokens: int, steps: int) -> list[tuple[Arrays, Mapping[str, np.ndarray]]]:
    """The float64 loop: inputs and outputs of each run."""
    found: list[tuple[Arrays, Mapping[str, np.ndarray]]] = []
    for number, (_, _, model) in enumerate(models(folder, tokens, steps)):
        given = {"input_ids": text[None, :tokens] if not number else text[None, tokens + number - 1 :][:, :1]}
        past = fed(found[-1][1]) if found else {}
        given |= {n: x.astype(np.float32) for n, x in past.items()}
        found.append((given, ops.evaluate(model, given, ops.float64)))
    return found


def as_codes(cache: np.ndarray, format: str) -> tuple[np.ndarray, np.ndarray]:
    """The codes and the scales, one a head, that an fp8 cache is kept as between two steps: powers of two, by the head's own
    largest number. What comes back must be the very numbers."""
    top = np.max(np.abs(cache), axis=(0, 2, 3), keepdims=True)
    scale = np.ldexp(1.0, np.frexp(top / 224)[1]).astype(np.float32)  # a largest code of 112 to 224
    codes = (cache / scale).astype(of(format).dtype)
    return codes, scale


def looped(folder: Path, device: str, format: str, out: Path, *, text: np.ndarray, learned: np.ndarray, tokens: int,
           steps: int, precision: str = "fp8w") -> Loop:  # fmt: skip
    """Port the prefill and each step, run their bundles, and feed each the cache that the one before it left."""
    found, cache = Loop(), Arrays()
    truth, calibrated = exactly(folder, text, tokens, steps), exactly(folder, learned, tokens, steps)
    for number, (path, dims, _) in enumerate(models(folder, tokens, steps)):
        given = {**truth[number][0], **cache}
        done = port(
            path, targets=[load_device(device)], out=out / str(number), dims=dims, precision=precision, inputs=given,
            methods=f"cache={format}", calibrate=[calibrated[number][0]],
        )  # fmt: skip
        (target,) = done.to_json()["targets"]
        assert target["status"] == "ok", target["message"]
        found.audits.append(next(s["metric"]["caches"] for s in target["steps"] if s["name"] == "audit"))
        got = ran(out / str(number), given)
        found.kl.append(float(measure.kl(np.asarray(truth[number][1]["logits"]), got["logits"])))
        cache = fed(got)
        if format == "fp8":
            for name, array in cache.items():
                codes, scale = as_codes(array, "float8_e4m3fn")
                back = codes.astype(np.float32) * scale
                small = scale * 2.0**-6  # below the least normal code one more rounding may be seen
                assert np.array_equal(back[np.abs(array) >= small * 2], array[np.abs(array) >= small * 2]), name
                cache[name] = back
                found.bits = 8 * codes.itemsize
    for name, array in cache.items():
        exact = np.asarray(fed(truth[-1][1])[name])
        error = np.sqrt(np.mean((array - exact) ** 2, axis=(0, 2, 3)) / np.mean(exact**2, axis=(0, 2, 3)))
        found.heads += error.tolist()
    return found


def ran(bundle: Path, given: Arrays) -> Arrays:
    return {n: np.asarray(x, np.float32) for n, x in run(read(bundle), given)[0].items()}


@pytest.mark.parametrize("format", ["fp8", "mxfp4", "nvfp4"])
def test_a_port_keeps_its_cache_in_few_bits_and_says_so(tiny: Path, format: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text, learned = rng.integers(0, TINY.vocabulary, (2, 8))
    device = "trainium:trn2" if format in ("fp8", "nvfp4") else "gpu:h200"
    found = looped(tiny, device, format, tmp_path, text=text, learned=learned, tokens=6, steps=1)
    codes = "float4_e2m1fn" if "4" in format else "float8_e4m3fn"
    assert found.audits == [{f"{codes} codes, handed out as float32": 2}] * 2
    most = 2.0**-4 if "8" in format else 0.26  # half a step of the format
    assert 0 < max(found.heads) < 1.5 * most  # and what the weights in fp8 add


def test_a_cache_that_was_left_wide_is_caught_by_name(tiny: Path) -> None:
    device = load_device("gpu:h200")
    model = graph.load(tiny / "prefill.onnx", {"batch": 1, "seq": 6})
    words = "cleanup, fusion, quantization.cache, quantization.bf16{db=10}, tiling"
    right = pipeline.run(model, words, device, checks=False).model
    wrong = pipeline.run(model, words.replace("quantization.cache, ", ""), device, checks=False).model
    assert not [r for r in audit.cached(model, right, "fp8", device) if r.wrong or r.rule]
    found = audit.Audit(caches=audit.cached(model, wrong, "fp8", device))
    with pytest.raises(
        CheckFailed, match=r"present\.0\.key: cache asked as float8_e4m3fn, built as (float32|bfloat16)"
    ):
        found.settle(device)


def test_a_cache_of_codes_beyond_240_is_caught_by_name(tiny: Path) -> None:
    """Rounded for a unit that ends at 448, and audited for one that ends at 240."""
    model = graph.load(tiny / "prefill.onnx", {"batch": 1, "seq": 6})
    for format in ("fp8", "mxfp8", "nvfp4"):
        other, own = (
            pipeline.run(model, f"quantization.cache{{format={format}}}", load_device(d), checks=False).model
            for d in ("gpu:h200", "trainium:trn2")
        )
        audit.flavours(own, load_device("trainium:trn2"))
        with pytest.raises(CheckFailed, match="quantizes to E4M3"):
            audit.flavours(other, load_device("trainium:trn2"))


def contract(folder: Path) -> str:
    """A contract of a model that is bfloat16 but for its cache."""
    (folder / "bf16.toml").write_text('default = "bf16"\n')
    return str(folder / "bf16.toml")


@pytest.mark.slow
@pytest.mark.parametrize("device", list(default_devices()))
def test_the_trained_decoder_reads_its_cache_in_eight_bits(device: str, tmp_path: Path) -> None:
    words = {"text": held_back()[9000:9100].astype(np.int64), "learned": training()[5000:5100].astype(np.int64)}
    found = looped(FOLDER, device, "fp8", tmp_path, **words, tokens=48, steps=3, precision=contract(tmp_path))
    assert max(found.kl) < 0.01 and max(found.heads) < 2.0**-4 and found.bits == 8, found
