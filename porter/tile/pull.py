"""From a kernel's jaxpr to its axis form: each output element is pulled backward through the primitives.

Pulling asks: which elements of the operands does this element need? One axis per output dimension, indices substituted
backward; movement disappears into them. A reshape that an axis straddles splits the axis, and pulling starts over.
Primitives have their rules in `porter.tile.primitives`, one function each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from porter.tile.affine import Affine
from porter.tile.flat import Flat, Literal, flatten
from porter.tile.form import Cast, Const, Cut, Elementwise, Form, Index, Iota, Load, Store
from porter.tile.program import Param, Scalar
from porter.tile.scales import CODES

Position = tuple[Index, ...]
CHOICES = 256  # runs of equal values in a constant array that a kernel may hold as choices


class Split(Exception):
    """This axis must be split at `inner` for a reshape to become an index; pulling starts over."""

    def __init__(self, axis: str, inner: int) -> None:
        super().__init__(f"axis {axis} split at {inner}")
        self.axis, self.inner = axis, inner


def pull(closed: Any, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Form:
    """The axis form of a jaxpr. Raises Cut where it is no affine loop nest."""
    flat = flatten(closed)
    ins = inputs or [f"p{i}" for i in range(len(flat.inputs))]
    outs = outputs or [f"out{i}" for i in range(len(flat.outputs))]
    params = [
        Param(n, tuple(flat.avals[v].shape), str(flat.avals[v].dtype)) for n, v in zip(ins, flat.inputs, strict=True)
    ]
    for name, v in zip(outs, flat.outputs, strict=True):
        aval = v.value if isinstance(v, Literal) else flat.avals[v]
        params.append(Param(name, tuple(aval.shape), str(aval.dtype), out=True))
    splits: dict[str, int] = {}
    for _ in range(64):
        puller = Puller(flat, tuple(params), splits)
        try:
            for number, v in enumerate(flat.outputs):
                puller.output(number + len(ins), v)
            if not puller.form.stores:
                raise Cut("its outputs are empty")
            used = {a for s in puller.form.stores for a in puller.form.store_axes(s)} | set(puller.form.bound())
            # not those of indices that were only looked at
            puller.form.axes = {a: n for a, n in puller.form.axes.items() if a in used}
        except Split as split:
            splits[split.axis] = split.inner
            continue
        return puller.form
    raise Cut("its reshapes split axes without end")


class Puller:
    """Pulls values at positions; `form` grows. Rules of primitives call back into `pull`, `axis`, `padded`, `regroup`."""

    def __init__(self, flat: Flat, params: tuple[Param, ...], splits: dict[str, int]) -> None:
        self.flat, self.splits = flat, splits
        self.form = Form(params)
        self.made_by = {v: e for e in flat.equations for v in e.outputs}
        self.input_of = {v: i for i, v in enumerate(flat.inputs)}
        self.memo: dict[tuple[int, Position], int] = {}
        self.guards = 0
        self.views: dict[tuple[int, ...], str] = {}

    # What rules need

    def shape(self, v: Any) -> tuple[int, ...]:
        return tuple(v.value.shape) if isinstance(v, Literal) else tuple(self.flat.avals[v].shape)

    def dtype(self, v: Any) -> str:
        return str(v.value.dtype) if isinstance(v, Literal) else str(self.flat.avals[v].dtype)

    def axis(self, name: str, extent: int) -> Affine:
        """A (new) axis as an affine form: 0 where the extent is 1, several axes where it was split."""
        if extent == 0:
            raise Cut("it has an empty dimension")
        if extent == 1:
            return Affine()
        if name in self.splits:
            inner = self.splits[name]
            return self.axis(name + "o", extent // inner) * inner + self.axis(name + "i", inner)
        self.form.axes[name] = extent
        return Affine.of(name)

    def bounds(self, index: Index) -> tuple[int, int]:
        return index.affine.bounds(self.form.size)

    def pull(self, v: Any, at: Position) -> int:
        """The node that is element `at` of a variable."""
        if isinstance(v, Literal):
            return self._literal(v.value, at)
        key = (v, at)
        if key not in self.memo:
            if v in self.input_of:
                self.memo[key] = self.load(self.input_of[v], self.shape(v), at)
            else:
                from porter.tile.primitives import RULES

                equation = self.made_by[v]
                rule = RULES.get(equation.primitive)
                if rule is None:
                    raise Cut(f"{equation.primitive} is no affine loop nest")
                self.memo[key] = rule(self, equation, at, equation.outputs.index(v))
        return self.memo[key]

    def load(self, param: int, view: tuple[int, ...], at: Position) -> int:
        leaves = any(
            i.gather is None and (self.bounds(i)[0] < 0 or self.bounds(i)[1] >= n)
            for i, n in zip(at, view, strict=True)
        )
        if leaves and not self.guards:
            raise Cut("an index leaves its tensor without a declared pad value")
        return self.form.add(Load(param, view, at, 0 if leaves else None, self.form.params[param].dtype))

    def gathered(self, index: Index, dtype: str = "int32") -> int:
        """An index as an integer value."""
        base = self.form.add(Iota(index.affine, dtype))
        if index.gather is None:
            return base
        return self.form.ew("add", self.form.add(Cast(index.gather, dtype)), base)

    def indexed(self, value: int) -> Index:
        """An integer value as an index: affine where it is."""
        match self.form[value]:
            case Iota(affine=affine):
                return Index(affine)
            case Const(value=constant):
                return Index(Affine((), int(constant)))
        return Index(Affine(), value)

    def scaled(self, i: Index, factor: int, offset: int) -> Index:
        """factor * i + offset."""
        gather = i.gather
        if gather is not None and factor != 1:
            gather = self.form.ew("mul", gather, self.form.const(factor, self.form[gather].dtype))
        return Index(i.affine * int(factor) + int(offset), gather)

    def plus(self, a: Index, b: Index) -> Index:
        """a + b."""
        if a.gather is not None and b.gather is not None:
            whole = self.form.ew("add", self.form.add(Cast(a.gather, "int32")), self.form.add(Cast(b.gather, "int32")))
            return Index(a.affine + b.affine, whole)
        return Index(a.affine + b.affine, b.gather if a.gather is None else a.gather)

    def confined(self, i: Index, n: int) -> tuple[Index, int]:
        """A gathered index held inside [0, n), and whether it was there."""
        place = self.gathered(i)
        zero, last = self.form.const(0, "int32"), self.form.const(n - 1, "int32")
        inside = self.form.ew("and", self.form.ew("ge", place, zero), self.form.ew("le", place, last))
        return self.indexed(self.form.ew("min", self.form.ew("max", place, zero), last)), inside

    def guarded(self, v: Any, at: Position) -> int:
        """Element `at` of v, whatever it is where an index is outside v: the caller selects it away."""
        self.guards += 1
        try:
            return self.pull(v, at)
        finally:
            self.guards -= 1

    def decode(self, flat: Affine, size: int) -> tuple[Affine, Affine]:
        """flat = size * whole + part with 0 <= part < size; an axis that straddles a multiple of size is split."""
        whole, part = self._decode(flat, [0, size])
        return whole, part

    def padded(self, v: Any, at: Position, value: int) -> int:
        """Element `at` of v, or the node `value` (a constant) where an index is outside v."""
        shape = self.shape(v)
        for i, n in zip(at, shape, strict=True):
            low, high = self.bounds(i) if i.gather is None else (0, n - 1)
            if n == 0 or high < 0 or low >= n:  # every lane is outside
                return value
        inside, held = self.form.const(True, "bool"), list(at)
        for d, (i, n) in enumerate(zip(at, shape, strict=True)):
            if i.gather is not None:  # where it points is known at run time only
                held[d], there = self.confined(i, n)
                inside = self.form.ew("and", inside, there)
        at = tuple(held)
        leaving = [
            (i, n)
            for i, n in zip(at, shape, strict=True)
            if i.gather is None and (self.bounds(i)[0] < 0 or self.bounds(i)[1] >= n)
        ]
        if not leaving:
            return self.form.ew("select", inside, self.pull(v, at), value)
        inner = self.guarded(v, at)
        constant = self.form[value]
        if isinstance(constant, Const) and (folded := self._pad_load(inner, leaving, constant)) is not None:
            return self.form.ew("select", inside, folded, value)
        for i, n in leaving:
            low, high = self.bounds(i)
            place = self.form.add(Iota(i.affine, "int32"))
            if low < 0:
                inside = self.form.ew("and", inside, self.form.ew("ge", place, self.form.const(0, "int32")))
            if high >= n:
                inside = self.form.ew("and", inside, self.form.ew("lt", place, self.form.const(n, "int32")))
        return self.form.ew("select", inside, inner, value)

    def _pad_load(self, node: int, leaving: list[tuple[Index, int]], pad: Const) -> int | None:
        """A load (perhaps cast, or of codes and scaled) that leaves its tensor exactly where the pad value is wanted: the load
        pads. Codes of 0 times a scale that is the same inside and outside are 0."""
        n = self.form[node]
        if isinstance(n, Elementwise) and n.op == "mul" and pad == Const(0.0, n.dtype):
            return self._pad_codes(n, leaving, pad)
        if isinstance(n, Cast) and not n.bits:
            back = np.asarray(pad.value, pad.dtype).astype(n.dtype).astype(self.form[n.arg].dtype)
            inner = self._pad_load(n.arg, leaving, Const(_scalar(back), self.form[n.arg].dtype))
            return None if inner is None else self.form.add(Cast(inner, n.dtype))
        if not isinstance(n, Load):
            return None
        out = [
            (i, s)
            for i, s in zip(n.index, n.view, strict=True)
            if i.gather is None and (self.bounds(i)[0] < 0 or self.bounds(i)[1] >= s)
        ]
        if sorted(map(str, out)) != sorted(map(str, leaving)):
            return None
        return self.form.add(replace(n, pad=pad.value))

    def _pad_codes(self, scaled: Elementwise, leaving: list[tuple[Index, int]], zero: Const) -> int | None:
        """Codes times a scale that no index that leaves has a part in: its pad is a code of 0."""
        along = {axis for i, _ in leaving for axis in i.affine.axes}
        for codes, scale in (scaled.args, scaled.args[::-1]):
            cast = self.form[codes]
            if not isinstance(cast, Cast) or self.form[cast.arg].dtype not in CODES or self.form.axes_of(scale) & along:
                continue
            if (padded := self._pad_load(codes, leaving, zero)) is not None:
                return self.form.ew("mul", padded, scale)
        return None

    def regroup(self, at: Position, outer: Sequence[int], inner: Sequence[int]) -> Position:
        """Indices into an array of shape `outer`, as indices into the same elements seen with shape `inner`."""
        left = [k for k, n in enumerate(outer) if n != 1]
        right = [k for k, n in enumerate(inner) if n != 1]
        result = [Index(Affine())] * len(inner)
        while left:
            a, b = [left.pop(0)], [right.pop(0)]
            while (size_a := math.prod(outer[k] for k in a)) != (size_b := math.prod(inner[k] for k in b)):
                if size_a < size_b:
                    a.append(left.pop(0))
                else:
                    b.append(right.pop(0))
            for k, index in zip(
                b, self._regroup_one([at[k] for k in a], [outer[k] for k in a], [inner[k] for k in b]), strict=True
            ):
                result[k] = index
        return tuple(result)

    def _regroup_one(self, at: list[Index], outer: list[int], inner: list[int]) -> list[Index]:
        """One group of dimensions with equal products, none of them 1."""
        if len(at) == len(inner) == 1:
            return at
        flat, gather = Affine(), None
        for i, n in zip(at, outer, strict=True):
            low, high = self.bounds(i)
            leaves = i.gather is None and (low < 0 or high >= n)
            if leaves and not self.guards:
                raise Cut("a reshape of a padded dimension")
            if leaves and len(inner) > 1:  # guarded, another element is as good as any: it is not used
                i, _ = self.confined(i, n)
            flat = flat * n + i.affine
            if gather is not None:
                gather = self.form.ew("mul", gather, self.form.const(n, self.form[gather].dtype))
            if i.gather is not None:
                gather = i.gather if gather is None else self.form.ew("add", gather, i.gather)
        if gather is not None:
            if len(inner) == 1:
                return [Index(flat, gather)]
            return self._divided(self.gathered(Index(flat, gather)), inner)
        return [Index(affine) for affine in self._decode(flat, inner)]

    def _divided(self, place: int, shape: list[int]) -> list[Index]:
        """A computed flat address as one computed index per dimension."""
        result = []
        for k, n in enumerate(shape):
            stride = math.prod(shape[k + 1 :])
            whole = self.form.ew("div", place, self.form.const(stride, "int32"))
            result.append(Index(Affine(), self.form.ew("rem", whole, self.form.const(n, "int32")) if k else whole))
        return result

    def _decode(self, flat: Affine, shape: list[int]) -> list[Affine]:
        """A flat address as one affine form per dimension; raises Split where an axis straddles a dimension's border."""
        result, rest = [], flat
        for k in range(len(shape)):
            stride = math.prod(shape[k + 1 :])
            whole, part = Affine((), rest.const // stride), Affine((), rest.const % stride)
            for axis, coefficient in rest.terms:
                if coefficient % stride == 0:
                    whole = whole + Affine.of(axis, coefficient // stride)
                else:
                    part = part + Affine.of(axis, coefficient)
            low, high = part.bounds(self.form.size)
            if low < 0 or high >= stride:
                for axis, coefficient in part.terms:
                    if (
                        coefficient > 0
                        and stride % coefficient == 0
                        and coefficient * (self.form.size(axis) - 1) >= stride
                    ):
                        self.split(axis, stride // coefficient)
                raise Cut("a reshape without common axes")
            result.append(whole)
            rest = part
        return result

    def split(self, axis: str, inner: int) -> None:
        """Start over with this axis as two, if its extent allows it."""
        if inner <= 1 or self.form.size(axis) % inner:
            common = math.gcd(inner, self.form.size(axis))
            if common <= 1:
                raise Cut("a reshape without common axes")
            inner = common
        raise Split(axis, inner)

    # Ends

    def _literal(self, value: np.ndarray, at: Position) -> int:
        dtype = str(value.dtype)
        if value.size and (value == value.reshape(-1)[0]).all():
            return self.form.const(_scalar(value.reshape(-1)[0]), dtype)
        for d in range(value.ndim):  # the same along a dimension: that dimension goes
            if value.shape[d] > 1 and (value == (first := np.take(value, [0], axis=d))).all():
                return self._literal(first, tuple(Index(Affine()) if k == d else i for k, i in enumerate(at)))
        if np.issubdtype(value.dtype, np.integer) and (affine := _as_affine(value)) is not None:
            place = Index(Affine((), int(value.reshape(-1)[0])))
            for i, step in zip(at, affine, strict=True):
                place = self.plus(place, self.scaled(i, step, 0))
            return self.form.add(Cast(self.gathered(place), dtype))
        flat = value.reshape(-1)
        borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if value.size == 0 or len(borders) >= CHOICES:
            raise Cut(f"it holds a constant array of shape {list(value.shape)}; pass it as an input")
        place, size = Index(Affine()), 1
        for i, n in zip(reversed(at), reversed(value.shape), strict=True):
            place, size = self.plus(place, self.scaled(i, size, 0)), size * n
        return self._chosen(self.gathered(place), flat, [0, *(int(b) for b in borders)])

    def _chosen(self, place: int, flat: np.ndarray, runs: list[int]) -> int:
        """The element of a small constant at a place, as a tree of choices; `runs`: where its values change."""
        if len(runs) == 1:
            return self.form.const(_scalar(flat[runs[0]]), str(flat.dtype))
        middle = len(runs) // 2
        before = self.form.ew("lt", place, self.form.const(runs[middle], "int32"))
        return self.form.ew(
            "select", before, self._chosen(place, flat, runs[:middle]), self._chosen(place, flat, runs[middle:])
        )

    def output(self, param: int, v: Any) -> None:
        """Pull a whole output; a reshape that ends in it is only another view of it, and so is a transpose."""
        view = self.shape(v)
        if 0 in view:
            return  # nothing to store
        while v in self.made_by and self.made_by[v].primitive == "reshape" and 0 not in view:
            v = self.made_by[v].operands[0]
            view = self.shape(v)
            if isinstance(v, Literal):
                break
        prefix = self.views.setdefault(view, f"o{len(self.views)}")
        at = tuple(Index(self.axis(f"{prefix}d{k}", n)) for k, n in enumerate(view))
        value = self.pull(v, at)
        self.form.stores.append(Store(param, view, at, value))


def _as_affine(value: np.ndarray) -> list[int] | None:
    """The step per dimension, if the array counts in equal steps along each."""
    wide = value.astype(np.int64)
    first = wide.reshape(-1)[0]
    steps = [int(np.take(wide, 1, axis=d).reshape(-1)[0] - first) if n > 1 else 0 for d, n in enumerate(wide.shape)]
    counted = first + sum(
        np.arange(n).reshape([-1 if k == d else 1 for k in range(wide.ndim)]) * steps[d]
        for d, n in enumerate(wide.shape)
    )
    return steps if np.array_equal(np.broadcast_to(counted, wide.shape), wide) else None


def _scalar(value: Any) -> Scalar:
    array = np.asarray(value)
    if array.dtype == bool:
        return bool(array)
    return int(array) if np.issubdtype(array.dtype, np.integer) else float(array)
