"""Finds and reads device files: `<package of targets>/<family>/devices/<device>.toml`.

A file may say `like = "h100"`: it then has every fact of that device but for the ones it states, its title, its price
and its remarks. The packages are those that the entry point group `porter.targets` names; ours is always among them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from porter.device.device import Device, Fact
from porter.errors import PorterError

_OURS = "porter.targets"
_DEFAULTS = ("source", "assumed")  # at the head of a section, for each figure below it
_FACT = frozenset(("value", "source", "assumed", "derived", "note", "unknown"))
_OWN = ("title", "price.", "remarks.")  # never inherited by `like`
_FLAGS = ("like", "default", "teaching", "family", "sources")


@cache
def _packages() -> Mapping[str, str]:
    """Family name to the package of its target."""
    from importlib.metadata import entry_points

    packages = [_OURS] + [e.value for e in entry_points(group="porter.targets") if e.value != _OURS]
    found: dict[str, str] = {}
    for package in packages:
        for folder in sorted(_root(package).glob("*/devices")):
            found.setdefault(folder.parent.name, f"{package}.{folder.parent.name}")
    return found


def _root(package: str) -> Path:
    """The folder of a package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PorterError(f"the entry point group porter.targets names '{package}'", found="no such package")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _folders() -> Mapping[str, Path]:
    """Family name to its folder of device files."""
    return {f: _root(p.rpartition(".")[0]) / f / "devices" for f, p in _packages().items()}


def package(family: str) -> str:
    """The import name of a family's target: 'porter.targets.gpu'. Raises PorterError for an unknown family."""
    if family not in _packages():
        raise _unknown(family)
    return _packages()[family]


def families() -> tuple[str, ...]:
    """The families that have device files: ('gpu', 'maia', ...)."""
    return tuple(_folders())


def devices(family: str | None = None) -> tuple[str, ...]:
    """The names of all devices, or of one family's: ('gpu:b200', ...)."""
    chosen = [family] if family else list(families())
    return tuple(f"{f}:{p.stem}" for f in chosen for p in sorted(_folders()[f].glob("*.toml")))


def default_device(family: str) -> str:
    """What a bare family name means: the device whose file says `default = true`."""
    for name in devices(family):
        if load_device(name).default:
            return name
    raise PorterError(f"no device of family '{family}' says `default = true`", hint=", ".join(devices(family)))


def default_devices() -> tuple[str, ...]:
    """What `--target all` means: the default of each of porter's own families, those for teaching left out."""
    names = [default_device(f) for f, p in _packages().items() if p == f"{_OURS}.{f}"]
    order = {"gpu": 0, "tpu": 1, "trainium": 2, "maia": 3}
    return tuple(sorted((n for n in names if not load_device(n).teaching), key=lambda n: order.get(n.split(":")[0], 9)))


@cache
def load_device(name: str) -> Device:
    """The device of that name; a bare family is its default. Raises PorterError with the nearest names."""
    family, _, stem = name.partition(":")
    if family not in _folders():
        raise _unknown(name)
    if not stem:
        return load_device(default_device(family))
    path = _folders()[family] / f"{stem}.toml"
    if stem != path.stem or not path.is_file():
        raise _unknown(name)
    return _read(path, family)


def load_file(path: str | Path, family: str = "") -> Device:
    """A device file from anywhere. It says which family it belongs to: `family = "gpu"`, or `like = "gpu:h200"`.

    A target that is not installed yet may give its family here. Raises PorterError where the file is no device's.
    """
    path = Path(path)
    if family:
        return _read(path, family)
    table = _parse(path)
    like = str(table.get("like", ""))
    family = str(table.get("family", like.partition(":")[0] if ":" in like else ""))
    if family not in _folders():
        raise PorterError(
            f"device file {path}: which family?",
            expected='family = "gpu", or like = "gpu:h200"',
            found=f"family '{family}'" if family else "neither",
            hint=", ".join(families()),
        )
    return _read(path, family)


def _unknown(name: str) -> PorterError:
    from difflib import get_close_matches

    known = [*families(), *devices()]
    ending = [n for n in devices() if n.endswith(":" + name)]
    near = ending or get_close_matches(name, known, n=3, cutoff=0.4)
    return PorterError(
        f"no target is called '{name}'",
        expected="a family, family:device, or all",
        hint=f"one of: {', '.join(near)}" if near else "porter targets",
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise PorterError(f"cannot read device file {path}", found=e.strerror or str(e)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise PorterError(f"device file {path} is not TOML", found=str(e)) from None


def _read(path: Path, family: str) -> Device:
    table = _parse(path)
    facts: dict[str, Fact] = {}
    sources: dict[str, str] = {}
    if "like" in table:
        parent = load_device(table["like"] if ":" in table["like"] else f"{family}:{table['like']}")
        facts |= {p: f for p, f in parent.facts.items() if not p.startswith(_OWN)}
        sources |= parent.sources
    sources |= table.get("sources", {})
    own: dict[str, Fact] = {}
    _collect({k: v for k, v in table.items() if k not in _FLAGS}, "", Fact(), own, path)
    for where, fact in own.items():
        for i in fact.source:
            if i not in sources:
                raise PorterError(f"device file {path}: '{where}' names source '{i}'", expected="an id of [sources]")
    facts |= own
    return Device(
        name=f"{family}:{path.stem}",
        facts=facts,
        sources=sources,
        default=table.get("default", False),
        teaching=table.get("teaching", False),
    )


def _collect(table: dict[str, Any], prefix: str, inherited: Fact, into: dict[str, Fact], path: Path) -> None:
    """Flatten nested tables to dotted facts; a section's own `source` and `assumed` go to its figures."""
    if prefix and any(k in table for k in _DEFAULTS):
        inherited = Fact(source=_ids(table.get("source", ())), assumed=_reason(table.get("assumed", "")))
    for key, entry in table.items():
        where = prefix + key
        if prefix and key in _DEFAULTS:
            continue
        if not isinstance(entry, dict):
            into[where] = Fact(_frozen(entry), inherited.source, inherited.assumed)
        elif "value" in entry or "unknown" in entry:
            if extra := set(entry) - _FACT:
                raise PorterError(
                    f"device file {path}: '{where}' has '{min(extra)}'", expected=", ".join(sorted(_FACT))
                )
            said = "source" in entry or "assumed" in entry or "derived" in entry
            into[where] = Fact(
                value=_frozen(entry.get("value")),
                source=_ids(entry.get("source", () if said or "unknown" in entry else inherited.source)),
                assumed=_reason(entry.get("assumed", "" if said or "unknown" in entry else inherited.assumed)),
                derived=_reason(entry.get("derived", "")),
                note=entry.get("note", ""),
                unknown=entry.get("unknown", ""),
            )
        else:
            _collect(entry, where + ".", inherited, into, path)


def _ids(source: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else tuple(source)


def _reason(text: str | bool) -> str:
    return ("nothing public found" if text else "") if isinstance(text, bool) else text


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
