"""Runs the NKI text that porter emits, on numpy, under the rules of the hardware.

A module `nki` with the public surface that the text imports is handed to it while it is executed. The vendor's own
simulator checks neither the capacity of SBUF and PSUM nor all of the engines' rules; this one does, for the calls that
porter emits and no others.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from porter.errors import CheckFailed, PorterError
from porter.formats import matmul
from porter.targets.trainium.instructions import CODES, DTYPES
from porter.targets.trainium.simulator.isa import Isa
from porter.targets.trainium.simulator.language import language
from porter.targets.trainium.simulator.memory import Chip, Memories, Tensor

__all__ = ["Chip", "Machine", "Memories", "Tensor"]


class Machine:
    """One NeuronCore. `dot` is its matrix unit (porter.formats.matmul.dot's signature)."""

    def __init__(self, chip: Chip, dot: Callable[..., np.ndarray] = matmul.dot) -> None:
        self.memories = Memories(chip)
        self.isa = Isa(self.memories, dot)
        self.language = language(self.memories, self.isa)
        self._nki = SimpleNamespace(isa=self.isa, language=self.language, jit=lambda f: f)

    def load(self, text: str, name: str) -> Mapping[str, Any]:
        """The module's names after its text has run, with `nki` being this machine's."""

        def importing(module: str, *rest: Any) -> Any:
            if module.partition(".")[0] == "nki":
                return self._nki
            raise CheckFailed(f"NKI text of {name}", expected="imports of nki alone", found=f"import {module}")

        names: dict[str, Any] = {"__name__": name, "__builtins__": {**vars(builtins), "__import__": importing}}
        exec(compile(text, f"<{name}>", "exec"), names)
        return names

    def tensor(self, array: np.ndarray, name: str) -> Tensor:
        """A parameter in HBM: 64-bit integers as 32-bit ones, booleans and codes as bytes. Raises PorterError for a value that
        32 bits cannot hold."""
        stored = np.dtype(DTYPES.get(array.dtype.name, array.dtype.name))
        if array.dtype.name in CODES:
            array = array.view(stored)
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size:
            low, high = int(array.min()), int(array.max())
            info = np.iinfo(stored)
            if low < info.min or high > info.max:
                raise PorterError(
                    f"input {name} on Trainium",
                    expected=f"{stored.name}, as 64-bit integers are there",
                    found=f"values from {low} to {high}",
                )
        result = self.memories.allocate(array.shape or (1,), stored, "hbm", name)
        result.array[...] = array.reshape(result.shape).astype(stored)
        return result

    def blank(self, shape: Sequence[int], dtype: str, name: str) -> Tensor:
        """An output in HBM that nobody has written."""
        return self.memories.allocate(tuple(shape) or (1,), np.dtype(DTYPES.get(dtype, dtype)), "hbm", name)
