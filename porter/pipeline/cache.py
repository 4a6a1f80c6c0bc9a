"""Results kept between runs, by content, under a size cap: the verdict on a region is paid for once.

    cache = Cache.open("verdicts")
    cache.get(key), cache.put(key, data)

A key is a hash of everything that the result depends on; `sources` hashes porter's own code and the versions of the
libraries that compute. What is damaged is computed again, what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: bytes that one kind of result may take; the least recently used are dropped beyond it
CAP = 64 << 20
#: how far below the cap a clean-up goes, so that it is not needed at every write
KEEP = 0.75


@dataclass(frozen=True)
class Cache:
    """A folder of small JSON documents by key. `folder` None keeps nothing."""

    folder: Path | None
    cap: int = CAP

    @staticmethod
    def open(kind: str, *, no_cache: bool = False) -> Cache:
        """The folder of one kind of result: $XDG_CACHE_HOME/porter/KIND, by default under ~/.cache."""
        if no_cache:
            return Cache(None)
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return Cache(Path(home) / "porter" / kind)

    def get(self, key: str) -> Any | None:
        """What was kept under the key, or None."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}.json"
        try:
            found = json.loads(path.read_bytes())
            os.utime(path)
        except (OSError, ValueError):
            return None
        return found

    def put(self, key: str, document: Any) -> None:
        """Keeps a document, in one step, so that a reader never sees half of it."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".part", delete=False) as part:
                json.dump(document, part)
            os.replace(part.name, self.folder / f"{key}.json")
        except OSError:
            return

    def trim(self) -> None:
        """Drops the least recently used until the folder is well under its cap."""
        if self.folder is None or not self.folder.is_dir():
            return
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob("*.json"))
        total = sum(size for _, size, _ in files)
        if total <= self.cap:
            return
        for _, size, path in files:
            path.unlink(missing_ok=True)
            total -= size
            if total <= self.cap * KEEP:
                return


def key(*parts: object) -> str:
    """A hash of the parts and of the code that turns them into a result."""
    return hashlib.sha256("\0".join([sources(), *map(str, parts)]).encode()).hexdigest()


@cache
def sources() -> str:
    """A hash of porter's modules and passes, and of the libraries they compute with."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    folders = [root / name for name in ("formats", "graph", "ops", "check", "rewrite", "pipeline", "passes")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}".encode() + path.read_bytes())
    for name in ("numpy", "onnx", "onnx-ir", "ml-dtypes", "jax"):
        try:
            digest.update(f"{name}{version(name)}".encode())
        except PackageNotFoundError:
            digest.update(name.encode())
    return digest.hexdigest()
