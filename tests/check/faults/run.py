"""`make faults`: every known fault, planted mutations, and pairs that are equivalent; prints what was missed and what
was a false alarm.

    python tests/check/faults/run.py [--models DIR] [--only NAME] [--kinds rename,reorder] [--parts faults,mutations,equivalents]
                                     [--jobs N] [--seconds S] [--results DIR]

Mutations are planted at every place of a small model and, in a large one, at one place of each kind (operator, what of it
is changed, from what). One counts as found where the check says 'different'. Where the smallest change gives no valid
model, or one of the same function, larger ones are tried.

Each result is kept in build/faults by a hash of all that it depends on: a run that was stopped, or told to start nothing
new after S seconds, goes on where it was (and exits 3 while something is left), and two may run at the same time.

Optimizers that are not installed (extra `faults`) are left out and said to be. A model that an optimizer itself changes
is no false alarm: onnxruntime, with its own optimizer off, is asked, and what it sees changed is listed as the tool's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from porter import check, graph
from porter.check.execution import SOURCE, Subject, run
from porter.errors import PorterError
from porter.pipeline.cache import Cache

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from equivalents import KINDS, NotApplicable, changed_for_onnxruntime
from pairs import pairs
from planted import Site, chosen, graphs, harmless, sites
from sizes import SIZES, bindings

HERE = Path(__file__).parent

ROOT = HERE.parents[2]
MODELS = ROOT.parent / "shared" / "models"
LOCATED = 2_000_000  # elements that a model computes up to which the place of a mutation is looked for
PARTS = ("faults", "mutations", "equivalents")
CHUNK = 25  # places of one unit of work
TOOLS = ("onnx", "onnxruntime", "onnxscript", "onnxsim", "onnxslim", "numpy", "ml-dtypes")


@dataclass(frozen=True)
class Unit:
    """A piece of work: a part, and the model, kind or slice of it."""

    part: str
    model: str = ""
    kind: str = ""
    start: int = 0

    def key(self) -> str:
        content = Path(self.model).read_bytes() if self.model else b""
        return hashlib.sha256(f"{self} {_sources()}".encode() + content).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="", help="Models whose path has this in it.")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Start nothing new after so long.")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "faults")
    parser.add_argument("--verbose", action="store_true", help="Each result as it comes.")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = _models(said.models, said.only, Path(folder))
        units = list(_units(said.parts.split(","), models, said.kinds.split(",")))
        done, left = _work(units, Cache(said.results), said.jobs, said.seconds, said.verbose)
    bad = sum(tell(done) for part, tell in REPORTS.items() if part in said.parts.split(","))
    if left:
        print(f"{left} of {len(units)} pieces of work are left: run it again")
    return int(bool(bad)) or 3 * bool(left)


def _models(folder: Path, only: str, made: Path) -> list[Path]:
    """The real models, smallest first; where they are not there, some that are built here."""
    found = sorted(folder.glob("*/*.onnx"), key=lambda p: p.stat().st_size)
    if not found:
        from equal_layers import decoder
        from test_mutations import MODELS as SMALL
        from test_mutations import proto_of

        print(f"{folder} is not there: models that are built here stand in")
        protos = {**{n: proto_of(n) for n in SMALL}, "decoder": decoder(2), "decoder fused": decoder(2, fused=True)}
        for name, proto in protos.items():
            (made / name).mkdir()
            onnx.save(proto, made / name / "model.onnx")
        found = sorted(made.glob("*/*.onnx"))
    return [p for p in found if only in str(p)]


def _units(parts: Sequence[str], models: Sequence[Path], kinds: Sequence[str]) -> Iterator[Unit]:
    if "faults" in parts:
        yield Unit("faults")
    for path in reversed(models):  # the longest first
        if "equivalents" in parts:
            yield from (Unit("equivalents", str(path), kind) for kind in kinds)
    for path in reversed(models):
        if "mutations" in parts:
            count = len(chosen(sites(onnx.load(path, load_external_data=False), _types(onnx.load(path)))))
            yield from (Unit("mutations", str(path), "", start) for start in range(0, max(count, 1), CHUNK))


def _work(
    units: Sequence[Unit], kept: Cache, jobs: int, seconds: float, verbose: bool
) -> tuple[list[tuple[Unit, Any]], int]:
    """Results of the units, and how many have none yet."""
    began, done = time.monotonic(), list[tuple[Unit, Any]]()
    pending: list[Unit] = []
    for unit in units:
        found = kept.get(unit.key())
        if found is None:
            pending.append(unit)
        else:
            done.append((unit, found))
    with ProcessPoolExecutor(max(1, min(jobs, len(pending)))) as pool:
        running: dict[Any, Unit] = {}
        while running or (pending and time.monotonic() - began < seconds):
            while pending and len(running) < jobs and time.monotonic() - began < seconds:
                if (found := kept.get(pending[0].key())) is not None:  # another run was faster
                    done.append((pending.pop(0), found))
                    continue
                unit = pending.pop(0)
                running[pool.submit(measured, unit)] = unit
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                found = future.result()
                kept.put(unit.key(), found)
                done.append((unit, found))
                if verbose:
                    lines = (
                        found["rows"] if unit.part == "equivalents" else [r for r in found["rows"] if r[0] != "found"]
                    )
                    print(f"{found['seconds']:6.1f} s {unit.part} {Path(unit.model).parent.name} {unit.kind}{unit.start or ''}",
                          *(f"\n    {row}" for row in lines), flush=True)  # fmt: skip
    order = {unit: i for i, unit in enumerate(units)}
    return sorted(done, key=lambda pair: order[pair[0]]), len(units) - len(done)


def measured(unit: Unit) -> dict[str, Any]:
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = {"faults": _faults, "mutations": _mutations, "equivalents": _equivalent}[unit.part](unit)
    return {"rows": rows, "seconds": time.monotonic() - began}


def _faults(_: Unit) -> list[list[str]]:
    """Known faults: found, or not told from their originals at the right tensor."""
    rows = []
    for pair in pairs():
        result = check(graph.load(pair.before), graph.load(pair.after))
        first = result.first_divergence or next((f for f in result.outputs if not f.ok), None)
        place = result.cause if first is None else first.tensor
        right = result.verdict == "different" and place == pair.blame and (first is None or bool(first.node))
        found = f"{result.verdict} at {place}, expected {pair.blame}: {pair.title} ({pair.source})"
        rows.append(["found" if right else "missed", found])
    return rows


def _mutations(unit: Unit) -> list[list[str]]:
    """Places of mutations: found, invalid, harmless and why, or missed; and how many there are in all."""
    try:
        dims, original, samples = _opened(unit.model, first=2)  # along an axis of one, much is the same
    except PorterError as error:
        return [["refused", f"at no size that is tried: {error.where}"]]
    proto = onnx.load(unit.model)
    every = sites(proto, _types(proto))
    locate = _computed(original) <= LOCATED
    rows = [_planted_at(site, proto, dims, original, samples, locate) for site in chosen(every)[unit.start :][:CHUNK]]
    return rows if unit.start else [["places", str(len(every))], *rows]


def _planted_at(
    site: Site, proto: onnx.ModelProto, dims: dict[str, int], original: Subject, samples: list, locate: bool
) -> list[str]:
    """The first change that is a model of another function: found or missed; else why there is none."""
    no: list[str] = []
    invalid = "no change is left"
    for what, changed in site.mutants(proto):
        try:
            mutant = Subject(graph.load(changed, dims))
            result = check(original, mutant.model, locate=locate)
            why = "" if result.verdict == "different" else harmless(what, original, mutant, samples)
        except PorterError as error:
            invalid = str(error).replace("\n", " ")[:150]
            continue
        except Exception as error:  # whatever it is: a crash of the checker is what is looked for
            return ["crashed", f"{what}: {type(error).__name__}: {error}"]
        if result.verdict == "different":
            first = result.first_divergence or next((f for f in result.outputs if not f.ok), None)
            at = "the interface" if first is None else first.node if locate else "an output"
            return ["found", f"{what}: at {at}, done to {site.node}"]
        if not why:
            return ["missed", f"{what}: {result.message}"]
        no.append(f"{what}: {why}")
    return ["harmless", "; ".join(no)] if no else ["invalid", f"{site.what}: {invalid}"]


def _types(proto: onnx.ModelProto) -> dict[str, Any]:
    """Type and shape of what inference knows, weights among it, as text."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        inferred = proto.graph
    found = {t.name: f"weight {t.data_type} {list(t.dims)}" for g in graphs(inferred) for t in g.initializer}
    for g in graphs(inferred):
        values = (*g.input, *g.value_info, *g.output)
        found |= {v.name: v.type.SerializeToString() for v in values if v.type.WhichOneof("value")}
    return found


def _computed(original: Subject) -> int:
    """How many elements the model computes in one run."""
    sizes: list[int] = []
    run(original.ready, check.draw(original.model), SOURCE, on_value=lambda _, x: sizes.append(getattr(x, "size", 1)))
    return sum(sizes)


def _equivalent(unit: Unit) -> list[list[str]]:
    try:
        dims, original, samples = _opened(unit.model)
    except PorterError as error:
        return [["refused", str(error.where)]]
    word, why = _pair(Path(unit.model), dims, original, samples, unit.kind)
    return [[word, why]]


@cache
def _opened(path: str, first: int = 1) -> tuple[dict[str, int], Subject, list]:
    """A model at the least dims on which it runs, with draws and edges. PorterError where it runs at none."""
    for dims in bindings(Path(path), first):
        try:
            original = Subject(graph.load(path, dims))
            if _empties(original.model) and SIZES[-1] not in dims.values():
                continue  # a model whose tensors are empty would agree with anything
            check(original, original.model)
            return dims, original, original.drawn[0]
        except PorterError as error:
            last = error
    if first > 1:
        return _opened(path)
    raise last


def _empties(model: graph.Model) -> bool:
    """Whether the model computes tensors without elements."""
    sizes: list[int] = []
    run(model, check.draw(model), SOURCE, on_value=lambda _, x: sizes.append(getattr(x, "size", 1)))
    return 0 in sizes


def _pair(path: Path, dims: dict[str, int], original: Subject, samples: list, kind: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                made = KINDS[kind](path, Path(folder))
        except NotApplicable as reason:
            return "not applicable", str(reason)
        except Exception as error:  # a tool that fails on a model makes no pair
            return "tool failed", f"{type(error).__name__}: {str(error)[:80]}"
        try:
            result = check(original, made, dims=dims)
        except PorterError as error:
            return "false alarm" if not _broken(made) else "tool broke it", str(error).replace("\n", " ")[:150]
        if result.verdict == "equivalent":
            return "equivalent", result.method
        if any(changed_for_onnxruntime(graph.to_proto(original.model), made, dict(s)) for s in samples):
            return "tool broke it", result.message.replace("\n", " ")[:150]
        word = "false alarm" if result.verdict == "different" else "unknown"
        return word, result.message.replace("\n", " ")[:200]


def _broken(made: Path) -> bool:
    try:
        onnx.checker.check_model(str(made), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return True
    return False


def _rows(part: str, done: list[tuple[Unit, Any]]) -> Iterator[tuple[str, str, str]]:
    for unit, found in done:
        if unit.part == part:
            for word, why in found["rows"]:
                yield word, f"{Path(unit.model).parent.name} {unit.kind}".strip(), why


def _known(done: list[tuple[Unit, Any]]) -> int:
    rows = list(_rows("faults", done))
    wrong = [why for word, _, why in rows if word != "found"]
    print(f"known faults: {len(rows)}, found at the right place: {len(rows) - len(wrong)}")
    print(*(f"  {why}" for why in wrong), sep="\n" if wrong else "", end="\n" if wrong else "")
    return len(wrong)


def _planted(done: list[tuple[Unit, Any]]) -> int:
    rows = list(_rows("mutations", done))
    counts = Counter(word for word, _, _ in rows if word not in ("refused", "places"))
    places = sum(int(why) for word, _, why in rows if word == "places")
    found = [why.partition(": at ")[2].rsplit(", done to ", 1) for word, _, why in rows if word == "found"]
    located = [(at, node) for at, node in found if at not in ("an output", "the interface")]
    models = len({model for word, model, _ in rows if word == "found"})
    print(f"planted mutations: {sum(counts.values())} of {places} places, in {models} models; {dict(counts)}; of "
          f"{len(located)} that were located {sum(at == node for at, node in located)} at the very node")  # fmt: skip
    for word, model, why in rows:
        if word in ("harmless", "missed", "refused", "crashed"):
            print(f"  {word:8} {model} {why}")
    no = Counter(
        why.partition(" ")[0] + " " + why.partition(": ")[2].partition(" ")[0] for w, _, why in rows if w == "invalid"
    )
    print("  no change is a valid model:", ", ".join(f"{what} {n}" for what, n in no.most_common()))
    return counts["missed"] + counts["crashed"]


def _equivalents(done: list[tuple[Unit, Any]]) -> int:
    rows = list(_rows("equivalents", done))
    counts = Counter(word for word, _, _ in rows)
    pairs = [(word, why) for word, _, why in rows if word in ("equivalent", "false alarm", "unknown")]
    how = Counter(why for word, why in pairs if word == "equivalent")
    print(f"equivalent pairs: {len(pairs)}; {dict(counts)}; decided by {dict(how)}")
    for word, model, why in rows:
        if word != "equivalent":
            print(f"  {word:14} {model} {why}")
    return counts["false alarm"] + counts["unknown"]


REPORTS = {"faults": _known, "mutations": _planted, "equivalents": _equivalents}


@cache
def _sources() -> str:
    """A hash of what computes a verdict: the checker and what it stands on, these scripts, and the tools."""
    digest = hashlib.sha256()
    folders = [ROOT / "porter" / name for name in ("formats", "graph", "ops", "check")] + [HERE]
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".onnxtxt")):
        digest.update(f"{path.relative_to(ROOT)}".encode() + path.read_bytes())
    for name in TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            digest.update(f"{name}{version(name)}".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
