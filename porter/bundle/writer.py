"""Writes a bundle: every file hashed as it streams out, the manifest last, the folder renamed into place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from porter.bundle.folder import MARK, staging, writing
from porter.bundle.manifest import Manifest
from porter.bundle.weights import Array, chunks

Content = bytes | str | Path | Iterable[bytes]
WEIGHTS = "weights.safetensors"
_BLOCK = 1 << 20


def write(
    dest: str | Path,
    manifest: Manifest,
    files: Mapping[str, Content],
    weights: Mapping[str, Array],
    force: bool = False,
) -> Path:
    """A bundle at `dest`, whole or not at all; the same arguments give the same bytes.

    files: by their path in the bundle, as bytes, text, chunks of bytes, or a file to copy. weights: by the name of
    their buffer; taken one at a time. Raises PorterError where `dest` exists (and not `force`), or cannot be written.
    """
    dest = Path(dest)
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or name in (MARK, WEIGHTS):
            raise ValueError(f"'{name}' is no place in a bundle")
    with staging(dest, force) as folder, writing(dest):
        listed = {name: _put(folder / name, _stream(content)) for name, content in sorted(files.items())}
        if weights:
            listed[WEIGHTS] = _put(folder / WEIGHTS, chunks(weights))
        (folder / MARK).write_text(replace(manifest, files=listed).to_json(), encoding="utf-8")
    return dest


def digest(path: Path) -> tuple[str, int]:
    """sha256 and size of a file."""
    sha, size = hashlib.sha256(), 0
    with open(path, "rb") as f:
        while block := f.read(_BLOCK):
            sha.update(block)
            size += len(block)
    return sha.hexdigest(), size


def _put(path: Path, stream: Iterable[bytes | memoryview]) -> dict[str, str | int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sha, size = hashlib.sha256(), 0
    with open(path, "wb") as f:
        for block in stream:
            f.write(block)
            sha.update(block)
            size += len(block)
    return {"sha256": sha.hexdigest(), "bytes": size}


def _stream(content: Content) -> Iterator[bytes]:
    if isinstance(content, str):
        yield content.encode()
    elif isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        with open(content, "rb") as f:
            while block := f.read(_BLOCK):
                yield block
    else:
        yield from content
