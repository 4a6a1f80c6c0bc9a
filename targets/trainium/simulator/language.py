"""The simulated `nki.language`: element types, memories, operator names, and the few functions that porter emits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from porter.targets.trainium.instructions import ACTIVATIONS, DTYPES, OPERATORS
from porter.targets.trainium.signatures import problem
from porter.targets.trainium.simulator.engine import Token, convert, f32
from porter.targets.trainium.simulator.isa import Isa
from porter.targets.trainium.simulator.memory import X4, Memories, Tensor, refuse

_SPACES = {"sbuf": "sbuf", "psum": "psum", "hbm": "hbm", "private_hbm": "hbm", "shared_hbm": "hbm"}


class Space(str):
    """A memory's name, as the `buffer` argument."""


def language(memories: Memories, isa: Isa) -> SimpleNamespace:
    """The namespace `nl`, allocating in these memories."""
    words: dict[str, Any] = {name: Token(name) for name in (*OPERATORS, *ACTIVATIONS)}
    words |= {spelled: np.dtype(name) for name, spelled in DTYPES.items() if name == spelled}
    words |= {**X4, "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu)}
    words |= {name: Space(name) for name in _SPACES}

    def ndarray(shape: Any, dtype: Any, buffer: Any = "sbuf", name: str = "", address: object = None) -> Tensor:
        if not isinstance(dtype, np.dtype):
            raise refuse("nl.ndarray", "a dtype of nki.language", repr(dtype))
        if str(buffer) not in _SPACES:
            raise refuse("nl.ndarray", f"a buffer of {', '.join(_SPACES)}", repr(buffer))
        return memories.allocate(shape, dtype, _SPACES[str(buffer)], name or f"tensor {len(memories.lives)}")

    def rounding(name: str, f: Any) -> Any:
        def apply(x: Any, dtype: Any = None) -> Tensor:
            x = isa._tile(f"nl.{name}", "x", x)
            result = memories.allocate(x.shape, dtype or x.dtype, "sbuf", name)
            memories.touch(result, x)
            result.array[...] = convert(f(f32(x.array)), result.dtype)
            return result

        return apply

    def fmod(x: Any, y: Any, dtype: Any = None) -> Tensor:
        x, y = isa._tile("nl.fmod", "x", x), isa._tile("nl.fmod", "y", y)
        isa._alike("nl.fmod", x, y)
        result = memories.allocate(x.shape, dtype or x.dtype, "sbuf", "fmod")
        memories.touch(result, x, y)
        with np.errstate(all="ignore"):
            result.array[...] = convert(np.fmod(f32(x.array), f32(y.array)), result.dtype)
        return result

    functions = {
        "ndarray": ndarray,
        "fmod": fmod,
        "floor": rounding("floor", np.floor),
        "ceil": rounding("ceil", np.ceil),
        "trunc": rounding("trunc", np.trunc),
    }

    def checked(name: str, f: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            wrong = problem(f"nl.{name}", len(args), keywords)
            if wrong:
                raise refuse(f"nl.{name}", "a public call", wrong)
            return f(*args, **keywords)

        return call

    return SimpleNamespace(**words, **{name: checked(name, f) for name, f in functions.items()})
