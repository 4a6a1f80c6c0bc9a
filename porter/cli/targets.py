"""`porter targets [NAME]`: the devices there are; of one, every fact and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from porter.cli import options
from porter.cli.output import amount, stdout_for, table

if TYPE_CHECKING:
    from porter.device import Device

_SHORT = 48  # characters of a value that its column is made for; longer ones push their origin to the right


@click.command("targets")
@click.argument("name", required=False)
@click.option("--device-file", metavar="F", help="A device file of your own instead of NAME.")
@options.json_option
def command(name: str | None, device_file: str | None, as_json: bool) -> None:
    """List devices, or the facts about one (family:device, a family, or a device's file) and their sources."""
    from porter.device import devices, load_device, load_file

    with stdout_for(as_json) as emit:
        if device_file or name:
            device = load_file(device_file) if device_file else options.device(str(name))
            emit(device.document())
            if not as_json:
                click.echo(_page(device))
            return
        found = [load_device(n) for n in devices()]
        emit([{"name": d.name, "title": d.title, "default": d.default} for d in found])
        if not as_json:
            click.echo(_list(found))


def _list(found: list[Device]) -> str:
    rows = [
        (
            d.name + ("*" if d.default else ""),
            d.title,
            amount(d.get("peak.bf16"), "op/s"),
            amount(d.get("peak.fp8"), "op/s"),
            amount(d.get("memory.hbm.bytes"), "B"),
            amount(d.get("memory.hbm.bytes_per_s"), "B/s"),
            f"{p:.2f}" if (p := d.get("price.usd_per_hour")) else "-",
        )
        for d in found
    ]
    head = ("name", "device", "bf16", "fp8", "memory", "bandwidth", "$/h")
    note = "* what the bare family name means. Sources and assumptions: porter targets NAME"
    return f"{table(rows, head, right=(2, 3, 4, 5, 6))}\n\n{note}"


def _page(device: Device) -> str:
    shown = {p: f"none: {f.unknown}" if f.value is None else _text(f.value) for p, f in device.facts.items()}
    paths = max(map(len, shown))
    values = max((len(v) for v in shown.values() if len(v) <= _SHORT), default=0)
    rows = [f"{p:{paths}}  {v:{values}}  {device.facts[p].origin()}".rstrip() for p, v in shown.items()]
    used = {i for f in device.facts.values() for i in f.source}
    sources = [(i, text) for i, text in device.sources.items() if i in used]
    return "\n".join([f"{device.name}  {device.title}", "", *rows, "", table(sources)])


def _text(value: Any) -> str:
    match value:
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}".replace(",", "_") if value >= 100_000 else str(value)
        case float():
            return f"{value:.6g}"
        case tuple():
            return ", ".join(_text(v) for v in value)
    return str(value)
