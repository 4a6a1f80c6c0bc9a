"""`porter opt MODEL --passes a,b{k=v} -o OUT`: passes without a port; `--why NODE` asks why none fired there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from porter.bundle.folder import writing
from porter.cli import options
from porter.cli.output import amount, progress, seconds, stdout_for, table
from porter.errors import PorterError


@click.command("opt")
@click.argument("model")
@click.option("--passes", metavar="a,b{k=v}", help="A pipeline: passes or packages of passes, with options.")
@click.option("-o", "--out", metavar="OUT.onnx", help="Where to write the result.")
@options.dim_option
@click.option("--target", metavar="T", help="A device for passes that ask one.")
@click.option("--why", metavar="NODE", help="Say how far each rule fits at this node (with --limit: by then).")
@click.option("--check/--no-check", "checks", default=True, help="Hold each pass to its contract (the default).")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N rewrites of each pass.")
@options.inputs_option
@click.option("--save-steps", metavar="DIR", help="Keep the model after each pass in this folder.")
@click.option("--no-cache", is_flag=True, help="Check everything anew.")
@options.json_option
def command(
    model: str,
    passes: str | None,
    out: str | None,
    dim: tuple[str, ...],
    target: str | None,
    why: str | None,
    checks: bool,
    limit: int | None,
    inputs: str | None,
    save_steps: str | None,
    no_cache: bool,
    as_json: bool,
) -> int:
    """Run passes over MODEL and check each, or say why none fired at a node."""
    path = options.model_file(model)
    dims = options.dims(dim)
    if not passes and not why:
        raise PorterError(
            "nothing to do", expected="--passes or --why", hint="porter opt MODEL --passes cleanup,fusion"
        )
    if why and limit is not None and not passes:
        raise PorterError("--limit with --why", expected="--passes, whose first rewrites are made before the question")
    devices = options.targets(target) if target else [None]
    samples = options.samples(inputs)
    with stdout_for(as_json) as emit, progress() as report:
        from porter import graph, pipeline

        loaded = graph.load(path, dims)
        if why:
            if limit is not None:  # asked of the model after so many rewrites
                loaded = pipeline.run(loaded, str(passes), devices[0], checks=checks, limit=limit, inputs=samples).model
            answers = pipeline.why(loaded, why, passes)
            emit([_answer(name, a) for name, a in answers])
            shown = "\n".join(f"{name}: {a}" for name, a in answers) or f"no rule has an operator of {why}"
        else:
            result = pipeline.run(
                loaded,
                str(passes),
                devices[0],
                checks=checks,
                keep=Path(out).absolute().parent if out else Path.cwd(),
                save=save_steps,
                limit=limit,
                inputs=samples,
                no_cache=no_cache,
                progress=report,
            )
            if out:
                _save(graph, result.model, Path(out))
            steps = [s.json() for s in result.steps]
            emit({"model": model, "dims": dims, "steps": steps, "rewrites": result.changed, "written": out})
            shown = _table(steps, out)
    if not as_json:
        click.echo(shown)
    return 0


def _save(graph: Any, model: Any, path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        graph.save(model, path)


def _answer(name: str, answer: Any) -> dict[str, Any]:
    fields = ("rule", "fits", "matched", "wanted", "reason")
    return {"pass": name, **{f: getattr(answer, f) for f in fields}}


def _table(steps: list[dict[str, Any]], out: str | None) -> str:
    rows = [
        (
            s["name"],
            s["contract"],
            s["status"],
            s["rewrites"],
            ", ".join(f"{n} {amount(v)}" for n, v in s["metric"].items() if isinstance(v, int | float)),
            seconds(s["seconds"]),
        )
        for s in steps
    ]
    shown = table(rows, ("pass", "contract", "status", "rewrites", "metric", "time"), right=(3,))
    return f"{shown}\n\nwrote {out}" if out else shown
