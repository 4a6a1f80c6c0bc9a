"""The simulated Tensor engine: products, products with block scales, transposes, and what they may read and write."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from porter.formats import of
from porter.targets.trainium.instructions import DOUBLED, GROUP, QUADRANT, SCALES
from porter.targets.trainium.simulator.engine import Engine, Token, f32
from porter.targets.trainium.simulator.memory import Tensor, refuse, word

_MATRIX_TYPES: dict[int, tuple[str, ...]] = {2: ("float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2")}
_MATRIX_TYPES[3] = _MATRIX_TYPES[2]
_MATRIX_TYPES[4] = (*_MATRIX_TYPES[2], "float8_e4m3fn")
_QUADS = {"float8_e4m3fn_x4": "float8_e4m3fn", "float8_e5m2_x4": "float8_e5m2", "float4_e2m1fn_x4": "float4_e2m1fn"}
#: the products of operands with block scales by what their elements are, as porter names them
_SCALED = {
    ("float8_e4m3fn_x4", "float8_e4m3fn_x4"): "mxfp8",
    ("float4_e2m1fn_x4", "float4_e2m1fn_x4"): "mxfp4",
    ("float4_e2m1fn_x4", "float8_e4m3fn_x4"): "mxfp4a8",
}


class TensorEngine(Engine):
    """Products into PSUM."""

    def nc_matmul(
        self,
        dst: Any,
        stationary: Any,
        moving: Any,
        is_stationary_onezero: bool = False,
        is_moving_onezero: bool = False,
        is_transpose: bool = False,
        accumulate: bool | None = None,
        perf_mode: Any = None,
        **_: Any,
    ) -> None:
        call, chip = "nc_matmul", self.memories.chip
        dst = self._tile(call, "dst", dst, ("psum",))
        stationary = self._tile(call, "stationary", stationary, ("sbuf",))
        moving = self._tile(call, "moving", moving, ("sbuf",))
        double = isinstance(perf_mode, Token) and perf_mode.name == "double_row"
        rows = self._two_rows(call, stationary, moving) if double else 1
        k = stationary.shape[0] * rows
        m, n = (t.array.size // (t.shape[0] * rows) for t in (stationary, moving))
        types = _MATRIX_TYPES[chip.generation]
        for role, t in (("stationary", stationary), ("moving", moving)):
            if t.dtype.name not in types:
                raise refuse(call, f"{role} of {', '.join(types)} on {chip.name}", word(t.dtype))
        if (stationary.dtype.name == "float32") != (moving.dtype.name == "float32"):
            raise refuse(
                call, "float32 on both sides or on neither", f"{stationary.dtype.name} and {moving.dtype.name}"
            )
        if {stationary.dtype.name, moving.dtype.name} == {"float8_e4m3", "float8_e4m3fn"}:
            raise refuse(call, "one E4M3 on both sides", f"{stationary.dtype.name} and {moving.dtype.name}")
        self._sides(call, dst, stationary, moving, m, n)
        self.memories.touch(dst, stationary, moving)
        self.products |= {"fp32" if t.dtype == np.float32 else t.dtype.name for t in (stationary, moving)}
        a = f32(stationary.array).reshape(k, m).T
        b = f32(moving.array).reshape(k, n)
        self._sum(call, dst, a, b, accumulate)

    def _two_rows(self, call: str, *operands: Tensor) -> int:
        """Holds operands to double_row mode: float8 of [partitions, 2, free]."""
        chip = self.memories.chip
        if chip.generation < 3:
            raise refuse(call, "double_row mode on NeuronCore-v3 or newer", chip.name)
        for t in operands:
            if t.dtype.name not in DOUBLED:
                raise refuse(call, f"{', '.join(sorted(DOUBLED))} in double_row mode", word(t.dtype))
            if t.array.ndim != 3 or t.shape[1] != 2:
                raise refuse(call, "operands of [partitions, 2, free] in double_row mode", str(t))
        return 2

    def nc_matmul_mx(
        self,
        dst: Any,
        stationary: Any,
        moving: Any,
        stationary_scale: Any,
        moving_scale: Any,
        accumulate: bool | None = None,
        **_: Any,
    ) -> None:
        call, chip = "nc_matmul_mx", self.memories.chip
        if chip.generation < 4:
            raise refuse(call, "NeuronCore-v4 or newer", chip.name)
        dst = self._tile(call, "dst", dst, ("psum",))
        stationary = self._tile(call, "stationary", stationary, ("sbuf",))
        moving = self._tile(call, "moving", moving, ("sbuf",))
        held = [
            self._tile(call, role, t, ("sbuf",))
            for role, t in (("stationary_scale", stationary_scale), ("moving_scale", moving_scale))
        ]
        m, n = (t.array.size // t.shape[0] for t in (stationary, moving))
        for role, t in (("stationary", stationary), ("moving", moving)):
            if word(t.dtype) not in _QUADS:
                raise refuse(call, f"{role} of {', '.join(_QUADS)}", word(t.dtype))
            if t.shape[0] % QUADRANT:
                raise refuse(call, f"a multiple of {QUADRANT} partitions of {role}", str(t.shape[0]))
        if m % 2:
            raise refuse(call, "an even number of free elements of stationary", str(m))
        self._sides(call, dst, stationary, moving, m, n)
        self.memories.touch(dst, stationary, moving, *held)
        kinds = sorted((word(stationary.dtype), word(moving.dtype)))
        self.products.add(_SCALED.get((kinds[0], kinds[1]), " by ".join(kinds)))
        a = self._scaled(call, "stationary", stationary, held[0], m)
        b = self._scaled(call, "moving", moving, held[1], n)
        self._sum(call, dst, a.T, b, accumulate)

    def _scaled(self, call: str, role: str, data: Tensor, scale: Tensor, free: int) -> np.ndarray:
        """[partitions * 4, free] of numbers: codes times the scale of their 8 partitions."""
        rows = data.shape[0]
        if word(scale.dtype) not in ("uint8", "float8_e8m0fnu"):
            raise refuse(call, f"{role}_scale of float8_e8m0fnu or uint8", word(scale.dtype))
        wanted = (SCALES,) if rows == QUADRANT else (rows,)
        if scale.shape[0] not in wanted and not (rows == QUADRANT == scale.shape[0]):
            raise refuse(call, f"{wanted[0]} partitions of {role}_scale", str(scale))
        if scale.array.size != scale.shape[0] * free:
            raise refuse(call, f"{free} free elements of {role}_scale", str(scale))
        kind = word(data.dtype)
        bits = np.ascontiguousarray(data.array.reshape(rows, free)[kind])
        raw = bits.view(np.uint8).reshape(rows, free, -1)
        if kind == "float4_e2m1fn_x4":  # two codes in a byte, the low one first
            raw = np.stack([raw & 15, raw >> 4], -1).reshape(rows, free, 4)
        codes = of(_QUADS[kind]).codes().astype(np.float32)[raw]
        at = [QUADRANT * (g // SCALES) + g % SCALES for g in range(rows // GROUP)]
        factor = f32(scale.array.reshape(-1, free).view(ml_dtypes.float8_e8m0fnu))[at].repeat(GROUP, axis=0)
        return (codes * factor[:, :, None]).transpose(0, 2, 1).reshape(4 * rows, free)

    def _sides(self, call: str, dst: Tensor, stationary: Tensor, moving: Tensor, m: int, n: int) -> None:
        """Holds the sizes of a product, and where it goes."""
        chip = self.memories.chip
        results = ("float32",) if chip.generation < 4 else ("float32", "bfloat16")
        if dst.dtype.name not in results:
            raise refuse(call, f"dst of {' or '.join(results)} on {chip.name}", dst.dtype.name)
        if moving.shape[0] != stationary.shape[0]:
            raise refuse(
                call,
                "as many partitions of moving as of stationary",
                f"{moving.shape[0]} and {stationary.shape[0]}",
            )
        if m > chip.stationary_max:
            raise refuse(call, f"at most {chip.stationary_max} free elements of stationary", str(m))
        if n > chip.moving_max:
            raise refuse(call, f"at most {chip.moving_max} free elements of moving on {chip.name}", str(n))
        if dst.shape[0] != m or dst.array.size != m * n:
            raise refuse(call, f"dst of {m} partitions and {n} elements each", str(dst))
        self._one_bank(call, dst)

    def _sum(self, call: str, dst: Tensor, a: np.ndarray, b: np.ndarray, accumulate: bool | None) -> None:
        """The product, or added to what a product wrote."""
        chip, marks = self.memories.chip, self._started(dst)
        add = bool((marks == 1).all()) if accumulate is None else bool(accumulate)
        if add and (marks == 0).any():
            raise refuse(call, "accumulation onto what a matmul wrote", "memory that nobody has written")
        if add and chip.generation < 4 and (marks == 2).any():
            raise refuse(
                call,
                "accumulation onto what a matmul wrote",
                f"a value that another instruction wrote: undefined on {chip.name}",
            )
        product = self.dot(a, b, precision="fp32").reshape(dst.shape)
        self._write(dst, f32(dst.array) + product if add else product, by_tensor_engine=True)

    def _one_bank(self, call: str, dst: Tensor) -> None:
        chip = self.memories.chip
        if chip.generation >= 4:
            return
        base = dst.storage.data.__array_interface__["data"][0]
        row = dst.storage.width * dst.dtype.itemsize
        low = (dst.array.__array_interface__["data"][0] - base) % row
        high = low + sum(s * (n - 1) for s, n in zip(dst.array.strides[1:], dst.shape[1:], strict=True))
        if low // chip.bank_bytes != high // chip.bank_bytes:
            raise refuse(
                call,
                f"dst within one psum bank of {chip.bank_bytes} bytes a partition",
                f"bytes {low} to {high + dst.dtype.itemsize - 1} of {dst}",
            )

    def nc_transpose(self, dst: Any, data: Any, **_: Any) -> None:
        call, chip = "nc_transpose", self.memories.chip
        dst, data = self._tile(call, "dst", dst, ("psum",)), self._tile(call, "data", data, ("sbuf",))
        p, f = data.shape[0], data.array.size // data.shape[0]
        if f > chip.stationary_max:
            raise refuse(call, f"at most {chip.stationary_max} free elements of data", str(f))
        if dst.dtype != data.dtype:
            raise refuse(call, f"dst of {data.dtype.name}, as data", dst.dtype.name)
        if dst.shape[0] != f or dst.array.size != p * f:
            raise refuse(call, f"dst of {f} partitions and {p} elements each", str(dst))
        self._one_bank(call, dst)
        self.memories.touch(dst, data)
        values = data.array.reshape(p, f)
        if chip.generation < 3 and data.dtype.kind not in "iu":  # a product with the identity there: 0 * Inf is NaN
            odd = ~np.isfinite(f32(values)).all(axis=0)
            values = np.where(odd[None, :], np.asarray(np.nan).astype(values.dtype), values)
        self._write(dst, values.T, by_tensor_engine=True)
