"""Faults put in on purpose are found: a dropped clip, a wrong meaning, a wrong emitter, too much memory."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from trainium_support import CASES, ROUNDING, device, distance, lowered, program

from porter.errors import CheckFailed
from porter.targets.trainium import instructions, products, target
from porter.targets.trainium.signatures import check
from porter.tile.interpret import run
from porter.tile.target import CannotEmit, Emitted
from porter.tile.text import parse, show

CLIPPED = """add attention_197 conv_3x3_stride_2 conv_7x7_stride_2 maxpool matmul_bias_relu attention_decode concat
    log_softmax_long conv_depthwise""".split()


def found(emitted: Emitted, name: str) -> bool:
    """Whether running the text breaks a rule or gives something else."""
    inputs = CASES[name].inputs()
    try:
        got = target.execute(emitted, inputs, device())
    except CheckFailed:
        return True
    return distance(got, run(emitted.kernel.program, inputs)) > ROUNDING


def without_clips(text: str) -> list[str]:
    """The text once per bound, each time with one bound dropped: min(a, b) becomes a, `lo` 0 and `hi` the whole."""
    lines = text.splitlines()
    variants = []
    for n, line in enumerate(lines):
        edge = re.match(r"(\s*\w+_n = )min\((\d+), .*\)$", line)
        high = re.match(r"(\s*\w+_hi = )min\((\w+), .*\)$", line)
        low = re.match(r"(\s*\w+_lo = )(?!0$).*$", line)
        for m, value in ((edge, edge and edge[2]), (high, high and high[2]), (low, "0")):
            if m:
                variants.append("\n".join([*lines[:n], f"{m[1]}{value}", *lines[n + 1 :], ""]))
    return variants


@pytest.mark.parametrize("name", CLIPPED)
def test_each_clip_dropped_is_found(name: str) -> None:
    emitted = lowered(program(name))
    variants = without_clips(emitted.text)
    assert variants
    assert [v for v in variants if not found(replace(emitted, text=v), name)] == []


@pytest.mark.parametrize("name", ["conv_3x3_stride_2", "maxpool", "attention_decode"])
def test_a_pad_that_is_not_set_is_found(name: str) -> None:
    emitted = lowered(program(name))
    bare = re.sub(r"\n\s*nisa\.memset\([^\n]*", "", emitted.text)
    assert bare != emitted.text and found(replace(emitted, text=bare), name)


@pytest.mark.parametrize(
    "old,new", [("nl.add", "nl.subtract"), ("nl.exp", "nl.tanh"), (r"accumulate=\w+ > 0", "accumulate=False")]
)
def test_a_wrong_instruction_in_the_text_is_found(old: str, new: str) -> None:
    name = next(n for n in ("matmul_bias_relu", "softmax") if re.search(old, lowered(program(n)).text))
    emitted = lowered(program(name))
    assert found(replace(emitted, text=re.sub(old, new, emitted.text)), name)


def test_a_wrong_meaning_of_an_instruction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(instructions.ACTIVATIONS["exp"], meaning=np.exp2)
    monkeypatch.setitem(instructions.ACTIVATIONS, "exp", wrong)
    assert found(lowered(program("softmax")), "softmax")


def test_a_wrong_emitter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = products.matmul
    monkeypatch.setattr(
        products, "matmul", lambda e, s, dst, places, *a, **k: matmul(e, s, dst, (places[0][::-1], ()), *a, **k)
    )
    assert found(lowered(program("matmul_bias_relu")), "matmul_bias_relu")


def test_a_store_past_its_tensor_is_found() -> None:
    emitted = lowered(program("transpose"))
    moved = re.sub(r"(dst=out0\.ap\(.*offset=)", r"\g<1>1 + ", emitted.text)
    with pytest.raises(CheckFailed, match="access pattern on out0\n  expected elements 0 to"):
        target.execute(replace(emitted, text=moved), CASES["transpose"].inputs(), device())


def test_one_pass_of_bfloat16_in_a_float32_product_is_found() -> None:
    emitted = lowered(program("matmul_bias_relu"))
    operand = re.search(r"stationary=(\w+), moving=(\w+)", emitted.text)
    assert operand
    rounded = emitted.text
    for word in operand.groups():
        rounded = re.sub(rf"({word} = nl\.ndarray\(.*)dtype=nl\.float32", r"\1dtype=nl.bfloat16", rounded)
    assert rounded != emitted.text
    with pytest.raises(CheckFailed) as caught:
        target.execute(replace(emitted, text=rounded), CASES["matmul_bias_relu"].inputs(), device())
    assert str(caught.value) == (
        "kernel matmul_bias_relu: products of its text\n  expected operands in fp32\n  found operands in bfloat16"
    )


def test_another_float32_product_than_the_chips_own_is_not_emitted() -> None:
    with pytest.raises(CannotEmit) as caught:
        lowered(show(program("matmul_bias_relu")).replace("as fp32", "as tf32x3"))
    assert str(caught.value) == "a float32 product as tf32x3: the Tensor engine multiplies float32 as it is"


def test_a_call_that_is_not_public_is_found() -> None:
    with pytest.raises(CheckFailed) as caught:
        check("nisa.memset(dst=a, value=0.0)\nnisa.tensor_tensor(a, b, op=nl.add)\n", "kernel k")
    assert str(caught.value) == (
        "kernel k, line 2 of the NKI text\n  expected a public NKI call\n  found nisa.tensor_tensor is not given data2"
    )


TOO_LARGE = """
kernel large {
  in p0: float32[60000]
  out out0: float32[]
  axis i: 60000 by 60000 resident
  x: float32<i> = load p0(60000)[i]
  y: float32<> = reduce add x over i
  store out0()[] = y
}
"""


def test_a_kernel_that_exceeds_a_memory_is_named_with_the_amount() -> None:
    with pytest.raises(CheckFailed) as caught:
        lowered(TOO_LARGE)
    assert str(caught.value) == (
        "kernel large on trn2\n  expected at most 229376 bytes of a partition of sbuf\n"
        "  found 240004 live at once, x 240000, y 4 among them"
    )


def test_an_output_axis_is_cut_smaller_where_a_memory_would_be_exceeded() -> None:
    wide = parse("""
        kernel wide {
          in p0: float32[90000]
          out out0: float32[90000]
          axis i: 90000 by 90000 resident
          x: float32<i> = load p0(90000)[i]
          y: float32<i> = exp x
          store out0(90000)[i] = y
        }
        """)
    emitted = lowered(wide)
    x = np.random.default_rng(0).standard_normal(90000).astype(np.float32)
    assert emitted.grid > 1 and emitted.kernel.program.axes[0].tile * emitted.grid >= 90000
    assert np.array_equal(target.execute(emitted, [x], device())[0], np.exp(x))
