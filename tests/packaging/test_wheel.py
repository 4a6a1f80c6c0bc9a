"""What users install: sdist and wheel hold the passes, the targets and their device files behind the two links."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "targets").glob("*/devices/*.toml"))


def run(*args: object, **kwargs) -> str:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # it would bring the checkout back
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, check=False, env=env, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """sdist, and the wheel made from the sdist, of the files that git knows; the checkout itself is not touched."""
    pytest.importorskip("build", reason="the package `build` is not installed")
    copy = tmp_path_factory.mktemp("copy")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        source, into = ROOT / name, copy / name
        into.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            into.symlink_to(os.readlink(source))
        elif source.is_file():
            into.write_bytes(source.read_bytes())
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", dist, copy)
    return dist


def test_both_distributions_hold_everything(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        source = {n.partition("/")[2] for n in sdist.getnames()}
    for name in DATA:
        assert f"porter/{name}" in names and f"porter/{name}" in source
    for module in (ROOT / "passes").rglob("*.py"):
        assert f"porter/{module.relative_to(ROOT).as_posix()}" in names
    assert not {n for n in names if n.startswith(("tests", "demo", "passes", "targets", "bench"))}


def test_the_installed_wheel_works_away_from_the_checkout(built, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", next(built.glob("*.whl")))
    # The dependencies are those of the environment that runs the tests; a path file adds its folder, but not the
    # path files in it, so porter itself comes from the wheel.
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "outside.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    where = run(python, "-c", "import porter.targets, numpy; print(porter.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    shown = run(tmp_path / "venv" / "bin" / "porter", "targets", cwd=tmp_path)
    assert "gpu:h200*" in shown and "toy:toy*" in shown
    assert "memory.hbm.bytes" in run(tmp_path / "venv" / "bin" / "porter", "targets", "maia", cwd=tmp_path)
