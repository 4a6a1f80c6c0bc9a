"""The page: it stands alone, says what the document says, and a browser shows it without a complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")

from porter import report
from porter.compare.comparing import compare
from porter.device import load_device
from porter.report import charts, numbers

TARGETS = ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")


class Page(HTMLParser):
    """Elements, ids, links and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.charts: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"] or ""] if tag == "a" and "href" in found else []
        self.sources += [v for k in ("src", "href", "xlink:href") if tag != "a" and (v := found.get(k))]
        if tag == "svg":
            self.charts.append(found)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in (("w", (20, 7)), ("b", (7,)))
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", d]) for n, d in (("x", 20), ("y", 7)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "/dense<&>"), helper.make_node("Add", ["p", "b"], ["s"], "/bias"),
             helper.make_node("Softmax", ["s"], ["y"], "/softmax", axis=-1)]  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
        ),
        path,
    )
    return compare(path, targets=[load_device(n) for n in TARGETS], dims={"batch": 6})


@pytest.fixture(scope="module")
def text(result: Any) -> str:
    return report.of_comparison(result)


def test_the_page_asks_nobody_for_anything(text: str) -> None:
    page = Page(text)
    assert all(s.startswith("#") for s in page.sources), page.sources
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest", text)


def test_links_lead_somewhere_and_ids_are_unique(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_every_chart_has_a_title_and_its_table(text: str) -> None:
    page = Page(text)
    assert len(page.charts) == 2 + len(TARGETS)  # cost against quality, memory, a roofline each
    for chart in page.charts:
        assert chart["role"] == "img"
        assert all(i in page.ids for i in str(chart["aria-labelledby"]).split())
    assert page.tags.count("table") >= len(page.charts)
    assert 'id="main"' in text and 'href="#main"' in text, "the keyboard can skip to the content"


def test_the_page_and_the_document_agree(result: Any, text: str) -> None:
    for t in result.to_json()["targets"]:
        row = re.search(rf'<th scope="row">{t["target"]}</th>(.*?)</tr>', text, re.DOTALL)
        assert row is not None
        assert numbers.seconds(t["latency_s"]) in row[1]
        assert numbers.figure(t["usd_per_thousand_runs"]) in row[1]
        assert f"{t['error']['sqnr_db']:.1f} dB" in row[1]
    assert "Maia-like model, assumed parameters" in text and "from a model" in text


def test_kernels_are_there_with_source_tile_program_and_nodes(result: Any, text: str) -> None:
    for trial in result.trials[""]:
        for used in trial.kernels:
            assert f"source of {used.name}" in text and f"tile program of {used.name}" in text
    assert "@triton.jit" in text and "/dense&lt;&amp;&gt;" in text, "names of the model are escaped"


def test_charts_have_the_colours_of_the_page(text: str) -> None:
    svgs = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in svgs and "var(--series-0)" in svgs
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svgs)) - {"#000000", "#ffffff"}


def test_the_pareto_front_is_who_nobody_beats_in_both() -> None:
    a, b, c, d = (charts.Point(n, x, y) for n, x, y in (("a", 1, 30), ("b", 2, 40), ("c", 3, 35), ("d", 2, 20)))
    assert charts.front([d, c, b, a]) == [a, b]


def test_equal_comparisons_give_equal_pages(result: Any, text: str) -> None:
    assert report.of_comparison(result) == text


def test_a_port_and_a_check_have_pages_too() -> None:
    step = {
        "name": "cleanup",
        "contract": "exact",
        "status": "failed",
        "rewrites": 3,
        "metric": {"max_abs": 0.25},
        "seconds": 0.1,
    }
    failed = {
        "target": "gpu:h200",
        "status": "failed",
        "bundle": None,
        "steps": [step],
        "kernels": {},
        "end_to_end": {},
        "toolchain": None,
        "estimate": {},
        "message": "it differs",
    }
    page = report.of_port({"model": "m.onnx", "dims": {"n": 2}, "targets": [failed]})
    assert "it differs" in page and "max_abs 0.25" in page and "0 of 1 steps" in page
    page = report.of_check(
        {
            "verdict": "different",
            "method": "numeric",
            "outputs": [{"tensor": "y", "max_abs": 0.5}],
            "first_divergence": {"node": "<n>", "tensor": "y"},
        }
    )
    assert "different" in page and "&lt;n&gt;" in page


CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
PROBE = """<script>
const seen = [];
addEventListener("error", e => seen.push("error: " + e.message));
addEventListener("securitypolicyviolation", e => seen.push("blocked: " + e.blockedURI));
for (const n of ["log", "warn", "error"]) console[n] = (...a) => seen.push(n + ": " + a.join(" "));
addEventListener("load", () => setTimeout(() => {
  const link = document.querySelector('#devices a[href^="#k-"]'); link.click();
  setTimeout(() => {
    const open = document.querySelector(link.getAttribute("href")).open;
    const wide = document.documentElement.scrollWidth > innerWidth;
    const out = document.createElement("pre"); out.id = "probe";
    const asked = performance.getEntriesByType("resource").map(r => r.name);
    out.textContent = JSON.stringify({seen, asked, open, wide}); document.body.append(out);
  }, 50);
}, 50));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_it_without_a_complaint(text: str, tmp_path: Path, width: int) -> None:
    """No error or message in the console, no request, kernels open by their links, no sideways scrolling of the page."""
    file = tmp_path / "report.html"
    file.write_text(text.replace("<title>", PROBE + "<title>", 1), encoding="utf-8")
    run = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
           f"--window-size={width},900",
           "--virtual-time-budget=4000", "--dump-dom", file.as_uri()]  # fmt: skip
    shown = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
    probe = re.search(r'<pre id="probe">(.*?)</pre>', shown)
    assert probe is not None
    assert json.loads(probe[1]) == {"seen": [], "asked": [], "open": True, "wide": False}
