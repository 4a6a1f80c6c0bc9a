"""What each precision costs and saves on small real models, measured: `python -m bench.precision MODELS_DIR > table.md`.

Columns: dB of signal to error and KL of the worst output against float64 (graph arithmetic, one drawn sample), bytes of the
weights as stored, and what a plain round to nearest of weights per tensor in the same element format reaches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from porter import graph, ops, pipeline
from porter.check import draw
from porter.check.execution import run
from porter.check.measure import distance, kl
from porter.device import load_device
from porter.formats import of
from porter.graph import Model, constant_tensor, dtype, make_tensor
from porter.precision.layers import layers
from porter.precision.plans import FIRST
from porter.precision.schemes import SCHEMES

MODELS = {
    "bert_small/model.onnx": {"batch": 1, "seq": 64},
    "llama_gqa/prefill.onnx": {"batch": 1, "seq": 32},
    "vit_small/model.onnx": {"batch": 1},
    "resnet_small/model.onnx": {"batch": 1},
}


def stored(model: Model) -> int:
    """Bytes of all constants at true size."""
    total = 0
    for value in model.graph.initializers.values():
        tensor, kind = constant_tensor(value), dtype(value)
        assert tensor is not None and kind is not None
        total += -(-tensor.size * (of(kind).bits if kind.name in ("int4", "float4_e2m1fn") else 8 * kind.itemsize) // 8)
    return total


def plain(model: Model, format: str) -> Model:
    """Weights rounded to nearest with one scale per tensor, nothing else: the baseline."""
    made, f = graph.clone(model), of(format)
    for layer in layers(made):
        array = np.asarray(constant_tensor(layer.weight).numpy(), np.float64)  # type: ignore[union-attr]
        scale = float(np.abs(array).max()) / f.max or 1.0
        layer.weight.const_value = make_tensor(
            (np.asarray(f.round(array / scale, saturate=True)) * scale).astype(np.float32), name=layer.weight.name
        )
    return made


def main(folder: Path) -> None:
    print(
        "| model | target | precision | dB | KL | weight bytes | per tensor, round to nearest (dB) |\n|---|---|---|---|---|---|---|"
    )
    for name, dims in MODELS.items():
        if not (folder / name).is_file():
            continue
        free = {d.name for d in graph.dims(graph.read(folder / name))}
        loaded = graph.load(folder / name, {k: v for k, v in dims.items() if k in free})
        for target in ("gpu:h200", "trainium:trn2"):
            device = load_device(target)
            ready = pipeline.run(loaded, FIRST, device, checks=False).model
            sample = draw(loaded)
            truth = run(loaded, dict(sample), ops.float64)
            for scheme in ("bf16", *SCHEMES):
                words = (
                    "quantization.bf16"
                    if scheme == "bf16"
                    else f"quantization.narrow{{scheme={scheme}}}, quantization.bf16"
                )
                try:
                    made = pipeline.run(ready, words, device, checks=False).model
                except Exception as refused:  # the reason stands in the table
                    print(f"| {name} | {target} | {scheme} | {str(refused).splitlines()[0]} | | | |")
                    continue
                got = run(made, dict(sample), ops.source)
                db = min(distance(truth[n], got[n]).sqnr_db for n in got)
                divergence = max(kl(truth[n], got[n]) for n in got if got[n].ndim)
                base = ""
                if scheme in SCHEMES:
                    simple = run(plain(ready, SCHEMES[scheme].weight.format), dict(sample), ops.source)
                    base = f"{min(distance(truth[n], simple[n]).sqnr_db for n in simple):.1f}"
                print(
                    f"| {name} | {target} | {scheme} | {db:.1f} | {divergence:.2g} | {stored(made)} | {base} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
