"""The graph level: an ONNX model in memory, read, bound, brought to one opset, edited, printed and saved.

Everything else reaches `onnx_ir` through this package only.
"""

from __future__ import annotations

from onnx_ir import (
    Attr,
    AttributeType,
    DataType,
    Function,
    Graph,
    Model,
    Node,
    OptionalType,
    RefAttr,
    SequenceType,
    Shape,
    SymbolicDim,
    Tensor,
    TensorType,
    TypeAndShape,
    Value,
)
from onnx_ir import tensor as make_tensor

from porter.graph.dims import Dim, dims, shapes
from porter.graph.edit import (
    add_initializer,
    fresh,
    inherit,
    insert_after,
    insert_before,
    names,
    new_node,
    new_value,
    remove,
    replace_uses,
)
from porter.graph.functions import inline, outline
from porter.graph.inference import check_types, infer_types, type_text
from porter.graph.loading import load, ready
from porter.graph.operators import HOME_OPSET, schema
from porter.graph.parsing import parse
from porter.graph.reading import read
from porter.graph.repair import note, notes
from porter.graph.saving import alone, clone, save, to_proto
from porter.graph.text import content_hash, node_text, tensors, text
from porter.graph.unread import ShapeOnly, blank, unread
from porter.graph.upgrade import upgrade
from porter.graph.validate import validate
from porter.graph.values import (
    SOURCE,
    Reference,
    attributes,
    called,
    captured,
    constant,
    constant_tensor,
    dtype,
    every_graph,
    graphs,
    integer,
    is_unread,
    nodes_of,
    parameters,
    release,
    shape,
    source_name,
)

__all__ = [
    "HOME_OPSET",
    "SOURCE",
    "Attr",
    "AttributeType",
    "DataType",
    "Dim",
    "Function",
    "Graph",
    "Model",
    "Node",
    "OptionalType",
    "RefAttr",
    "Reference",
    "SequenceType",
    "Shape",
    "ShapeOnly",
    "SymbolicDim",
    "Tensor",
    "TensorType",
    "TypeAndShape",
    "Value",
    "add_initializer",
    "alone",
    "attributes",
    "blank",
    "called",
    "captured",
    "check_types",
    "clone",
    "constant",
    "constant_tensor",
    "content_hash",
    "dims",
    "dtype",
    "every_graph",
    "fresh",
    "graphs",
    "infer_types",
    "inherit",
    "inline",
    "insert_after",
    "insert_before",
    "integer",
    "is_unread",
    "load",
    "make_tensor",
    "names",
    "new_node",
    "new_value",
    "node_text",
    "nodes_of",
    "note",
    "notes",
    "outline",
    "parameters",
    "parse",
    "read",
    "ready",
    "release",
    "remove",
    "replace_uses",
    "save",
    "schema",
    "shape",
    "shapes",
    "source_name",
    "tensors",
    "text",
    "to_proto",
    "type_text",
    "unread",
    "upgrade",
    "validate",
]
