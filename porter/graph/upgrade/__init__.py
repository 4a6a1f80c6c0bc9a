"""Brings a model to the home opset: one small function per change of an operator, in the order of the opsets.

A change that only widened the types or wrote down what was always so needs no function. A change that a newer
operator cannot express exactly is spelled out in several nodes.
"""

from __future__ import annotations

import onnx_ir as ir

from porter.graph.operators import HOME_OPSET
from porter.graph.upgrade import control, movement, normalize, numeric, resize
from porter.graph.upgrade.engine import Step, Table
from porter.graph.upgrade.engine import upgrade as _upgrade

TABLE: Table = {}
for _module in (control, movement, normalize, numeric, resize):
    for _key, _step in _module.STEPS.items():
        assert _key not in TABLE, _key
        TABLE[_key] = _step


def upgrade(model: ir.Model, home: int = HOME_OPSET) -> None:
    """Brings the model and its functions, in place, to the home opset, or all to the newest among them.

    Raises PorterError, naming the node, where the meaning of an old operator cannot be kept.
    """
    _upgrade(model, TABLE, home)


__all__ = ["TABLE", "Step", "upgrade"]
