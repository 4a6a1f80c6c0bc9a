"""Toy runs every kernel as its tile program does, and refuses what the chip would not do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from porter.device import load_device
from porter.errors import CheckFailed
from porter.targets.toy import instructions, target
from porter.tile.interpret import run
from porter.tile.target import Emitted, Kernel
from porter.tile.tiler import tile

sys.path.insert(0, str(Path(__file__).parents[2] / "tile"))
from kernels import CASES

TOY = load_device("toy:toy")


def lowered(name: str) -> Emitted:
    program = tile(CASES[name].meaning(), target.limits(TOY), name=name)
    return target.lower(Kernel(name, program, None), TOY)


def same(emitted: Emitted, inputs: list[np.ndarray]) -> bool:
    wanted = run(emitted.kernel.program, inputs)
    got = target.execute(emitted, inputs, TOY)
    return all(
        np.allclose(
            g.astype(np.float64),
            w.astype(np.float64),
            rtol=0,
            atol=2e-6 * max(1, np.abs(w.astype(np.float64)).max()),
            equal_nan=True,
        )
        for g, w in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_text_and_tile_program_agree(name: str) -> None:
    assert same(lowered(name), CASES[name].inputs())


def test_a_wrong_emitter_is_seen() -> None:
    emitted = lowered("matmul_bias_relu")
    broken = replace(emitted, text=emitted.text.replace("toy.move(v5, v1)", "toy.fill(v5, 0)"))
    assert broken.text != emitted.text
    assert not same(broken, CASES["matmul_bias_relu"].inputs())


def test_a_wrong_instruction_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(instructions.VECTOR["exp"], run=np.exp2)
    monkeypatch.setitem(instructions.VECTOR, "exp", wrong)
    assert not same(lowered("softmax"), CASES["softmax"].inputs())


def test_a_store_past_its_buffer_is_refused() -> None:
    emitted = lowered("add")
    broken = replace(emitted, text=emitted.text.replace("extent=150", "extent=152"))
    with pytest.raises(CheckFailed, match="leaves its tensor of 11550 elements"):
        target.execute(broken, CASES["add"].inputs(), TOY)


def test_the_matrix_unit_writes_acc_only() -> None:
    emitted = lowered("matvec")
    broken = replace(emitted, text=emitted.text.replace("toy.acc(", "toy.vmem("))
    with pytest.raises(CheckFailed, match=r"toy\.mma writes acc, not vmem"):
        target.execute(broken, CASES["matvec"].inputs(), TOY)


def test_a_kernel_larger_than_vmem_is_refused() -> None:
    limits = replace(target.limits(TOY), elements=1 << 20, elementwise=1 << 18)
    program = tile(CASES["gelu"].meaning(), limits, name="gelu")
    with pytest.raises(CheckFailed, match="vmem of toy:toy holds 65536 bytes"):
        target.lower(Kernel("gelu", program, None), TOY)
