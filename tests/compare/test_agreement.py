"""The table, the document and the page say the same of a real decoder, on all nineteen devices; and the document is of the promised
shape."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from porter.cli.compare import show
from porter.compare.comparing import compare
from porter.device import load_device
from porter.report import numbers

NINETEEN = """gpu:h100 gpu:h200 gpu:b200 gpu:gb200 gpu:b300 gpu:gb300 gpu:rubin tpu:v5e tpu:v5p tpu:v6e tpu:v7x tpu:8t tpu:8i
trainium:inf2 trainium:trn1 trainium:trn2 trainium:trn3 maia:100 maia:200""".split()
FIGURES = ("latency_s", "per_second", "tokens_per_s", "usd_per_million_tokens", "usd_per_thousand_runs")


def promised(t: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """The shape of a target's part of the document, as it was promised, claim by claim."""
    number, absent = (int, float), type(None)
    yield "target", isinstance(t["target"], str)
    yield "runs", isinstance(t["runs"], bool)
    yield "why", isinstance(t["why"], (str, absent))
    yield "precision", isinstance(t["precision"], str)
    yield "chips", type(t["chips"]) is int
    for name in ("weights_bytes", "kv_bytes", "arena_bytes", "hbm_bytes"):
        yield name, type(t["memory"][name]) is int
    for name in ("latency_s", "per_second"):
        yield name, isinstance(t[name], number) or not t["runs"]
    yield "bound", isinstance(t["bound"], str) or not t["runs"]
    for name in ("tokens_per_s", "usd_per_million_tokens", "usd_per_thousand_runs"):
        yield name, isinstance(t[name], (*number, absent))
    yield "error", t["error"] is None or isinstance(t["error"]["sqnr_db"], number)
    price = t["price"]
    yield "price", price is None or [type(price[k]) for k in ("usd_per_hour", "source", "date")] == [float, str, str]
    yield "origin", set(t["origin"].values()) <= {"model", "vendor compiler", "measured"}
    yield "every figure's origin", {k for k in FIGURES if t[k] is not None} <= t["origin"].keys()
    yield "memory's origin", {"memory", "chips"} <= t["origin"].keys()
    yield "error's origin", ("error" in t["origin"]) == (t["error"] is not None)
    yield "assumed", all(isinstance(a, str) for a in t["assumed"])


class Rows(HTMLParser):
    """The cells of each table row whose head is a device, by device; the first such row is the decision's."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_data(self, data: str) -> None:
        if self._row:
            self._row[-1] += data.replace("★", "").strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._row and re.fullmatch(r"\w+:\w+", self._row[0]):
            self.rows.setdefault(self._row[0], self._row[1:])


def _porter(*words: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "porter.cli", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_nineteen_agree_in_table_document_and_page(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    page = tmp_path / "r.html"
    document = _porter("compare", models / "llama_gqa" / "decode.onnx", "--target", ",".join(NINETEEN), "--batch", 1,
                       "--context", 64, "--quick", "--json", "--report", page)  # fmt: skip
    shown = show(document)
    assert max(map(len, re.sub(r"\x1b\[\d*m", "", shown).splitlines()[1:])) <= 100
    rows, html = {}, Rows(page.read_text()).rows
    for line in re.sub(r"\x1b\[\d*m", "", shown).splitlines():
        if (cells := re.split(r"\s{2,}|(?<=\d) (?=\d)", line.strip()))[0] in NINETEEN:
            rows.setdefault(cells[0], line)
    assert [t["target"] for t in document["targets"]] == NINETEEN
    for t in document["targets"]:
        assert t["runs"], t["why"]
        assert [claim for claim, kept in promised(t) if not kept] == [], t["target"]
        from porter.cli.output import amount, seconds

        for text in (
            seconds(t["latency_s"]),
            amount(t["tokens_per_s"]),
            amount(t["memory"]["chip_bytes"], "B"),
            t["bound"],
        ):
            assert text in rows[t["target"]], (t["target"], text)
        cells = html[t["target"]]
        for text in (numbers.seconds(t["latency_s"]), numbers.amount(t["tokens_per_s"]), t["precision"], t["bound"],
                     numbers.amount(t["memory"]["chip_bytes"], "B"), numbers.figure(t["usd_per_million_tokens"])):  # fmt: skip
            assert text in cells, (t["target"], text, cells)
        cost = t["usd_per_million_tokens"]
        assert ("-" if cost is None else f"{cost:.3g}") in rows[t["target"]]
        assert (t["price"] is None) == (f"{t['target']} (cheapest below" in " ".join(shown.split()))
        if t["price"] is None:
            assert t["break_even_usd_per_hour"] > 0


def test_a_rate_that_nobody_has_published_is_said_to_be_assumed(product: Path) -> None:
    targets = [load_device(n) for n in ("tpu:8t", "tpu:8i", "gpu:h200")]
    document = compare(product, targets=targets, dims={"m": 64}, quick=True).to_json()
    for t in document["targets"][:2]:
        assert any(a.startswith("vector.fp32 (") and "neither is public" in a for a in t["assumed"])
    assert any(line.startswith("assumed of tpu:8t, tpu:8i: vector.fp32") for line in document["hangs_on"])


@pytest.mark.slow
def test_cold_and_warm(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 seconds with nothing kept, 10 with everything; of processor time, since the machine may be shared."""
    import resource

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spent = []
    for _ in range(2):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        document = _porter(
            "compare", models / "llama_gqa" / "decode.onnx", "--target", "all", "--batch", 1, "--context", 64, "--json"
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime)
        assert time.monotonic() - began < 600
        assert all(t["error"]["sqnr_db"] > 100 for t in document["targets"])
    assert spent[0] < 60 and spent[1] < 10, spent
