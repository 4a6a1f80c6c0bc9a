"""Folders that appear whole or not at all: written beside their destination, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from porter.errors import PorterError

MARK = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def writing(where: str | Path) -> Iterator[None]:
    """Turns an OSError of the body into a PorterError that names the place."""
    try:
        yield
    except OSError as e:
        hint = "free some space, or write to another disk" if e.errno in _FULL else "another place, with -o"
        raise PorterError(f"cannot write {where}", found=e.strerror or str(e), hint=hint) from None


@contextlib.contextmanager
def staging(dest: str | Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `dest` when the body ends well and disappears when it does not.

    Makes the parents of `dest`, and takes away again those it made. An existing `dest` needs `force`, and then must be
    empty or something porter wrote: porter deletes nothing else. Raises PorterError before any work is done.
    """
    dest = Path(dest)
    available(dest, force)
    made = _parents(dest)
    _sweep(dest)
    folder = dest.with_name(f".{dest.name}.porter-{os.getpid()}")
    try:
        with writing(dest):
            folder.mkdir()
        yield folder
        with writing(dest):
            _swap(folder, dest)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def available(dest: str | Path, force: bool = False) -> None:
    """Raises PorterError where `staging` would: before long work, and without making anything."""
    dest = Path(dest)
    if os.path.lexists(dest):
        refuse(dest, force)
    parent = dest.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    with writing(dest):
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def refuse(dest: Path, force: bool) -> None:
    """Raises PorterError unless `force` may replace what is there."""
    if not force:
        raise PorterError(f"{dest} exists", hint="--force to replace it, or another folder with -o")
    if not dest.is_dir() or dest.is_symlink():
        raise PorterError(f"{dest} is not a folder that porter wrote", hint="another folder with -o")
    inside = list(dest.iterdir())
    ours = (dest / MARK).is_file() or (inside and all((p / MARK).is_file() for p in inside))
    if inside and not ours:
        raise PorterError(
            f"{dest} holds files that porter did not write",
            expected="a bundle, a folder of bundles, or an empty folder",
            hint="another folder with -o",
        )


def _parents(dest: Path) -> list[Path]:
    """Makes the missing parents; returns them, innermost first."""
    missing = []
    parent = dest.absolute().parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    done: list[Path] = []
    try:
        with writing(dest):
            for p in reversed(missing):
                p.mkdir()
                done.insert(0, p)
    except PorterError:
        for p in done:
            with contextlib.suppress(OSError):
                p.rmdir()
        raise
    return done


def _swap(folder: Path, dest: Path) -> None:
    """folder becomes dest; what was there goes away only once its successor stands."""
    old = folder.with_name(folder.name + "-old")
    replaced = os.path.lexists(dest)
    if replaced:
        os.rename(dest, old)
    try:
        os.rename(folder, dest)
    except BaseException:
        if replaced:
            os.rename(old, dest)
        raise
    if replaced:
        shutil.rmtree(old, ignore_errors=True)


def _sweep(dest: Path) -> None:
    """Removes what a killed run left beside this destination; a running one is left alone."""
    for left in dest.absolute().parent.glob(f".{dest.name}.porter-*"):
        pid = left.name.rpartition("porter-")[2].removesuffix("-old")
        if not pid.isdigit() or _alive(int(pid)):
            continue
        if left.name.endswith("-old") and not os.path.lexists(dest):
            os.rename(left, dest)  # killed between the two renames: the old bundle is still the bundle
            continue
        shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
