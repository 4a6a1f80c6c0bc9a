"""A comparison against figures worked out on paper, and what it says of prices, checks and budgets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.compare import budget, ranking
from porter.compare.comparing import compare
from porter.compare.matrix import table
from porter.compare.price import dated, given, per_million, price, winning
from porter.compare.serving import Request
from porter.compare.verdicts import junit, sarif
from porter.device import Fact, load_device
from porter.errors import PorterError

# y[64, 256] = x[64, 512] @ w[512, 256] in float32: 64 x 512 x 256 x 2 = 16,777,216 operations;
# 4 (64 x 512 + 512 x 256 + 64 x 256) = 720,896 bytes, of them 524,288 weights. Units that multiply bfloat16 take six
# products for float32. The peaks, bandwidths and overheads are those of the device files, written out here.
PAPER = {
    "gpu:h200": (6 * 16_777_216 / 989.4e12, 720_896 / 4.8e12, 3e-6),
    "tpu:v6e": (6 * 16_777_216 / 918e12, 720_896 / 1.638e12, 1e-6),
    "trainium:trn2": (16_777_216 / 181e12, 720_896 / 2.9e12, 2 * 1.3e-6),
    "maia:200": (6 * 16_777_216 / 1268e12, 720_896 / 7e12, 1e-6),
}
SCHEMA = {"target", "runs", "why", "precision", "chips", "memory", "latency_s", "bound", "per_second", "tokens_per_s",
          "usd_per_million_tokens", "usd_per_thousand_runs", "error", "price", "origin", "assumed"}  # fmt: skip


@pytest.fixture(scope="module")
def four(product: Path) -> dict[str, Any]:
    devices = [load_device(n) for n in PAPER]
    return compare(product, targets=devices, dims={"m": 64}, quick=True).to_json()


@pytest.fixture(scope="module")
def checked(product: Path) -> Any:
    return compare(product, targets=[load_device("toy"), load_device("gpu:h200")], dims={"m": 5}, cache=False)


@pytest.mark.parametrize("name", PAPER)
def test_latency_and_memory_are_those_of_the_paper(four: dict[str, Any], name: str) -> None:
    compute, memory, overhead = PAPER[name]
    t = next(t for t in four["targets"] if t["target"] == name)
    assert t["latency_s"] == pytest.approx(max(compute, memory) + overhead, rel=1e-6)
    assert t["memory"]["weights_bytes"] == 524_288
    assert t["memory"]["chip_bytes"] == 720_896
    assert t["per_second"] == pytest.approx(1 / (max(compute, memory) + overhead), rel=1e-6)


# The same in bfloat16: x and y are float32 in the graph; w is stored in 2 bytes, 262,144 in all; one launch rounds x to
# bfloat16 (4 x 32,768 read, 2 x 32,768 written) or none where it is rounded at the load of the product.
BF16 = {"gpu:h200": 989.4e12, "tpu:v6e": 918e12, "trainium:trn2": 667e12, "maia:200": 1268e12}


@pytest.mark.parametrize("name", BF16)
def test_in_bfloat16_weights_are_half_and_products_single(product: Path, name: str) -> None:
    device = load_device(name)
    result = compare(product, targets=[device], dims={"m": 64}, quick=True, precision="bf16")
    (t,) = result.to_json()["targets"]
    assert t["memory"]["weights_bytes"] == 262_144
    (row,) = (r for r in result.trials[""][0].rows if r.format)
    x = row.bytes - 262_144 - 4 * 64 * 256
    assert x in (4 * 64 * 512, 2 * 64 * 512), "x is read as float32, or as it was rounded"
    assert row.bounds["memory"] == pytest.approx(row.bytes / float(device["memory.hbm.bytes_per_s"]))
    assert row.bounds["compute"] >= 16_777_216 / BF16[name] * (1 - 1e-9)
    assert t["latency_s"] == pytest.approx(sum(r.seconds() for r in result.trials[""][0].rows))


def test_four_bits_are_half_a_byte_on_every_device(product: Path) -> None:
    names = ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")
    made = compare(product, targets=[load_device(n) for n in names], dims={"m": 64}, quick=True, precision="int4w")
    # 512 x 256 codes of 4 bits, and a float32 scale for each block of 32 along the sum
    paper = 512 * 256 // 2 + 4 * 512 // 32 * 256
    assert {t["target"]: t["memory"]["weights_bytes"] for t in made.to_json()["targets"]} == dict.fromkeys(names, paper)
    for t in made.trials[""]:
        (row,) = (r for r in t.rows if r.format)
        assert paper + 2 * 64 * 512 + 4 * 64 * 256 <= row.bytes <= paper + 4 * 64 * 512 + 4 * 64 * 256, t.device.name


def test_of_a_table_only_the_gathered_rows_are_read(tmp_path: Path) -> None:
    table = numpy_helper.from_array(np.zeros((5000, 256), np.float32), "table")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["y"], "/embed")], "g", [ids], [y], [table])
    path = tmp_path / "embed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    document = compare(path, targets=[load_device(n) for n in PAPER], dims={"n": 8}, quick=True).to_json()
    for t, cell in zip(document["targets"], document["matrix"]["layers"][0]["cells"], strict=True):
        assert t["memory"]["weights_bytes"] == 5000 * 256 * 4, "the table is held whole"
        # 8 rows read and written, 8 indices of 4 or 8 bytes; a target that rounds a row up to its lanes reads no other row
        assert 2 * 8 * 256 * 4 + 8 * 4 <= cell["bytes"] <= 2 * 8 * 256 * 4 + 8 * 8, t["target"]


def test_cost_is_price_times_time(four: dict[str, Any]) -> None:
    t = four["targets"][0]  # 7.912 dollars per hour on AWS
    assert t["usd_per_thousand_runs"] == pytest.approx(7.912 / 3600 * t["latency_s"] * 1000, rel=1e-9)
    assert t["usd_per_million_tokens"] is None and t["tokens_per_s"] is None
    assert t["price"]["date"] == "2025-11-30"


def test_the_document_has_the_promised_words(four: dict[str, Any]) -> None:
    assert {"model", "dims", "phase", "targets"} <= four.keys()
    for t in four["targets"]:
        assert t.keys() >= SCHEMA
        assert t["memory"].keys() >= {"weights_bytes", "kv_bytes", "arena_bytes", "hbm_bytes"}
        assert set(t["origin"].values()) == {"model"}
        assert {k for k in ("latency_s", "per_second", "usd_per_thousand_runs") if t[k] is not None} <= t[
            "origin"
        ].keys()
    json.dumps(four, allow_nan=False)


def test_maia_says_what_it_is_and_at_which_price_it_would_win(four: dict[str, Any]) -> None:
    maia = four["targets"][3]
    assert maia["label"] == "Maia-like model, assumed parameters"
    assert maia["price"] is None and maia["usd_per_thousand_runs"] is None
    cheapest = min(t["usd_per_thousand_runs"] for t in four["targets"] if t["price"])
    assert maia["break_even_usd_per_hour"] / 3600 * maia["latency_s"] * 1000 == pytest.approx(cheapest)
    assert any("no public price" in line and "maia:200" in line for line in four["hangs_on"])
    assert any(a.startswith("overhead.launch_s (") for a in maia["assumed"])


def test_best_values_are_marked_and_dominated_choices_named(four: dict[str, Any]) -> None:
    by_name = {t["target"]: t for t in four["targets"]}
    assert "latency_s" in by_name["maia:200"]["best"]
    assert "usd_per_thousand_runs" in by_name["tpu:v6e"]["best"]
    assert by_name["gpu:h200"]["dominated_by"] == "tpu:v6e"
    assert by_name["maia:200"]["dominated_by"] is None


def test_a_price_of_ones_own_takes_the_place_of_the_public_one(product: Path) -> None:
    h200 = load_device("gpu:h200")
    own = compare(product, targets=[h200], dims={"m": 64}, quick=True, prices=given(["gpu:h200=3.50"])).to_json()[
        "targets"
    ][0]
    assert own["price"]["usd_per_hour"] == 3.5 and own["price"]["source"] == "given by --price"
    assert price(h200, {}).usd_per_hour == 7.912  # type: ignore[union-attr]
    with pytest.raises(PorterError, match="--price gpu:h200"):
        given(["gpu:h200"])


def test_dates_are_the_most_exact_that_the_source_has() -> None:
    assert dated(["as quoted, July 2026", "checked 2026-05-21"]) == "2026-05-21"
    assert dated(["as quoted, July 2026"]) == "July 2026"
    assert dated(["catalogue (2026 snapshot, day not recorded)"]) == "2026, day not recorded"
    assert dated(["a page"]) == "not recorded"


def test_the_winning_price_is_the_inverse_of_the_cost() -> None:
    assert winning(per_million(3.5, 4, 1234.5) or 0, 4, 1234.5) == pytest.approx(3.5)


def test_checks_are_made_and_their_error_is_reported(checked: Any) -> None:
    for t in checked.to_json()["targets"]:
        assert t["checks"]["made"] == t["checks"]["passed"] > 3
        assert 100 < t["error"]["sqnr_db"] <= 300
        assert t["missed"] == []
    assert checked.exit_code == 0


def test_an_estimate_says_that_nothing_was_checked(four: dict[str, Any]) -> None:
    assert all(t["error"] is None and t["checks"]["made"] == 0 for t in four["targets"])
    assert any("not computed" in line for line in four["hangs_on"])


def test_a_missed_budget_of_the_error_is_named(product: Path) -> None:
    from porter import check

    result = compare(product, targets=[load_device("toy")], dims={"m": 5}, budgets=check.budgets(["sqnr=200"]))
    t = result.to_json()["targets"][0]
    assert result.exit_code == 1 and "sqnr_db" in t["missed"][0]
    assert 100 < t["error"]["sqnr_db"] < 200, "the figure is there although it misses"


def test_a_missed_budget_of_time_is_named(product: Path) -> None:
    limits, errors = budget.read(["latency_ms=0.001,chips=1"])
    assert limits == {"latency_ms": 0.001, "chips": 1} and errors == ()
    result = compare(product, targets=[load_device("gpu:h200")], dims={"m": 64}, quick=True, limits=limits)
    assert result.exit_code == 1
    assert result.to_json()["targets"][0]["missed"] == ["latency_ms is 0.00315, allowed <= 0.001"]
    with pytest.raises(PorterError, match="latency_ms"):
        budget.read(["laten=3"])


def test_verdicts_for_ci_name_the_budget(product: Path) -> None:
    from xml.etree import ElementTree

    result = compare(
        product,
        targets=[load_device("gpu:h200"), load_device("tpu:v6e")],
        dims={"m": 64},
        quick=True,
        limits={"latency_ms": 0.002},
    )
    suite = ElementTree.fromstring(junit(result.to_json()))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    results = json.loads(sarif(result.to_json()))["runs"][0]["results"]
    assert [r["ruleId"] for r in results] == ["porter/budget"] and "gpu:h200" in results[0]["message"]["text"]


def test_a_baseline_shows_what_changed(four: dict[str, Any]) -> None:
    now = json.loads(json.dumps(four))
    assert budget.changes(four, now) == []
    now["targets"][0]["latency_s"] *= 2
    now["targets"].pop()
    assert [(c["target"], c["figure"], c["worse"]) for c in budget.changes(four, now)] == [
        ("gpu:h200", "latency_s", True), ("maia:200", "target", False)]  # fmt: skip


def test_the_matrix_has_a_cell_for_each_layer_and_device(checked: Any) -> None:
    cells = checked.to_json()["matrix"]
    assert cells["targets"] == ["toy:toy", "gpu:h200"]
    (layer,) = cells["layers"]
    assert layer["layer"] == "/product" and all(
        c["error_db"] > 100 and c["bytes"] == 4 * (5 * 512 + 512 * 256 + 5 * 256) for c in layer["cells"]
    )
    assert table(cells).splitlines()[1].startswith("/product,toy:toy,")


def test_a_device_without_a_figure_is_not_estimated(product: Path) -> None:
    v6e = load_device("tpu:v6e")
    lacking = replace(v6e, facts={**v6e.facts, "vector.fp32": Fact(unknown="not found")})
    t = compare(product, targets=[lacking], dims={"m": 64}, quick=True).to_json()["targets"][0]
    assert not t["runs"] and t["latency_s"] is None and "vector.fp32" in t["why"] and t["missed"] == []


def test_what_is_left_to_the_host_is_no_victory(product: Path) -> None:
    document = compare(product, targets=[load_device(n) for n in PAPER], dims={"m": 64}, quick=True).to_json()
    h200, v6e = document["targets"][:2]
    v6e["host"] = {"MatMul": "no such kernel"}
    ranking.rank(document["targets"])
    assert v6e["best"] == [] and h200["dominated_by"] != "tpu:v6e"
    said = ranking.hangs_on(document["targets"], True)
    assert any(line.startswith("tpu:v6e leaves MatMul to the host, which is not timed") for line in said)
    assert not said[0].startswith("tpu:v6e")


def test_a_model_that_is_all_the_hosts_does_not_run(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["again"]), helper.make_node("Add", ["x_in", "x_in"], ["x_out"])],
        "body",
        [helper.make_tensor_value_info(n, t, d) for n, t, d in (("i", 7, []), ("going", 9, []), ("x_in", 1, ["m"]))],
        [helper.make_tensor_value_info(n, t, d) for n, t, d in (("again", 9, []), ("x_out", 1, ["m"]))],
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m"]) for n in "xy")
    trips = helper.make_tensor_value_info("trips", TensorProto.INT64, [])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], "/loop", body=body)], "g", [trips, x], [y]
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    t = compare(path, targets=[load_device("gpu:h200")], dims={"m": 4}, quick=True).to_json()["targets"][0]
    assert not t["runs"] and t["why"] == "all of it falls to the host: Loop" and t["latency_s"] is None


def test_a_model_that_does_not_fit_says_how_much_is_missing(product: Path) -> None:
    asked = Request("both", 1, 8, 8)
    with pytest.raises(PorterError, match="prefill"):
        compare(product, targets=[load_device("toy")], request=asked, quick=True, dims={"m": 64}, chips=1)
    t = compare(product, targets=[load_device("gpu:h200")], dims={"m": 64}, quick=True, chips=16).to_json()["targets"][
        0
    ]
    assert not t["runs"] and t["why"] == "16 chips, but the link joins 8"
