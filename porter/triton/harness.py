"""Runs the text of a Triton kernel over numpy arrays by Triton's interpreter, strictly: the emulated device.

What this adds to Triton 3.9's interpreter, in one process and without torch or TRITON_INTERPRET:

- Addresses are not real. Each buffer has a range of 2**40 bytes of its own, and every pointer of every active lane must
  lie in its buffer; what lies between is guard zone. Triton's own reads whatever a pointer points to.
- Fresh memory is NaN, and so is a masked lane of a load that names no `other`. An element is written once.
- tl.dot multiplies as the unit does (porter.formats.matmul), by its input_precision, which Triton's ignores.
- bfloat16 and float8 are numbers: casts round to nearest even, products multiply values. Triton's truncates and
  multiplies bit patterns.
- Chosen grid points only, in order or shuffled.

One run at a time: while it lasts, `triton.language` is patched for the whole process.
"""

from __future__ import annotations

import linecache
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from porter.errors import CheckFailed, PorterError
from porter.formats import matmul
from porter.tile.block_scales import halves
from porter.tile.program import Param

RANGE = 40  # bits of a buffer's own addresses
_LOCK = threading.RLock()

_REAL = {"bf16": ml_dtypes.bfloat16, "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2}
_PRECISION = {"IEEE": "fp32", "TF32": "tf32", "TF32x3": "tf32x3", "BF16x3": "bf16x3", "BF16x6": "bf16x6"}


class Buffer:
    """A parameter in device memory: flat elements, their addresses, and which have been written."""

    def __init__(self, index: int, param: Param, data: np.ndarray) -> None:
        self.param = param
        self.data = data  # flat, in the interpreter's storage type
        self.base = (index + 1) << RANGE
        self.written = np.zeros(data.size, bool)


class Machine(InterpreterBuilder):
    """Triton's interpreter, with memory that is checked and a matrix unit that rounds."""

    def __init__(self, name: str, buffers: Sequence[Buffer], fp8: str = "float32") -> None:
        super().__init__()
        self.fp8 = fp8
        precisions = ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6")
        self.options: Any = replace(interpreter.InterpreterOptions(), allowed_dot_input_precisions=precisions)
        self.kernel = name
        self.buffers = {b.base >> RANGE: b for b in buffers}
        self.point = 0

    # memory

    def _at(self, pointers: np.ndarray, active: np.ndarray, access: str) -> tuple[Buffer, np.ndarray] | None:
        """The buffer and the flat element indices of the active lanes; None where no lane is active."""
        chosen = pointers[active].astype(np.int64)
        if chosen.size == 0:
            return None
        key = (int(chosen.flat[0]) + (1 << (RANGE - 1))) >> RANGE  # the nearest base: an offset may be negative
        buffer = self.buffers.get(key) or self.buffers[min(self.buffers, key=lambda k: abs(k - key))]
        size = buffer.data.itemsize
        offsets = chosen - buffer.base
        bad = (offsets < 0) | (offsets >= size * buffer.data.size) | (offsets % size != 0)
        if bad.any():
            first = int(offsets.reshape(-1)[np.flatnonzero(bad.reshape(-1))[0]]) / size
            raise CheckFailed(
                f"kernel {self.kernel}, grid point {self.point}: a {access} leaves its buffer",
                expected=f"elements 0 to {buffer.data.size - 1} of {buffer.param.name}",
                found=f"element {first:g}, in {int(bad.sum())} of {chosen.size} active lanes",
            )
        return buffer, offsets // size

    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, cache_policy: Any, is_volatile: Any) -> Any:
        dtype = ptrs.get_element_ty()
        storage = interpreter._get_np_dtype(dtype)
        active = np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)
        if other is None:
            out = np.full(ptrs.data.shape, _poison(dtype, storage), storage)
        else:
            out = np.broadcast_to(other.data, ptrs.data.shape).astype(storage)
        found = self._at(ptrs.data, active, "read")
        if found is not None:
            buffer, at = found
            if buffer.param.out:  # instances run in no order: none may depend on what another wrote
                raise CheckFailed(f"kernel {self.kernel}, grid point {self.point}: a read of an output",
                                  found=buffer.param.name)  # fmt: skip
            out[active] = buffer.data[at].astype(storage, copy=False)
        return TensorHandle(out, dtype)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, cache_policy: Any) -> None:
        active = np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)
        found = self._at(ptrs.data, active, "write")
        if found is None:
            return
        buffer, at = found
        if not buffer.param.out:
            raise CheckFailed(f"kernel {self.kernel}, grid point {self.point}: a write to an input",
                              found=buffer.param.name)  # fmt: skip
        flat = at.reshape(-1)
        if buffer.written[flat].any() or np.unique(flat).size != flat.size:
            raise CheckFailed(f"kernel {self.kernel}, grid point {self.point}: an element is written twice",
                              found=buffer.param.name)  # fmt: skip
        buffer.written[flat] = True
        buffer.data[at] = np.broadcast_to(value.data, ptrs.data.shape)[active].astype(buffer.data.dtype, copy=False)

    # numbers

    def cast_impl(self, src: Any, dst_type: Any) -> Any:
        target = dst_type.scalar
        with np.errstate(all="ignore"):
            x = _real(src)
            if target.name in ("fp8e4nv", "fp8e5"):  # cvt.rn.satfinite
                top = float(ml_dtypes.finfo(_REAL[target.name]).max)
                x = np.where(np.isnan(x), x, np.clip(x, -top, top)).astype(np.float32)
            if target.name in _REAL:
                wide = x if x.dtype.kind == "f" else x.astype(np.float32)
                return TensorHandle(wide.astype(_REAL[target.name]).view(interpreter._get_np_dtype(target)), target)
            return TensorHandle(x.astype(interpreter._get_np_dtype(target)), target)

    def create_splat(self, ret_ty: Any, arg: Any) -> Any:
        # a comparison's handle has its operands' type, though it holds booleans: they stay what they are
        data = np.full(ret_ty.shape, arg.data.reshape(-1)[0], arg.data.dtype)
        return TensorHandle(data, arg.dtype.scalar)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        return self.cast_impl(src, dst_type)

    def create_dot(self, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        x, y = _real(a), _real(b)
        if x.dtype.kind in "iu" or x.dtype == np.float64:
            product = np.matmul(x, y, dtype=d.data.dtype)
        else:
            plain = a.data.dtype == np.float32
            precision = _PRECISION[input_precision.name] if plain else "fp32"
            narrow = all(h.dtype.scalar.name.startswith("fp8") for h in (a, b))
            product = matmul.dot(x.astype(np.float32), y.astype(np.float32), precision=precision,
                                 accumulator=self.fp8 if narrow else "float32")  # fmt: skip
        return TensorHandle((product + d.data).astype(d.data.dtype), d.dtype.scalar)

    def create_dot_scaled(self, a: Any, a_scale: Any, a_kind: Any, b: Any, b_scale: Any, b_kind: Any, fast_math: bool,
                          a_along: bool, b_along: bool, d: Any) -> Any:  # fmt: skip
        """Codes times their blocks' scales, multiplied exactly, summed in float32."""
        x, y = _unpacked(a, -1), _unpacked(b, -2)
        s, t = (
            np.ldexp(np.float32(1), v.data.astype(np.int32) - 127) if v.dtype.scalar.name == "uint8" else _real(v)
            for v in (a_scale, b_scale)
        )  # E8M0, or E4M3
        x = x * np.repeat(s, x.shape[-1] // s.shape[-1], axis=-1)
        y = y * np.repeat(np.swapaxes(t, -1, -2), y.shape[-2] // t.shape[-1], axis=-2)
        product = matmul.dot(x, y, precision="fp32")
        return TensorHandle((product + d.data).astype(d.data.dtype), d.dtype.scalar)

    def create_erf(self, arg: Any) -> Any:
        from scipy.special import erf

        return TensorHandle(erf(arg.data), arg.dtype.scalar)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        arrays = np.broadcast_arrays(x.data, y.data, z.data)
        if arrays[2].dtype != np.float32:
            return super().create_fma(x, y, z)
        a, b, c = (np.ascontiguousarray(v) for v in arrays)
        return TensorHandle(interpreter._interpreter.fma_fp32(a, b, c), z.dtype.scalar)


def _unpacked(handle: Any, axis: int) -> np.ndarray:
    """Codes as float32; two of E2M1 lie in a byte along the sum, the low one first."""
    if handle.dtype.scalar.name != "uint8":
        return np.asarray(_real(handle), np.float32)
    pair = np.stack(halves(handle.data), axis=-1)
    shape = handle.data.shape
    return np.moveaxis(pair, -1, axis).reshape([n * 2 if i == axis % len(shape) else n for i, n in enumerate(shape)])


def _real(handle: Any) -> np.ndarray:
    """The handle's values as numbers: bfloat16 and float8 widened to float32, which holds them exactly."""
    name = handle.dtype.scalar.name
    if name not in _REAL or handle.data.dtype == np.bool_:  # the interpreter gives a comparison its operands' type
        return handle.data
    return np.ascontiguousarray(handle.data).view(_REAL[name]).astype(np.float32)


def _poison(dtype: Any, storage: np.dtype) -> Any:
    """What a lane holds that nothing was loaded into: NaN, or an integer nobody computes by accident."""
    if dtype.name in _REAL:
        return np.float32("nan").astype(_REAL[dtype.name]).view(storage)
    if storage.kind == "f":
        return np.nan
    return True if storage.kind == "b" else np.iinfo(storage).min + 12345 % np.iinfo(storage).max


def _sum(x: Any, axis: Any = None, keep_dims: bool = False, dtype: Any = None, **_: Any) -> Any:
    with np.errstate(all="ignore"):
        data = np.sum(x.handle.data, axis=axis, keepdims=keep_dims, dtype=x.handle.data.dtype)
    return _tensor(data, x.dtype)


def _reduce(x: Any, axis: int, combine: Callable[..., Any], keep_dims: bool = False, **_: Any) -> Any:
    """Halves of the tensor combined until one element is left: a power of two always is."""
    combine = getattr(combine, "fn", combine)
    data = np.moveaxis(x.handle.data, axis, 0)
    with np.errstate(all="ignore"):
        while len(data) > 1:
            half = len(data) // 2
            data = combine(_tensor(data[:half], x.dtype), _tensor(data[half:], x.dtype)).handle.data
    return _tensor(np.expand_dims(data[0], axis) if keep_dims else data[0], x.dtype)


def _tensor(data: np.ndarray, dtype: Any) -> Any:
    data = np.asarray(data)
    kind = tl.block_type(dtype.scalar, list(data.shape)) if data.shape else dtype.scalar
    return tl.tensor(TensorHandle(data.reshape(data.shape or (1,)), dtype.scalar), kind)


@contextmanager
def _patched(machine: Machine, kernel: Callable[..., Any]) -> Iterator[None]:
    """`triton.language` computing on this machine, for as long as the context lasts."""
    kept = interpreter.interpreter_builder, interpreter.interpreter_semantic
    interpreter.interpreter_builder, interpreter.interpreter_semantic = machine, TritonSemantic(machine)
    scope = interpreter._patch_lang(kernel)
    try:
        scope.set_attr(tl, "sum", _sum)
        scope.set_attr(tl, "reduce", _reduce)
        yield
    finally:
        scope.restore()
        interpreter.interpreter_builder, interpreter.interpreter_semantic = kept


def load(text: str, name: str) -> dict[str, Any]:
    """The module's names. Its source is where Triton looks for it, though no file holds it.

    Raises PorterError where the text is no module or defines no kernel of that name.
    """
    where = f"<triton kernel {name}>"
    linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)
    module = ModuleType(f"porter_triton_{name}")
    try:
        exec(compile(text, where, "exec"), module.__dict__)  # a bundle is code, like a wheel
    except SyntaxError as error:
        raise PorterError(f"Triton kernel {name}, line {error.lineno}", found=str(error.msg)) from error
    if name not in module.__dict__:
        raise PorterError("Triton module", expected=f"a function {name}", found="none of that name")
    return module.__dict__


def run(text: str, name: str, params: Sequence[Param], inputs: Sequence[np.ndarray], grid: int, *,
        points: Sequence[int] | None = None, shuffle: int | None = None,
        fp8: str = "float32") -> list[np.ndarray]:  # fmt: skip
    """The outputs of the kernel `name` of a module's text, in the parameters' shapes and dtypes.

    params: inputs and outputs in the order of the kernel's arguments. points: the instances to run, all when None; what
    they do not write is NaN (0 for integers). shuffle: a seed for the order of instances. fp8: what the unit adds
    products of 8-bit floats in. Raises CheckFailed when an
    active lane leaves its buffer or writes an element again, PorterError when the text does not run.
    """
    module = load(text, name)
    buffers, given = [], iter(inputs)
    for i, p in enumerate(params):
        if p.out:
            data = np.zeros(int(np.prod(p.shape)), _storage(p.dtype))
            if p.dtype.startswith(("float", "bfloat")):
                data = np.full(data.size, np.nan, np.float32).astype(_numpy(p.dtype)).view(data.dtype)
        else:
            x = np.asarray(next(given))
            if x.shape != p.shape or x.dtype != _numpy(p.dtype):
                raise PorterError(f"input {p.name} of kernel {name}", expected=f"{p.dtype}{list(p.shape)}",
                                  found=f"{x.dtype}{list(x.shape)}")  # fmt: skip
            data = np.ascontiguousarray(x).reshape(-1).view(_storage(p.dtype))
        buffers.append(Buffer(i, p, data))
    machine = Machine(name, buffers, fp8)
    order = np.arange(grid) if points is None else np.asarray(points, np.int64)
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(order)
    with _LOCK:
        for key, value in list(module.items()):
            if isinstance(value, triton.runtime.jit.JITFunction):
                module[key] = value.fn  # plain Python: what it calls is patched
        kernel = module[name]
        with _patched(machine, kernel), np.errstate(all="ignore"):
            arguments = [_pointer(b, module["SIGNATURE"]) for b in buffers]
            machine.set_grid_dim(grid, 1, 1)
            for point in order:
                machine.set_grid_idx(int(point), 0, 0)
                machine.point = int(point)
                try:
                    kernel(*arguments)
                except PorterError:
                    raise
                except Exception as error:
                    raise PorterError(
                        f"Triton kernel {name}, grid point {point}", found=f"{type(error).__name__}: {error}",
                        hint="the emitter wrote what Triton's interpreter cannot run") from error  # fmt: skip
    return [b.data.view(_numpy(b.param.dtype)).reshape(b.param.shape) for b in buffers if b.param.out]


def _pointer(buffer: Buffer, signature: dict[str, str]) -> Any:
    kind = tl.str_to_ty(list(signature.values())[(buffer.base >> RANGE) - 1], None)
    return tl.tensor(TensorHandle(np.array([buffer.base], np.uint64), kind), kind)


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def _storage(dtype: str) -> np.dtype:
    """How the interpreter holds elements in memory: bool as int8, bfloat16 and codes as their bits."""
    if dtype == "bool":
        return np.dtype(np.int8)
    kind = _numpy(dtype)
    return (
        np.dtype(f"uint{8 * kind.itemsize}")
        if kind.kind not in "iubf" or (kind.itemsize == 1 and kind.kind == "f")
        else kind
    )
