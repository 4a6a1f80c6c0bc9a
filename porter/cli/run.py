"""`porter run BUNDLE --inputs X.npz [-o Y.npz]`: the bundle's own kernels on the user's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from porter.cli.options import json_option
from porter.cli.output import progress, stdout_for, table


@click.command("run")
@click.argument("bundle")
@click.option("--inputs", metavar="X.npz", required=True, help="The inputs, by name.")
@click.option("-o", "--output", metavar="Y.npz", help="Write the outputs there.")
@json_option
def command(bundle: str, inputs: str, output: str | None, as_json: bool) -> None:
    """Run a bundle on inputs: on its device if there is one here, else simulated; says which.

    The bundle's hashes are verified first.
    """
    from porter.bundle import check_inputs, read, read_inputs, verify
    from porter.bundle import run as run_bundle

    with stdout_for(as_json) as emit:
        opened = read(bundle, verified=False)
        verified = verify(opened)
        given = check_inputs(read_inputs(inputs), opened.manifest.inputs)
        with progress() as report:
            outputs, how = run_bundle(opened, given, report)
        if output:
            _save(Path(output), outputs)
        shown = {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in outputs.items()}
        emit(
            {
                "bundle": bundle,
                "target": opened.manifest.target,
                "on": how.on,
                "launches": how.launches,
                "kernels": how.kernels,
                "host": how.host,
                "verified_files": verified,
                "outputs": shown,
                "written": output,
            }
        )
        if not as_json:
            click.echo(f"{bundle}: {verified} files verified")
            click.echo(f"{how.on}; {how.launches} launches of {how.kernels} kernels, {how.host} on the host")
            click.echo(table([(n, f"{o['dtype']}{o['shape']}") for n, o in shown.items()]))
            if output:
                click.echo(f"wrote {output}")


def _save(path: Path, outputs: dict[str, Any]) -> None:
    """The outputs as .npz, whole or not at all."""
    import numpy as np

    from porter.bundle.folder import writing

    part = path.with_name(f".{path.name}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as f:
                np.savez(f, **outputs)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
