"""`porter reduce A B -o DIR`: a failing pair cut down to the nodes that make it fail, as a folder that can be run."""

from __future__ import annotations

from pathlib import Path

import click

from porter.bundle.folder import writing
from porter.cli import options
from porter.cli.output import progress, stdout_for


@click.command("reduce")
@click.argument("a")
@click.argument("b")
@click.option(
    "-o", "--out", metavar="DIR", required=True, help="The folder: before.onnx, after.onnx, inputs.npz, README."
)
@options.dim_option
@options.inputs_option
@click.option("--budget", multiple=True, metavar="METRIC=X", help="What B may lose against float64, e.g. sqnr=40.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn inputs.")
@options.json_option
def command(
    a: str,
    b: str,
    out: str,
    dim: tuple[str, ...],
    inputs: str | None,
    budget: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> int:
    """Shrink models A and B to the few nodes on which they differ. Exit code 1 with a folder, 2 where they agree."""
    first, second = options.model_file(a), options.model_file(b)
    dims, budgets, samples = options.dims(dim), options.budgets(budget), options.samples(inputs)
    with stdout_for(as_json) as emit, progress() as report:
        from porter import graph
        from porter.check import Contract, Kind, rounding
        from porter.check.reduce import reduce
        from porter.check.result import bound

        report("reducing", 0, 0)
        before, after = (graph.load(p, bound(p, dims)) for p in (first, second))
        contract = Contract(Kind.PRECISION, budgets) if budgets else rounding
        small = reduce(before, after, contract, samples, seed)
        with writing(out):
            kept = small.save(Path(out))
        emit(
            {
                "models": [a, b],
                "folder": str(kept),
                "nodes": list(small.nodes),
                "inputs": {name: list(array.shape) for name, array in small.inputs.items()},
                "operators": [n.op_type for n in small.after.graph if n.op_type != "Constant"],
                "sources": sorted({graph.source_name(n) for n in small.before.graph}),
                "message": small.verdict.message,
            }
        )
    if not as_json:
        old, new = small.nodes
        click.echo(f"{small.verdict.message}\n{old} and {new} nodes are left: {kept}\n  cd {kept}\n  {small.command}")
    return 1
