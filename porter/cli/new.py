"""`porter new pass|target|device NAME`: a working, tested start.

In a checkout of porter the files go where ours lie; elsewhere they become a project that porter finds once installed.
"""

from __future__ import annotations

import json
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import click

from porter.bundle.folder import writing
from porter.cli import options
from porter.errors import PorterError

if TYPE_CHECKING:
    from porter.device import Device


@click.group("new")
def command() -> None:
    """Scaffold a pass or a target, with its test; or a device of your own, to edit."""


@command.command("pass")
@click.argument("name")
@click.option("-o", "--out", metavar="DIR", help="A project of its own in this folder, even inside a checkout.")
def new_pass(name: str, out: str | None) -> None:
    """A fusion called NAME (gate, or fusion.gate) and its test."""
    package, _, short = (name if "." in name else f"fusion.{name}").rpartition(".")
    for word in (*package.split("."), short):
        _identifier(word, name)
    words = {"Name": _camel(short), "name": short, "where": f"{package}.{short}", "plugin": "", "Kind": "A pass"}
    root = _checkout() if out is None else None
    if root:
        made = {
            root / "passes" / package.replace(".", "/") / f"{short}.py": _fill("pass.py", words),
            root / "tests" / "passes" / "fixtures" / f"{package}.{short}.txt": _fill("pairs", words),
        }
        tests = f"pytest tests/passes -k {short}"
    else:
        project = f"porter-{short.replace('_', '-')}"
        folder, module = Path(out or project), f"porter_{short}"
        words |= {"project": project, "package": module, "group": "passes"}
        words["plugin"] = f'porter_passes = ["{module}"]  # tested as they stand, installed or not\n'
        made = {
            folder / "pyproject.toml": _fill("project.toml", words),
            folder / module / "__init__.py": f'"""Passes for porter: {short}."""\n',
            folder / module / package / "__init__.py": f'"""Passes of the group {package}."""\n',
            folder / module / package / f"{short}.py": _fill("pass.py", words),
            folder / "tests" / f"{package}.{short}.onnxtxt": _fill("pairs", words),
        }
        tests = f"cd {folder} && pytest"
    _write(made)
    click.echo("\n".join([*map(str, made), "", f"try  {tests}"]))


@command.command("target")
@click.argument("name")
@click.option("-o", "--out", metavar="DIR", help="A project of its own in this folder, even inside a checkout.")
def new_target(name: str, out: str | None) -> None:
    """A target called NAME: a copy of toy, the smallest complete one, with its device and a test."""
    _identifier(name, name)
    root = _checkout() if out is None else None
    project, package = f"porter-{name.replace('_', '-')}", f"porter_{name}"
    folder = root or Path(out or project)
    module = f"porter.targets.{name}" if root else f"{package}.{name}"
    into = folder / "targets" / name if root else folder / package / name
    words = {"Name": _camel(name), "name": name, "module": module, "project": project, "package": package}
    words |= {"group": "targets", "Kind": "A target", "plugin": ""}
    made = {into / _renamed(path, name): _renamed(text, name, module) for path, text in _toy()}
    if root:
        made[folder / "tests" / "targets" / name / f"test_{name}.py"] = _fill("test_target.py", words)
    else:
        made[folder / "pyproject.toml"] = _fill("project.toml", words)
        made[folder / package / "__init__.py"] = f'"""Targets for porter: {name}."""\n'
        made[folder / "tests" / f"test_{name}.py"] = _fill("test_target.py", words)
    _write(made)
    tests = f"pytest tests/targets/{name}" if root else f"cd {folder} && pytest"
    click.echo("\n".join([*sorted(map(str, made)), "", f"try  {tests}"]))


@command.command("device")
@click.argument("name")
@click.option("--from", "start", required=True, metavar="DEVICE", help="The device to start from: maia:200, or a file.")
@click.option("-o", "--out", metavar="F", help="The file to write, instead of NAME.toml.")
def new_device(name: str, start: str, out: str | None) -> None:
    """A device file of your own: every figure of DEVICE with its source, to edit."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise PorterError(f"name '{name}'", expected="letters, digits, - and _", hint="maia:200 would be --from")
    path = Path(out or f"{name}.toml")
    device = options.device(start)
    _write({path: _page(device, f"{name}, from {device.title}")})
    click.echo(f"{path}\n\ntry  porter compare MODEL --target {start},{path}")


def _page(device: Device, title: str) -> str:
    """A device as a file that stands alone; it reads back as the same facts."""
    used = {i for f in device.facts.values() for i in f.source}
    lines = [
        f"# Made from {device.name} by `porter new device`. Change the figures that you know, and say where they are from.",
        "# A figure is a table: value, source (ids of [sources]), assumed, derived, note. `unknown` says why there is none.",
        f"family = {_toml(device.family)}",
        f"title = {_toml(title)}",
    ]
    section = ""
    for path, fact in sorted(device.facts.items(), key=lambda f: f[0].rpartition(".")[0]):
        head, _, key = path.rpartition(".")
        if path == "title":
            continue
        if head != section:
            section = head
            lines += ["", f"[{head}]"]
        words = {} if fact.value is None else {"value": fact.value}
        words |= {k: v for k in ("source", "assumed", "derived", "note") if (v := getattr(fact, k))}
        if fact.value is None:
            words["unknown"] = fact.unknown
        plain = words.keys() == {"value"}
        lines.append(f"{key} = {_toml(fact.value) if plain else _toml(words)}")
    lines += ["", "[sources]", *(f"{i} = {_toml(text)}" for i, text in device.sources.items() if i in used)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML says it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
        case tuple() | list():
            return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _toy() -> list[tuple[str, str]]:
    """The files of toy: their paths in its folder, and their texts."""
    folder = Path(str(files("porter.targets") / "toy"))
    kept = (p for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".toml", ".md"))
    return [(p.relative_to(folder).as_posix(), p.read_text(encoding="utf-8")) for p in kept]


def _renamed(text: str, name: str, module: str = "") -> str:
    """Toy's text with another name in it."""
    text = text.replace("porter.targets.toy", module)
    return re.sub(r"\bToy\b", _camel(name), re.sub(r"\btoy\b", name, text))


def _fill(template: str, words: dict[str, str]) -> str:
    text = (files("porter.cli") / "templates" / f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _identifier(word: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", word) or keyword.iskeyword(word):
        raise PorterError(f"name '{name}'", expected="lower case words, as modules are called", hint="fusion.gate")


def _camel(word: str) -> str:
    return "".join(part.capitalize() for part in word.split("_"))


def _checkout() -> Path | None:
    """The checkout of porter that the working directory lies in."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "passes" / "__init__.py").is_file() and (folder / "porter" / "passes").is_symlink():
            return folder
    return None


def _write(made: dict[Path, str]) -> None:
    """All the files, none of which may exist."""
    for path in made:
        if path.exists():
            raise PorterError(f"{path} exists", hint="another name, or another folder with -o")
    for path, text in made.items():
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
