"""`porter port MODEL --target T -o DIR`: the whole way, with a table of steps, kernels and estimates at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from porter.bundle import available
from porter.cli import options
from porter.cli.output import amount, progress, seconds, stdout_for, table


@click.command("port")
@click.argument("model")
@click.option("--target", "target", default="", metavar="T[,T...]|all", help="Devices (gpu:h200), families, or all.")
@click.option("--device-file", multiple=True, metavar="F", help="A device of your own, as a TOML file. Repeatable.")
@click.option(
    "-o", "--out", required=True, metavar="DIR", help="The bundle; with several targets, a folder of bundles."
)
@options.dim_option
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="P",
    help="fp32, bf16, fp8, int8, int8w, fp8w, ..., auto, or a contract's .toml.",
)
@click.option(
    "--budget", multiple=True, metavar="METRIC=X", help="Exit 1 where it is missed: sqnr=30, latency_ms=5, memory_gb=8."
)
@click.option(
    "--price", "own", multiple=True, metavar="T=USD", help="Dollars per chip hour: gpu:h200=3.50. Repeatable."
)
@options.inputs_option
@click.option("--calibrate", default="", metavar="X.npz|DIR", help="Samples from which activation ranges come.")
@click.option(
    "--methods",
    default="",
    metavar="K=V,...",
    help="How: rounding=gptq, clip=mse, smooth=awq|smoothquant, ranges=minmax|percentile|mse|entropy, alpha=0.5; "
    "a decoder's cache: cache=fp8|mxfp8|mxfp4|nvfp4, per=head|channel.",
)
@click.option("--emulate", is_flag=True, help="Run the end-to-end check through the emitted text; slower.")
@click.option("--save-steps", is_flag=True, help="Keep the model after each pass, as ONNX.")
@click.option("--no-cache", is_flag=True, help="Derive everything anew.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--baseline", metavar="F", help="A document of --json from before: say what changed.")
@click.option("--junit", metavar="F", help="Write the verdicts as JUnit XML.")
@click.option("--sarif", metavar="F", help="Write the verdicts as SARIF.")
@click.option("--report", metavar="R.html", help="Write everything as one HTML page.")
@options.json_option
def command(
    model: str,
    target: str,
    device_file: tuple[str, ...],
    out: str,
    dim: tuple[str, ...],
    precision: str,
    budget: tuple[str, ...],
    own: tuple[str, ...],
    inputs: str | None,
    calibrate: str,
    methods: str,
    emulate: bool,
    save_steps: bool,
    no_cache: bool,
    force: bool,
    baseline: str | None,
    junit: str | None,
    sarif: str | None,
    report: str | None,
    as_json: bool,
) -> int:
    """Port MODEL to one or more targets; every step is checked against its contract, the program end to end."""
    from porter.compare import ported
    from porter.compare.budget import read as limits_of
    from porter.compare.price import given

    devices = options.targets(target, device_file)
    path = options.model_file(model)
    dims = options.dims(dim)
    limits, budgets = limits_of(budget)
    prices = given(own)
    before = ported.known(options.document(baseline)) if baseline else None
    samples = options.samples(inputs)
    available(out, force)
    with stdout_for(as_json) as emit, progress() as say:
        from porter.check import forms
        from porter.compare.budget import missed
        from porter.porting.port import port  # loads the compilers' libraries, which may print

        result = port(
            path,
            targets=devices,
            out=Path(out),
            dims=dims,
            precision=precision,
            budgets=budgets,
            inputs=samples,
            calibrate=calibrate,
            methods=methods,
            emulate=emulate,
            save_steps=save_steps,
            force=force,
            cache=not no_cache,
            progress=say,
            details=bool(report),
        )
        document = result.to_json()
        for t, device in zip(document["targets"], devices, strict=True):
            t["figures"] = ported.figures(t, device, prices)
            t["missed"] = missed(t["figures"], limits)
        if before is not None:
            document["changes"] = ported.changes(before, document)
        cases = ported.cases(document)
        for at, text in (
            (junit, lambda: forms.junit(f"porter port {path}", "porter.port", cases)),
            (sarif, lambda: forms.sarif(cases)),
        ):
            if at:
                options.write_text(at, text())
        if report:
            from porter.report import of_port

            options.write_text(report, of_port(document, result))
        emit(document)
    if not as_json:
        click.echo(show(document))
    for t in document["targets"]:
        if t.get("message"):
            click.echo(t["message"], err=True)
        if t.get("unchecked"):
            click.echo(f"{t['target']}: not checked: {t['unchecked']}", err=True)
        for line in t["missed"]:
            click.echo(f"{t['target']}: {line}", err=True)
    return 1 if any(t["missed"] for t in document["targets"]) else int(result.exit_code)


def show(document: dict[str, Any]) -> str:
    """The report for people: per target one line of the port, and below it the steps that did not pass."""
    rows, below, searched = [], [], []
    for t in document["targets"]:
        k, e, estimate, tool = t.get("kernels"), t.get("end_to_end"), t.get("estimate"), t.get("toolchain")
        rows.append(
            (
                t["target"],
                t["status"],
                f"{k['checked']}/{k['unique']} of {k['calls']} calls" if k else "-",
                ", ".join(f"{n} {c}" for n, c in k["languages"].items()) if k else "-",
                k["host"] if k else "-",
                f"{e['sqnr_db']:.0f} dB ({e['executor']})" if e else "-",
                f"{tool['compiled']} by {tool['name']} {tool['version']}" if tool else "-",
                f"{seconds(estimate['latency_s'])}, {estimate['bound']} ({estimate['origin']})" if estimate else "-",
            )
        )
        if (s := t.get("search")) is not None:
            reached = (e or {}).get("budgets", s["reached"])
            kept = ", ".join(f"{n} {v:.4g}" for n, v in reached.items())
            schemes = ", ".join(f"{n} {c}" if n != "default" else str(c) for n, c in s["schemes"].items())
            times = (seconds(s[k]) for k in ("predicted_s", "bf16_s", "bound_s"))
            searched.append((t["target"], *times, kept, schemes))
        for step in t.get("steps", ()):
            if step["status"] != "ok":
                metric = ", ".join(f"{n} {amount(v) if isinstance(v, float) else v}" for n, v in step["metric"].items())
                below.append(f"{t['target']}: {step['name']} ({step['contract']}) {step['status']}: {metric}")
        for op, why in (k["host_ops"] if k else {}).items():
            below.append(f"{t['target']}: {op} runs on the host: {why}")
        if t.get("bundle"):
            below.append(f"{t['target']}: {t['bundle']}")
        if t["target"].startswith("maia"):
            below.append(f"{t['target']}: Maia-like model, assumed parameters")
    head = ("target", "status", "kernels checked", "languages", "host", "end to end", "toolchain", "estimated latency")
    parts = [table(rows, head)]
    if searched:
        titles = ("target", "layers predicted", "in bf16", "lower bound", "reached", "formats")
        parts.append(table(searched, titles))
    parts.append("\n".join(below))
    if document.get("changes"):
        changed = [
            (c["target"], c["figure"], *(f"{v:.4g}" if isinstance(v, float) else v for v in (c["before"], c["after"])),
             "worse" if c["worse"] else "")
            for c in document["changes"]
        ]  # fmt: skip
        parts.append("since the baseline\n" + table(changed, ("target", "figure", "before", "now", "")))
    return "\n\n".join(filter(None, parts))
