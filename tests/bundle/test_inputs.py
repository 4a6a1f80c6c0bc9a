"""Inputs of the wrong name, dtype or shape: each is named, with what was expected."""

import ml_dtypes
import numpy as np
import pytest

from porter.bundle import Tensor, check_inputs, read_inputs
from porter.errors import PorterError

WANTED = [Tensor("input_ids", "int64", (1, 8), "a"), Tensor("scale", "bfloat16", (2,), "b")]
GOOD = {"input_ids": np.zeros((1, 8), np.int64), "scale": np.ones(2, ml_dtypes.bfloat16)}


def test_good_inputs_pass_in_the_programs_order():
    assert list(check_inputs(dict(reversed(GOOD.items())), WANTED)) == ["input_ids", "scale"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {**GOOD, "input_id": GOOD["input_ids"]},
            "there is no input 'input_id'\n  expected input_ids, scale\n  try  'input_ids'",
        ),
        ({"scale": GOOD["scale"]}, "input 'input_ids' is missing\n  expected int64[1, 8]\n  found scale"),
        (
            {**GOOD, "input_ids": np.zeros((1, 8), np.int32)},
            "input 'input_ids' has another dtype\n  expected int64[1, 8]\n  found int32[1, 8]\n"
            "  try  array.astype('int64')",
        ),
        (
            {**GOOD, "input_ids": np.zeros((2, 8), np.int64)},
            "input 'input_ids' has another shape\n  expected int64[1, 8]\n  found int64[2, 8]\n"
            "  try  port with the --dim values of these inputs",
        ),
    ],
)
def test_the_message_to_the_word(given, message):
    with pytest.raises(PorterError) as e:
        check_inputs(given, WANTED)
    assert str(e.value) == message


def test_narrow_floats_survive_npz(tmp_path):
    np.savez(tmp_path / "x.npz", **GOOD)
    back = check_inputs(read_inputs(tmp_path / "x.npz"), WANTED)
    assert back["scale"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(back["scale"], GOOD["scale"])


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.zeros(1000))
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:4000])
    for name, message in [
        ("missing.npz", "no such file"),
        ("text.npz", "is not an .npz file"),
        ("half.npz", "is not an .npz file"),
        ("pickle.npz", "cannot be read"),
    ]:
        with pytest.raises(PorterError, match=message):
            read_inputs(tmp_path / name)
