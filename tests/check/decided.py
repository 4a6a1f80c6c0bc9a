"""How many rewrites of cleanup, fusion and layout the field method decides by itself, per pass and model.

    python tests/check/decided.py [--models DIR] [--only NAME] [--passes cleanup,fusion,layout] [--undecided]

A rewrite counts as decided where its region before and after agree in a prime field. Of a step whose changes have no
region of their own (nodes that nobody reads, say), the model before and after is held against each other as
`porter check --method field` does it. Exits 1 below 95 %.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from porter import check, graph, pipeline
from porter.check.expressions import Expressions
from porter.check.field import agree
from porter.check.local import Local
from porter.errors import PorterError
from porter.graph import Model
from porter.pipeline.instruments import Instrument, unrounded
from porter.pipeline.text import Stage
from porter.rewrite import Rewrite

sys.path.insert(0, str(Path(__file__).parent))
from sizes import bindings

MODELS = Path(__file__).parents[3] / "shared" / "models"
LEAST = 0.95


@dataclass
class Decided(Instrument):
    """Counts (pass, whether the field decides), once per distinct region and for each place where it occurs."""

    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    undecided: dict[str, str] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)

    def rewritten(self, stage: Stage, rewrite: Rewrite) -> None:
        if rewrite.before is None or rewrite.after is None:
            return
        if rewrite.key not in self._known:
            self._known[rewrite.key] = _undecided(
                unrounded(rewrite.before, rewrite.exact), rewrite.meant or rewrite.after
            )
        self._count(stage, self._known[rewrite.key], f"{rewrite.rule} at {rewrite.place}")

    def passed(self, stage: Stage, before: Model, after: Model, rewrites: list[Rewrite]) -> None:
        alone = [r for r in rewrites if r.before is None]
        if not alone:
            return
        local = Local(before, after, [check.draw(before)])
        found = "" if local.identical() or local.decide().equal or agree(before, after).equal else "the whole model"
        for rewrite in alone:
            self._count(stage, found, f"{rewrite.rule} at {rewrite.place}")

    def _count(self, stage: Stage, why: str, place: str) -> None:
        self.counts[stage.name, not why] += 1
        if why:
            self.undecided.setdefault(f"{stage.name}: {place}", why)


def _undecided(before: Model, after: Model) -> str:
    """Why the field does not say that a region is what it was; empty where it does. Where shapes depend on data, and
    nothing can be drawn, equal expressions say it."""
    if any(graph.shape(v) is None for v in before.graph.inputs):
        one, two = Expressions(before, {}).all(), Expressions(after, {}).all()
        pairs = zip(before.graph.outputs, after.graph.outputs, strict=True)
        return "" if all(one.of[a] == two.of[b] for a, b in pairs) else "shapes depend on data"
    found = agree(before, after)
    return "" if found.equal else str(found)


def decided(path: Path, passes: str) -> Decided:
    """The counts of one model, at the least dims at which it runs. PorterError where it does not."""
    for dims in bindings(path):
        try:
            model = graph.load(path, dims)
            seen = Decided()
            pipeline.run(model, passes, checks=False, instruments=[seen])
            return seen
        except PorterError as error:
            last = error
    raise last


def table(rows: Iterable[tuple[str, Counter[tuple[str, bool]]]]) -> tuple[list[str], float]:
    """Lines per pass, with the models in which it is lowest, and the share of all."""
    passes: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for model, counts in rows:
        for name in {n for n, _ in counts}:
            passes[name][model] = (counts[name, True], counts[name, True] + counts[name, False])
    lines, yes, every = [], 0, 0
    for name in sorted(passes):
        good, total = (sum(c[i] for c in passes[name].values()) for i in (0, 1))
        yes, every = yes + good, every + total
        low = [f"{m} {a}/{b}" for m, (a, b) in sorted(passes[name].items()) if a < b]
        lines.append(f"{name:26} {good:5} of {total:5}  {good / total:6.1%}  {', '.join(low)}")
    share = yes / every if every else 1.0
    return [*lines, f"{'all':26} {yes:5} of {every:5}  {share:6.1%}"], share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--passes", default="cleanup, fusion, layout")
    parser.add_argument("--undecided", action="store_true", help="Say where and why not.")
    said = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for path in sorted(said.models.glob("*/*.onnx"), key=lambda p: p.stat().st_size):
        if said.only not in str(path):
            continue
        name = f"{path.parent.name}{'' if path.stem == 'model' else '/' + path.stem}"
        try:
            seen = decided(path, said.passes)
        except PorterError as error:
            print(f"refused {name}: {error.where}", flush=True)
            continue
        good, total = sum(n for (_, y), n in seen.counts.items() if y), sum(seen.counts.values())
        print(f"{name:28} {good:5} of {total:5}  {good / total if total else 1:6.1%}", flush=True)
        if said.undecided:
            print(*(f"    {place}: {why}" for place, why in seen.undecided.items()), sep="\n")
        rows.append((name, seen.counts))
    lines, share = table(rows)
    print("", *lines, sep="\n")
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
