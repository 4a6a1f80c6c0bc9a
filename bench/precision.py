"""`make precision`: what each precision costs trained models, and what it saves, measured; writes the tables of docs/precision.md.

Per model, target and precision: the model's own figure (perplexity, top-1, similarity), KL and dB of its first output against
float64, with weights to nearest and by the weight methods; bytes; the predicted speed-up of its layers over bfloat16; the share
of multiply-adds that the emitted kernels make as asked. Beside them, in the same run, a rounding with one scale per tensor (of
weights, and of activations too) and onnxruntime's quantizers. Graph arithmetic is measured once for targets that make the same of
a precision.

Rows are kept in build/precision as they come, with their commit and day, and a later run goes on where one stopped; --again
measures what it is asked for anew. Rows that matter most come first, and the page names those that did not run.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from subjects import ROOT, Arrays, Subject, decoder, digits, minilm, outliers

from porter import graph, ops, pipeline
from porter.check.execution import run
from porter.check.measure import distance, kl
from porter.device import Device, load_device
from porter.errors import PorterError
from porter.formats import of
from porter.graph import Model, constant_tensor, dtype, make_tensor
from porter.porting import lowering
from porter.porting.kernels import program_of
from porter.precision import contract, plans
from porter.precision.calibrate import watch
from porter.precision.contract import WIDE, Formats
from porter.precision.layers import Layer, layers
from porter.precision.schemes import SCHEMES, legal, multiplies, scheme_of
from porter.precision.search import applied, seconds
from porter.tile.target import target_of

TARGETS = ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200", "gpu:b200")
FIRST = ("bf16", "fp8", "mxfp4a8", "nvfp4a8", "fp8w", "int8", "int8t", "int4w")  # the rest of the schemes follows
ALL = (*FIRST, *(s for s in SCHEMES if s not in FIRST))
FEW = ("bf16", "fp8", "int8", "int8t", "int8w", "int4w", "nvfp4w")  # of a model that is large for this
MODELS: dict[str, tuple[Callable[[Path], Subject], Sequence[str]]] = {
    "decoder": (lambda _: decoder(), ALL),
    "minilm": (lambda _: minilm(), FEW),
    "digits": (digits, ALL),
    "outliers": (outliers, ("bf16", "int8", "int8t", "fp8", "int4w", "mxfp4a8", "nvfp4")),
}
KEPT = ROOT / "build" / "precision"
PAGE = ROOT / "docs" / "precision.md"


def methods(precision: str) -> str:
    """The weight methods of the second of the two figures."""
    return "clip=mse,rounding=gptq" + (",smooth=smoothquant" if precision in ("int8", "fp8", "int8t", "fp8t") else "")


class Bench:
    """One model: its truth, and what was measured so far."""

    def __init__(self, subject: Subject, known: dict[str, dict[str, Any]]) -> None:
        self.subject, self.model = subject, subject.load()
        self.truth = [self._first(self.model, x, ops.float64) for x in subject.samples]
        self.base = subject.figure(subject.samples, self.truth)
        self.known = known

    def _first(self, model: Model, inputs: Arrays, xp: Any) -> np.ndarray:
        name = str(model.graph.outputs[0].name)
        return np.asarray(run(model, dict(inputs), xp, want=[name])[name])

    def measured(self, model: Model) -> dict[str, Any]:
        """What a changed model loses."""
        return self.judged([self._first(model, x, ops.source) for x in self.subject.samples]) | {"bytes": stored(model)}

    def judged(self, outputs: list[np.ndarray]) -> dict[str, Any]:
        truth, got = np.concatenate(self.truth), np.concatenate(outputs)
        figure = self.subject.figure(self.subject.samples, outputs)
        return {
            "figure": figure,
            "loss": self.subject.worse(self.base, figure),
            "kl": kl(truth, got) if self.subject.logits else None,
            "db": distance(truth, got).sqnr_db,
        }

    def row(self, target: str, precision: str) -> dict[str, Any]:
        device = load_device(target)
        said: dict[str, Any] = {"target": target, "precision": precision}
        try:
            kept = legal(scheme_of(precision), device) if precision != WIDE else None
        except PorterError as refused:
            return said | {"refused": str(refused).splitlines()[0]}
        ready = pipeline.run(self.model, plans.FIRST, device, checks=False).model
        product = multiplies(scheme_of(precision), device) if kept else ""
        key = f"{kept.scheme if kept else WIDE} {product}"
        if key not in self.known:
            formats = [Formats(precision), Formats(precision, methods=contract.methods(methods(precision)))]
            made = [
                applied(ready, f, device, list(self.subject.calibration)) for f in formats[: 1 + (kept is not None)]
            ]
            self.known[key] = {"nearest": self.measured(made[0]), "methods": self.measured(made[-1])}
        return (
            said | self.known[key] | {"speedup": speedup(ready, precision, device)} | self.realized(device, precision)
        )

    def realized(self, device: Device, precision: str) -> dict[str, Any]:
        """The share of multiply-adds that the emitted kernels make as asked, or the audit's first complaint."""
        if precision == WIDE:
            return {}
        sample = dict(self.subject.samples[0])
        plan = plans.plan(precision, (), self.model, device, sample, list(self.subject.calibration))
        final = pipeline.run(self.model, plan.stages, device, checks=False).model
        program = program_of(final)
        lowered = lowering.emit(program, target_of(device.family), device)
        rows: list[Any] = []
        try:
            pair = plans.narrowed(plan, self.model, device)
            plans.audited(plan, pair, device, final, lowering.products(program, lowered), rows)
        except PorterError as e:
            why = next((line.strip() for line in str(e).splitlines() if "found" in line), str(e).splitlines()[0])
            if not rows:
                return {"realized": 0.0, "why": why}
        whole = sum(r.macs for r in rows) or 1
        wrong = next((r.wrong for r in rows if r.wrong), "")
        return {"realized": sum(r.macs for r in rows if not r.wrong) / whole, "why": wrong}


def speedup(model: Model, precision: str, device: Device) -> float:
    """The roofline of the layers in bfloat16 over the one in the precision."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers(model):
        if not layer.is_table:
            groups.setdefault(layer.name, []).append(layer)
    times = [sum(seconds(g, p, device) for g in groups.values()) for p in (WIDE, precision)]
    return times[0] / times[1]


def stored(model: Model) -> int:
    """Bytes of all constants at true size."""
    total = 0
    for value in model.graph.initializers.values():
        tensor, kind = constant_tensor(value), dtype(value)
        assert tensor is not None and kind is not None
        total += -(-tensor.size * (of(kind).bits if kind.name in ("int4", "float4_e2m1fn") else 8 * kind.itemsize) // 8)
    return total


def per_tensor(model: Model, format: str, samples: Sequence[Arrays] = ()) -> Model:
    """Weights rounded to nearest with one scale per tensor, and the activations that meet them by their largest magnitude in the
    samples, where there are any; nothing else."""
    made, f = graph.clone(model), of(format)
    found = layers(made)
    fed = {str(n.activation.name): n.activation for n in found if n.activation is not None} if samples else {}
    seen = watch(made, fed, samples, "minmax") if samples else None
    for name, value in fed.items():
        assert seen is not None
        scale = graph.add_initializer(made, f"{name}/plain", np.asarray(seen.amax(name, format) / f.max, np.float32))
        users = [(n.node, n.position) for n in found if n.activation is value and n.position is not None]
        how = {"output_dtype": int(graph.DataType.from_numpy(np.dtype(f.dtype)))}
        codes = graph.new_node("QuantizeLinear", [value, scale], how)
        back = graph.new_node("DequantizeLinear", [codes.outputs[0], scale])
        graph.insert_before(next(n for n in made.graph if any(n is user for user, _ in users)), [codes, back])
        for user, position in users:
            user.replace_input_with(position, back.outputs[0])
    ops.infer(made)
    for layer in found:
        array = np.asarray(constant_tensor(layer.weight).numpy(), np.float64)  # type: ignore[union-attr]
        scale = float(np.abs(array).max()) / f.max or 1.0
        rounded = (np.asarray(f.round(array / scale, saturate=True)) * scale).astype(np.float32)
        layer.weight.const_value = make_tensor(rounded, name=layer.weight.name)
    return made


def measure(name: str, targets: Sequence[str], only: Sequence[str], rival: bool, again: bool) -> None:
    """Adds rows to what is kept of a model, one after another: a run that is stopped has what it came to."""
    make, precisions = MODELS[name]
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{name}.json"
    empty: dict[str, Any] = {"rows": {}, "others": {}, "known": {}}
    kept = json.loads(path.read_text()) if path.is_file() else empty
    wanted = [p for p in only if p != "none"] if only else precisions
    left = [(p, t) for p in wanted for t in targets if again or f"{p} {t}" not in kept["rows"]]
    rivals_left = rival and (again or not kept.get("rivals"))
    if not left and not rivals_left:
        return
    at = _now()
    with tempfile.TemporaryDirectory() as folder:
        subject = make(Path(folder))
        bench = Bench(subject, {} if again else kept["known"])
        kept |= {"model": subject.name, "task": subject.task, "base": bench.base}

        def keep(kind: str, key: str, began: float, row: dict[str, Any]) -> None:
            kept[kind][key] = row | {"at": at}
            kept["known"] = bench.known
            path.write_text(json.dumps(kept, indent=1))
            print(f"{subject.name} {key}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

        def others() -> None:
            ready = pipeline.run(bench.model, plans.FIRST, load_device(TARGETS[0]), checks=False).model
            for f in ("int8", "float8_e4m3fn", "int4", "float4_e2m1fn"):
                began = time.perf_counter()
                keep(
                    "others",
                    f"{f}, one scale per tensor",
                    began,
                    bench.measured(per_tensor(ready, f)) | {"bytes": None},
                )
            for f in ("int8", "float8_e4m3fn"):
                began = time.perf_counter()
                plain = per_tensor(ready, f, bench.subject.calibration)
                keep(
                    "others",
                    f"{f}, one scale per tensor, activations too",
                    began,
                    bench.measured(plain) | {"bytes": None},
                )
            began = time.perf_counter()
            for title, outputs, size in rivals.all_of(subject, Path(folder)):
                keep("others", title, began, bench.judged(outputs) | {"bytes": size})
                began = time.perf_counter()
            kept["rivals"] = True
            path.write_text(json.dumps(kept, indent=1))

        soon = [(p, t) for p, t in left if p in FIRST]
        for part in (soon, None, [pair for pair in left if pair not in soon]):
            if part is None:
                if rivals_left:
                    others()
                continue
            for precision, target in part:
                began = time.perf_counter()
                keep("rows", f"{precision} {target}", began, bench.row(target, precision))


def _now() -> str:
    """The commit and the day of a row; '+' where files other than the page, which a run writes, differ from the commit's."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "-uno", "--", ".", f":!{PAGE.relative_to(ROOT)}")
    return f"{git('rev-parse', '--short', 'HEAD') or 'no commit'}{'+' if changed else ''}, {time.strftime('%Y-%m-%d')}"


def tables(found: Mapping[str, dict[str, Any]]) -> str:
    """The measured part of the page."""
    lines: list[str] = []
    for name, model in found.items():
        task = model["task"]
        lines += [f"### {model['model']}", "", f"{task[0].upper()}{task[1:]} in float64: {model['base']:.4f}.", ""]
        head = (
            "target", "precision", f"{task} lost, nearest", "methods", "KL, nearest", "methods", "dB, nearest", "methods", "bytes",
            "predicted speed-up", "realized", "measured",
        )  # fmt: skip
        lines += [_line(head), _line("---" for _ in head)]
        order = [f"{p} {target}" for p in ALL for target in TARGETS]
        for r in (model["rows"][key] for key in order if key in model["rows"]):
            if "refused" in r:
                lines.append(_line((r["target"], r["precision"], r["refused"], *[""] * 8, r["at"])))
                continue
            pair = [r["nearest"], r["methods"]]
            share = "" if "realized" not in r else f"{r['realized']:.0%}" + (f" ({r['why']})" if r.get("why") else "")
            lines.append(_line((
                r["target"], r["precision"], *(f"{p['loss']:+.2%}" for p in pair),
                *("" if p["kl"] is None else f"{p['kl']:.2g}" for p in pair), *(f"{p['db']:.1f}" for p in pair),
                f"{pair[0]['bytes']}", f"{r['speedup']:.2f}", share, r["at"],
            )))  # fmt: skip
        absent = [
            f"{p} ({', '.join(left)})"
            for p in MODELS[name][1]
            if (left := [t for t in TARGETS if f"{p} {t}" not in model["rows"]])
        ]
        lines += ["", f"Did not run: {'; '.join(absent)}."] if absent else []
        lines += ["", _line(("for comparison", f"{task} lost", "KL", "dB", "bytes", "measured")), _line(["---"] * 6)]
        for title, o in model["others"].items():
            divergence = "" if o["kl"] is None else f"{o['kl']:.2g}"
            size = f"{o['bytes'] or ''}"
            lines.append(_line((title, f"{o['loss']:+.2%}", divergence, f"{o['db']:.1f}", size, o["at"])))
        lines.append("")
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="measure these, take the others from earlier runs")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--precisions", default="", help="these alone; none for the rivals alone")
    parser.add_argument(
        "--rivals", action=argparse.BooleanOptionalAction, default=True, help="what others make of the models"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what an earlier run has")
    asked = parser.parse_args()
    only = [p for p in asked.precisions.split(",") if p]
    for name in filter(None, asked.models.split(",")):
        measure(name, asked.targets.split(","), only, asked.rivals, asked.again)
    found = {n: json.loads(p.read_text()) for n in MODELS if (p := KEPT / f"{n}.json").is_file()}
    text = tables(found)
    page = PAGE.read_text()
    marks = ("<!-- measured -->", "<!-- /measured -->")
    PAGE.write_text(re.sub(f"{marks[0]}.*{marks[1]}", lambda _: f"{marks[0]}\n\n{text}\n{marks[1]}", page, flags=re.S))
    print(text)


if __name__ == "__main__":
    main()
