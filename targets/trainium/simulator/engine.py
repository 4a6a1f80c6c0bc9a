"""What simulated instructions share: operators as arguments, conversion on the way out, rules that many must keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from porter.formats import matmul
from porter.targets.trainium.instructions import OPERATORS, Operator
from porter.targets.trainium.signatures import SIGNATURES, problem
from porter.targets.trainium.simulator.memory import Memories, Tensor, refuse

Scalar = float | int
Operand = Tensor | Scalar


class Token:
    """An operator as an instruction's argument: `nl.add`."""

    def __init__(self, name: str) -> None:
        self.name = name


def convert(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As an engine writes: from float32 to nearest even; to integers too, held at the ends of the range."""
    if dtype.kind in "iu" and x.dtype.kind not in "iu":
        info = np.iinfo(dtype)
        return np.clip(np.nan_to_num(np.rint(x.astype(np.float64))), info.min, info.max).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.clip(x.astype(np.int64), info.min, info.max).astype(dtype)
    return x.astype(dtype)


def f32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


class Engine:
    """One machine's memories, its matrix unit `dot`, and the rules."""

    def __init__(self, memories: Memories, dot: Callable[..., np.ndarray] = matmul.dot) -> None:
        self.memories, self.dot = memories, dot
        self.reduce_cmd = SimpleNamespace(reset_reduce=Token("reset_reduce"))
        self.matmul_perf_mode = SimpleNamespace(none=Token("none"), double_row=Token("double_row"))
        self.products: set[str] = set()  # operand formats of the products that ran

    def __getattribute__(self, name: str) -> Any:
        """Every public call is held against the table of signatures on its way in."""
        found = object.__getattribute__(self, name)
        call = f"nisa.{name}"
        if call not in SIGNATURES:
            return found

        def checked(*args: Any, **keywords: Any) -> None:
            wrong = problem(call, len(args), keywords)
            if wrong:
                raise refuse(call, "a public call", wrong)
            with np.errstate(all="ignore"):
                found(*args, **keywords)

        return checked

    # what several instructions demand

    def _tile(self, call: str, role: str, t: Any, spaces: Sequence[str] = ("sbuf", "psum")) -> Tensor:
        if not isinstance(t, Tensor):
            raise refuse(call, f"{role} is a tensor", type(t).__name__)
        if t.space not in spaces:
            raise refuse(call, f"{role} in {' or '.join(spaces)}", str(t))
        if t.indices is not None:
            raise refuse(call, f"{role} a direct view", f"{t} is gathered: only dma_copy takes that")
        rows, start = t.shape[0], t.start
        allowed = (0,) if rows > 64 else (0, 64) if rows > 32 else (0, 32, 64, 96)
        if start not in allowed:
            raise refuse(
                call, f"{rows} partitions of {role} start at {' or '.join(map(str, allowed))}", f"partition {start}"
            )
        return t

    def _alike(self, call: str, *tiles: Tensor) -> None:
        first = tiles[0]
        for t in tiles[1:]:
            if t.shape[0] != first.shape[0] or t.array.size != first.array.size:
                raise refuse(call, f"the partitions and elements of {first}", str(t))

    def _not_both_psum(self, call: str, a: Tensor, b: Tensor) -> None:
        if a.space == b.space == "psum":
            raise refuse(call, "at most one of two tensor operands in psum", f"{a} and {b}")

    def _operator(self, call: str, op: Any) -> Operator:
        if not isinstance(op, Token) or op.name not in OPERATORS:
            raise refuse(call, f"an operator of {', '.join(OPERATORS)}", getattr(op, "name", repr(op)))
        return OPERATORS[op.name]

    def _write(self, dst: Tensor, value: np.ndarray, by_tensor_engine: bool = False) -> None:
        dst.array[...] = convert(np.asarray(value), dst.dtype).reshape(dst.shape)
        if dst.storage.started is not None:
            self._started(dst)[...] = 1 if by_tensor_engine else 2

    @staticmethod
    def _started(t: Tensor) -> np.ndarray:
        """The view's part of the record of who wrote this psum storage."""
        marks = t.storage.started
        assert marks is not None
        base = t.storage.data.__array_interface__["data"][0]
        at = (t.array.__array_interface__["data"][0] - base) // t.dtype.itemsize
        steps = [s // t.dtype.itemsize for s in t.array.strides]
        return np.lib.stride_tricks.as_strided(marks[at:], t.shape, steps)

    def _vector(self, call: str, role: str, x: Operand, data: Tensor) -> np.ndarray | Scalar:
        """A scalar, or a float32 [P, 1] tile, shaped to broadcast against data."""
        if not isinstance(x, Tensor):
            if isinstance(x, bool) or not isinstance(x, int | float):
                raise refuse(call, f"{role} a number or a tile", type(x).__name__)
            return x
        self._tile(call, role, x)
        if x.shape[0] != data.shape[0] or x.array.size != x.shape[0]:
            raise refuse(call, f"{role} of shape [{data.shape[0]}, 1]", str(x))
        return x.array.reshape((x.shape[0],) + (1,) * (data.array.ndim - 1))
