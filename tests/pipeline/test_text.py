"""Pipelines are read and printed; what is wrong in one is named."""

from __future__ import annotations

import pytest

from porter.errors import PorterError
from porter.pipeline import discover, parse, show


def test_a_package_stands_for_its_passes_in_order():
    names = [stage.name for stage in parse("cleanup")]
    assert names == [f"cleanup.{name}" for name in ("constants", "identity", "shapes", "duplicates", "dead", "unroll")]


def test_every_pass_of_the_folders_is_found():
    names = discover()
    assert {"fusion.gelu", "fusion.attention", "layout.transposes", "quantization.bf16"} <= set(names)
    assert not any(part.startswith("_") for name in names for part in name.split("."))


def test_passes_run_after_those_they_name():
    names = [stage.name for stage in parse("fusion")]
    assert names.index("fusion.rope") < names.index("fusion.attention") < names.index("fusion.tidy")
    assert names[-1] == "fusion.epilogue"


@pytest.mark.parametrize(
    "text", ["cleanup.dead", "cleanup.constants{elements=12}, fusion.gelu", "layout.packed{packed=1}"]
)
def test_print_then_parse_is_the_identity(text):
    stages = parse(text)
    assert [(s.name, s.work) for s in parse(show(stages))] == [(s.name, s.work) for s in stages]
    assert show(stages) == text


def test_options_of_a_package_go_to_those_that_have_them():
    stages = {stage.name: stage for stage in parse("layout{channels_last=1}")}
    assert stages["layout.channels_last"].work.channels_last == "1"
    assert stages["layout.packed"].work.packed == "device"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fusoin", "pass 'fusoin'\n  expected the name of a pass or a package\n  try  one of: fusion"),
        ("cleanup.dead{x=1}", "option 'x' of pass cleanup.dead\n  expected no options"),
        (
            "cleanup.constants{element=1}",
            "option 'element' of pass cleanup.constants\n  expected one of elements\n"
            "  try  cleanup.constants{elements=1}",
        ),
        ("cleanup.constants{elements=many}", "cleanup.constants{elements}\n  expected int\n  found many"),
        ("cleanup.constants{elements}", "options of pass cleanup.constants\n  expected option=value\n  found elements"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(PorterError) as error:
        parse(text)
    assert str(error.value).startswith(message)


def test_garbage_is_shown_where_it_stands():
    with pytest.raises(PorterError, match="at '!!'"):
        parse("cleanup, !!")
