"""manifest.json as dataclasses: what is in a bundle, in which order it runs, and how it was checked.

The text is canonical (sorted keys, no times, no paths of the machine that made it), so equal ports give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal

from porter.errors import PorterError

FORMAT = "porter-bundle"
VERSION = 1

Space = Literal["input", "output", "weight", "arena", "host"]


def bits(dtype: str) -> int:
    """Bits per element of a dtype by numpy's or ml_dtypes' name; sub-byte types take one byte in memory."""
    import ml_dtypes
    import numpy as np

    scalar = getattr(ml_dtypes, dtype, None)
    return 8 * (np.dtype(scalar) if scalar is not None else np.dtype(dtype)).itemsize


@dataclass(frozen=True)
class Buffer:
    """Memory of the program: a tensor, where it lives, and in the arena at which offset.

    A shape of None depends on data: only the host computes and reads such a tensor, and keeps it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    space: Space
    offset: int | None = None

    @property
    def bytes(self) -> int:
        return 0 if self.shape is None else prod(self.shape) * bits(self.dtype) // 8


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model, by its own name, and the buffer that holds it; an output's shape may depend on data."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    buffer: str


@dataclass(frozen=True)
class Kernel:
    """A distinct kernel: its source text in its language, its tile program, and what was found out about it."""

    name: str
    language: str  # 'triton', 'pallas', 'stablehlo', 'nki', 'toy'; 'onnx' for what runs on the host
    file: str  # the emitted text, relative to the bundle
    tile: str | None = None  # the tile program's text form
    target_tile: str | None = None  # the program as the target's own passes left it, where that differs
    grid: int = 1
    memory: Mapping[str, int] = field(default_factory=dict)
    products: tuple[str, ...] = ()
    why: str = ""  # why this language, or why on the host
    checks: Mapping[str, Any] = field(default_factory=dict)
    compiled: Mapping[str, Any] | None = None  # the vendor toolchain's verdict


@dataclass(frozen=True)
class Launch:
    """One step: a kernel on buffers, in the order of its parameters. The list of launches is the program."""

    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: tuple[str, ...] = ()  # the source model's nodes


@dataclass(frozen=True)
class Model:
    """Which model was ported."""

    name: str
    sha256: str
    opset: int
    dims: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but its bytes. `files` (name to hash and size) is filled in by the writer."""

    target: str
    model: Model
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    buffers: tuple[Buffer, ...]
    arena_bytes: int = 0
    device: Mapping[str, Any] = field(default_factory=dict)  # the device's facts; empty where porter knows the name
    versions: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)  # the whole model in one file: 'stablehlo' to its path
    numerics: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Mapping[str, Any] | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes, where: str = "manifest.json") -> Manifest:
        """Raises PorterError where the text is not a manifest of this version."""
        try:
            table = json.loads(text)
        except ValueError as e:
            raise PorterError(f"{where} is not JSON", found=str(e)) from None
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
            raise PorterError(f"{where} is not a porter manifest", expected=f'"format": "{FORMAT}"')
        if (version := table.pop("version", None)) != VERSION:
            raise PorterError(f"{where} has another version", expected=str(VERSION), found=str(version))
        try:
            return Manifest(
                model=Model(**table.pop("model")),
                inputs=tuple(Tensor(**_tuples(t)) for t in table.pop("inputs")),
                outputs=tuple(Tensor(**_tuples(t)) for t in table.pop("outputs")),
                kernels=tuple(Kernel(**_tuples(k)) for k in table.pop("kernels")),
                launches=tuple(Launch(**_tuples(c)) for c in table.pop("launches")),
                buffers=tuple(Buffer(**_tuples(b)) for b in table.pop("buffers")),
                notes=tuple(table.pop("notes")),
                **table,
            )
        except (TypeError, KeyError) as e:
            raise PorterError(f"{where} lacks a part or has one too many", found=str(e)) from None

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name. Raises KeyError."""
        return {b.name: b for b in self.buffers}[name]


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
