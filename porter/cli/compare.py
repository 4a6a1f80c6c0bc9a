"""`porter compare MODEL`: one model on many devices: a table for people, JSON for machines, a page for both."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from porter.cli import options
from porter.cli.output import amount, progress, seconds, stdout_for, table
from porter.errors import PorterError

WIDTH = 100  # columns of a terminal that everything fits in


@click.command("compare")
@click.argument("model", nargs=-1, required=True)
@click.option("--target", "target", default="", metavar="T[,T...]|all", help="Devices (gpu:h200), families, or all.")
@click.option("--device-file", multiple=True, metavar="F", help="A device of your own, as a TOML file. Repeatable.")
@options.dim_option
@click.option(
    "--precision", default="fp32", show_default=True, metavar="P", help="fp32, bf16, fp8, fp8w, int8, int8w, int4w, ..."
)
@click.option(
    "--budget", multiple=True, metavar="METRIC=X", help="Exit 1 where it is missed: latency_ms=5, ttft_ms=200, sqnr=30."
)
@click.option(
    "--price", "own", multiple=True, metavar="T=USD", help="Dollars per chip hour: gpu:h200=3.50. Repeatable."
)
@click.option(
    "--phase", type=click.Choice(["prefill", "decode", "both"]), help="Of a decoder: the prompt, a token, a request."
)
@click.option("--batch", type=click.IntRange(1), help="Sequences served at once.")
@click.option("--context", type=click.IntRange(1), help="Tokens of each prompt.")
@click.option("--output", type=click.IntRange(1), help="Tokens of each answer.")
@click.option("--mesh", default="auto", show_default=True, metavar="N|auto", help="Chips that the model is split over.")
@click.option("--quick", is_flag=True, help="Only estimate: run no kernel, compute no error.")
@click.option(
    "--weights",
    type=click.Choice(["data", "shapes"]),
    default="data",
    help="shapes: external weights need not be there; nothing is run.",
)
@options.inputs_option
@click.option("--no-cache", is_flag=True, help="Check everything again.")
@click.option("--baseline", metavar="F", help="A document of --json from before: say what changed.")
@click.option("--matrix", "matrix_file", metavar="F", help="Write layers by devices, as CSV or JSON by its ending.")
@click.option("--junit", metavar="F", help="Write the verdicts as JUnit XML.")
@click.option("--sarif", metavar="F", help="Write the verdicts as SARIF.")
@click.option("--report", metavar="R.html", help="Write everything as one HTML page.")
@options.json_option
def command(
    model: tuple[str, ...],
    target: str,
    device_file: tuple[str, ...],
    dim: tuple[str, ...],
    precision: str,
    budget: tuple[str, ...],
    own: tuple[str, ...],
    phase: str | None,
    batch: int | None,
    context: int | None,
    output: int | None,
    mesh: str,
    quick: bool,
    weights: str,
    inputs: str | None,
    no_cache: bool,
    baseline: str | None,
    matrix_file: str | None,
    junit: str | None,
    sarif: str | None,
    report: str | None,
    as_json: bool,
) -> int:
    """Compare MODEL on devices: what runs, memory, latency, cost and error. A decoder may be two graphs, prompt and step."""
    devices = options.targets(target, device_file)
    paths = [p for name in model for p in _models(name)]
    dims = options.dims(dim)
    chips = _chips(mesh)
    samples = options.samples(inputs)
    with stdout_for(as_json) as emit, progress() as tell:
        from porter import graph
        from porter.compare import budget as limits
        from porter.compare import matrix, serving, verdicts
        from porter.compare import price as prices
        from porter.compare.comparing import compare

        bounds, errors = limits.read(budget)
        request = None
        if phase or batch or context or output:
            base = serving.Request()
            request = serving.Request(
                phase or ("both" if len(paths) > 1 else serving.phase_of(graph.read(paths[0], weights=False))),
                batch or base.batch,
                context or base.context,
                output or base.output,
            )
        result = compare(
            paths,
            targets=devices,
            dims=dims,
            precision=precision,
            budgets=errors,
            limits=bounds,
            prices=prices.given(own),
            request=request,
            chips=chips,
            quick=quick,
            weights=weights == "data",
            inputs=samples,
            baseline=baseline,
            cache=not no_cache,
            progress=tell,
        )
        document = result.to_json()
        if matrix_file:
            cells = document["matrix"]
            options.write_text(
                matrix_file,
                json.dumps(cells, indent=1) + "\n" if matrix_file.endswith(".json") else matrix.table(cells),
            )
        for path, form in ((junit, verdicts.junit), (sarif, verdicts.sarif)):
            if path:
                options.write_text(path, form(document))
        if report:
            from porter import report as page

            options.write_text(report, page.of_comparison(result))
        emit(document)
    if not as_json:
        click.echo(show(document))
    for t in document["targets"]:
        for line in t["missed"]:
            click.echo(f"{t['target']}: {line}", err=True)
    return result.exit_code


def _models(name: str) -> list[Path]:
    """A model's file; of a folder with a decoder's two graphs, both."""
    folder = Path(name)
    pair = [folder / "prefill.onnx", folder / "decode.onnx"]
    return pair if folder.is_dir() and all(p.is_file() for p in pair) else [options.model_file(name)]


def _chips(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise PorterError(f"--mesh {text}", expected="auto, or a number of chips")
    return int(text)


def show(document: dict[str, Any]) -> str:
    """The decision for people, within 100 columns: best values marked *, dominated choices dimmed and named below."""
    tokens = any(t["tokens_per_s"] is not None for t in document["targets"])
    head = (
        "target",
        "product",
        "chip",
        "memory",
        "latency",
        "bound",
        "tok/s" if tokens else "runs/s",
        "$/M tok" if tokens else "$/k run",
        "dB",
        "kernels",
        "checks",
    )
    lines = table([_line(t, tokens) for t in document["targets"]], head, right=(2, 3, 4, 6, 7, 8, 9, 10)).splitlines()
    for i, t in enumerate(document["targets"]):
        if t["dominated_by"] or not t["runs"]:
            lines[i + 2] = click.style(lines[i + 2], dim=True)
    parts = [_title(document), "\n".join(lines)]
    said = [
        f"{t['target']}: {'' if t['runs'] else 'does not run: '}{t['why']}" for t in document["targets"] if t["why"]
    ]
    if dominated := [f"{t['target']} by {t['dominated_by']}" for t in document["targets"] if t["dominated_by"]]:
        said.append(f"dominated (nowhere better, somewhere worse): {', '.join(dominated)}")
    parts.append(
        "\n".join(
            fill(line, WIDTH, subsequent_indent="  ")
            for line in [
                "* best of its column; bf16+: and other products; dB: signal to error; kernels: distinct + host",
                *said,
            ]
        )
    )
    if any(t["serving"] for t in document["targets"]):
        parts.append(_serving(document))
    if document["changes"]:
        rows = [
            (c["target"], c["figure"], _figure(c["before"]), _figure(c["after"]), "worse" if c["worse"] else "")
            for c in document["changes"]
        ]
        parts.append("since the baseline\n" + table(rows, ("target", "figure", "before", "now", "")))
    parts.append(
        "\n".join(fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in document["hangs_on"])
    )
    return "\n\n".join(parts)


def _title(document: dict[str, Any]) -> str:
    dims = ", ".join(f"{k}={v}" for k, v in document["dims"].items())
    r = document["request"]
    served = (
        f"; batch {r['batch']}, prompt {r['context']}, answer {r['output']}"
        if r and document["phase"] == "both"
        else ""
    )
    phase = f", {document['phase']}" if document["phase"] else ""
    if document["proposed"] and r:
        dims += f"  (proposed: {', '.join(document['proposed'])}; --dim, --batch, --context, --output change that)"
    return f"{document['model']}  {document['precision']}{phase}{served}\n{fill(dims, WIDTH)}".rstrip()


def _line(t: dict[str, Any], tokens: bool) -> tuple[str, ...]:
    def mark(path: str, text: str) -> str:
        return f"*{text}" if path in t["best"] else text

    rate, cost = ("tokens_per_s", "usd_per_million_tokens") if tokens else ("per_second", "usd_per_thousand_runs")
    first, _, others = t["precision"].partition(", ")
    error = f"{t['error']['sqnr_db']:.0f}" if t["error"] else "-"
    return (
        t["target"],
        first + ("+" if others else ""),
        mark("chips", str(t["chips"])),
        mark("memory.chip_bytes", amount(t["memory"]["chip_bytes"], "B")),
        mark("latency_s", seconds(t["latency_s"])),
        t["bound"] or "-",
        mark(rate, amount(t[rate])),
        mark(cost, "-" if t[cost] is None else f"{t[cost]:.3g}"),
        mark("error.sqnr_db", error),
        f"{t['kernels']['unique']}+{len(t['host'])}",
        f"{t['checks']['passed']}/{t['checks']['made']}",
    )


def _serving(document: dict[str, Any]) -> str:
    rows = []
    for t in document["targets"]:
        if (s := t["serving"]) is not None:
            most = "-" if s["largest_batch"] is None else str(s["largest_batch"])
            end, size = s["kv_growth"][1]
            cache = f"{amount(s['kv_bytes_per_token'], 'B')}, {amount(size, 'B')} at {end}"
            rows.append(
                (
                    t["target"],
                    seconds(s["ttft_s"]),
                    seconds(s["tpot_s"]),
                    s["batch"],
                    most,
                    amount(s["tokens_per_s_per_chip"]),
                    amount(s["tokens_per_usd"]),
                    cache,
                )
            )
    head = ("served", "first token", "per token", "batch", "within", "tok/s chip", "tok/$", "cache a token, in all")
    return table(rows, head, right=(1, 2, 3, 4, 5, 6))


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
