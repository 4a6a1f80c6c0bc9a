"""`make faults`: every known fault, planted mutations, and pairs that are equivalent; prints what was missed and what
was a false alarm.

    python tests/check/faults/run.py [--models DIR] [--only NAME] [--kinds rename,reorder] [--seconds S]

Optimizers that are not installed (extra `faults`) are left out and said to be. A model that an optimizer itself changes
is no false alarm: onnxruntime, with its own optimizer off, is asked, and what it sees changed is listed as the tool's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import onnx

from porter import check, graph
from porter.check.execution import Subject
from porter.check.result import DRAWS
from porter.errors import PorterError

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from equivalents import KINDS, NotApplicable, changed_for_onnxruntime  # noqa: E402
from pairs import pairs  # noqa: E402

MODELS = Path(__file__).parents[4] / "shared" / "models"
SIZES = (8, 64, 224)  # of free dims other than a first one, which is 1: the least on which the model runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Start no new model after so long.")
    parser.add_argument("--skip-faults", action="store_true")
    said = parser.parse_args()
    bad = 0 if said.skip_faults else faults() + mutations()
    return int(bool(bad + equivalents(said.models, said.only, said.kinds.split(","), said.seconds)))


def faults() -> int:
    """Known faults that are not told from their originals, or not at the right tensor."""
    wrong = []
    for pair in pairs():
        result = check(graph.load(pair.before), graph.load(pair.after))
        first = result.first_divergence or next((f for f in result.outputs if not f.ok), None)
        place = result.cause if first is None else first.tensor
        if result.verdict != "different" or place != pair.blame:
            wrong.append(f"  {result.verdict} at {place}, expected {pair.blame}: {pair.title} ({pair.source})")
    print(f"known faults: {len(pairs())}, found at the right place: {len(pairs()) - len(wrong)}")
    print(*wrong, sep="\n" if wrong else "")
    return len(wrong)


def mutations() -> int:
    """Mutations that change the function and were not seen."""
    from test_mutations import HARMLESS, MODELS, mutations, outcome, proto_of

    seen: dict[str, str] = {}
    for name in MODELS:
        original = graph.load(proto_of(name))
        seen |= {what: outcome(original, proto) for what, proto in mutations(name)}
    kept = {w for w, verdict in seen.items() if verdict == "equivalent"}
    missed = {w for w in kept if not any(w.startswith(known) for known in HARMLESS)}
    counts = Counter(v.partition(":")[0] for v in seen.values())
    print(f"planted mutations: {len(seen)}; {dict(counts)}; missed: {len(missed)}")
    for what in sorted(kept):
        print(f"  {what}: " + next((why for k, why in HARMLESS.items() if what.startswith(k)), "MISSED"))
    return len(missed)


def equivalents(models: Path, only: str, kinds: list[str], seconds: float) -> int:
    """False alarms among pairs that are equivalent."""
    if not (models / "catalog.json").is_file():
        print(f"equivalent pairs: none, {models} is not there")
        return 0
    counts: Counter[str] = Counter()
    lines: list[str] = []
    began = time.monotonic()
    for path in sorted(models.glob("*/*.onnx"), key=lambda p: p.stat().st_size):
        if only not in str(path) or time.monotonic() - began > seconds:
            continue
        try:
            dims, original, samples = _opened(path)
        except PorterError as error:
            lines.append(f"  refused {path.parent.name}: {error.where}")
            continue
        for kind in kinds:
            at = time.monotonic()
            word, why = _pair(path, dims, original, samples, kind)
            counts[word] += 1
            line = f"  {word:15} {path.parent.name} {kind} {time.monotonic() - at:.1f} s {why}"
            print(line, flush=True)
            if word != "equivalent":
                lines.append(line)
    total = sum(n for word, n in counts.items() if word in ("equivalent", "false alarm", "unknown"))
    print(f"equivalent pairs: {total}; {dict(counts)}")
    return counts["false alarm"] + counts["unknown"]


def _opened(path: Path) -> tuple[dict[str, int], Subject, list]:
    """A model at the least dims on which it runs, with draws and edges. PorterError where it runs at none."""
    free = [d for d in graph.dims(graph.read(path)) if d.follows is None]
    for size in SIZES:
        dims = {d.name: 1 if all(p.endswith("[0]") for p in d.places) else size for d in free}
        try:
            original = Subject(graph.load(path, dims))
            samples = [*(check.draw(original.model, i) for i in range(DRAWS)), *check.edges(original.model)]
            check(original, original.model, inputs=samples[:1])
            return dims, original, samples
        except PorterError as error:
            last = error
    raise last


def _pair(path: Path, dims: dict[str, int], original: Subject, samples: list, kind: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                made = KINDS[kind](path, Path(folder))
        except NotApplicable as reason:
            return "not applicable", str(reason)
        except Exception as error:  # a tool that fails on a model makes no pair
            return "tool failed", f"{type(error).__name__}: {str(error)[:80]}"
        try:
            known = {d.name for d in graph.dims(graph.read(made))}
            other = graph.load(made, {k: v for k, v in dims.items() if k in known})
            result = check(original, other, inputs=samples)
        except PorterError as error:
            return "false alarm" if not _broken(made) else "tool broke it", str(error).replace("\n", " ")[:150]
        if result.verdict == "equivalent":
            return "equivalent", result.method
        if changed_for_onnxruntime(graph.to_proto(original.model), made, dict(samples[0])):
            return "tool broke it", result.message.replace("\n", " ")[:150]
        word = "false alarm" if result.verdict == "different" else "unknown"
        return word, result.message.replace("\n", " ")[:200]


def _broken(made: Path) -> bool:
    try:
        onnx.checker.check_model(str(made), full_check=True)
    except Exception:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
