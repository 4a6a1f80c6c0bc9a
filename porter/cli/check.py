"""`porter check A B`: whether two models mean the same, as text, JSON, JUnit XML or SARIF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.cli import options
from porter.cli.output import progress, stdout_for

if TYPE_CHECKING:
    from porter.check.result import Method


@click.command("check")
@click.argument("a")
@click.argument("b")
@options.dim_option
@click.option("--method", type=click.Choice(["auto", "numeric", "field"]), default="auto", show_default=True)
@options.inputs_option
@click.option("--budget", multiple=True, metavar="METRIC=X", help="What B may lose against float64, e.g. sqnr=40.")
@click.option("--decode", type=click.IntRange(min=1), metavar="N", help="Decoders: N steps with the cache fed back.")
@click.option("--prefill", metavar="M", help="With --decode: the model that makes the first cache; else it is drawn.")
@click.option("--seed", default=0, show_default=True, help="Of the drawn inputs.")
@click.option("--explain", is_flag=True, help="Say why the inputs are what they are, and the numbers of the gates.")
@click.option("--junit", metavar="F", help="Write the verdict as JUnit XML.")
@click.option("--sarif", metavar="F", help="Write the verdict as SARIF.")
@click.option("--report", metavar="R.html", help="Write everything as one HTML page.")
@options.json_option
def command(
    a: str,
    b: str,
    dim: tuple[str, ...],
    method: Method,
    inputs: str | None,
    budget: tuple[str, ...],
    decode: int | None,
    prefill: str | None,
    seed: int,
    explain: bool,
    junit: str | None,
    sarif: str | None,
    report: str | None,
    as_json: bool,
) -> int:
    """Decide whether models A and B mean the same, whoever made B. Exit code 0 equivalent, 1 different, 3 unknown."""
    first, second = options.model_file(a), options.model_file(b)
    dims = options.dims(dim)
    budgets = options.budgets(budget)
    samples = options.samples(inputs)
    if decode:
        cache = options.model_file(prefill) if prefill else None
        return _decoded(first, second, decode, dims, cache, budgets, seed, as_json)
    with stdout_for(as_json) as emit, progress() as say:
        from porter.check import report as form
        from porter.check.result import check

        say("reading", 0, 0)
        result = check(
            first,
            second,
            dims=dims,
            method=method,
            inputs=samples,
            budgets=budgets,
            explain=explain,
            seed=seed,
            progress=say,
        )
        for path, write in ((junit, form.junit), (sarif, form.sarif)):
            if path:
                options.write_text(path, write(result))
        if report:
            from porter.report import of_check

            say("looking along the graph", 0, 0)
            seen = _along(first, second, dims, result, samples, seed)
            options.write_text(report, of_check(result.json(), seen))
        emit(result.json())
    if not as_json:
        click.echo(form.text(result))
    return int(result.exit_code)


def _along(a: Path, b: Path, dims: dict[str, int], result: Any, samples: Any, seed: int) -> Any:
    """Where the two models part, tensor by tensor, for the page; None where their interfaces differ."""
    from porter.check.result import loaded
    from porter.report.divergence import divergence, sample_of

    if result.cause == "interface":
        return None
    before, after = (loaded(p, dims) for p in (a, b))
    sample = samples if samples is not None else sample_of(before, result.draws[-1] if result.draws else "", seed)
    first = result.first_divergence or next((f for f in result.outputs if not f.ok), None)
    return divergence(before, after, sample, first.tensor if first is not None else "")


def _decoded(
    a: Path, b: Path, steps: int, dims: dict[str, int], prefill: Path | None, budgets: Any, seed: int, as_json: bool
) -> int:
    """`--decode N`: the two models as loops."""
    with stdout_for(as_json) as emit, progress() as report:
        from porter.check import Contract, Kind, rounding
        from porter.check.decode import decode

        report("decoding", 0, 0)
        contract = Contract(Kind.PRECISION, budgets) if budgets else rounding
        result = decode(a, b, steps, dims=dims, prefill=prefill, contract=contract, seed=seed)
        emit({"models": [str(a), str(b)], **result.json()})
    if not as_json:
        click.echo(
            f"{result.verdict} (decode loop)\n" + "\n".join(f"  {x.strip()}" for x in result.message.splitlines())
        )
    return result.exit_code
