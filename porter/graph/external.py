"""External data stays in the model's folder and is as long as the tensors say; checked before anything is mapped."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import onnx

from porter.errors import PorterError
from porter.graph.protocheck import byte_size

External = onnx.TensorProto.EXTERNAL


def confine(where: str, folder: str | None, proto: onnx.ModelProto, unread: Collection[str] = ()) -> None:
    """Raises PorterError, naming the tensor, for external data that is missing, short, or outside `folder`.

    `unread` are weights whose data nobody will ask for.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors(proto):
        if tensor.data_location == External and tensor.name not in unread:
            _confine(f"{where}: tensor '{tensor.name}'", folder, tensor, sizes)


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: weights and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph)


def _confine(where: str, folder: str | None, tensor: onnx.TensorProto, sizes: dict[str, int]) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise PorterError(
            where,
            expected="weights inside the model, since it was not read from a file",
            found=f"external data in '{location}'",
            hint="give the path of the model's file",
        )
    if not location:
        raise PorterError(
            where, expected="the name of a file beside the model", found="external data without a location"
        )
    if os.path.isabs(location) or "\\" in location or location[1:2] == ":":
        raise PorterError(where, expected="external data in the model's folder", found=f"the path '{location}'")
    path = os.path.normpath(os.path.join(folder, location))
    if not _within(path, folder):
        raise PorterError(
            where, expected="external data in the model's folder", found=f"'{location}', which leads out of it"
        )
    real = os.path.realpath(path)
    if not _within(real, folder):
        raise PorterError(
            where,
            expected="external data in the model's folder",
            found=f"'{location}', a link to '{real}'",
            hint="put the file itself beside the model",
        )
    if real not in sizes:
        if not os.path.exists(real):
            raise PorterError(where, expected=f"its data in '{location}' beside the model", found="no such file")
        if not os.path.isfile(real):
            raise PorterError(where, expected=f"its data in the file '{location}'", found="something that is no file")
        status = os.stat(real)
        if status.st_nlink > 1:  # the library that maps the file refuses these: a link could lead to any file
            raise PorterError(
                where,
                expected="external data that only the model's folder holds",
                found=f"'{location}' with {status.st_nlink} hard links",
                hint=f"cp '{location}' x && mv x '{location}'",
            )
        if not os.access(real, os.R_OK):
            raise PorterError(where, expected=f"its data in '{location}'", found="a file that may not be read")
        sizes[real] = status.st_size
    offset = _number(where, "offset", entries.get("offset", "0"))
    need = byte_size(tensor)
    length = _number(where, "length", entries.get("length", str(need)))
    if length != need:
        raise PorterError(
            where, expected=f"{need} bytes of external data for shape {list(tensor.dims)}", found=f"length {length}"
        )
    if offset + need > sizes[real]:
        raise PorterError(
            where,
            expected=f"bytes {offset} to {offset + need} of '{location}'",
            found=f"a file of {sizes[real]} bytes",
            hint="fetch or export the weights again",
        )


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _number(where: str, what: str, text: str) -> int:
    if not text.isdecimal():
        raise PorterError(where, expected=f"a byte {what} of its external data", found=f"'{text}'")
    return int(text)
