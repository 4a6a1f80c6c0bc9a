"""Weights of which only type and shape are known: a model can be sized and timed without them, never computed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import numpy as np
import onnx
import onnx_ir as ir

from porter.errors import PorterError

External = onnx.TensorProto.EXTERNAL
INTEGERS = frozenset(int(d) for d in ir.DataType if d.is_integer() or d in (ir.DataType.BOOL, ir.DataType.STRING))


class ShapeOnly:
    """A tensor without data, as far as onnx-ir asks one. Its name stands for its content."""

    def __init__(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, ir.Shape(shape)
        self.size = math.prod(shape)
        self.nbytes = math.ceil(self.size * dtype.bitwidth / 8)
        self.doc_string: str | None = None
        self.metadata_props: dict[str, str] = {}
        text = f"unread {name} {dtype.name}{list(shape)}"
        self.meta: dict[str, Any] = {"porter.hash": hashlib.sha256(text.encode()).hexdigest()}

    def numpy(self) -> NoReturn:
        raise PorterError(f"weight '{self.name}'", expected="its values", found="a shape only (--weights shapes)")

    def tobytes(self) -> NoReturn:
        self.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        self.numpy()

    def __dlpack__(self, *, stream: Any = None) -> NoReturn:
        self.numpy()

    def __dlpack_device__(self) -> NoReturn:
        self.numpy()


def unread_names(proto: onnx.ModelProto) -> frozenset[str]:
    """The weights that --weights shapes leaves alone: external and no integers, which say shapes and have to be known."""
    return frozenset(
        t.name for t in proto.graph.initializer if t.data_location == External and t.data_type not in INTEGERS
    )


def forget(model: ir.Model, names: frozenset[str]) -> None:
    """Takes the data away from weights of the graph."""
    for name in names & model.graph.initializers.keys():
        value = model.graph.initializers[name]
        if (tensor := value.const_value) is not None:
            value.const_value = cast(ir.TensorProtocol, ShapeOnly(name, tensor.dtype, tensor.shape.numpy()))


def unread(model: ir.Model) -> list[ir.Value]:
    """The weights of a model of which only the shape is known."""
    return [v for v in model.graph.initializers.values() if isinstance(v.const_value, ShapeOnly)]


def blank(name: str, dtype: np.dtype, shape: Sequence[int]) -> ir.TensorProtocol:
    """A weight of a type and a shape, without data."""
    return cast(ir.TensorProtocol, ShapeOnly(name, ir.DataType.from_numpy(np.dtype(dtype)), shape))
