"""Runs a bundle: its launch list, kernel by kernel, over one real arena, through the emitted text.

The arena is a single block of bytes with the planned offsets, filled with NaN, so a wrong plan is a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from porter.bundle.inputs import check_inputs
from porter.bundle.manifest import Buffer, Kernel
from porter.bundle.reader import Bundle
from porter.device import Device, load_device
from porter.errors import PorterError

if TYPE_CHECKING:
    import numpy as np

    from porter.tile.target import Emitted

Progress = Callable[[str, int, int], None]  # the kernel's name, launches done, launches in all


@dataclass(frozen=True)
class How:
    """What ran the program: the words for 'on the device' or 'simulated', and how many launches there were."""

    on: str
    launches: int
    kernels: int
    host: int


def run(
    bundle: Bundle,
    inputs: Mapping[str, np.ndarray],
    progress: Progress | None = None,
    device: Device | None = None,
) -> tuple[dict[str, np.ndarray], How]:
    """The outputs by name, and what produced them. Raises PorterError for inputs that do not fit the program."""
    manifest = bundle.manifest
    given = check_inputs(inputs, manifest.inputs)
    from porter.tile.target import target_of

    device = device or (Device.from_document(manifest.device) if manifest.device else load_device(manifest.target))
    target = target_of(device.family)
    memory = _Memory(bundle, {t.buffer: given[t.name] for t in manifest.inputs})
    kernels = {k.name: k for k in manifest.kernels}
    ready: dict[str, Any] = {}
    host = 0
    for done, launch in enumerate(manifest.launches):
        if progress:
            progress(launch.kernel, done, len(manifest.launches))
        kernel = kernels[launch.kernel]
        arrays = [memory[name] for name in launch.inputs]
        if kernel.language == "onnx":
            host += 1
            results = _on_host(bundle, kernel, arrays, ready)
        else:
            if kernel.name not in ready:
                ready[kernel.name] = emitted(bundle, kernel)
            params = ready[kernel.name].kernel.program.inputs
            results = target.execute(
                ready[kernel.name], [a.reshape(p.shape) for a, p in zip(arrays, params, strict=True)], device
            )
        for name, result in zip(launch.outputs, results, strict=True):
            memory.store(name, result)
    arrays_of = ((t, memory[t.buffer]) for t in manifest.outputs)
    outputs = {t.name: a.reshape(a.shape if t.shape is None else t.shape).copy() for t, a in arrays_of}
    languages = sorted({k.language for k in manifest.kernels} - {"onnx"})
    on = (
        f"simulated: the {', '.join(languages)} text of {device.name}"
        if languages
        else "simulated: all of it on the host"
    )
    how = How(on, len(manifest.launches), len(ready), host)
    return outputs, how


def emitted(bundle: Bundle, kernel: Kernel) -> Emitted:
    """The kernel as its target emitted it, read back from the bundle."""
    from porter.tile import target as t
    from porter.tile.text import parse

    program = parse(bundle.text(kernel.tile)) if kernel.tile else None
    if program is None:
        raise PorterError(f"kernel {kernel.name} of {bundle.path} has no tile program", hint="port again")
    return t.Emitted(
        kernel=t.Kernel(kernel.name, program, None),
        language=kernel.language,
        text=bundle.text(kernel.file),
        grid=kernel.grid,
        program=parse(bundle.text(kernel.target_tile)) if kernel.target_tile else program,
        memory=dict(kernel.memory),
        products=kernel.products,
        why=kernel.why,
    )


def _on_host(bundle: Bundle, kernel: Kernel, arrays: list[np.ndarray], ready: dict[str, Any]) -> list[np.ndarray]:
    """What the device cannot do: a small ONNX model through the reference interpreter, in the source dtypes."""
    from porter import graph, ops

    if kernel.name not in ready:
        ready[kernel.name] = graph.read(bundle.path / kernel.file)  # its shapes may depend on data
    model = ready[kernel.name]
    # a sequence is a tuple of arrays, which has no shape of its own
    given = {
        str(v.name): a.reshape(shape) if (shape := graph.shape(v)) is not None and hasattr(a, "reshape") else a
        for v, a in zip(model.graph.inputs, arrays, strict=True)
    }
    results = ops.evaluate(model, given, ops.source)
    return [results[v.name] for v in model.graph.outputs]


class _Memory:
    """Device memory by buffer name: inputs and weights as they are, intermediates as views into one arena."""

    def __init__(self, bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> None:
        import numpy as np

        manifest = bundle.manifest
        self._buffers: dict[str, Buffer] = {b.name: b for b in manifest.buffers}
        self._arrays: dict[str, np.ndarray] = {**bundle.weights, **inputs}
        arena = np.full(manifest.arena_bytes, 0xFF, np.uint8)  # NaN in every float format
        for b in manifest.buffers:
            if b.shape is None:
                continue
            if b.space == "arena":
                part = arena[b.offset : b.offset + b.bytes]  # type: ignore[operator]
                self._arrays[b.name] = part.view(np.dtype(b.dtype)).reshape(b.shape)
            elif b.space == "output":
                self._arrays[b.name] = np.full(b.bytes, 0xFF, np.uint8).view(np.dtype(b.dtype)).reshape(b.shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def store(self, name: str, result: np.ndarray) -> None:
        """Into the buffer's own bytes; the shape may be another view of the same elements, the dtype may not."""
        if self._buffers[name].shape is None:
            self._arrays[name] = result
            return
        into = self._arrays[name]
        if result.dtype != into.dtype or result.size != into.size:
            raise PorterError(
                f"a kernel wrote {result.dtype.name}{list(result.shape)} to buffer '{name}'",
                expected=f"{into.dtype.name}{list(into.shape)}",
            )
        into[...] = result.reshape(into.shape)
