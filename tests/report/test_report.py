"""The page: it stands alone, says what the document says, and a browser shows it without a complaint."""

from __future__ import annotations

import itertools
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

from porter import check, graph, report
from porter.compare.comparing import compare
from porter.device import load_device
from porter.porting import coverage
from porter.porting.port import port
from porter.report import charts, numbers
from porter.report.divergence import divergence, sample_of

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
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    return path


@pytest.fixture(scope="module")
def result(path: Path) -> Any:
    return compare(path, targets=[load_device(n) for n in TARGETS], dims={"batch": 6})


@pytest.fixture(scope="module")
def text(result: Any) -> str:
    return report.of_comparison(result)


@pytest.fixture(scope="module")
def ported(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The document of a port and its page."""
    out = tmp_path_factory.mktemp("port") / "out"
    made = port(path, targets=[load_device("trainium")], out=out, dims={"batch": 6}, precision="bf16", details=True)
    return made.to_json(), report.of_port(made.to_json(), made)


@pytest.fixture(scope="module")
def checked(path: Path) -> str:
    """The page of a check of the model against one whose bias is another."""
    wrong = onnx.load(path)
    bias = wrong.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.5), bias.name))
    onnx.save(wrong, other := path.with_name("wrong.onnx"))
    found = check.check(str(path), str(other), dims={"batch": 6}, explain=True)
    before, after = (graph.load(p, {"batch": 6}) for p in (path, other))
    assert found.first_divergence is not None
    seen = divergence(before, after, sample_of(before, found.draws[-1]), found.first_divergence.tensor)
    return report.of_check(found.json(), seen)


@pytest.fixture
def page(request: pytest.FixtureRequest) -> str:
    """The page of each command."""
    match request.param:
        case "compare":
            return request.getfixturevalue("text")
        case "port":
            return request.getfixturevalue("ported")[1]
    return request.getfixturevalue("checked")


every_page = pytest.mark.parametrize("page", ["compare", "port", "check"], indirect=True)


@every_page
def test_the_page_asks_nobody_for_anything(page: str) -> None:
    found = Page(page)
    assert all(s.startswith("#") for s in found.sources), found.sources
    assert not {"link", "iframe", "img", "object"} & set(found.tags)
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest", page)


@every_page
def test_links_lead_somewhere_and_ids_are_unique(page: str) -> None:
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    assert found.links and all(link.startswith("#") and link[1:] in found.ids for link in found.links)


@every_page
def test_who_listens_or_has_no_mouse_can_use_it(page: str) -> None:
    """A language, one first heading, headings without a gap, cells with heads, charts with names, what scrolls has focus."""
    found = Page(page)
    assert '<html lang="en">' in page and found.tags.count("h1") == 1 and found.tags.count("main") == 1
    levels = [int(t[1]) for t in found.tags if re.fullmatch("h[1-6]", t)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    assert not re.search(r"<th(?![^>]*scope=)[ >]", page)
    assert all(re.search(r'tabindex="0" aria-label="[^"]+"', pre) for pre in re.findall(r"<pre[^>]*>", page))
    for chart in found.charts:
        assert chart["role"] == "img" and all(i in found.ids for i in str(chart["aria-labelledby"]).split())
    assert found.tags.count("table") >= len(found.charts) > 0


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


def test_the_memory_of_each_launch_is_in_a_table(result: Any, text: str) -> None:
    table = re.search(r"Bytes alive at each launch.*?</table>", text, re.DOTALL)
    assert table is not None
    for i, alive in enumerate(result.trials[""][0].memory.timeline, 1):
        assert re.search(rf'class="n">{i}</th><td class="n">{alive:,}</td>', table[0])


def test_charts_have_the_colours_of_the_page(text: str) -> None:
    svgs = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in svgs and "var(--series-0)" in svgs
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svgs)) - {"#000000", "#ffffff"}


def test_the_pareto_front_is_who_nobody_beats_in_both() -> None:
    a, b, c, d = (charts.Point(n, x, y) for n, x, y in (("a", 1, 30), ("b", 2, 40), ("c", 3, 35), ("d", 2, 20)))
    assert charts.front([d, c, b, a]) == [a, b]
    assert charts.front([a, charts.Point("dearer, not better by a decibel", 2, 30.4)]) == [a]


def test_equal_comparisons_give_equal_pages(result: Any, text: str) -> None:
    assert report.of_comparison(result) == text


def test_a_port_shows_what_its_checks_covered(ported: tuple[Any, str]) -> None:
    document, page = ported
    covered = document["targets"][0]["coverage"]
    assert {c["name"] for c in covered} and all(c["ok"] and c["grid"] >= c["points"] >= 1 for c in covered)
    assert all(a["tile"] <= a["extent"] or a["steps"] == 1 for c in covered for a in c["axes"])
    for c in covered:
        assert f"source of {c['name']}" in page and coverage.said(c) in page
    for words in (
        "Error ledger",
        "quantization.bf16",
        "Precision audit",
        "Error by layer",
        "Memory over time",
        "standard normal",
    ):
        assert words in page


def test_an_edge_that_no_point_met_is_said() -> None:
    axes = [{"name": "m", "extent": 9, "tile": 4, "role": "grid", "steps": 3, "edge": 1}]
    said = coverage.said({"points": 1, "grid": 3, "axes": axes, "edges": {"met": [], "not met": ["m"]}})
    assert said == "text on 1 of 3 grid points, tile program on all; edges not met: m: 1 of 4 lanes"


def test_a_check_shows_where_the_models_part(checked: str) -> None:
    way = re.search(r'<ol class="way".*?</ol>', checked, re.DOTALL)
    assert way is not None
    roles = re.findall(r'<li class="(\w*)">.*?<code>(.*?)</code>', way[0], re.DOTALL)
    assert roles == [("input", "/dense&lt;&amp;&gt;"), ("first", "/bias"), ("output", "/softmax")]
    row = re.search(r'<tr class="here"><th scope="row">/bias</th>.*?</tr>', checked, re.DOTALL)
    assert row is not None, "the table marks the node"
    alone, after, own = re.findall(r'<td class="n">([-\d.]+) dB</td>', row[0])
    assert float(own) > 100 > float(alone) and float(after) < 100, "what is isolated there is the fault"


def test_isolated_error_tells_the_fault_from_what_follows(path: Path) -> None:
    wrong = onnx.load(path)
    bias = wrong.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.5), bias.name))
    before, after = graph.load(path, {"batch": 6}), graph.load(wrong, {"batch": 6})
    seen = {p.tensor: p for p in divergence(before, after, sample_of(before, "draw 0"), "s").points}
    assert seen["y"].after_db < 40 < 100 < (seen["y"].alone_db or 0), "the softmax is right on right inputs"


def test_tensors_of_other_names_are_found_too(path: Path) -> None:
    """The inner tensors of the second model have new names: by expression where nothing differs, by place behind."""
    wrong = onnx.load(path)
    bias = wrong.graph.initializer[1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(1.5), bias.name))
    for node in wrong.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{n}_new" if n in ("p", "s") else n for n in names]
    before, after = graph.load(path, {"batch": 6}), graph.load(wrong, {"batch": 6})
    seen = {p.tensor: p for p in divergence(before, after, sample_of(before, "draw 0"), "s_new").points}
    assert (seen["p_new"].matched, seen["y"].matched) == ("expression", "name")
    assert seen["p_new"].after_db > 100 and seen["y"].after_db < 40 < 100 < (seen["y"].alone_db or 0)


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
    page = report.of_port({"model": "m.onnx", "dims": {"n": 2}, "targets": [failed | {"coverage": []}]})
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


@every_page
def test_figures_in_groups_are_not_shown_as_python_writes_them(page: str) -> None:
    assert "{&#39;" not in page


CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
PROBE = """<script>
const seen = [];
addEventListener("error", e => seen.push("error: " + e.message));
addEventListener("securitypolicyviolation", e => seen.push("blocked: " + e.blockedURI));
for (const n of ["log", "warn", "error"]) console[n] = (...a) => seen.push(n + ": " + a.join(" "));
addEventListener("load", () => setTimeout(() => {
  const link = document.querySelector('#devices a[href^="#k-"]') ?? document.querySelector("nav a"); link.click();
  setTimeout(() => {
    const to = document.querySelector(link.getAttribute("href"));
    const open = to.tagName !== "DETAILS" || to.open;
    const here = to.getBoundingClientRect().top < innerHeight;
    const wide = document.documentElement.scrollWidth > innerWidth;
    const out = document.createElement("pre"); out.id = "probe";
    const asked = performance.getEntriesByType("resource").map(r => r.name);
    out.textContent = JSON.stringify({seen, asked, open, here, wide}); document.body.append(out);
  }, 50);
}, 50));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
@pytest.mark.parametrize("width", [1280, 420])
@every_page
def test_a_browser_shows_it_without_a_complaint(page: str, tmp_path: Path, width: int) -> None:
    """No error or message in the console, no request, kernels open by their links, no sideways scrolling of the page."""
    file = tmp_path / "report.html"
    file.write_text(page.replace("<title>", PROBE + "<title>", 1), encoding="utf-8")
    run = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
           f"--window-size={width},900",
           "--virtual-time-budget=4000", "--dump-dom", file.as_uri()]  # fmt: skip
    shown = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
    probe = re.search(r'<pre id="probe">(.*?)</pre>', shown)
    assert probe is not None
    assert json.loads(probe[1]) == {"seen": [], "asked": [], "open": True, "here": True, "wide": False}
