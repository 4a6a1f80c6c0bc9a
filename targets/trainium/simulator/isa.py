"""The simulated `nki.isa`: what each instruction computes, and every rule that it must keep.

Engines compute in float32 and convert on the way out, 32-bit integers excepted where the page says so. A broken rule
raises CheckFailed with a sentence. Sources: the vendor's pages on each instruction and the architecture guides, as
named in signatures.py and in the README.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from porter.targets.trainium.instructions import ACTIVATIONS, COMPOSED, GPSIMD_ONLY, OPERATORS, Operator
from porter.targets.trainium.simulator.engine import Token, f32
from porter.targets.trainium.simulator.memory import Tensor, refuse
from porter.targets.trainium.simulator.tensor_engine import TensorEngine

Scalar = float | int
Operand = Tensor | Scalar
_PREDICATES = ("uint8", "uint16", "uint32")
_INT32 = ("int32", "uint32")


class Isa(TensorEngine):
    """The instructions, run against one machine's memories."""

    # movement

    def dma_copy(self, dst: Any, src: Any, **_: Any) -> None:
        for role, t in (("dst", dst), ("src", src)):
            if not isinstance(t, Tensor):
                raise refuse("dma_copy", f"{role} is a tensor", type(t).__name__)
            if t.space == "psum":
                raise refuse("dma_copy", f"{role} in hbm or sbuf", str(t))
        if dst.array.size != src.array.size:
            raise refuse("dma_copy", f"{dst.array.size} elements, as many as {dst} has", str(src))
        if dst.indices is not None:
            raise refuse("dma_copy", "a direct destination", f"{dst} is gathered")
        self.memories.touch(dst, src)
        values = src.array
        if src.indices is not None:
            rows = src.indices.array.reshape(-1).astype(np.int64)
            bad = rows[(rows < 0) | (rows >= src.rows)]
            if bad.size:
                raise refuse(f"dma_copy from {src.name}", f"row indices 0 to {src.rows - 1}", str(int(bad[0])))
            size = src.dtype.itemsize
            base = src.storage.data.__array_interface__["data"][0]
            at = (src.array.__array_interface__["data"][0] - base) // size
            row = src.storage.data.size // src.rows
            flat = at + sum(
                (
                    np.arange(n).reshape((-1,) + (1,) * (src.array.ndim - 1 - d)) * (s // size)
                    for d, (n, s) in enumerate(zip(src.shape, src.array.strides, strict=True))
                    if d
                ),
                start=(rows * row).reshape((-1,) + (1,) * (src.array.ndim - 1)),
            )
            values = src.storage.data[flat]
        if src.dtype != dst.dtype and not (src.dtype.kind in "iu" and dst.dtype.kind in "iu"):
            values = f32(values)
        self._write(dst, values)

    def tensor_copy(self, dst: Any, src: Any, **_: Any) -> None:
        dst, src = self._tile("tensor_copy", "dst", dst), self._tile("tensor_copy", "src", src)
        self._alike("tensor_copy", dst, src)
        self.memories.touch(dst, src)
        self._write(dst, src.array if src.dtype == dst.dtype else f32(src.array))

    def memset(self, dst: Any, value: Any, **_: Any) -> None:
        dst = self._tile("memset", "dst", dst)
        self.memories.touch(dst)
        if dst.dtype.kind in "iu" and not np.iinfo(dst.dtype).min <= value <= np.iinfo(dst.dtype).max:
            raise refuse("memset", f"a value that {dst.dtype.name} holds", str(value))
        self._write(dst, np.full(dst.shape, value, np.int64 if dst.dtype.kind in "iu" else np.float32))

    def tensor_copy_predicated(self, dst: Any, src: Any, predicate: Any, reverse_pred: bool = False, **_: Any) -> None:
        call = "tensor_copy_predicated"
        dst, predicate = self._tile(call, "dst", dst), self._tile(call, "predicate", predicate)
        self._alike(call, dst, predicate)
        if predicate.dtype.name not in _PREDICATES:
            raise refuse(call, f"a predicate of {', '.join(_PREDICATES)}", predicate.dtype.name)
        value: Any = src
        if isinstance(src, Tensor):
            src = self._tile(call, "src", src)
            self._alike(call, dst, src)
            self._not_both_psum(call, src, predicate)
            if src.dtype != dst.dtype:
                raise refuse(call, f"src of {dst.dtype.name}, as dst", src.dtype.name)
            self.memories.touch(dst, src, predicate)
            value = src.array.reshape(dst.shape)
        else:
            self.memories.touch(dst, predicate)
        chosen = (predicate.array.reshape(dst.shape) != 0) != reverse_pred
        self._write(dst, np.where(chosen, np.asarray(value).astype(dst.dtype), dst.array))

    # the Vector, Scalar and GpSimd engines

    def _binary(self, call: str, op: Operator, a: np.ndarray, b: Any, integers: bool, flip: bool = False) -> np.ndarray:
        if op.bitvec or integers:
            b = np.asarray(b).astype(a.dtype)
        else:
            a, b = f32(a), np.asarray(b).astype(np.float32)
        return op.meaning(b, a) if flip else op.meaning(a, b)

    def tensor_tensor(self, dst: Any, data1: Any, data2: Any, op: Any, **_: Any) -> None:
        call = "tensor_tensor"
        o = self._operator(call, op)
        spaces = ("sbuf",) if o.name in GPSIMD_ONLY else ("sbuf", "psum")
        dst, data1, data2 = (
            self._tile(call, r, t, spaces) for r, t in (("dst", dst), ("data1", data1), ("data2", data2))
        )
        self._alike(call, dst, data1, data2)
        self._not_both_psum(call, data1, data2)
        tiles = (dst, data1, data2)
        self._integer_rule(call, o, tiles)
        native = all(t.dtype.name in _INT32 and t.space == "sbuf" for t in tiles)
        self.memories.touch(*tiles)
        b = data2.array.reshape(data1.shape)
        self._write(dst, self._binary(call, o, data1.array, b, native and not o.bitvec))

    def _integer_rule(self, call: str, o: Operator, tiles: Sequence[Tensor]) -> None:
        if o.bitvec:
            for t in tiles:
                if t.dtype.kind not in "iu":
                    raise refuse(call, f"integers: {o.name} works on bits", str(t))

    def tensor_scalar(
        self,
        dst: Any,
        data: Any,
        op0: Any,
        operand0: Any,
        reverse0: bool = False,
        op1: Any = None,
        operand1: Any = None,
        reverse1: bool = False,
        **_: Any,
    ) -> None:
        call = "tensor_scalar"
        dst, data = self._tile(call, "dst", dst), self._tile(call, "data", data)
        self._alike(call, dst, data)
        steps = [(self._operator(call, op0), operand0, reverse0)]
        if op1 is not None:
            steps.append((self._operator(call, op1), operand1, reverse1))
        if len({o.bitvec for o, _, _ in steps}) > 1:
            raise refuse(call, "two bitvec operators or two arithmetic ones", " and ".join(o.name for o, _, _ in steps))
        value = data.array
        used = [dst, data]
        for o, operand, flip in steps:
            self._integer_rule(call, o, (dst, data))
            if isinstance(operand, Tensor):
                used.append(operand)
                if not o.bitvec and operand.dtype != np.float32:
                    raise refuse(call, "tile operands of float32", str(operand))
            value = self._binary(call, o, value, self._vector(call, "operand", operand, data), False, flip)
        self.memories.touch(*used)
        self._write(dst, value)

    def scalar_tensor_tensor(
        self,
        dst: Any,
        data: Any,
        op0: Any,
        operand0: Any,
        op1: Any,
        operand1: Any,
        reverse0: bool = False,
        reverse1: bool = False,
        **_: Any,
    ) -> None:
        call = "scalar_tensor_tensor"
        dst, data, second = (self._tile(call, r, t) for r, t in (("dst", dst), ("data", data), ("operand1", operand1)))
        self._alike(call, dst, data, second)
        self._not_both_psum(call, data, second)
        first, last = self._operator(call, op0), self._operator(call, op1)
        if first.bitvec or last.bitvec:
            raise refuse(call, "arithmetic operators", f"{first.name} and {last.name}")
        self.memories.touch(dst, data, second, *([operand0] if isinstance(operand0, Tensor) else []))
        value = self._binary(call, first, data.array, self._vector(call, "operand0", operand0, data), False, reverse0)
        self._write(dst, self._binary(call, last, value, second.array.reshape(data.shape), False, reverse1))

    def tensor_reduce(self, dst: Any, op: Any, data: Any, axis: Any, negate: bool = False, **_: Any) -> None:
        call = "tensor_reduce"
        dst, data, o = self._tile(call, "dst", dst), self._tile(call, "data", data), self._operator(call, op)
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        rank = data.array.ndim
        if not o.reduces:
            raise refuse(call, "an operator that reduces", o.name)
        if not axes or axes != tuple(range(rank - len(axes), rank)) or 0 in axes:
            raise refuse(call, f"the last free dimensions of {rank}", f"axis {axes}")
        kept = math.prod(data.shape[: rank - len(axes)])
        if dst.shape[0] != data.shape[0] or dst.array.size != kept:
            raise refuse(call, f"dst of {data.shape[0]} partitions and {kept // data.shape[0]} elements each", str(dst))
        self._integer_rule(call, o, (dst, data))
        self.memories.touch(dst, data)
        reduce = {
            "add": np.sum,
            "subtract": None,
            "multiply": np.prod,
            "maximum": np.max,
            "minimum": np.min,
            "bitwise_and": np.bitwise_and.reduce,
            "bitwise_or": np.bitwise_or.reduce,
            "bitwise_xor": np.bitwise_xor.reduce,
        }[o.name]
        if reduce is None:
            raise refuse(call, "a reduction that porter emits", o.name)
        value = reduce(data.array if o.bitvec else f32(data.array), axis=axes)
        self._write(dst, -value if negate else value)

    def activation(
        self,
        dst: Any,
        op: Any,
        data: Any,
        bias: Any = None,
        scale: Any = 1.0,
        reduce_op: Any = None,
        reduce_res: Any = None,
        reduce_cmd: Any = None,
        **_: Any,
    ) -> None:
        call, chip = "activation", self.memories.chip
        dst, data = self._tile(call, "dst", dst), self._tile(call, "data", data)
        self._alike(call, dst, data)
        if not isinstance(op, Token) or op.name not in ACTIVATIONS:
            raise refuse(call, f"a function of {', '.join(ACTIVATIONS)}", getattr(op, "name", repr(op)))
        f = ACTIVATIONS[op.name]
        if chip.generation < 3 and bias is not None and not isinstance(bias, Tensor):
            raise refuse(call, f"bias a [{data.shape[0]}, 1] tile on {chip.name}", f"the number {bias}")
        used = [t for t in (dst, data, bias, scale) if isinstance(t, Tensor)]
        if isinstance(scale, Tensor) and scale.dtype != np.float32:
            raise refuse(call, "scale of float32", str(scale))
        x = f32(data.array) * np.asarray(self._vector(call, "scale", scale, data)).astype(np.float32)
        if bias is not None:
            x = x + np.asarray(self._vector(call, "bias", bias, data)).astype(np.float32)
        outside = x[(x < np.float32(f.low)) | (x > np.float32(f.high))]
        if outside.size:
            raise refuse(f"activation {f.name} to {dst}", f"inputs from {f.low:g} to {f.high:g}", f"{outside[0]:g}")
        self.memories.touch(*used)
        exact = x.astype(np.float64) if op.name in COMPOSED else x
        result = f.meaning(exact).astype(np.float32)
        self._write(dst, result)
        if reduce_res is not None:
            reduce_res = self._tile(call, "reduce_res", reduce_res)
            if getattr(reduce_op, "name", "") != "add" or getattr(reduce_cmd, "name", "") != "reset_reduce":
                raise refuse(call, "reduce_op nl.add with reduce_cmd reset_reduce", "another reduction")
            if reduce_res.shape != (data.shape[0], 1):
                raise refuse(call, f"reduce_res of shape [{data.shape[0]}, 1]", str(reduce_res))
            self.memories.touch(reduce_res)
            self._write(reduce_res, result.reshape(result.shape[0], -1).sum(axis=1, dtype=np.float32))

    def reciprocal(self, dst: Any, data: Any, **_: Any) -> None:
        dst, data = self._tile("reciprocal", "dst", dst), self._tile("reciprocal", "data", data)
        self._alike("reciprocal", dst, data)
        self.memories.touch(dst, data)
        self._write(dst, np.float32(1) / f32(data.array))

    def _pattern(self, call: str, dst: Tensor, pattern: Any, offset: int, channel_multiplier: int) -> np.ndarray:
        if not 1 <= len(pattern) <= 4:
            raise refuse(call, "a pattern of one to four dimensions", str(len(pattern)))
        if math.prod(int(n) for _, n in pattern) != dst.array.size // dst.shape[0]:
            raise refuse(call, f"a pattern of {dst.array.size // dst.shape[0]} elements a partition", str(pattern))
        value = offset + channel_multiplier * np.arange(dst.shape[0], dtype=np.int64)
        for step, count in pattern:
            value = value[..., None] + int(step) * np.arange(int(count), dtype=np.int64)
        if value.min() < -(2**31) or value.max() >= 2**31:
            raise refuse(call, "values of 32 bits", f"{value.min()} to {value.max()}")
        return value.reshape(dst.shape)

    def iota(self, dst: Any, pattern: Any, offset: int = 0, channel_multiplier: int = 0, **_: Any) -> None:
        dst = self._tile("iota", "dst", dst, ("sbuf",))
        self.memories.touch(dst)
        self._write(dst, self._pattern("iota", dst, pattern, offset, channel_multiplier))

    def affine_select(
        self,
        dst: Any,
        pattern: Any,
        channel_multiplier: int,
        on_true_tile: Any,
        on_false_value: float,
        cmp_op: Any = None,
        offset: int = 0,
        **_: Any,
    ) -> None:
        call = "affine_select"
        dst, data = self._tile(call, "dst", dst, ("sbuf",)), self._tile(call, "on_true_tile", on_true_tile, ("sbuf",))
        self._alike(call, dst, data)
        o = OPERATORS["equal"] if cmp_op is None else self._operator(call, cmp_op)
        self.memories.touch(dst, data)
        chosen = o.meaning(self._pattern(call, dst, pattern, offset, channel_multiplier), np.int64(0)) != 0
        self._write(dst, np.where(chosen, f32(data.array).reshape(dst.shape), np.float32(on_false_value)))
