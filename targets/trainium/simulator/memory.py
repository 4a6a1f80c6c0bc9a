"""The simulator's memories: tensors as views of storage, what an access may reach, and what lived at once.

Fresh memory holds NaN, or for integers a pattern nobody computes by accident. Every view is checked against its storage
when it is made; every on-chip storage remembers when it was first and last touched, so that after a run the largest sum
of what lived at once can be held against the capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes  # noqa: F401  registers bfloat16 and the float8 types with numpy
import numpy as np
from numpy.typing import DTypeLike

from porter.errors import CheckFailed

MAX_DIMENSIONS = 5  # of one access pattern: the partitions and up to four free dimensions


@dataclass(frozen=True)
class Chip:
    """The figures of one NeuronCore that the rules need."""

    name: str
    generation: int
    partitions: int
    sbuf_bytes: int  # per partition
    psum_bytes: int  # per partition
    bank_bytes: int  # per partition
    stationary_max: int
    moving_max: int

    @property
    def banks(self) -> int:
        return self.psum_bytes // self.bank_bytes


@dataclass
class Life:
    """When a storage was touched, and what it takes of each partition."""

    space: str
    bytes: int
    name: str
    first: int = -1
    last: int = -1


@dataclass(eq=False)
class Storage:
    """One allocation. Rows of `width` elements are partitions on chip; on the device's HBM there is one row."""

    data: np.ndarray  # flat
    space: str  # 'sbuf', 'psum' or 'hbm'
    shape: tuple[int, ...]
    life: Life
    started: np.ndarray | None = None  # psum: 0 fresh, 1 written by the Tensor engine, 2 by another

    @property
    def width(self) -> int:
        return math.prod(self.shape[1:]) if self.space != "hbm" else self.data.size


def fresh(count: int, dtype: np.dtype) -> np.ndarray:
    """Memory that nobody has written."""
    if dtype.kind in "iu":
        return np.full(count, 0x55, np.uint8).repeat(dtype.itemsize)[: count * dtype.itemsize].view(dtype)
    return np.full(count, np.nan).astype(dtype)


#: four codes in one element, which only nc_matmul_mx reads: (nl's word, codes of 8 bits)
X4 = {
    w: np.dtype([(w, kind)])
    for w, kind in (("float8_e4m3fn_x4", "u4"), ("float8_e5m2_x4", "u4"), ("float4_e2m1fn_x4", "u2"))
}


def word(dtype: np.dtype) -> str:
    """nki.language's word for an element type."""
    return dtype.names[0] if dtype.names else dtype.name


def refuse(what: str, expected: str, found: str, hint: str | None = None) -> CheckFailed:
    return CheckFailed(what, expected=expected, found=found, hint=hint)


class Tensor:
    """A view of storage; the public surface of NkiTensor that porter emits."""

    def __init__(
        self, storage: Storage, array: np.ndarray, start: int = 0, indices: Tensor | None = None, rows: int = 0
    ) -> None:
        self.storage, self.array, self.start = storage, array, start
        self.indices, self.rows = indices, rows  # of an indirect view: the row each partition reads, out of how many

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def space(self) -> str:
        return self.storage.space

    @property
    def name(self) -> str:
        return self.storage.life.name

    @property
    def on_chip(self) -> bool:
        return self.space != "hbm"

    def __str__(self) -> str:
        return f"{self.name}: {self.space} {word(self.dtype)}{list(self.shape)}"

    def _with(self, array: np.ndarray, start: int | None = None) -> Tensor:
        if self.indices is not None:
            raise refuse(f"view of {self}", "a direct view", "an indirect one: it takes no further view")
        if array.ndim > MAX_DIMENSIONS:
            raise refuse(f"view of {self}", f"at most {MAX_DIMENSIONS} dimensions", f"{array.ndim}")
        return Tensor(self.storage, array, self.start if start is None else start)

    def _keeps_partitions(self, dim: int, what: str) -> None:
        if not 0 <= dim < max(self.array.ndim, 1) + (what == "expand_dim"):
            raise refuse(f"{what} of {self}", f"a dimension below {self.array.ndim}", str(dim))
        if self.on_chip and dim == 0:
            raise refuse(f"{what} of {self}", "a free dimension", "dimension 0, the partitions")

    def __getitem__(self, key: object) -> Tensor:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > self.array.ndim:
            raise refuse(f"index of {self}", f"at most {self.array.ndim} indices", str(len(keys)))
        picked: list[slice | int] = []
        start = self.start
        for dim, (k, n) in enumerate(zip(keys, self.shape, strict=False)):
            if isinstance(k, slice):
                low, high, step = k.start or 0, n if k.stop is None else k.stop, k.step or 1
                if not 0 <= low < high <= n or step < 1:
                    raise refuse(
                        f"slice of {self}", f"0 <= start < stop <= {n} on dimension {dim}", f"{low}:{high}:{step}"
                    )
                if dim == 0 and self.on_chip:
                    if step != 1:
                        raise refuse(f"slice of {self}", "neighbouring partitions", f"every {step}th partition")
                    start += low
                picked.append(slice(low, high, step))
                continue
            if not 0 <= int(k) < n:
                raise refuse(f"index of {self}", f"0 <= index < {n} on dimension {dim}", str(k))
            if dim == 0 and self.on_chip:
                start += int(k)
                picked.append(slice(int(k), int(k) + 1))
            else:
                picked.append(int(k))
        array = self.array[tuple(picked)]
        return self._with(array[:, None] if self.on_chip and array.ndim == 1 else array, start)

    def permute(self, dims: Sequence[int]) -> Tensor:
        if sorted(dims) != list(range(self.array.ndim)) or (self.on_chip and dims[0] != 0):
            raise refuse(f"permute of {self}", "a permutation that keeps the partitions first", str(tuple(dims)))
        return self._with(self.array.transpose(tuple(dims)))

    def broadcast(self, dim: int, size: int) -> Tensor:
        self._keeps_partitions(dim, "broadcast")
        if self.shape[dim] != 1:
            raise refuse(f"broadcast of {self}", f"size 1 on dimension {dim}", str(self.shape[dim]))
        return self._with(np.broadcast_to(self.array, (*self.shape[:dim], size, *self.shape[dim + 1 :])))

    def expand_dim(self, dim: int) -> Tensor:
        self._keeps_partitions(dim, "expand_dim")
        return self._with(np.expand_dims(self.array, dim))

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> Tensor:
        self._keeps_partitions(dim, "reshape_dim")
        if math.prod(shape) != self.shape[dim]:
            raise refuse(f"reshape_dim of {self}", f"{self.shape[dim]} elements", f"{list(shape)}")
        return self._with(self._reshaped((*self.shape[:dim], *shape, *self.shape[dim + 1 :])))

    def reshape(self, shape: Sequence[int]) -> Tensor:
        if math.prod(shape) != self.array.size or (self.on_chip and shape[0] != self.shape[0]):
            raise refuse(f"reshape of {self}", "as many elements, the same partitions", str(list(shape)))
        return self._with(self._reshaped(tuple(shape)))

    def _reshaped(self, shape: tuple[int, ...]) -> np.ndarray:
        view = self.array.view()
        try:
            view.shape = shape
        except AttributeError:
            raise refuse(f"reshape of {self}", "a layout that needs no copy", f"strides {self.array.strides}") from None
        return view

    def view(self, dtype: DTypeLike) -> Tensor:
        """The same bits as another type; of another width, the last dimension grows or shrinks."""
        kind = np.dtype(dtype)
        if kind.itemsize == self.dtype.itemsize:
            return self._with(self.array.view(kind))
        if self.array.shape[-1] > 1 and self.array.strides[-1] != self.dtype.itemsize:
            raise refuse(
                f"view of {self}", "a last dimension without gaps", f"a step of {self.array.strides[-1]} bytes"
            )
        if self.array.shape[-1] * self.dtype.itemsize % kind.itemsize:
            raise refuse(f"view of {self}", f"a multiple of {kind.itemsize} bytes in the last dimension", str(self))
        return self._with(self.array.view(kind))

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int | None = None,
        scalar_offset: object = None,
        vector_offset: Tensor | None = None,
        indirect_dim: int = 0,
        dtype: object = None,
    ) -> Tensor:
        """The elements offset + sum of step * i of the storage. With a vector_offset the first step counts the rows of
        the tensor as it was made, and each partition reads the row that its index names."""
        if scalar_offset is not None or dtype is not None or indirect_dim != 0:
            raise refuse(f"ap of {self}", "a pattern, an offset and a vector_offset on dimension 0", "something else")
        if len(pattern) > MAX_DIMENSIONS:
            raise refuse(f"ap of {self}", f"at most {MAX_DIMENSIONS} dimensions", f"{len(pattern)}")
        steps, counts = [int(p[0]) for p in pattern], [int(p[1]) for p in pattern]
        if any(n < 1 for n in counts):
            raise refuse(f"ap of {self}", "at least one element on each dimension", str(list(map(list, pattern))))
        at = int(offset or 0)
        if self.on_chip and steps[0] != self.storage.width:
            raise refuse(f"ap of {self}", f"the step {self.storage.width} between partitions", str(steps[0]))
        spans = [s * (n - 1) for s, n in zip(steps, counts, strict=True)]
        rows = 0
        if vector_offset is not None:
            row = math.prod(self.shape[1:])
            rows = self.shape[0]
            if steps[0] != row:
                raise refuse(f"ap of {self}", f"the step {row} of a row on the gathered dimension", str(steps[0]))
            if vector_offset.space != "sbuf" or vector_offset.shape != (counts[0], 1):
                raise refuse(f"ap of {self}", f"indices sbuf [{counts[0]}, 1]", str(vector_offset))
            if vector_offset.dtype.kind not in "iu" or vector_offset.dtype.itemsize != 4:
                raise refuse(f"ap of {self}", "indices of 32-bit integers", vector_offset.dtype.name)
            spans[0] = 0
            low, high = at + sum(min(s, 0) for s in spans), at + sum(max(s, 0) for s in spans)
            if low < 0 or high >= row:
                raise refuse(f"ap of {self}", f"elements 0 to {row - 1} of a row", f"{low} to {high}")
            steps[0] = 0
        low, high = at + sum(min(s, 0) for s in spans), at + sum(max(s, 0) for s in spans)
        if low < 0 or high >= self.storage.data.size:
            raise refuse(
                f"access pattern on {self.name}", f"elements 0 to {self.storage.data.size - 1}", f"{low} to {high}"
            )
        size = self.dtype.itemsize
        bits = self.storage.data[at:].view(f"u{size}")  # as_strided does not know every float of a byte
        array = np.lib.stride_tricks.as_strided(bits, counts, [s * size for s in steps]).view(self.dtype)
        return Tensor(self.storage, array, at // self.storage.width if self.on_chip else 0, vector_offset, rows)


@dataclass
class Memories:
    """What a run allocates, on one chip. `tick` counts instructions."""

    chip: Chip
    tick: int = 0
    lives: list[Life] = field(default_factory=list)

    def allocate(self, shape: Sequence[int], dtype: np.dtype, space: str, name: str) -> Tensor:
        """A fresh tensor. On chip: at most `partitions` rows; in psum no wider than the banks."""
        shape = tuple(int(n) for n in shape)
        what = f"{name}: {space} {dtype.name}{list(shape)}"
        if not shape or min(shape) < 1:
            raise refuse(what, "at least one element on each dimension", str(list(shape)))
        if len(shape) > MAX_DIMENSIONS and space != "hbm":
            raise refuse(what, f"at most {MAX_DIMENSIONS} dimensions", str(len(shape)))
        width = math.prod(shape[1:]) * dtype.itemsize
        if space != "hbm":
            if len(shape) < 2:
                raise refuse(what, "partitions and at least one free dimension", f"{len(shape)} dimension")
            if shape[0] > self.chip.partitions:
                raise refuse(what, f"at most {self.chip.partitions} partitions", str(shape[0]))
            limit = self.chip.sbuf_bytes if space == "sbuf" else self.chip.psum_bytes
            if width > limit:
                raise refuse(what, f"at most {limit} bytes of a partition of {space} on {self.chip.name}", str(width))
        taken = width if space != "psum" else -(-width // self.chip.bank_bytes) * self.chip.bank_bytes
        life = Life(space, taken, name)
        storage = Storage(fresh(math.prod(shape), dtype), space, shape, life)
        if space == "psum":
            storage.started = np.zeros(storage.data.size, np.uint8)
        if space != "hbm":
            self.lives.append(life)
        return Tensor(storage, storage.data.reshape(shape))

    def touch(self, *tensors: Tensor) -> None:
        """One instruction that reads or writes these."""
        self.tick += 1
        for t in tensors:
            for s in (t, t.indices) if t.indices is not None else (t,):
                life = s.storage.life
                life.first = self.tick if life.first < 0 else life.first
                life.last = self.tick

    def peak(self, space: str) -> tuple[int, list[Life]]:
        """The most bytes of a partition that lived at once, and what lived then."""
        events: list[tuple[int, int, Life]] = []
        for life in self.lives:
            if life.space == space and life.first >= 0:
                events += [(life.first, 1, life), (life.last + 1, 0, life)]
        events.sort(key=lambda e: e[:2])
        now = best = 0
        at = 0
        for tick, begins, life in events:
            now += life.bytes if begins else -life.bytes
            if now > best:
                best, at = now, tick
        return best, [life for life in self.lives if life.space == space and 0 <= life.first <= at <= life.last]

    def check_capacity(self, where: str) -> None:
        """Hold what lived at once against the chip. Raises CheckFailed naming the largest."""
        for space, limit in (("sbuf", self.chip.sbuf_bytes), ("psum", self.chip.psum_bytes)):
            used, alive = self.peak(space)
            if used > limit:
                big = sorted(alive, key=lambda life: -life.bytes)[:4]
                raise refuse(
                    f"{where} on {self.chip.name}",
                    f"at most {limit} bytes of a partition of {space}",
                    f"{used} at once, {', '.join(f'{b.name} {b.bytes}' for b in big)} among them",
                )
