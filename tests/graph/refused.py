"""How the tests of this folder hold a refusal: its words, its exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import pytest

from porter import graph
from porter.errors import PorterError


def message(call: Callable[[], object]) -> str:
    with pytest.raises(PorterError) as error:
        call()
    assert error.value.exit_code == 2
    return str(error.value)


def refusal(proto: onnx.ModelProto, dims: Mapping[str, int] | None = None) -> str:
    return message(lambda: graph.load(proto, dims))
