"""Runs emitted Pallas text on the CPU by Pallas' own interpret mode, under a TPU's arithmetic.

Two things are put in place of the module's own `pl` and `lax`, and nothing in its text: `dot_general`, which
interpret mode multiplies exactly, becomes the bf16 passes of the matrix unit (porter.xla.products); and `pallas_call`
runs all of the grid or chosen points of it. Small grids run in the strict interpreter (fresh memory is NaN, lanes
past the edge of an array are NaN, a read outside a block raises, parallel points in random order), large ones
compiled by XLA, after every block index has been checked.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (numpy learns bfloat16)
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from porter.errors import CheckFailed, PorterError
from porter.targets.tpu import instructions
from porter.targets.tpu.naming import Names
from porter.xla import hlo, products

STRICT = 64  # grid points that the strict interpreter runs: about 6 ms each, where compiled ones are nearly free


class _Instead:
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@dataclass
class _Calls:
    """How to run each pallas_call of a module, and what its blocks covered."""

    kernel: str
    points: Sequence[int] | None
    seed: int
    covered: list[np.ndarray] | None = None


def load(text: str, name: str, **instead: Any) -> Callable[..., Any]:
    """The function of a module's text. Raises PorterError where the text does not define it."""
    space: dict[str, Any] = {"__name__": name}
    exec(compile(text, f"<{name}>", "exec"), space)
    if name not in space:
        raise PorterError(f"module of kernel {name}", expected=f"a function {name}", found="none")
    space.update(instead)
    return space[name]


def narrowed(where: str, array: np.ndarray) -> np.ndarray:
    """A 64-bit array as a TPU program holds it: integers in 32 bits, float64 within the range of a pair of float32.

    Raises PorterError where a value does not fit."""
    if array.dtype == np.float64 and array.size:
        largest = np.abs(array[np.isfinite(array)]).max(initial=0.0)
        if largest > np.finfo(np.float32).max:
            raise PorterError(where, expected="float64 within the range of float32", found=f"{largest:g}",
                              hint="XLA for TPU holds a float64 as a pair of float32")  # fmt: skip
    dtype = instructions.NARROW.get(array.dtype.name)
    if dtype is None:
        return array
    if array.dtype.kind in "iu" and array.size:
        info = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            raise PorterError(where, expected=f"integers of {dtype}", found=str(low if low < info.min else high),
                              hint="TPU programs index with 32 bits")  # fmt: skip
    return array.astype(dtype)


def run(text: str, name: str, inputs: Sequence[np.ndarray], *, points: Sequence[int] | None = None, seed: int = 0
        ) -> list[np.ndarray]:  # fmt: skip
    """The outputs of a Pallas module, in the types of its text; what the points do not write is NaN (0 for integers).

    points: flat indices into the parallel part of the grid. Raises CheckFailed when a slice or a block index leaves
    its array.
    """
    logger = logging.getLogger("jax._src.callback")
    level = logger.level
    with jax.enable_x64(False):
        jitted, calls = _interpreted(text, name, None if points is None else tuple(points), seed)
        arrays = [jnp.asarray(narrowed(f"kernel {name}, input {i}", np.asarray(x))) for i, x in enumerate(inputs)]
        logger.setLevel(logging.CRITICAL)
        try:
            results = jitted(*arrays)
            found = [np.array(r) for r in (results if isinstance(results, tuple | list) else (results,))]
        except Exception as error:
            pltpu.reset_tpu_interpret_mode_state()
            _interpreted.cache_clear()
            if (sentence := _out_of_bounds(error)) is None:
                raise
            raise CheckFailed(
                f"kernel {name}", expected="every read and write inside its buffer", found=sentence
            ) from None
        finally:
            logger.setLevel(level)
            _STATE.clear()
    if points is not None and calls.covered is not None:
        for x, mask in zip(found, calls.covered, strict=True):
            flat = x.reshape(-1)
            flat[~mask.reshape(-1)] = 0 if x.dtype.kind in "iub" else np.nan
    return found


@lru_cache(maxsize=64)  # a program launches equal kernels many times, and compiling the interpreter is most of a run
def _interpreted(text: str, name: str, points: tuple[int, ...] | None, seed: int) -> tuple[Callable[..., Any], _Calls]:
    """The module's function in interpret mode, to be called with x64 off."""
    calls = _Calls(name, points, seed)
    pallas_module = _Instead(pl, pallas_call=_pallas_call(calls), program_id=_program_id)
    function = load(text, Names()(name), pl=pallas_module, lax=_Instead(lax, dot_general=products.dot_general))
    return jax.jit(lambda *a: function(*a), compiler_options=hlo.QUICK), calls


def _out_of_bounds(error: BaseException) -> str | None:
    for line in str(error).splitlines():
        if "Out-of-bounds" in line:
            return line.partition("IndexError: ")[2] or line
    return None


# What program_id means while a kernel with chosen points is traced: coordinates of the point, axis by axis.
_STATE: list[Callable[[int], Any]] = []


def _program_id(axis: int) -> Any:
    return _STATE[-1](axis) if _STATE else pl.program_id(axis)


def _pallas_call(calls: _Calls) -> Callable[..., Any]:
    def call(kernel: Callable[..., None], *, grid: tuple[int, ...], in_specs: Sequence[Any], out_specs: Sequence[Any],
             out_shape: Sequence[Any], compiler_params: Any, **rest: Any) -> Callable[..., Any]:  # fmt: skip
        semantics = compiler_params.dimension_semantics
        parallel = sum(1 for s in semantics if s == "parallel") or (1 if calls.points is not None else 0)

        def bound(*arrays: Any) -> Any:
            _check_blocks(calls.kernel, grid, in_specs, arrays)
            _check_blocks(calls.kernel, grid, out_specs, out_shape)
            chosen = grid
            specs = (list(in_specs), list(out_specs))
            inner = kernel
            if calls.points is not None:
                table = np.array([np.unravel_index(p, grid[:parallel]) for p in calls.points], np.int32).reshape(
                    -1, parallel
                )
                chosen = (len(table), *grid[parallel:])
                calls.covered = [
                    _covered(s, o.shape, grid, table, parallel) for s, o in zip(out_specs, out_shape, strict=True)
                ]

                def coordinates(first: Any, rest: Sequence[Any]) -> list[Any]:
                    return [*(_pick(first, table[:, d]) for d in range(parallel)), *rest]

                def move(spec: Any) -> Any:
                    return pl.BlockSpec(spec.block_shape, lambda p, *rest: spec.index_map(*coordinates(p, rest)))

                specs = ([move(s) for s in in_specs], [move(s) for s in out_specs])

                def inner(*refs: Any) -> None:
                    def at(axis: int) -> Any:
                        return (_pick(pl.program_id(0), table[:, axis]) if axis < parallel
                                else pl.program_id(1 + axis - parallel))  # fmt: skip

                    _STATE.append(at)
                    try:
                        kernel(*refs)
                    finally:
                        _STATE.pop()

            strict = math.prod(chosen) <= STRICT
            interpret: Any = pltpu.InterpretParams(random_seed=calls.seed) if strict else True
            order = (
                pltpu.CompilerParams(dimension_semantics=["arbitrary"] * len(chosen))
                if calls.points
                else compiler_params
            )
            kept = {k: v for k, v in rest.items() if k in ("scratch_shapes", "name")}
            return pl.pallas_call(inner, grid=chosen, in_specs=specs[0], out_specs=specs[1], out_shape=list(out_shape),
                                  compiler_params=order, interpret=interpret, **kept)(*arrays)  # fmt: skip

        return bound

    return call


def _pick(index: Any, column: np.ndarray) -> Any:
    """column[index], as selections of constants: index maps hold no arrays."""
    value: Any = jnp.int32(int(column[0]))
    for i, x in enumerate(column[1:], 1):
        value = jnp.where(index == i, jnp.int32(int(x)), value)
    return value


def _blocks(spec: Any, grid: tuple[int, ...], coordinates: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Block indices per dimension, over points of the grid."""
    found = spec.index_map(*coordinates)
    return [np.broadcast_to(np.asarray(i), coordinates[0].shape) for i in found]


def _check_blocks(kernel: str, grid: tuple[int, ...], specs: Sequence[Any], arrays: Sequence[Any]) -> None:
    """Every block of every grid point begins inside its array."""
    points = [c.reshape(-1) for c in np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")]
    for spec, array in zip(specs, arrays, strict=True):
        for d, (index, block, size) in enumerate(
            zip(_blocks(spec, grid, points), spec.block_shape, array.shape, strict=True)
        ):
            last = -(-size // (block or 1)) - 1
            if index.size and (index.min() < 0 or index.max() > last):
                worst = int(index.max() if index.max() > last else index.min())
                raise CheckFailed(
                    f"kernel {kernel}",
                    expected=f"block indices 0..{last} in dimension {d} of {tuple(array.shape)}",
                    found=f"block {worst} of {block or 1} elements",
                )


def _covered(spec: Any, shape: tuple[int, ...], grid: tuple[int, ...], table: np.ndarray, parallel: int) -> np.ndarray:
    """The elements of an output that lie in blocks of the chosen points."""
    mask = np.zeros(shape, bool)
    for point in table:
        for rest in itertools.product(*(range(n) for n in grid[parallel:])):
            index = spec.index_map(*(np.int64(i) for i in (*point, *rest)))
            mask[
                tuple(
                    slice(int(i) * (b or 1), (int(i) + 1) * (b or 1))
                    for i, b in zip(index, spec.block_shape, strict=True)
                )
            ] = True
    return mask
