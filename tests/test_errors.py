"""Errors are one to four plain lines; importing porter loads nothing heavy, and its words are all there."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import porter
from porter.errors import CheckFailed, PorterError, Undecided


def test_an_error_says_where_expected_found_and_what_to_try() -> None:
    error = PorterError("input 'x'", expected="3 dims", found="2", hint="--dim batch=1")
    assert str(error) == "input 'x'\n  expected 3 dims\n  found 2\n  try  --dim batch=1"
    assert str(PorterError("nothing works")) == "nothing works"


def test_names_from_a_file_cannot_add_lines_or_control_a_terminal() -> None:
    error = PorterError("node 'a\nb'", found="\x1b[31mred\r\n\x00")
    assert str(error) == "node 'a b'\n  found \\x1b[31mred \\x00"


def test_exit_codes() -> None:
    assert [kind("w").exit_code for kind in (PorterError, CheckFailed, Undecided)] == [2, 1, 3]


def test_errors_travel_between_processes() -> None:
    error = CheckFailed("a", expected="b", found="c", hint="d")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is CheckFailed and str(again) == str(error)


def test_importing_porter_loads_nothing_else() -> None:
    script = "import sys, porter; print([m for m in ('numpy', 'jax', 'onnx', 'onnx_ir') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_word_is_there_and_can_be_called() -> None:
    for name in porter.__all__:
        assert callable(getattr(porter, name)), name
    with pytest.raises(AttributeError, match="module 'porter' has no attribute 'prot'"):
        porter.prot  # noqa: B018
