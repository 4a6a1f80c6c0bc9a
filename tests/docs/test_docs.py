"""The documentation is run: what it shows is what happens. `--update-golden` rewrites the transcripts; read the diff.

A ```console block holds commands (`$ ...`) and what they print; a ```python block is executed; a block after the
comment `<!-- file: NAME -->` is written to that file. Blocks of one page share a folder and a namespace, from top to
bottom. Times and rounding errors differ from machine to machine and are not compared, nor is the width of columns;
`...` on a line of its own stands for any lines. A page that needs a toolchain says so: `<!-- needs: triton -->`.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# `(?m)`: a fence opens and closes at the start of a line.
BLOCK = re.compile(r"(?ms)^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)^```$")
PAGES = ["tour.md", "write_a_pass.md", "write_a_target.md", "devices.md", "inspect.md"]


def loose(text: str) -> list[str]:
    """Lines without what may differ: times, the width of columns, trailing space."""
    text = re.sub(r"\d[\d.]* ?(s|ms|us|ns)\b", "TIME", text)
    text = re.sub(
        r"\d[\d.]*e-\d+|0\.000\d+|ulp \d[\d.]*( [kMG])?\b|\d[\d.]* dB\b", "ERROR", text
    )  # another BLAS, others
    text = re.sub(r"-{3,}", "---", text)
    return [re.sub(r" +", " ", line).strip() for line in text.strip("\n").splitlines()]


def agree(expected: str, found: str) -> bool:
    """Whether the output is the expected one, `...` standing for any lines."""
    parts = ["\n".join(part) for part in _split(loose(expected))]
    pattern = r"(?:.*\n)*?".join(re.escape(p) + ("\n" if p else "") for p in parts)
    return re.fullmatch(pattern, "\n".join(loose(found)) + "\n") is not None or loose(expected) == loose(found)


def _split(lines: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in lines:
        if line == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def console(body: str, folder: Path) -> str:
    """The block with what its commands print now."""
    shown = []
    for chunk in re.split(r"(?m)^(?=\$ )", body):
        if not chunk.startswith("$ "):
            continue
        command, _, expected = chunk[2:].partition("\n")
        site = folder / ".site"  # where `pip install` puts what a page makes: no network, and nothing of it stays
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        env |= {"PIP_TARGET": str(site), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
        found = (done.stdout + done.stderr).replace(f"{folder}{os.sep}", "")
        assert "Traceback" not in found, found
        shown.append(f"$ {command}\n{expected if agree(expected, found) else found.rstrip() + chr(10) * bool(found)}")
    return "".join(shown)


def python(body: str, names: dict) -> None:
    """Runs the block; a line `expression  # value` whose value is Python must have that value."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(body, "<docs>", "exec"), names)
    for line in body.splitlines():
        expression, mark, value = line.partition("  # ")
        with contextlib.suppress(SyntaxError, NameError):
            if mark and expression.strip() and not expression.startswith((" ", "import", "from")):
                wanted = eval(value.strip(), dict(names))
                assert eval(expression, names) == wanted, line


@pytest.mark.parametrize("page", [p for p in PAGES if (DOCS / p).is_file()])
def test_the_page_is_true(page, tmp_path, update_golden, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # pages import what they scaffold
    text = (DOCS / page).read_text()
    for package in re.findall(r"<!-- needs: (\w+) -->", text):
        pytest.importorskip(package, reason=f"{page} uses the package {package}, which is not installed")
    names: dict = {}
    rewritten, last = [], 0
    for block in BLOCK.finditer(text):
        body = block["body"]
        if block["file"]:
            path = tmp_path / block["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body)
        elif block["kind"] == "python":
            python(body, names)
        elif block["kind"] == "console":
            body = console(body, tmp_path)
            if not update_golden:
                assert body == block["body"], f"{page} shows another output; --update-golden rewrites it"
        rewritten += [text[last : block.start("body")], body]
        last = block.end("body")
    if update_golden:
        (DOCS / page).write_text("".join([*rewritten, text[last:]]))


def test_a_pass_in_another_package_is_under_forty_lines():
    """What its author writes and types: files, commands and their answers."""
    section = (DOCS / "write_a_pass.md").read_text().split("## ")[1]
    lines = [line for block in BLOCK.finditer(section) for line in block["body"].splitlines() if line.strip()]
    assert "porter new pass" in section and "--update-golden" in section and len(lines) < 40
