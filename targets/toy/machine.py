"""Toy itself, in numpy: runs emitted text over two real memories, and refuses what the chip would not do.

Memories are blocks of bytes filled with NaN patterns, tiles are windows into them: a value that was overwritten too
early, or never written, is a wrong result. Every address of a load or store is held against its tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from porter.errors import CheckFailed
from porter.targets.toy.instructions import MMA, MOVE, REDUCE, VECTOR, Instruction


@dataclass(frozen=True)
class Axis:
    """An axis of the running kernel; arithmetic on axes makes forms."""

    name: str
    extent: int
    tile: int
    position: int

    def form(self) -> Form:
        return Form({self: 1}, 0)

    def __add__(self, other: Axis | Form | int) -> Form:
        return self.form() + other

    def __rmul__(self, k: int) -> Form:
        return Form({self: k}, 0)


@dataclass
class Form:
    """An affine form of axes."""

    terms: dict[Axis, int]
    const: int

    def __add__(self, other: Axis | Form | int) -> Form:
        other = _form(other)
        terms = dict(self.terms)
        for a, k in other.terms.items():
            terms[a] = terms.get(a, 0) + k
        return Form(terms, self.const + other.const)


def _form(x: Axis | Form | int) -> Form:
    return x.form() if isinstance(x, Axis) else Form({}, x) if isinstance(x, int) else x


@dataclass(frozen=True)
class Tile:
    """A window into a memory: one dimension per axis of the kernel, length 1 where the tile lacks it."""

    space: str
    data: np.ndarray
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Gathered:
    tile: Tile
    form: Form


class Machine:
    """One Toy, for one kernel. capacity: bytes of each memory. points: flat grid points to run, all when None."""

    def __init__(self, kernel: str, capacity: Mapping[str, int], points: Sequence[int] | None = None) -> None:
        self.kernel, self.points = kernel, points
        self.memory = {name: np.full(size, 0xFF, np.uint8) for name, size in capacity.items()}
        self.axes: list[Axis] = []
        self.start: dict[Axis, int] = {}

    def _fail(self, found: str) -> None:
        raise CheckFailed(f"kernel {self.kernel} on toy", found=found)

    def axis(self, name: str, *, extent: int, tile: int) -> Axis:
        self.axes.append(Axis(name, extent, tile, len(self.axes)))
        self.start[self.axes[-1]] = 0
        return self.axes[-1]

    def vmem(self, offset: int, dtype: str, axes: list[Axis]) -> Tile:
        return self._tile("vmem", offset, dtype, axes)

    def acc(self, offset: int, dtype: str, axes: list[Axis]) -> Tile:
        return self._tile("acc", offset, dtype, axes)

    def _tile(self, space: str, offset: int, dtype: str, axes: list[Axis]) -> Tile:
        shape = [a.tile if a in axes else 1 for a in self.axes]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if offset + size > self.memory[space].size:
            self._fail(f"{space} of toy holds {self.memory[space].size} bytes, and a tile ends at {offset + size}")
        return Tile(space, self.memory[space][offset : offset + size].view(dtype).reshape(shape), tuple(axes))

    # Control

    def grid(self, axes: list[Axis]) -> Iterator[None]:
        every = itertools.product(*(range(0, a.extent, a.tile) for a in axes))
        for number, starts in enumerate(every):
            if self.points is None or number in self.points:
                self.start.update(zip(axes, starts, strict=True))
                yield None

    def loop(self, axis: Axis) -> Iterator[None]:
        for start in range(0, axis.extent, axis.tile):
            self.start[axis] = start
            yield None
        self.start[axis] = 0

    # Data movement

    def _lanes(self, form: Form) -> np.ndarray:
        total = np.full((1,) * len(self.axes), form.const, np.int64)
        for a, k in form.terms.items():
            shape = [1] * len(self.axes)
            shape[a.position] = a.tile
            total = total + k * (self.start[a] + np.arange(a.tile)).reshape(shape)
        return total

    def _inside(self, axes: Sequence[Axis]) -> np.ndarray:
        inside = np.ones((1,) * len(self.axes), bool)
        for a in axes:
            inside = inside & (self._lanes(a.form()) < a.extent)
        return inside

    def gathered(self, tile: Tile, form: Axis | Form | int) -> Gathered:
        return Gathered(tile, _form(form))

    def _address(
        self, view: tuple[int, ...], index: list[Axis | Form | Gathered | int]
    ) -> tuple[np.ndarray, np.ndarray, set[Axis]]:
        flat, inside = np.zeros((1,) * len(self.axes), np.int64), np.ones((1,) * len(self.axes), bool)
        used: set[Axis] = set()
        for size, i in zip(view, index, strict=True):
            form = i.form if isinstance(i, Gathered) else _form(i)
            at = self._lanes(form)
            used |= set(form.terms)
            if isinstance(i, Gathered):
                at = at + i.tile.data.astype(np.int64)
                used |= set(i.tile.axes)
            inside = inside & (at >= 0) & (at < size)
            flat = flat * size + at
        return flat, inside, used

    def load(
        self,
        to: Tile,
        source: np.ndarray,
        view: tuple[int, ...],
        index: list[Axis | Form | Gathered | int],
        *,
        pad: float | None,
    ) -> None:
        flat, inside, used = self._address(view, index)
        valid = self._inside(sorted(used, key=lambda a: a.position))
        if pad is None and (valid & ~inside).any():
            self._fail(f"a load leaves its tensor of {source.size} elements")
        read = np.broadcast_to(valid & inside, to.data.shape)
        values = source.reshape(-1)[np.where(read, np.broadcast_to(flat, to.data.shape), 0)]
        to.data[...] = np.where(
            read, values, np.zeros((), to.data.dtype) if pad is None else np.asarray(pad).astype(to.data.dtype)
        )

    def store(
        self, to: np.ndarray, view: tuple[int, ...], index: list[Axis | Form | Gathered | int], value: Tile
    ) -> None:
        flat, inside, used = self._address(view, index)
        shape = np.broadcast_shapes(flat.shape, value.data.shape)
        valid = np.broadcast_to(self._inside(sorted(used, key=lambda a: a.position)), shape)
        if (valid & ~np.broadcast_to(inside, shape)).any():
            self._fail(f"a store leaves its tensor of {to.size} elements")
        to.reshape(-1)[np.broadcast_to(flat, shape)[valid]] = np.broadcast_to(value.data, shape)[valid]

    # Arithmetic

    def _write(
        self, name: str, instruction: Instruction, to: Tile, operands: Sequence[Tile], result: np.ndarray
    ) -> None:
        if problem := instruction.problem(name, to.space, [t.space for t in operands]):
            self._fail(problem)
        with np.errstate(all="ignore"):
            to.data[...] = result.astype(to.data.dtype)

    def fill(self, to: Tile, value: float) -> None:
        to.data[...] = np.asarray(value).astype(to.data.dtype)

    def iota(self, to: Tile, form: Axis | Form | int) -> None:
        to.data[...] = self._lanes(_form(form))

    def move(self, to: Tile, source: Tile) -> None:
        self._write("move", MOVE, to, [source], source.data)

    def bits(self, to: Tile, source: Tile) -> None:
        self._write("bits", MOVE, to, [source], np.asarray(source.data, order="C").view(to.data.dtype))

    def vector(self, op: str, to: Tile, *args: Tile) -> None:
        with np.errstate(all="ignore"):
            self._write(op, VECTOR[op], to, args, np.asarray(VECTOR[op].run(*(a.data for a in args))))

    def mask(self, to: Tile, source: Tile, axis: Axis, value: float) -> None:
        kept = np.where(self._inside([axis]), source.data, np.asarray(value).astype(source.data.dtype))
        self._write("mask", MOVE, to, [source], kept)

    def reduce(self, op: str, to: Tile, source: Tile, axes: list[Axis]) -> None:
        instruction = REDUCE[f"reduce_{op}"]
        with np.errstate(all="ignore"):
            self._write(
                "reduce",
                instruction,
                to,
                [source],
                instruction.run(source.data, axis=tuple(a.position for a in axes), keepdims=True),
            )

    def mma(self, to: Tile, a: Tile, b: Tile, axes: list[Axis], precision: str) -> None:
        summed = [x.position for x in axes]
        free = [x for x in range(len(self.axes)) if x not in summed]
        batch = [x for x in free if a.data.shape[x] > 1 and b.data.shape[x] > 1]
        rows = [x for x in free if x not in batch and a.data.shape[x] > 1]
        columns = [x for x in free if x not in batch and b.data.shape[x] > 1]
        rest = [x for x in free if x not in (*batch, *rows, *columns)]

        def matrix(t: Tile, *groups: list[int]) -> np.ndarray:
            order = [x for g in groups for x in g]
            turned = t.data.transpose(order + [x for x in range(len(self.axes)) if x not in order])
            return turned.reshape([int(np.prod([t.data.shape[x] for x in g], dtype=int)) for g in groups])

        def widened(t: Tile) -> Tile:
            shape = [n if x not in summed else self.axes[x].tile for x, n in enumerate(t.data.shape)]
            return Tile(t.space, np.broadcast_to(t.data, shape), t.axes)

        a, b = widened(a), widened(b)
        order = [*batch, *rows, *columns, *rest, *summed]
        before = to.data.transpose(order).reshape(-1, int(np.prod([a.data.shape[x] for x in rows], dtype=int)),
                                                  int(np.prod([b.data.shape[x] for x in columns], dtype=int)))  # fmt: skip
        product = MMA.run(before, matrix(a, batch, rows, summed), matrix(b, batch, summed, columns), precision)
        back = product.reshape([to.data.shape[x] for x in order]).transpose(np.argsort(order))
        self._write("mma", MMA, to, [a, b], back)
