"""What a target is: the few things that porter asks of a family of devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from porter.tile.limits import Limits
from porter.tile.program import Program

if TYPE_CHECKING:
    import numpy as np

    from porter.device import Device


class CannotEmit(Exception):
    """The target's language cannot say this program; str() is the reason, a sentence for the report."""


@dataclass(frozen=True)
class Kernel:
    """A distinct kernel: its meaning and, for one device, its implementation.

    meaning: jax's ClosedJaxpr over the parameters' logical arrays, in the order of `program.inputs`.
    """

    name: str
    program: Program
    meaning: Any = field(compare=False)


@dataclass(frozen=True)
class Emitted:
    """A kernel as source text for one device, and what is known about it before any toolchain has seen it."""

    kernel: Kernel
    language: str  # 'triton', 'pallas', 'stablehlo', 'nki', 'toy'
    text: str  # a module that stands alone; defines a function named as the kernel
    grid: int = 1  # how many instances run
    #: the tile program as the target's own passes left it; None where the text is not tiled
    program: Program | None = None
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes used per on-chip memory
    products: tuple[str, ...] = ()  # matrix products the text asks for, e.g. ('bf16x6',): read back after compilation
    why: str = ""  # why this language, where the target has a choice


@dataclass(frozen=True)
class Compiled:
    """The verdict of the vendor's toolchain on one kernel (or on a whole program)."""

    name: str
    ok: bool
    message: str = ""
    size: int = 0  # bytes of device code
    resources: Mapping[str, int] = field(default_factory=dict)  # e.g. shared, registers, spills, vmem
    products: tuple[str, ...] = ()  # matrix instructions found in the result, e.g. ('wgmma',)
    files: Mapping[str, bytes] = field(default_factory=dict)  # artefacts for the bundle: 'ptx', 'cubin', ...


@dataclass(frozen=True)
class Step:
    """One launch of a program: a kernel on named buffers, in the order of its parameters."""

    emitted: Emitted
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Whole:
    """A program in one file, as a second form of its launch list.

    run: the file's own text on XLA's CPU, {input: array} -> {output: array}. compiled: the toolchain's verdict on the
    launches together. seconds: the toolchain's own estimate, None where it has none that can be trusted. kernels: its
    verdict on each kernel as it compiled it within the program, by name; empty where that has to be asked for alone.
    """

    files: Mapping[str, bytes]
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
    compiled: Compiled | None = None
    seconds: float | None = None
    kernels: Mapping[str, Compiled] = field(default_factory=dict)


@dataclass(frozen=True)
class Toolchain:
    """A vendor toolchain that is installed here."""

    name: str
    version: str


class Target(ABC):
    """A family of devices. One instance serves all of them; the device is an argument, never state."""

    family: str
    language: str
    integers: int = 64  # bits of its integers; wider ones are held in them, and none may need more

    @abstractmethod
    def limits(self, device: Device) -> Limits:
        """Limits for the tiler, read from the device's facts."""

    @abstractmethod
    def lower(self, kernel: Kernel, device: Device) -> Emitted:
        """Lay out, bufferize, select and emit. Raises CannotEmit with the reason."""

    @abstractmethod
    def execute(
        self, emitted: Emitted, inputs: Sequence[np.ndarray], device: Device, points: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Run the emitted text under the device's arithmetic, by an interpreter or simulator.

        inputs: in the order of the program's inputs, in the parameters' shapes and dtypes. points: flat indices into the
        grid (row-major over `program.grid`), all when None; what the chosen points do not write stays NaN (or 0 for
        integers). Every access is checked: a read or write outside its buffer raises porter.errors.CheckFailed.
        """

    def fp8_accumulator(self, device: Device) -> str:
        """What the matrix unit adds products of 8-bit floats in, by the words of porter.formats.matmul.dot."""
        return "float32"

    def toolchain(self, device: Device) -> Toolchain | None:
        """The vendor's toolchain, None where it is not installed (then porter says what was not checked)."""
        return None

    def unchecked(self, device: Device) -> str:
        """What could not be checked where `toolchain` is None, and what to install; '' where nobody can have it here."""
        return ""

    def compile(self, emitted: Sequence[Emitted], device: Device) -> list[Compiled]:
        """Hand each distinct kernel to the vendor's toolchain; one verdict each, in order."""
        return []

    def whole(self, model: Any, steps: Sequence[Step], device: Device) -> Whole | None:
        """The ported model (porter.graph.Model) in one file; None where the family has no such form."""
        return None

    def seconds(self, program: Program, device: Device) -> Mapping[str, float]:
        """Modelled time of one kernel by bound: 'compute', 'memory', 'overhead' (their maximum counts, plus overhead)."""
        raise NotImplementedError(self.family)

    def vendor_seconds(self, emitted: Sequence[Emitted], device: Device) -> Mapping[str, float]:
        """By kernel, the time that the vendor's compiler expects, without its start; those of which it counts all."""
        return {}


def target_of(family: str) -> Target:
    """The family's Target, an instance in its package (ours, or one that an entry point of `porter.targets` names).

    Raises PorterError where the package has none.
    """
    from importlib import import_module

    from porter.device import package
    from porter.errors import PorterError

    module = import_module(package(family))
    for thing in vars(module).values():
        if isinstance(thing, Target):
            return thing
    raise PorterError(f"{module.__name__} defines no target", expected="an instance of porter.tile.target.Target")
