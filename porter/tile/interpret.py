"""The tile program, run strictly: the whole grid at once in numpy, poison where nothing was declared.

Every value is an array with one dimension per axis of the program (length 1 where the value does not have the axis). A
grid axis is present in full, padded to whole tiles; a loop axis holds the tile of the current step. So one evaluation
of the body runs every grid point, and the sequential loops run as they would on the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from porter.errors import CheckFailed
from porter.formats import matmul
from porter.tile.affine import Affine
from porter.tile.block_scales import halves, place_of
from porter.tile.elementwise import ELEMENTWISE, REDUCTIONS
from porter.tile.program import (
    Access,
    Cast,
    Dot,
    Elementwise,
    For,
    Full,
    Iota,
    Load,
    Mask,
    Program,
    Reduce,
    Statement,
    Store,
    Tile,
    types,
    walk,
)  # fmt: skip

DotFunction = Callable[..., np.ndarray]
MAX_LANES = 1 << 24  # of one value at a time: larger grids run in chunks


def poison(dtype: str) -> object:
    """What an undeclared lane holds: NaN, or an integer nobody computes by accident."""
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return True
    return np.iinfo(kind).min + 12345 % (np.iinfo(kind).max) if np.issubdtype(kind, np.integer) else float("nan")


def _computed(x: np.ndarray) -> np.ndarray:
    """Narrow floats are computed with in float32, and rounded once where the result is narrow again."""
    return x.astype(np.float32) if x.dtype.kind in "fV" and x.dtype.itemsize < 4 else x


def run(
    program: Program, inputs: Sequence[np.ndarray], *, dot: DotFunction = matmul.dot, fp8: str = "float32"
) -> list[np.ndarray]:  # fmt: skip
    """The outputs of a program, in the parameters' shapes and dtypes.

    inputs: in the order of program.inputs. dot: the matrix unit (porter.formats.matmul.dot's signature), fp8: what it
    adds products of 8-bit floats in (its accumulators). Raises
    CheckFailed when a lane inside every extent reads outside its tensor without a declared pad value, when an output
    element is written twice, or not at all.
    """
    tensors = {p.name: np.ascontiguousarray(x).reshape(-1) for p, x in zip(program.inputs, inputs, strict=True)}
    results = {p.name: np.zeros(math.prod(p.shape), np.dtype(p.dtype)) for p in program.outputs}
    writes = {p.name: np.zeros(math.prod(p.shape), np.uint8) for p in program.outputs}
    for window in _windows(program):
        _Machine(program, window, tensors, results, writes, dot, fp8).block(program.body)
    for p in program.outputs:
        if (writes[p.name] != 1).any():
            where = int(np.flatnonzero(writes[p.name] != 1)[0])
            times = "never" if writes[p.name][where] == 0 else "more than once"
            at = tuple(int(i) for i in np.unravel_index(where, p.shape))
            raise CheckFailed(f"tile program {program.name}", expected="each output element written once",
                              found=f"{p.name}{list(at)} is written {times}")  # fmt: skip
    return [results[p.name].reshape(p.shape) for p in program.outputs]


def _windows(program: Program) -> Iterator[dict[str, tuple[int, int]]]:
    """Ranges of tiles per grid axis, so that no value has more than MAX_LANES lanes."""
    counts = {a.name: a.steps for a in program.grid}

    def lanes(t: Tile) -> int:
        return math.prod(program.axis(a).tile * counts.get(a, 1) for a in t.axes)

    biggest = [s.type for s in walk(program.body) if not isinstance(s, For | Store)]
    while counts and (worst := max(biggest, key=lanes, default=None)) and lanes(worst) > MAX_LANES:
        axis = max((a for a in worst.axes if counts.get(a, 1) > 1), key=lambda a: counts[a], default=None)
        if axis is None:
            break
        counts[axis] = -(-counts[axis] // 2)
    ranges = []
    for a in program.grid:
        step = counts[a.name]
        ranges.append([(a.name, (i, min(i + step, a.steps))) for i in range(0, a.steps, step)])
    for chosen in itertools.product(*ranges):
        yield dict(chosen)


class _Machine:
    def __init__(self, program: Program, window: Mapping[str, tuple[int, int]], tensors: dict[str, np.ndarray],
                 results: dict[str, np.ndarray], writes: dict[str, np.ndarray], dot: DotFunction, fp8: str) -> None:  # fmt: skip
        self.program, self.tensors, self.results, self.writes, self.dot = program, tensors, results, writes, dot
        self.fp8 = fp8
        self.position = {a.name: i for i, a in enumerate(program.axes)}
        self.rank = len(program.axes)
        self.values: dict[str, np.ndarray] = {}
        self.coordinates: dict[str, np.ndarray] = {}
        for a in program.axes:
            first, last = window.get(a.name, (0, 1))
            self._at(a.name, np.arange(first * a.tile, last * a.tile))

    def _at(self, axis: str, coordinates: np.ndarray) -> None:
        shape = [1] * self.rank
        shape[self.position[axis]] = -1
        self.coordinates[axis] = coordinates.reshape(shape)

    def _shape(self, t: Tile) -> tuple[int, ...]:
        return tuple(self.coordinates[a.name].size if a.name in t.axes else 1 for a in self.program.axes)

    def _affine(self, affine: Affine) -> np.ndarray:
        total = np.full((1,) * self.rank, affine.const, np.int64)
        for axis, k in affine.terms:
            total = total + k * self.coordinates[axis]
        return total

    def _valid(self, axes: Sequence[str]) -> np.ndarray:
        """Lanes inside the extent of every one of these axes."""
        inside = np.ones((1,) * self.rank, bool)
        for name in axes:
            extent = self.program.axis(name).extent
            if self.coordinates[name].reshape(-1)[-1] >= extent:
                inside = inside & (self.coordinates[name] < extent)
        return inside

    def _address(self, access: Access) -> tuple[np.ndarray, np.ndarray]:
        """Flat offsets, and whether each is inside the view."""
        flat = np.zeros((1,) * self.rank, np.int64)
        inside = np.ones((1,) * self.rank, bool)
        for size, index in zip(access.view, access.index, strict=True):
            at = self._affine(index.affine)
            if index.gather is not None:
                at = at + self.values[index.gather].astype(np.int64)
            if at.min() < 0 or at.max() >= size:
                inside = inside & (at >= 0) & (at < size)
            flat = flat * size + at
        return flat, inside

    def block(self, body: Sequence[Statement]) -> None:
        for s in body:
            match s:
                case For():
                    self._loop(s)
                case Store():
                    self._store(s)
                case Load():
                    self.values[s.name] = self._load(s)
                case _:
                    value = self._compute(s)
                    self.values[s.name] = value if value.dtype == np.dtype(s.type.dtype) else value.astype(s.type.dtype)

    def _loop(self, loop: For) -> None:
        axis = self.program.axis(loop.axis)
        carried = [self.values[c.init] for c in loop.carries]
        for step in range(axis.steps):
            self._at(axis.name, np.arange(step * axis.tile, (step + 1) * axis.tile))
            for c, value in zip(loop.carries, carried, strict=True):
                self.values[c.inner] = value
            self.block(loop.body)
            carried = [self.values[c.next] for c in loop.carries]
        for c, value in zip(loop.carries, carried, strict=True):
            self.values[c.name] = value

    def _load(self, s: Load) -> np.ndarray:
        data = self.tensors[s.access.param]
        flat, inside = self._address(s.access)
        valid = self._valid(s.type.axes)
        if s.pad is None and not inside.all() and (valid & ~inside).any():
            raise CheckFailed(f"tile program {self.program.name}, load {s.name}",
                              expected="every lane inside the tensor, or a pad value", found=f"a lane outside {s.access.param}",
                              hint="give the load a pad value, or mask the axis")  # fmt: skip
        inside = np.broadcast_to(inside & valid, self._shape(s.type))
        if inside.all():
            return data[np.broadcast_to(flat, self._shape(s.type))]
        if data.size == 0:
            return np.full(self._shape(s.type), s.pad, data.dtype)
        fill = np.array(poison(s.type.dtype) if s.pad is None else s.pad).astype(data.dtype)
        return np.where(inside, data[np.where(inside, flat, 0)], fill)

    def _store(self, s: Store) -> None:
        flat, inside = self._address(s.access)
        axes = {a for i in s.access.index for a in i.affine.axes}
        value = self.values[s.value]
        shape = np.broadcast_shapes(flat.shape, value.shape)
        valid = np.broadcast_to(self._valid(sorted(axes)), shape)
        if (valid & ~np.broadcast_to(inside, shape)).any():
            raise CheckFailed(f"tile program {self.program.name}, store to {s.access.param}",
                              expected="every lane inside the tensor", found="a lane outside it")  # fmt: skip
        where = np.broadcast_to(flat, shape)[valid]
        self.results[s.access.param][where] = np.broadcast_to(value, shape)[valid]
        # Grid axes that the address does not name would write the same element again: count each of them.
        idle = math.prod(a.steps for a in self.program.grid if a.name not in axes)
        np.add.at(self.writes[s.access.param], where, 1 if idle == 1 else 2)

    def _compute(self, s: Statement) -> np.ndarray:
        match s:
            case Full(type=t, value=value):
                return np.full((1,) * self.rank, value, np.dtype(t.dtype))
            case Iota(affine=affine):
                return self._affine(affine)
            case Elementwise(op=op, args=args):
                arrays = [_computed(self.values[a]) for a in args]
                with np.errstate(all="ignore"):
                    return ELEMENTWISE[op][1](*arrays)
            case Cast(arg=arg, type=t, bits=True):
                return np.asarray(self.values[arg], order="C").view(np.dtype(t.dtype))
            case Cast(arg=arg, type=t):
                with np.errstate(all="ignore"):
                    return self.values[arg].astype(np.dtype(t.dtype))
            case Mask(arg=arg, axis=axis, identity=identity):
                kept = self.values[arg]
                return np.where(self._valid([axis]), kept, np.array(identity).astype(kept.dtype))
            case Reduce(op=op, arg=arg, axes=axes):
                lanes = _computed(self.values[arg])
                lanes = np.broadcast_to(lanes, np.broadcast_shapes(lanes.shape, self._shape(Tile("", axes))))
                with np.errstate(all="ignore"):
                    return REDUCTIONS[op][1](lanes, axis=tuple(self.position[a] for a in axes), keepdims=True)
            case Dot():
                return self._dot(s)
        raise AssertionError(s)

    def _dot(self, s: Dot) -> np.ndarray:
        a, b = self.values[s.a], self.values[s.b]
        if s.scales:
            sa, sb = (self.values[x].astype(np.float32) for x in s.scales)
            if a.dtype != b.dtype:  # the bytes' codes along the axis that says which of them is meant
                place = self.position[str(place_of(types(self.program), s))]
                a, b = (
                    np.concatenate(halves(x), axis=place) if x.dtype == np.uint8 else x.astype(np.float32)
                    for x in (a, b)
                )
                product = self._product(s, a * sa, b * sb)
            elif a.dtype == np.uint8:  # two codes in a byte: the low ones, and the high ones
                (a, high_a), (b, high_b) = halves(a), halves(b)
                low = self._product(s, a * sa, b * sb)
                product = low + self._product(s, high_a * sa, high_b * sb)
            else:
                product = self._product(s, a.astype(np.float32) * sa, b.astype(np.float32) * sb)
        else:
            product = self._product(s, a, b)
        return product if s.acc is None else product + self.values[s.acc]

    def _product(self, s: Dot, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        summed = [self.position[x] for x in s.axes]
        for i in summed:  # an operand that is the same along a summed axis still counts once per coordinate
            n = self.coordinates[self.program.axes[i].name].size
            a = np.broadcast_to(a, (*a.shape[:i], n, *a.shape[i + 1 :]))
            b = np.broadcast_to(b, (*b.shape[:i], n, *b.shape[i + 1 :]))
        free = [i for i in range(self.rank) if i not in summed]
        batch = [i for i in free if a.shape[i] > 1 and b.shape[i] > 1]
        rows = [i for i in free if i not in batch and a.shape[i] > 1]
        columns = [i for i in free if i not in batch and b.shape[i] > 1]

        def flat(x: np.ndarray, *groups: list[int]) -> np.ndarray:
            order = [i for g in groups for i in g]
            order += [i for i in range(self.rank) if i not in order]
            return x.transpose(order).reshape([math.prod(x.shape[i] for i in g) for g in groups])

        left, right = flat(a, batch, rows, summed), flat(b, batch, summed, columns)
        if np.dtype(s.type.dtype).kind in "iu" or left.dtype.kind in "iub" or left.dtype == np.float64:
            product = np.matmul(left.astype(s.type.dtype), right.astype(s.type.dtype))
        elif left.dtype == np.float32 and right.dtype == np.float32 and not s.scales:
            product = self.dot(left, right, precision=s.precision)
        else:  # narrow floats are multiplied exactly: their products fit float32
            narrow = all(x.dtype.name.startswith("float8") for x in (left, right))
            how = {"accumulator": self.fp8} if narrow and self.fp8 != "float32" else {}
            product = self.dot(left.astype(np.float32), right.astype(np.float32), precision="fp32", **how)
        product = product.astype(np.dtype(s.type.dtype))
        order = [*batch, *rows, *columns]
        sizes = [max(a.shape[i], b.shape[i]) for i in order]
        rest = [i for i in range(self.rank) if i not in order]
        return product.reshape(sizes + [1] * len(rest)).transpose(np.argsort([*order, *rest]))
