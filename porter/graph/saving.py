"""Writing a model: whole or not at all, weights inside the file or streamed into one beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from porter.errors import PorterError
from porter.graph.values import captured, every_graph

_LIMIT = 2**31 - 1
"""Bytes of the longest protobuf message, https://protobuf.dev/programming-guides/proto-limits/."""

_ALIGNED = 64
"""Tensors in a file of weights start at multiples of this: no element of any type lies across a cache line."""

_INSIDE = 1024
"""Tensors up to this many bytes stay in the model's file: shapes, axes, scales."""


def clone(model: ir.Model) -> ir.Model:
    """A model that can be edited apart from this one; weights are shared, not copied."""
    return model.clone()


def alone(node: ir.Node, opsets: Mapping[str, int]) -> ir.Graph:
    """A copy of one node, subgraphs with it, as a graph; its inputs are what the node and its subgraphs read, each once."""
    reads = dict.fromkeys(value for value in (*node.inputs, *captured(node)) if value is not None)
    view = ir.GraphView(list(reads), list(node.outputs), nodes=[node], opset_imports=dict(opsets), name="alone")
    return view.clone()


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one message, external data read into it.

    Raises PorterError where it would be longer than a message can be.
    """
    _check_length(model)
    with _replaced_weights(model, lambda value, tensor: _inside(value, tensor)):
        return ir.to_proto(model)


def save(model: ir.Model, path: str | os.PathLike, *, external: bool | None = None) -> Path:
    """Writes the model, making parent folders, and returns the path.

    With `external` the weights go to '<name>.data' beside it; by default when the model is too long for one file.
    Both files are written under other names and renamed, so that a reader never sees half of one. Raises PorterError
    where the folder cannot be written.
    """
    path = Path(path)
    if external is None:
        external = _bytes(model) > _LIMIT // 2
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if external:
            _save_external(model, path)
        else:
            _write(path, to_proto(model).SerializeToString(deterministic=True))
    except OSError as error:
        raise PorterError(
            str(path), expected="a place that can be written", found=error.strerror or str(error)
        ) from error
    return path


def _weights(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in every_graph(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for _, tensor in _weights(model) if tensor.dtype != ir.DataType.STRING)


def _check_length(model: ir.Model) -> None:
    size = _bytes(model)
    if size > _LIMIT:
        raise PorterError(
            "the model", expected=f"at most {_LIMIT} bytes in one file", found=f"{size} bytes of weights",
            hint="save it with external=True",
        )  # fmt: skip


def _inside(value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name)


@contextmanager
def _replaced_weights(model: ir.Model, replace) -> Iterator[None]:
    """The model with other tensors for its weights while it is turned into a message."""
    before = list(_weights(model))
    attributes: list[tuple[ir.Node, str, ir.Attr]] = []
    try:
        for value, tensor in before:
            value.const_value = replace(value, tensor)
        for graph in every_graph(model):
            for node in graph:
                for key, attribute in node.attributes.items():
                    if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                        tensor = attribute.as_tensor()
                        if isinstance(tensor, ir.ExternalTensor):
                            attributes.append((node, key, attribute))
        for node, key, attribute in attributes:
            tensor = attribute.as_tensor()
            shape = ir.Shape(tensor.shape.numpy())
            plain = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=shape, name=tensor.name)
            node.attributes[key] = ir.AttrTensor(key, plain)
        yield
    finally:
        for value, tensor in before:
            value.const_value = tensor
        for node, key, attribute in attributes:
            node.attributes[key] = attribute


def _save_external(model: ir.Model, path: Path) -> None:
    data = path.with_name(path.name + ".data")
    partial = _beside(data)
    offsets: dict[int, int] = {}  # a tensor that several weights share is written once
    try:
        with open(partial, "wb") as file:
            for _, tensor in _weights(model):
                if not _goes_out(tensor) or id(tensor) in offsets:
                    continue
                offset = -(-file.tell() // _ALIGNED) * _ALIGNED
                file.write(bytes(offset - file.tell()))
                offsets[id(tensor)] = offset
                _stream(tensor, file)

        def stub(value: ir.Value, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if not _goes_out(tensor):
                return _inside(value, tensor)
            return ir.ExternalTensor(
                data.name, offsets[id(tensor)], tensor.nbytes, tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()), name=value.name or "",
            )  # fmt: skip

        with _replaced_weights(model, stub):
            message = ir.to_proto(model).SerializeToString(deterministic=True)
        os.replace(partial, data)
    finally:
        partial.unlink(missing_ok=True)
    _write(path, message)


def _stream(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Writes the bytes, from a mapped file by the kernel where it can."""
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())


def _goes_out(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > _INSIDE


def _write(path: Path, content: bytes) -> None:
    partial = _beside(path)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Another name in the same folder, so that renaming stays within one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
