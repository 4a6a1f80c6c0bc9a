"""`porter reduce A B -o DIR`: a failing pair cut down to the nodes that make it fail, as a folder that can be run.

A alone may be the folder that a failed check kept (before.onnx, after.onnx, inputs.npz), or, with --target, a model
whose port fails: its failing kernel is cut down instead.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.bundle.folder import writing
from porter.cli import options
from porter.cli.output import progress, stdout_for
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.check import Budget


@click.command("reduce")
@click.argument("a")
@click.argument("b", required=False)
@click.option(
    "-o", "--out", metavar="DIR", required=True, help="The folder: before.onnx, after.onnx, inputs.npz, README."
)
@click.option("--target", metavar="T", help="A is a model whose port to this device fails.")
@click.option("--precision", metavar="P", default="fp32", show_default=True, help="Of that port: fp32, bf16, ...")
@options.dim_option
@options.inputs_option
@click.option("--budget", multiple=True, metavar="METRIC=X", help="What B may lose against float64, e.g. sqnr=40.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn inputs.")
@options.json_option
def command(
    a: str,
    b: str | None,
    out: str,
    target: str | None,
    precision: str,
    dim: tuple[str, ...],
    inputs: str | None,
    budget: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> int:
    """Shrink models A and B to the few nodes on which they differ. Exit code 1 with a folder, 2 where they agree."""
    if (b is None) == (not target and not Path(a).is_dir()) or (b is not None and target):
        raise PorterError(
            f"reduce {a}", expected="two models, a folder of before.onnx and after.onnx, or a model with --target",
            hint="porter reduce A.onnx B.onnx -o small",
        )  # fmt: skip
    dims, budgets, samples = options.dims(dim), options.budgets(budget), options.samples(inputs)
    with stdout_for(as_json) as emit, progress() as report:
        from porter.pipeline.failure import StepFailed

        report("reducing", 0, 0)
        if target:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    document, lines = _port(a, target, precision, dims, budgets, samples, out, report, Path(scratch))
                except StepFailed:  # a pass is at fault: the two models around it are the pair
                    first, second = _kept(Path(scratch))
                    samples = options.samples(str(first.with_name("inputs.npz")))
                    document, lines = _pair(first, second, {}, budgets, samples, seed, out)
        else:
            first, second = (options.model_file(a), options.model_file(b)) if b else _kept(Path(a))
            if b is None and samples is None and (held := first.with_name("inputs.npz")).is_file():
                samples = options.samples(str(held))
            document, lines = _pair(first, second, dims, budgets, samples, seed, out)
        emit(document)
    if not as_json:
        click.echo("\n".join(lines))
    return 1


def _kept(folder: Path) -> tuple[Path, Path]:
    """The two models of a folder that a failed check kept; of a folder of such folders, the latest."""
    for place in (folder, *sorted(folder.glob("fail-*"), reverse=True)):
        pair = place / "before.onnx", place / "after.onnx"
        if all(p.is_file() for p in pair):
            return pair
    raise PorterError(
        f"folder {folder}", expected="before.onnx and after.onnx in it", hint="porter reduce A.onnx B.onnx"
    )


def _pair(
    first: Path, second: Path, dims: dict[str, int], budgets: tuple[Budget, ...], samples: Any, seed: int, out: str
) -> tuple[dict[str, Any], list[str]]:
    from porter import graph
    from porter.check import Contract, Kind, rounding
    from porter.check.reduce import reduce
    from porter.check.result import loaded

    before, after = (loaded(p, dims) for p in (first, second))
    contract = Contract(Kind.PRECISION, budgets) if budgets else rounding
    small = reduce(before, after, contract, samples, seed)
    with writing(out):
        kept = small.save(Path(out))
    document = {
        "models": [str(first), str(second)],
        "folder": str(kept),
        "nodes": list(small.nodes),
        "inputs": {name: list(array.shape) for name, array in small.inputs.items()},
        "operators": [n.op_type for n in small.after.graph if n.op_type != "Constant"],
        "sources": sorted({graph.source_name(n) for n in small.before.graph}),
        "rewrite": small.rewrite or None,
        "message": small.verdict.message,
    }
    old, new = small.nodes
    lines = [small.verdict.message, f"{old} and {new} nodes are left: {kept}"]
    lines += [f"  {small.rewrite}"] if small.rewrite else []
    return document, [*lines, f"  cd {kept}", f"  {small.command}"]


def _port(
    a: str, target: str, precision: str, dims: dict[str, int], budgets: tuple[Budget, ...], samples: Any, out: str,
    report: Any, scratch: Path,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    from porter.porting.reduce import reduce_port

    device = options.targets(target)[0]
    small = reduce_port(options.model_file(a), device, dims, precision, budgets, samples, report, scratch)
    with writing(out):
        kept = small.save(Path(out))
    nodes = [n for n in small.model.graph if n.op_type != "Constant"]
    document = {
        "models": [a],
        "folder": str(kept),
        "nodes": [len(nodes)],
        "inputs": {name: list(array.shape) for name, array in small.inputs.items()},
        "operators": [n.op_type for n in nodes],
        "sources": sorted(small.sources),
        "rewrite": None,
        "message": small.message,
    }
    return document, [small.message, f"{len(nodes)} nodes are left: {kept}", f"  cd {kept}", f"  {small.command}"]
