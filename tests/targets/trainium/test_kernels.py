"""Every kernel, emitted for every generation: the text computes what the tile program says."""

from __future__ import annotations

import numpy as np
import pytest
from trainium_support import CASES, ROUNDING, device, distance, lowered, program

from porter.targets.trainium import target
from porter.targets.trainium.limits import chip
from porter.targets.trainium.signatures import SIGNATURES, check
from porter.targets.trainium.simulator import Machine
from porter.tile.interpret import run
from porter.tile.points import footprint, sample


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("generation", ["trn1", "trn2", "trn3"])
def test_text_computes_what_the_tile_program_says(name: str, generation: str) -> None:
    inputs = CASES[name].inputs()
    emitted = lowered(program(name), generation)
    got = target.execute(emitted, inputs, device(generation))
    wanted = run(program(name), inputs)
    assert [g.dtype for g in got] == [w.dtype for w in wanted]
    assert distance(got, wanted) < ROUNDING


@pytest.mark.parametrize("name", ["attention_197", "conv_7x7_stride_2", "rope", "matmul_bf16"])
def test_the_kernel_loops_over_the_grid_as_the_harness_does(name: str) -> None:
    p, inputs = program(name), CASES[name].inputs()
    machine = Machine(chip(device()))
    kernel = machine.load(lowered(p).text, name)[name]
    given = [machine.tensor(x, q.name) for x, q in zip(inputs, p.inputs, strict=True)]
    assert distance([kernel(*given).array.reshape(p.outputs[0].shape)], run(p, inputs)) < ROUNDING


def test_chosen_points_write_their_part_and_nothing_else() -> None:
    p = program("attention_197")
    points = [0, 3]
    inputs = CASES["attention_197"].inputs()
    got = target.execute(lowered(p), inputs, device(), points)[0]
    written = footprint(p, points)[0]
    assert np.isnan(got[~written]).all()
    assert distance([got[written]], [run(p, inputs)[0][written]]) < ROUNDING
    assert set(points) < set(sample(p)) | {3}


def test_the_order_of_the_grid_does_not_matter() -> None:
    inputs = CASES["attention_197"].inputs()
    emitted = lowered(program("attention_197"))
    order = np.random.default_rng(1).permutation(emitted.grid).tolist()
    forward, shuffled = target.execute(emitted, inputs, device()), target.execute(emitted, inputs, device(), order)
    assert np.array_equal(forward[0], shuffled[0])


@pytest.mark.parametrize("name", CASES)
def test_every_call_is_public(name: str) -> None:
    check(lowered(program(name)).text, name)


def test_text_is_the_same_every_time_and_names_no_place() -> None:
    texts = {lowered(program("attention_mask")).text for _ in range(2)}
    assert len(texts) == 1
    assert not any(word in next(iter(texts)) for word in ("/work", "/tmp", "site-packages"))


def test_the_table_of_signatures_holds_nothing_that_is_never_emitted() -> None:
    everything = "\n".join(lowered(program(name)).text for name in CASES)
    emitted = {c for c in SIGNATURES if f"{c.replace('tensor.', '.')}(" in everything}
    missing = set(SIGNATURES) - emitted
    # floor, ceil and fmod come with their operators, affine_select with masks of attention: tested in
    # test_operations.py; nc_matmul_mx and view with block scales: tested in test_depth.py
    allowed = {"nl.floor", "nl.ceil", "nl.fmod", "nisa.affine_select", "tensor.reshape", "tensor.view"}
    assert missing <= {*allowed, "nisa.nc_matmul_mx"}


def test_a_product_of_float32_is_asked_for_as_float32() -> None:
    assert lowered(program("matmul_bias_relu")).products == ("fp32",)
    assert lowered(program("matmul_bf16")).products == ("bfloat16",)
    assert lowered(program("gelu")).products == ()
