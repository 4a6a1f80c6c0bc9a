"""weights.safetensors, written one tensor at a time and read by mapping.

The file is the standard one (an 8 byte length, a JSON header, the bytes without holes). Tensors whose size is a
multiple of 64 come first, so each of them starts at a multiple of 64; the others follow by falling element size.
A dtype that safetensors has no name for is stored as its bytes, one of fewer than 8 bits without holes between values
(formats.Format.pack); the manifest's buffer says what they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from porter import formats

if TYPE_CHECKING:
    import numpy as np

ALIGNMENT = 64
_NAMES = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip


SHORT = frozenset(
    ("int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")
)  # fewer than 8 bits, in a byte each in numpy


class Array(Protocol):
    """What a weight must offer: a shape, a dtype, and its numbers when asked."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Lazy:
    """A weight that is computed when it is written, and forgotten after: models may be larger than memory."""

    shape: tuple[int, ...]
    dtype: Any
    make: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.make()


def chunks(weights: Mapping[str, Array]) -> Iterator[bytes | memoryview]:
    """The file's bytes, a tensor at a time."""
    import numpy as np

    sizes = {n: _size(np.dtype(w.dtype), tuple(w.shape)) for n, w in weights.items()}
    order = sorted(weights, key=lambda n: (sizes[n] % ALIGNMENT != 0, -np.dtype(weights[n].dtype).itemsize, n))
    header: dict[str, Any] = {}
    offset = 0
    for n in order:
        dtype = np.dtype(weights[n].dtype)
        known = _NAMES.get(dtype.name)
        shape = [int(d) for d in weights[n].shape]
        header[n] = {
            "dtype": known or "U8",
            "shape": shape if known or (dtype.itemsize == 1 and dtype.name not in SHORT) else [sizes[n]],
            "data_offsets": [offset, offset + sizes[n]],
        }
        offset += sizes[n]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for n in order:
        array = np.ascontiguousarray(np.asarray(weights[n]))
        if array.dtype.name in SHORT:
            array = formats.FORMATS[array.dtype.name].pack(array)
        if array.nbytes != sizes[n]:
            raise ValueError(f"weight '{n}' promised {sizes[n]} bytes and has {array.nbytes}")
        yield array.reshape(-1).view(np.uint8).data


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    """Bytes in the file."""
    if dtype.name in SHORT:
        return -(-prod(shape) * formats.FORMATS[dtype.name].bits // 8)
    return prod(shape) * dtype.itemsize


def mapped(path: Path, dtypes: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """The tensors of a file, mapped, in the dtypes and shapes that the manifest gives; short ones are unpacked."""
    import ml_dtypes  # noqa: F401  registers bfloat16 and the narrow floats with numpy
    import numpy as np

    if not dtypes:
        return {}
    raw = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + length].tobytes())
    found = {}
    for name, (dtype, shape) in dtypes.items():
        begin, end = header[name]["data_offsets"]
        data = raw[8 + length + begin : 8 + length + end]
        short = dtype in SHORT
        found[name] = formats.FORMATS[dtype].unpack(data, shape) if short else data.view(np.dtype(dtype)).reshape(shape)
    return found
