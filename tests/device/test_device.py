"""Device files: every figure has an origin, names are found or corrected, and a new device is one file."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from porter.device import Device, default_device, default_devices, devices, families, load_device, load_file
from porter.errors import PorterError

# Design: the names every release carries.
NAMES = """gpu:h100 gpu:h200 gpu:b200 gpu:gb200 gpu:b300 gpu:gb300 gpu:rubin
tpu:v5e tpu:v5p tpu:v6e tpu:v7x tpu:8t tpu:8i
trainium:inf2 trainium:trn1 trainium:trn2 trainium:trn3 maia:100 maia:200 toy:toy""".split()


def test_every_promised_name_has_a_file():
    assert set(NAMES) <= set(devices())


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_an_origin(name):
    device = load_device(name)
    for path, fact in device.facts.items():
        if isinstance(fact.value, (int, float)) and not isinstance(fact.value, bool) and path != "year":
            assert fact.source or fact.assumed or fact.derived, f"{name} {path}"
        assert (fact.value is None) == bool(fact.unknown), f"{name} {path}: a figure, or the reason why there is none"
        for text in device.source(path):
            assert len(text) > 10


@pytest.mark.parametrize("name", NAMES)
def test_every_device_states_what_costs_and_limits_are_made_of(name):
    device = load_device(name)
    for path in ("memory.hbm.bytes", "memory.hbm.bytes_per_s", "peak.bf16", "overhead.launch_s", "formats.matmul"):
        assert device[path]
    for path in ("price.usd_per_hour", "power.tdp_w"):
        assert device.fact(path)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("gpu:h200", "memory.hbm.bytes", 141_000_000_000),
        ("gpu:h200", "memory.shared.bytes_per_block", 232_448),
        ("gpu:h200", "matrix.m", (64,)),
        ("gpu:gb300", "peak.int8", 165e12),
        ("gpu:rubin", "memory.tensor.columns", 576),
        ("tpu:v6e", "memory.vmem.bytes", 134_217_728),
        ("tpu:8t", "vector.sublanes", 16),
        ("trainium:trn2", "memory.sbuf.partitions", 128),
        ("trainium:trn1", "memory.psum.bank_bytes_per_partition", 2048),
        ("maia:200", "memory.hbm.bytes_per_s", 7e12),
    ],
)
def test_figures_of_the_datasheets(name, path, value):
    assert load_device(name)[path] == value


def test_defaults():
    assert default_devices() == ("gpu:h200", "tpu:v6e", "trainium:trn2", "maia:200")
    assert load_device("gpu").name == "gpu:h200"
    assert {default_device(f) for f in families()} >= {*default_devices(), "toy:toy"}


def test_maia_says_that_it_is_a_model():
    for name in devices("maia"):
        assert load_device(name)["remarks.label"] == "Maia-like model, assumed parameters"
        assert load_device(name).assumed("memory.tsram.bytes")


@pytest.mark.parametrize(
    ("name", "hint"), [("gpu:h20", "gpu:h200"), ("h100", "gpu:h100"), ("tpuu", "tpu"), ("gpu:../h200", "gpu:h200")]
)
def test_unknown_names_get_the_nearest(name, hint):
    with pytest.raises(PorterError) as e:
        load_device(name)
    assert str(e.value).startswith(f"no target is called '{name}'")
    assert hint in e.value.hint
    assert e.value.exit_code == 2


def test_missing_facts_say_why():
    device = load_device("gpu:gb300")
    assert device.get("price.usd_per_hour") is None
    with pytest.raises(PorterError, match=r"\n  found no public"):
        device.value("price.usd_per_hour")
    with pytest.raises(PorterError, match=r"no fact 'memory.hbm.byte'\n  try  one of: memory.hbm.bytes"):
        device.value("memory.hbm.byte")


def test_a_new_device_is_one_file_from_anywhere(tmp_path: Path):
    page = tmp_path / "h300.toml"
    page.write_text(
        'like = "gpu:h200"\ntitle = "H300"\n[memory.hbm]\nbytes = { value = 200e9, source = "X1" }\n'
        '[sources]\nX1 = "the datasheet on my desk"\n'
    )
    device = load_file(page)
    assert (device.name, device.title, device["memory.hbm.bytes"]) == ("gpu:h300", "H300", 200e9)
    assert device.source("memory.hbm.bytes") == ("the datasheet on my desk",)
    assert device["memory.shared.bytes_per_block"] == 232_448
    assert "price.usd_per_hour" not in device, "a price is never inherited"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not TOML"),
        ("title = 'x'", "which family?"),
        ("like = 'gpu:h999'", "no target is called 'gpu:h999'"),
        ("family = 'gpu'\n[a]\nb = { value = 1, source = 'Q' }", "'a.b' names source 'Q'"),
        ("family = 'gpu'\n[a]\nb = { value = 1, sauce = 'Q' }", "'a.b' has 'sauce'"),
    ],
)
def test_a_bad_device_file_is_explained(tmp_path: Path, text, message):
    page = tmp_path / "x.toml"
    page.write_text(text)
    with pytest.raises(PorterError) as e:
        load_file(page)
    assert message in str(e.value)


def test_devices_load_without_the_heavy_libraries():
    code = (
        "import sys; from porter.device import load_device; load_device('gpu'); "
        "print([m for m in ('numpy', 'jax', 'onnx') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_devices_are_values():
    assert isinstance(load_device("toy"), Device)
    assert load_device("toy") is load_device("toy:toy")
    document = json.loads(json.dumps(load_device("gpu").document()))
    assert dict(Device.from_document(document).facts) == dict(load_device("gpu").facts)
    assert pickle.loads(pickle.dumps(load_device("gpu"))).facts == load_device("gpu").facts
