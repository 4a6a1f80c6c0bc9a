"""`make bench`: what a port costs, per model and target: seconds by stage cold and warm, peak memory, distinct kernels.

Each port runs in a process of its own, first with an empty cache, then with the one it left. Prints a table and writes
build/bench/bench.json. Models are those of the folder that PORTER_MODELS names (beside the checkout: ../shared/models).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import reference

from porter.cli.output import amount, table

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("PORTER_MODELS", ROOT.parent / "shared" / "models"))
OUT = ROOT / "build" / "bench"

# model: its file, and a number for each of its free dims
CASES = {
    "mnist_cntk_op8": ("mnist_cntk_op8/model.onnx", {}),
    "resnet_small": ("resnet_small/model.onnx", {"batch": 1}),
    "vit_small": ("vit_small/model.onnx", {"batch": 1}),
    "bert_small": ("bert_small/model.onnx", {"batch": 1, "seq": 32}),
    "minilm_l6_int8w": ("minilm_l6_int8w/model.onnx", {"batch": 1, "seq": 32}),
    "llama_gqa_prefill": ("llama_gqa/prefill.onnx", {"batch": 1, "seq": 32}),
    "llama_gqa_decode": ("llama_gqa/decode.onnx", {"s25": 1, "s43": 1, "s15": 31, "s53": 32}),
}
TARGETS = ("gpu", "tpu", "trainium", "maia")


def port(path: Path, target: str, dims: dict[str, int], out: Path, cache: Path) -> dict[str, Any]:
    """One port in a process of its own: seconds, peak bytes, and its own report."""
    words = [
        sys.executable,
        "-m",
        "porter.cli",
        "port",
        str(path),
        "--target",
        target,
        "-o",
        str(out),
        "--force",
        "--json",
    ]
    words += [w for name, n in dims.items() for w in ("--dim", f"{name}={n}")]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(words, stdout=told, stderr=said, env={**os.environ, "XDG_CACHE_HOME": str(cache)})
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        told.seek(0)
        said.seek(0)
        document, message = told.read(), said.read()
    report = json.loads(document)["targets"][0] if document else {}
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "message": message.strip().splitlines()[-1:] if not document else [],
        "seconds": round(seconds, 2),
        "peak_bytes": used.ru_maxrss * 1024,  # of the main process; compilers run beside it
        "stages": {s["name"]: s["seconds"] for s in report.get("steps", ())},
        "kernels": {k: report.get("kernels", {}).get(k) for k in ("calls", "unique", "checked", "host")},
        "sqnr_db": report.get("end_to_end", {}).get("sqnr_db"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", choices=[*CASES, []], help="only these")
    parser.add_argument("--target", action="append", help="only these; repeatable")
    chosen = parser.parse_args()
    rows, results = [], []
    for name in chosen.models or CASES:
        file, dims = CASES[name]
        if not (MODELS / file).is_file():
            print(f"{name}: no {MODELS / file}; name the folder with PORTER_MODELS", file=sys.stderr)
            continue
        for target in chosen.target or TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                runs = [port(MODELS / file, target, dims, Path(folder, "out"), Path(folder, "cache")) for _ in range(2)]
            cold, warm = runs
            results.append({"model": name, "target": target, "dims": dims, "cold": cold, "warm": warm})
            slow = sorted(cold["stages"].items(), key=lambda s: -s[1])[:3]
            rows.append(
                (
                    name,
                    target,
                    cold["exit"],
                    f"{cold['seconds']:.1f}",
                    f"{warm['seconds']:.1f}",
                    amount(cold["peak_bytes"], "B"),
                    cold["kernels"]["unique"],
                    amount(cold["sqnr_db"], "dB"),
                    ", ".join(f"{n} {s:.1f}" for n, s in slow) or " ".join(cold["message"]),
                )
            )
            print(f"{name} {target}: {cold['seconds']:.1f} s cold, {warm['seconds']:.1f} s warm", file=sys.stderr)
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    (OUT / "bench.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    head = ("model", "target", "exit", "cold s", "warm s", "peak", "kernels", "error", "slowest stages, s")
    print(table(rows, head, right=(2, 3, 4, 5, 6, 7)))
    print(f"\nwrote {OUT / 'bench.json'}\n")
    print("the reference interpreter, one thread, onnxruntime's optimizer off:")
    print(reference.report(chosen.models, rounds=7))
    return 0


if __name__ == "__main__":
    sys.exit(main())
