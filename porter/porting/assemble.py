"""A port as a bundle: buffers and their places in the arena, kernels and programs as files, the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porter import bundle, graph
from porter.bundle import arena
from porter.bundle.folder import refuse
from porter.bundle.manifest import Buffer, Kernel, Manifest, Space, Tensor
from porter.bundle.manifest import Model as Source
from porter.device import Device
from porter.graph import Model
from porter.porting.kernels import Program
from porter.porting.lowering import Lowered
from porter.tile.text import show

if TYPE_CHECKING:
    from porter.porting.port import TargetReport

LIBRARIES = ("onnx-porter", "numpy", "onnx", "onnxruntime", "jax", "jaxlib", "ml-dtypes")


def check_destination(out: Path, force: bool) -> None:
    """Raises PorterError before any work is done where the bundle could not be written."""
    if out.exists():
        refuse(out, force)


def write(
    out: Path, original: Model, final: Model, identity: str, path: Path, dims: Mapping[str, int], device: Device, program: Program,
    lowered: Lowered, report: TargetReport, precision: str, force: bool, beside: Mapping[str, str],
) -> None:  # fmt: skip
    """The bundle at `out`, whole or not at all; `beside` are further files of it."""
    buffers = _buffers(program)
    plan = arena.plan(arena.lives(program.launches, buffers))
    placed = tuple(Buffer(b.name, b.dtype, b.shape, b.space, plan.offsets.get(b.name)) for b in buffers)
    files: dict[str, Any] = {"model.onnx": _graph_only(final), **beside}
    entries = []
    for name, kernel in program.kernels.items():
        entry = (
            _host(name, kernel.alone, lowered.host[name], files)
            if name in lowered.host
            else _device(name, lowered, files)
        )
        entries.append(entry)
    if lowered.whole is not None:
        files.update(lowered.whole.files)
    files["report.json"] = json.dumps(_timeless(report.json()), indent=1, sort_keys=True) + "\n"
    manifest = Manifest(
        target=device.name, model=Source(path.name, identity, graph.HOME_OPSET, dict(dims)), precision=precision,
        inputs=tuple(_tensor(program, v.name) for v in program.inputs),
        outputs=tuple(_tensor(program, v.name) for v in program.outputs),
        kernels=tuple(entries), launches=tuple(program.launches), buffers=placed, arena_bytes=plan.bytes, versions=_versions(),
        programs={name.split(".", 1)[1]: name for name in (lowered.whole.files if lowered.whole is not None else ())},
        numerics={"products": sorted({p for e in lowered.kernels.values() for p in e.products})},
        checks={"steps": _timeless(report.steps), "end_to_end": report.end_to_end, "kernels": report.kernels},
        toolchain=report.toolchain, estimate=report.estimate, device=device.document(),
    )  # fmt: skip
    weights = {n: _weight(v) for n, v in program.weights.items()}
    bundle.write(out, manifest, files, weights, force)


def _weight(value: graph.Value) -> np.ndarray:
    array = graph.constant(value)
    assert array is not None
    return array


def _buffers(program: Program) -> list[Buffer]:
    inputs = {str(v.name) for v in program.inputs}
    outputs = {str(v.name) for v in program.outputs}
    found = []
    for name, (shape, dtype) in program.types.items():
        space: Space = (
            "input"
            if name in inputs
            else "output"
            if name in outputs
            else "weight"
            if name in program.weights
            else "arena"
            if shape is not None
            else "host"
        )
        found.append(Buffer(name, dtype.name, shape, space))
    return found


def _tensor(program: Program, name: str | None) -> Tensor:
    shape, dtype = program.types[str(name)]
    return Tensor(str(name), dtype.name, shape, str(name))


def _device(name: str, lowered: Lowered, files: dict[str, Any]) -> Kernel:
    e = lowered.kernels[name]
    suffix = {"stablehlo": "mlir"}.get(e.language, "py")
    text, tile = f"kernels/{name}.{suffix}", f"kernels/{name}.tile"
    files[text], files[tile] = e.text, show(e.kernel.program)
    own = None
    if e.program is not None and e.program != e.kernel.program:
        own = f"kernels/{name}.{e.language}.tile"
        files[own] = show(e.program)
    verdict = lowered.compiled.get(name)
    for suffix, data in (verdict.files if verdict else {}).items():
        files[f"kernels/{name}.{suffix}"] = data
    compiled = None
    if verdict is not None:
        compiled = {
            "ok": verdict.ok,
            "bytes": verdict.size,
            "resources": dict(verdict.resources),
            "products": list(verdict.products),
        }
    return Kernel(
        name,
        e.language,
        text,
        tile,
        own,
        e.grid,
        dict(e.memory),
        e.products,
        e.why,
        lowered.checks[name].json(),
        compiled,
    )


def _host(name: str, alone: Model, why: str, files: dict[str, Any]) -> Kernel:
    file = f"kernels/{name}.onnx"
    files[file] = graph.to_proto(alone).SerializeToString(deterministic=True)
    return Kernel(name, "onnx", file, why=why)


def _graph_only(model: Model) -> bytes:
    """The final graph without its weights, which lie in weights.safetensors under the same names."""
    slim = graph.clone(model)
    for value in list(slim.graph.initializers.values()):
        if value.const_value is not None and value.const_value.nbytes > 1024:
            value.const_value = None
            slim.graph.initializers.pop(str(value.name))
            slim.graph.inputs.append(value)
    return graph.to_proto(slim).SerializeToString(deterministic=True)


def _timeless(document: Any) -> Any:
    """Without seconds, places, and how formats were searched: equal ports give equal bytes."""
    if isinstance(document, dict):
        return {k: _timeless(v) for k, v in document.items() if k not in ("seconds", "bundle", "search")}
    return [_timeless(v) for v in document] if isinstance(document, list) else document


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
