"""From a file, bytes or ModelProto to a Model: everything wrong with the container is found and named here."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from porter.errors import PorterError
from porter.graph import contrib
from porter.graph.edit import remember_sources
from porter.graph.external import confine
from porter.graph.inference import innermost
from porter.graph.protocheck import check_proto, redefined_constants
from porter.graph.repair import repair
from porter.graph.unread import forget, unread_names
from porter.graph.values import every_graph

Source = str | os.PathLike | bytes | onnx.ModelProto


def read(source: Source, *, weights: bool = True) -> ir.Model:
    """The model as the file has it: parsed, checked, repaired, not bound to dims and at its own opset.

    External data is mapped, never copied, and must lie in the model's folder; without `weights` it is not even looked
    for, except integers. Raises PorterError for what is not a complete and well-formed ONNX model of operators that porter
    knows.
    """
    where, folder, proto = _proto(source)
    notes = check_proto(where, proto, contrib.OPERATORS)
    without = frozenset() if weights else unread_names(proto)
    confine(where, folder, proto, without)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # whatever the library could not read, it has said why in its own words
        raise PorterError(where, expected="an ONNX model", found=innermost(error)) from error
    if folder is not None:
        for graph in every_graph(model):
            ir.external_data.set_base_dir(graph, folder)
    forget(model, without)
    contrib.adopt(model)
    repair(model, notes)
    remember_sources(model)
    return model


def _proto(source: Source) -> tuple[str, str | None, onnx.ModelProto]:
    """What to call the source in messages, the folder its external data lies in, and the parsed message."""
    if isinstance(source, onnx.ModelProto):
        if redefined_constants(source.graph):  # these are dropped from the message, and this one is the caller's
            mine = onnx.ModelProto()
            mine.CopyFrom(source)
            source = mine
        return "the model", None, source
    if isinstance(source, bytes | bytearray | memoryview):
        return "the model", None, _parse("the model", bytes(source))
    path = Path(source)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, 1)
        raise PorterError(
            str(path),
            expected="an ONNX file",
            found="nothing at this path",
            hint=str(path.parent / near[0]) if near else None,
        )
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.onnx"))
        raise PorterError(
            str(path), expected="an ONNX file", found="a folder", hint=str(path / inside[0]) if inside else None
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PorterError(str(path), expected="a readable ONNX file", found=error.strerror or str(error)) from error
    return str(path), os.path.realpath(path.parent), _parse(str(path), content)


def _parse(where: str, content: bytes) -> onnx.ModelProto:
    if content.startswith(b"version https://git-lfs"):
        raise PorterError(where, expected="an ONNX file", found="a Git LFS pointer", hint="git lfs pull")
    if not content:
        raise PorterError(where, expected="an ONNX file", found="an empty file")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        cut = _truncation(content)
        raise PorterError(
            where,
            expected="an ONNX file",
            found=cut or "bytes that are no ONNX model",
            hint="fetch or export the file again" if cut else None,
        ) from error
    if not proto.HasField("graph"):
        known = proto.ir_version > 0 or len(proto.opset_import) > 0
        raise PorterError(
            where,
            expected="an ONNX file",
            found="a model without a graph: the file is truncated" if known else "bytes that are no ONNX model",
        )
    return proto


# Field numbers and wire types of onnx.ModelProto that a file can start with, from onnx.proto3.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _truncation(content: bytes) -> str | None:
    """Where a file that starts like a ModelProto breaks off; None where it does not start like one."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if _MODEL_FIELDS.get(tag >> 3) != tag & 7:
            return None
        value, at = _varint(content, at)
        if tag & 7 == 2:
            if at + value > len(content):
                field = onnx.ModelProto.DESCRIPTOR.fields_by_number[tag >> 3].name
                return f"a truncated file: '{field}' has {value} bytes, {len(content) - at} are there"
            at += value
    return None


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(content):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return value, at
