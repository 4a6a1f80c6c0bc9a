"""Where residues come from: random inputs, constants as what they mean, hashes for functions without laws."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from porter.ops import residues as mod
from porter.ops.namespace import is_float
from porter.ops.residue_array import HIGH, LOW, UNDEFINED, Doubt, Residues
from porter.ops.residues import P, Q

FEW = 16  # different values up to which a tensor of constants is taken for a mask or a flag


class Renews(Enum):
    """What `Values.renew` replaces."""

    VALUES = "values"
    EXPONENTS = "exponents"
    NOTHING = "nothing"


class NeedsExponents(Exception):
    """An exp was met while residues modulo q were left out to save time."""


@dataclass(frozen=True)
class Memory:
    """Where an array lies: the array that it is a view of, and the bytes from its first element to its last."""

    root: weakref.ref[np.ndarray]
    start: int
    end: int

    @classmethod
    def of(cls, array: np.ndarray) -> Memory:
        return cls(weakref.ref(array if array.base is None else array.base), *byte_bounds(array))

    def holds(self, other: Memory) -> bool:
        """Whether every element of the other, an array that lives, may be one of this."""
        alive = self.root() is not None and self.root() is other.root()
        return alive and self.start <= other.start and other.end <= self.end


class Values:
    """Residues of one seed.

    seed       of every hash key and random value
    exponents  whether values carry residues modulo q; without, exp raises NeedsExponents
    renews     what `renew` replaces
    degree     grows to an upper bound of the degree of everything that was handed to a function without laws: two
               different arguments with one hash are the chance of error, degree / p
    constants  those that are compared with variables, in order, if they are known already: they stand evenly between all
               other values, so that each of them is somewhere told from the next
    visible    the chance that a difference in one element is seen by every comparison so far; what maxima and minima
               hide is kept with the values (`Doubt.hidden`)
    met        constants that were compared with variables
    """

    def __init__(
        self, seed: int, *, exponents: bool = True, renews: Renews = Renews.VALUES, constants: Sequence[float] = ()
    ) -> None:
        self.renews = renews
        self.seed = seed
        self.exponents = exponents
        self.degree = 0
        self.constants = np.asarray(constants, np.float64)
        self.visible = 1.0
        self.met: set[float] = set()
        self.divisions = 0
        self.choices: list[tuple[Memory, ...]] = []  # what each maximum or minimum was taken of

    def __repr__(self) -> str:
        return "ops.field"

    def random(self, name: str, shape: Sequence[int], dtype: np.dtype) -> Residues:
        """Uniform residues, the same for the same seed, name and shape; never 0."""
        rng = np.random.default_rng([mod.key_of(self.seed, name), *map(int, shape)])
        q = rng.integers(1, Q, tuple(shape)) if self.exponents else None
        return Residues(self, rng.integers(1, P, tuple(shape)), q, dtype=dtype)

    def lift(self, x: Any) -> Residues:
        """A number or an array as residues: integers and weights exactly, a single constant as what it means."""
        if isinstance(x, Residues):
            return x
        array = np.asarray(x)
        dtype = array.dtype if is_float(array.dtype) else np.dtype(np.float32)
        if array.dtype.kind in "iub":
            wide = array.astype(object) % P if array.dtype == np.uint64 else array.astype(np.int64)
            return Residues(self, (wide % P).astype(np.int64), self._second((wide % Q).astype(np.int64)),
                            dtype=dtype, known=array.astype(np.float64))  # fmt: skip
        values = array.astype(np.float64)
        tag = None
        if not np.isfinite(values).all():
            tag = np.where(np.isnan(values), UNDEFINED, np.where(values > 0, HIGH, LOW) * np.isinf(values)).astype(
                np.int8
            )
        if values.size == 1 and tag is None:
            value = float(values.reshape(-1)[0])
            # a float32 attribute reaches its operator as a Python float
            single = array.dtype != np.float64 or float(np.float32(value)) == value
            p, q = self.constant(value, "float32" if single else "float64")
            first, second = np.full(values.shape, p, np.int64), np.full(values.shape, q, np.int64)
        else:
            first = mod.from_floats(values, P)
            second = mod.from_floats(values, Q) if self.exponents else first
        return Residues(self, first, self._second(second), tag, dtype=dtype, known=values)

    def constant(self, value: float, dtype: str) -> tuple[int, int]:
        """The residues of what a constant means (see `residues.meaning`), modulo p and modulo q."""
        if value == 0:
            return 0, 0
        factor, under, k = mod.meaning(value, dtype)
        out = []
        for m in (P, Q):
            root = np.asarray(mod.from_fraction(under, m))
            for _ in range(k // 2):
                root = mod.square_root(root, m)
            out.append(int(root) * mod.from_fraction(factor, m) % m)
        return out[0], out[1]

    def _second(self, q: np.ndarray) -> np.ndarray | None:
        return q if self.exponents else None

    def renew(self, x: Residues) -> None:
        """Make x a value of its own, which depends on its first residue alone: a fresh variable, the same in two
        models that agree so far. Zeros stay, and what has few values of constants only (a mask)."""
        if self.renews is Renews.NOTHING:
            return
        if x.degree == 0 and len(np.unique(x.p.reshape(-1)[:4096])) <= FEW:
            return
        self.degree += x.degree
        value = mod.hashed(mod.key_of(self.seed, "renewed"), x.p)
        if self.renews is Renews.VALUES:
            x.p = np.where(x.p == 0, 0, (value % np.uint64(P)).astype(np.int64))
            x.doubt = Doubt()
        exponents = self._after(value)
        x.q = None if exponents is None else np.where(x.p == 0, 0, exponents)

    def divided(self, x: Residues) -> Doubt:
        """The degree of 1 / x."""
        self.divisions += 1
        return Doubt(1, x.doubt.divided | {(self.divisions, x.size * x.degree)}, x.doubt.hidden)

    def chosen(self, doubt: Doubt, share: float, *of: Residues) -> Doubt:
        """The doubt of a maximum or minimum that shows this share of the differences in one element of `of`."""
        self.choices.append(tuple(Memory.of(x.p) for x in of))
        return replace(doubt, hidden=doubt.hidden | {(len(self.choices), share)})

    def shown(self, doubt: Doubt, *together: Residues) -> Doubt:
        """The doubt of values that are computed with: what was chosen from one of them hides nothing of it where it
        stands beside it, as in x - max(x)."""
        places = [Memory.of(x.p) for x in together]

        def beside(choice: int) -> bool:
            return any(place.holds(of) for of in self.choices[choice - 1] for place in places)

        return replace(doubt, hidden=frozenset(h for h in doubt.hidden if not beside(h[0])))

    def compared(self, constant: Residues, variable: Residues) -> tuple[float, float]:
        """How often a variable is above the constant, at the constant's worst element; and the chance that another
        constant in the place of this, one of those that are known, falls on the other side of a variable."""
        assert constant.known is not None
        finite = np.unique(constant.known[np.isfinite(constant.known)])
        self.met.update(finite.tolist())
        if not finite.size:  # nothing is told from an infinity
            return 1.0, 1.0
        times = max(1, variable.size // constant.size)
        gap = 1 / (len(self.constants) + 1) if len(self.constants) else 0.0
        places = self.place(finite)
        return float(1 - places[np.argmax(np.abs(places - 0.5))]), 1 - (1 - gap) ** times

    def keyed(self, name: str, *args: Any) -> Residues:
        """A function without laws: a hash of its arguments."""
        lifted = [self.lift(a) for a in args]
        self.degree += sum(x.degree for x in lifted)
        doubt = reduce(Doubt.plus, (x.doubt for x in lifted)).hashed()
        value = mod.hashed(mod.key_of(self.seed, name), *np.broadcast_arrays(*(x.p for x in lifted)))
        tag = None
        if any(x.tag is not None for x in lifted):
            tags = np.broadcast_arrays(*(x.tags for x in lifted))
            tag = np.where(np.any([t != 0 for t in tags], axis=0), UNDEFINED, 0).astype(np.int8)
        p = (value % np.uint64(P)).astype(np.int64)
        return Residues(self, p, self._after(value), tag, dtype=lifted[0].dtype, doubt=doubt)

    def _after(self, value: np.ndarray) -> np.ndarray | None:
        if not self.exponents:
            return None
        return (mod.hashed(mod.key_of(self.seed, "exponent"), value) % np.uint64(Q)).astype(np.int64)

    def place(self, known: np.ndarray) -> np.ndarray:
        """Where constants stand among all other values, from 0 to 1, in their own order: evenly, if all are known, else
        by their size, so that there is room between the bounds of a Clip (0 in the middle, 6 at 0.74, 127 at 0.85)."""
        finite = np.nan_to_num(known, posinf=2.0**127, neginf=-(2.0**127))
        if len(self.constants):
            ranks = np.arange(1, len(self.constants) + 1) / (len(self.constants) + 1)
            return np.asarray(np.interp(finite, self.constants, ranks))
        size = np.log2(1 + np.abs(finite))
        return np.asarray(0.5 + 0.5 * np.sign(finite) * size / (3 + size))

    def order(self, x: Residues) -> np.ndarray:
        """The key by which x is ordered: a hash of 62 bits, -inf below and inf above all; constants by their `place`."""
        key = (mod.hashed(mod.key_of(self.seed, "order"), x.p) >> np.uint64(2)).astype(np.int64) + 1
        if x.known is not None:
            # the bits of the hash that are left tell constants apart that lie nearer than 2^-20
            key = (np.floor(self.place(x.known) * 2**20).astype(np.int64) << 42) + (key >> 20) + 1
            key = np.clip(key, 1, 2**62)
        if x.tag is not None:
            key = np.where(x.tag == LOW, 0, np.where(x.tag == HIGH, np.int64(2**62 + 1), key))
        return key
