"""Reads a bundle, after verifying that its files are the ones that were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from porter.bundle.folder import MARK
from porter.bundle.manifest import Manifest
from porter.bundle.weights import mapped
from porter.bundle.writer import WEIGHTS, digest
from porter.errors import PorterError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Weights are mapped, not read."""

    path: Path
    manifest: Manifest

    def text(self, file: str) -> str:
        """A file of the bundle as text."""
        return (self.path / file).read_text(encoding="utf-8")

    @cached_property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The weights by buffer name, in the manifest's dtypes and shapes."""
        wanted = {b.name: (b.dtype, b.shape or ()) for b in self.manifest.buffers if b.space == "weight"}
        return mapped(self.path / WEIGHTS, wanted)


def is_bundle(path: str | Path) -> bool:
    """Whether the path is a folder with a manifest."""
    return (Path(path) / MARK).is_file()


def read(path: str | Path, *, verified: bool = True) -> Bundle:
    """The bundle at `path`. Raises PorterError where it is none, or where a file differs from its hash."""
    path = Path(path)
    if not path.is_dir():
        raise PorterError(
            f"{path} is not a bundle", expected="the folder that porter port wrote", hint="porter port MODEL -o DIR"
        )
    if not is_bundle(path):
        inside = sorted(p.parent.name for p in path.glob(f"*/{MARK}"))
        raise PorterError(
            f"{path} is not a bundle",
            expected=f"a folder with {MARK}",
            hint=f"one of the bundles in it: {', '.join(inside)}" if inside else None,
        )
    bundle = Bundle(path, Manifest.from_json((path / MARK).read_bytes(), str(path / MARK)))
    if verified:
        verify(bundle)
    return bundle


def verify(bundle: Bundle) -> int:
    """Recomputes every hash; the number of files. Raises PorterError naming the first that differs."""
    listed = bundle.manifest.files
    found = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()} - {MARK}
    for name in sorted(found - set(listed)):
        raise PorterError(f"{bundle.path / name} is not in the manifest", hint="port again, or remove the file")
    for name, entry in sorted(listed.items()):
        file = bundle.path / name
        if ".." in Path(name).parts or Path(name).is_absolute() or name not in found:
            raise PorterError(f"{file} is in the manifest and not in the bundle", hint="port again")
        if not file.resolve().is_relative_to(bundle.path.resolve()):
            raise PorterError(f"{file} leads out of the bundle", hint="port again")
        sha, size = digest(file)
        if (sha, size) != (entry["sha256"], entry["bytes"]):
            raise PorterError(
                f"{file} is not the file that porter wrote",
                expected=f"sha256 {entry['sha256'][:16]}..., {entry['bytes']} bytes",
                found=f"sha256 {sha[:16]}..., {size} bytes",
                hint="port again, or fetch the bundle again",
            )
    return len(listed)
