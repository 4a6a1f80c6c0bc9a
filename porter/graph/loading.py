"""`load`: read, bind, bring to the standard's operators at the home opset, validate; what everybody starts from."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from porter.graph import contrib
from porter.graph.dims import bind
from porter.graph.inference import check_types, infer_types
from porter.graph.reading import Source, read
from porter.graph.repair import note
from porter.graph.upgrade import upgrade
from porter.graph.validate import validate


def load(source: Source, dims: Mapping[str, int] | None = None, *, weights: bool = True) -> ir.Model:
    """The model with its dims bound, at the home opset, repaired and valid; weights stay mapped.

    `dims` gives a number to each free dim of the inputs, by name or by place ('input[1]'); what follows from others
    may be left out. Without `weights` external ones stay shapes (see `unread`). What was repaired stands in
    `notes(model)`. Raises PorterError, with the place and the mend.
    """
    return ready(read(source, weights=weights), dims)


def ready(model: ir.Model, dims: Mapping[str, int] | None = None) -> ir.Model:
    """What `load` makes of a model as it was read; the model itself is changed."""
    bind(model, dims or {})
    check_types(model)  # arity and attributes, as the model's own opset has them
    note(model, infer_types(model))
    upgrade(model)
    contrib.normalize(model)
    infer_types(model)
    validate(model)
    return model
