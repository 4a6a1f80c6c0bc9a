"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porter.errors import PorterError

if TYPE_CHECKING:
    import numpy as np

    from porter.check import Budget
    from porter.device import Device


def dims(values: Sequence[str]) -> dict[str, int]:
    """--dim NAME=N, as a mapping. Raises PorterError for what is no such pair."""
    found: dict[str, int] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        if not name or not number.strip().isdecimal() or int(number) < 1:
            raise PorterError(f"--dim {text}", expected="NAME=N with N a positive integer", hint="--dim batch=1")
        if found.setdefault(name.strip(), int(number)) != int(number):
            raise PorterError(f"--dim {name} is given twice", found=f"{found[name.strip()]} and {number}")
    return found


def budgets(values: Sequence[str]) -> tuple[Budget, ...]:
    """--budget METRIC=X, or OUTPUT:METRIC=X, as budgets. Raises PorterError for what is none."""
    from porter import check

    return check.budgets(values)


def device(name: str) -> Device:
    """A device by its name, or by the path of its file. Raises PorterError for an unknown name."""
    from porter.device import load_device, load_file

    return load_file(name) if name.endswith(".toml") else load_device(name)


def targets(text: str, files: Sequence[str] = ()) -> list[Device]:
    """--target T[,T...]|all and --device-file, as devices in the order given; a T may be a device's file.

    Raises PorterError for unknown names.
    """
    from porter.device import default_devices, load_file

    names = [t.strip() for t in text.split(",") if t.strip()]
    each = [n for name in names for n in (default_devices() if name == "all" else (name,))]
    devices = [device(n) for n in each]
    devices += [load_file(f) for f in files]
    if not devices:
        raise PorterError(
            "no target", expected="--target T[,T...], --target all or --device-file F", hint="porter targets"
        )
    return list({d.name: d for d in devices}.values())


def model_file(path: str) -> Path:
    """The model's path. Raises PorterError where there is no such file."""
    found = Path(path)
    if not found.is_file():
        kind = "a folder" if found.is_dir() else "no such file"
        inside = sorted(found.glob("*.onnx")) if found.is_dir() else sorted(found.absolute().parent.glob("*.onnx"))
        raise PorterError(
            f"model {path}", expected="an .onnx file", found=kind, hint=str(inside[0]) if len(inside) == 1 else None
        )
    return found


def write_text(path: str, text: str) -> None:
    """A file of the user's choice, parents made; one that cannot be written is a PorterError."""
    from porter.bundle.folder import writing

    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def document(path: str) -> Any:
    """A document of --json from before. Raises PorterError for what is none."""
    import json

    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PorterError(f"baseline {path}", expected="a document of --json", found=str(error)) from None


def samples(path: str | None) -> dict[str, np.ndarray] | None:
    """--inputs, read; None where it was not given."""
    from porter.bundle import read_inputs

    return read_inputs(path) if path else None


def inputs_option(f: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--inputs", metavar="X.npz", help="Check on these inputs, by name, instead of drawn ones.")(f)


def dim_option(f: Callable[..., Any]) -> Callable[..., Any]:
    text = "Bind a free dim: batch=1, or 'input[1]=512' where it has no name. Repeatable."
    return click.option("--dim", "dim", metavar="NAME=N", multiple=True, help=text)(f)


def json_option(f: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else.")(f)
