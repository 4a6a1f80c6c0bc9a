"""Changes of recurrence: RNN, GRU and LSTM flags, and Scan, which had a batch axis of its own."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from porter.graph.edit import fresh
from porter.graph.upgrade.engine import Edit, Table, changes

STEPS: Table = {}


@changes(STEPS, 3, "GRU")
def gru_direction(edit: Edit) -> None:
    """The default direction was misspelt."""
    edit.set("direction", str(edit.attribute("direction", "forward")).replace("foward", "forward"))


@changes(STEPS, 7, "GRU", "LSTM", "RNN")
def no_output_sequence(edit: Edit) -> None:
    """Whether the sequence is an output is seen from whether it has a name."""
    edit.pop("output_sequence")


@changes(STEPS, 9, "Scan")
def scan_without_batch(edit: Edit) -> None:
    """Every input had a batch axis first, and its elements were scanned apart: now a Scan over the batch around the
    Scan.

    Sequences of different lengths in one batch are refused.
    """
    if edit.input(0) is not None:
        edit.refuse("sequences of one length", "Scan with sequence_lens", "a batch of one")
    body = edit.node.attributes["body"].as_graph()
    count = int(edit.attribute("num_scan_inputs", 0))
    actual = [value for value in edit.node.inputs[1:] if value is not None]
    inner: list[ir.Value] = []
    for value in actual:
        dims = None if value.shape is None else list(value.shape.dims[1:])
        inner.append(
            ir.Value(
                name=fresh(f"{edit.node.name}/{value.name}", edit.used),
                type=value.type,
                shape=None if dims is None else ir.Shape(dims),
            )
        )
    attributes: dict[str, Any] = {"body": body, "num_scan_inputs": count}
    directions = edit.attribute("directions")
    if directions is not None:
        attributes["scan_input_directions"] = tuple(int(v) for v in directions)
    edit.node.attributes.clear()  # the body moves to the inner Scan
    scan = ir.Node(
        "", "Scan", inner, ir.convenience.convert_attributes(attributes), num_outputs=len(edit.node.outputs),
        name=fresh(f"{edit.node.name}/sequence", edit.used), metadata_props=dict(edit.node.metadata_props),
    )  # fmt: skip
    for index, value in enumerate(scan.outputs):
        outer = edit.node.outputs[index]
        value.name = fresh(f"{edit.node.name}/{outer.name or index}", edit.used)
        value.type = outer.type if outer.type is not None else _kind(body, index)
    batch = ir.Graph(inner, list(scan.outputs), nodes=[scan], name=f"{edit.node.name}/batch")
    edit.become("Scan", actual, {"body": batch, "num_scan_inputs": len(actual)})


def _kind(body: ir.Graph, index: int) -> ir.TypeProtocol | None:
    return body.outputs[index].type if index < len(body.outputs) else None
