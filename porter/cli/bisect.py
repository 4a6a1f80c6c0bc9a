"""`porter bisect MODEL --passes P | --target T`, or a folder of saved steps: the first bad step and its first bad
rewrite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from porter.bundle.folder import writing
from porter.cli import options
from porter.cli.output import progress, stdout_for
from porter.errors import PorterError


@click.command("bisect")
@click.argument("model")
@click.option("--passes", metavar="a,b{k=v}", help="The pipeline that breaks the model.")
@click.option("--target", metavar="T", help="The pipeline of a port to this device, then its kernels.")
@click.option("--precision", metavar="P", help="Of the port: fp32, bf16, ...")
@click.option("--original", metavar="M", help="For a folder: the model that the steps began with; else its first file.")
@options.dim_option
@options.inputs_option
@click.option("--budget", multiple=True, metavar="METRIC=X", help="What steps may lose against float64, e.g. sqnr=40.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn inputs.")
@click.option("-o", "--out", metavar="DIR", help="Keep the models around the bad rewrite, and inputs, in this folder.")
@options.json_option
def command(
    model: str,
    passes: str | None,
    target: str | None,
    precision: str | None,
    original: str | None,
    dim: tuple[str, ...],
    inputs: str | None,
    budget: tuple[str, ...],
    seed: int,
    out: str | None,
    as_json: bool,
) -> int:
    """Name the first step that breaks MODEL, and the first rewrite in it. MODEL may be a folder of saved steps.

    Exit code 0 when every step keeps its contract, 1 when one does not.
    """
    path, dims = Path(model), options.dims(dim)
    budgets, samples = options.budgets(budget), options.samples(inputs)
    if path.is_dir() == bool(passes or target) or (passes and target):
        raise PorterError(
            f"bisect {model}", expected="a model with --passes or --target, or a folder of saved steps",
            hint="porter bisect MODEL --passes cleanup,fusion",
        )  # fmt: skip
    with stdout_for(as_json) as emit, progress() as report:
        from porter import graph
        from porter.check import Contract, Kind
        from porter.pipeline.bisect import bisect_folder, bisect_passes

        if path.is_dir():
            first = graph.load(options.model_file(original), dims) if original else None
            contract = Contract(Kind.PRECISION, budgets) if budgets else None
            found = bisect_folder(path, first, contract, inputs=samples, seed=seed)
        else:
            loaded = graph.load(options.model_file(model), dims)
            device = options.targets(target)[0] if target else None
            found = bisect_passes(
                loaded, passes or _plan(precision, budgets), device, inputs=samples, seed=seed, progress=report
            )
        document: dict[str, Any] = {"model": model, **found.json(), "kept": None}
        lines = [found.message] if found.step else [f"every step keeps its contract: {', '.join(found.good)}"]
        if found.step and out and found.evidence is not None:
            with writing(out):
                document["kept"] = str(found.evidence.keep(Path(out)))
            lines.append(f"  kept {document['kept']}: before.onnx, after.onnx, inputs.npz")
        if target and not found.step and not path.is_dir():
            failed = _port(path, dims, target, precision, budgets, samples, report)
            if failed is not None:
                document |= {"verdict": "bad", "bad": failed}
                lines = [str(failed["message"])]
        emit(document)
    if not as_json:
        head = (
            f"first bad step is {document['bad']['step']} ({document['bad']['contract']})\n" if document["bad"] else ""
        )
        click.echo(head + "\n".join(lines))
    return 1 if document["bad"] else 0


def _plan(precision: str | None, budgets: Any) -> str:
    from porter.precision import plans

    return str(plans.pipeline(precision or "fp32", budgets))


def _port(
    path: Path, dims: dict[str, int], target: str, precision: str | None, budgets: Any, samples: Any, report: Any
) -> dict[str, Any] | None:
    """The step of the port behind the passes that failed: kernels, toolchain, end to end; None where none did."""
    import tempfile

    from porter.porting.port import port

    with tempfile.TemporaryDirectory() as scratch:
        result = port(
            path, targets=options.targets(target)[:1], out=Path(scratch) / "bundle", dims=dims,
            precision=precision or "fp32", budgets=budgets, inputs=samples, progress=report,
        )  # fmt: skip
    one = result.targets[0]
    if one.status == "ok":
        return None
    names = [s["name"] for s in one.steps]
    order = ("kernels", "toolchain", "end_to_end", "whole_program")
    step = next((name for name in order if name not in names), order[-1])
    return {"step": step, "contract": "rounding", "rewrites": 0, "rewrite": None, "first_divergence": None,
            "message": one.message}  # fmt: skip
