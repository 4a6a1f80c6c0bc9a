"""The quickstart as a new user meets it: three commands, run as the page shows them; once in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
sys.path.insert(0, str(Path(__file__).parent))
from test_docs import BLOCK, console  # noqa: E402  (how pages are read is said once)


def _blocks() -> tuple[str, list[str], str]:
    """The install command, the console blocks, and the program that makes the model."""
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    (install,) = (b["body"].strip() for b in blocks if b["kind"] == "sh")
    (program,) = (b["body"] for b in blocks if b["file"] == "make_model.py")
    return install, [b["body"] for b in blocks if b["kind"] == "console"], program


def _loose(body: str) -> str:
    """Without the number of checks, which grows with every pass that porter learns."""
    return re.sub(r"\b\d+/\d+$", "N/N", body, flags=re.MULTILINE)


def test_it_takes_three_commands() -> None:
    install, shown, _ = _blocks()
    commands = [install, *(line[2:] for body in shown for line in body.splitlines() if line.startswith("$ "))]
    assert [c.split()[:2] for c in commands] == [["pip", "install"], ["porter", "inspect"], ["porter", "compare"]]


def test_the_page_shows_what_the_commands_print(tmp_path: Path, update_golden: bool) -> None:
    _, shown, program = _blocks()
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found = [console(body, tmp_path) for body in shown]
    if update_golden:
        text = PAGE.read_text()
        for before, after in zip(shown, found, strict=True):
            text = text.replace(before, after)
        PAGE.write_text(text)
    assert update_golden or [_loose(b) for b in found] == [_loose(b) for b in shown], (
        "--update-golden rewrites the page"
    )
    assert max(len(line) for body in found for line in body.splitlines() if not line.startswith("$ ")) <= 100


@pytest.mark.slow
def test_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Installed by the page's own command from the files that git knows, with what pip finds for it."""
    copy, venv, work = tmp_path / "checkout", tmp_path / "venv", tmp_path / "work"
    work.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, into = ROOT / name, copy / name
        into.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            into.symlink_to(os.readlink(source))
        elif source.is_file():
            into.write_bytes(source.read_bytes())
    install, shown, program = _blocks()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env = {**clean, "PATH": f"{venv / 'bin'}{os.pathsep}{clean['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(install, shell=True, cwd=copy, env=env, capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"No matching distribution|connection|resolve", done.stderr, re.IGNORECASE):
        pytest.skip(f"pip found no packages here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    subprocess.run([venv / "bin" / "python", "-c", program], cwd=work, env=env, check=True)
    for body in shown:
        command = body.splitlines()[0].removeprefix("$ ")
        began = time.monotonic()
        done = subprocess.run(command, shell=True, cwd=work, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 300
        for word in ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200") if "compare" in command else ("batch",):
            assert word in done.stdout
