"""A device of one's own: written from one of ours, edited, compared at once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from porter.device import devices, load_device, load_file


def porter(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "porter.cli", *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("name", devices())
def test_what_is_written_reads_back_as_the_same_facts(name: str, tmp_path: Path) -> None:
    from porter.cli.new import _page

    device = load_device(name)
    (tmp_path / "mine.toml").write_text(_page(device, device.title), encoding="utf-8")
    again = load_file(tmp_path / "mine.toml")
    assert again.name == f"{device.family}:mine"
    assert {p: replace(f, source=()) for p, f in again.facts.items()} == {
        p: replace(f, source=()) for p, f in device.facts.items()
    }
    assert all(again.source(p) == device.source(p) for p in device.facts)


def test_a_changed_figure_changes_the_comparison(product: Path, tmp_path: Path) -> None:
    made = porter("new", "device", "faster", "--from", "maia:200", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    file = tmp_path / "faster.toml"
    text = file.read_text()
    assert "assumed" in text and "[sources]" in text
    file.write_text(text.replace("bytes_per_s = { value = 7000000000000.0", "bytes_per_s = { value = 1.4e13", 1))
    done = porter("compare", product, "--target", f"maia:200,{file}", "--dim", "m=64", "--quick", "--json",
                  "--report", "r.html", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, mine = json.loads(done.stdout)["targets"]
    assert (ours["target"], mine["target"]) == ("maia:200", "maia:faster")
    # 720,896 bytes at 7 TB/s against six products of bfloat16 at 1.268e15: memory, then compute wins
    assert ours["latency_s"] == pytest.approx(720_896 / 7e12 + 1e-6)
    assert mine["latency_s"] == pytest.approx(6 * 16_777_216 / 1268e12 + 1e-6)
    assert mine["label"] == "Maia-like model, assumed parameters"
    assert "maia:faster" in (tmp_path / "r.html").read_text()


def test_a_device_is_named_by_its_file_wherever_a_name_goes(tmp_path: Path) -> None:
    assert porter("new", "device", "one", "--from", "gpu:h200", cwd=tmp_path).returncode == 0
    assert porter("new", "device", "two", "--from", "one.toml", cwd=tmp_path).returncode == 0
    shown = porter("targets", "two.toml", cwd=tmp_path)
    assert shown.returncode == 0 and "gpu:two" in shown.stdout and "memory.hbm.bytes" in shown.stdout
    missing = porter("compare", "model.onnx", "--target", "three.toml", cwd=tmp_path)
    assert missing.returncode == 2 and missing.stderr.startswith("cannot read device file three.toml")


def test_the_table_fits_a_terminal_and_says_what_it_hangs_on(product: Path, tmp_path: Path) -> None:
    done = porter("compare", product, "--target", "all", "--dim", "m=64", "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[1:])) <= 100
    assert "no public price" in done.stdout and "Maia-like model, assumed parameters" in done.stdout


def test_a_missed_budget_exits_with_one_and_names_it(product: Path, tmp_path: Path) -> None:
    words = ("compare", product, "--target", "gpu:h200", "--dim", "m=64", "--quick", "--budget", "latency_ms=0.001")
    done = porter(*words, "--junit", "j.xml", "--sarif", "s.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "gpu:h200: latency_ms is 0.00315, allowed <= 0.001"
    assert 'failures="1"' in (tmp_path / "j.xml").read_text() and "porter/budget" in (tmp_path / "s.json").read_text()
