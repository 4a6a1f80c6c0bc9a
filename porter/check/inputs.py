"""Valid inputs for a model, drawn from what its graph says of them; each with the reason for its values.

    inputs = draw(model, seed=0)
    for name, words in inputs.why.items(): print(name, words)

Token ids lie in the vocabulary, masks are 0 and 1 with padding at the right and never a row without a one, lengths lie
in range, denominators are away from zero, what is clipped lies on both sides of its bounds, what becomes a byte fits
one. Floats that nothing constrains are standard normal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from porter import formats, graph
from porter.check.measure import is_float
from porter.check.roles import Role, roles
from porter.errors import PorterError
from porter.graph import Model, Value

UNBOUNDED = 8  # integers that no use bounds are drawn below this: small enough for a table that the trace did not see


class Inputs(dict[str, np.ndarray]):
    """{name: array}, what it is called, and for each name why its values are what they are."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self.why: dict[str, str] = {}


def described(sample: Mapping[str, np.ndarray]) -> dict[str, str]:
    """For each input its type, its shape and how it was drawn; 'given' for the user's own."""
    why = sample.why if isinstance(sample, Inputs) else {}
    return {n: f"{np.asarray(x).dtype}{list(np.shape(x))}: {why.get(n, 'given')}" for n, x in sample.items()}


def draw(model: Model, seed: int = 0, scale: float = 1) -> Inputs:
    """Random valid inputs of a model whose dims are bound; the same seed gives the same inputs. Floats that nothing
    constrains are `scale` times normal ones.

    Raises PorterError naming an input whose shape or type is not known.
    """

    def fill(name: str, shape: tuple[int, ...], dtype: np.dtype, role: Role) -> tuple[np.ndarray, str]:
        return _random(_rng(seed, name), shape, dtype, role, scale=scale)

    return _inputs(model, f"draw {seed}" if scale == 1 else f"draw {seed}, {scale:g} times as large", fill)


def edges(model: Model) -> Iterator[Inputs]:
    """Valid inputs at the edges: zeros, ones, the upper end of every range with masks fully on; and where the model
    takes masks, masks with holes, which no count of their ones can stand for."""
    for label, fill in (("zeros", 0), ("ones", 1), ("upper end", None)):
        yield _inputs(model, label, lambda name, shape, dtype, role, fill=fill: _constant(shape, dtype, role, fill))
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    if any(settled(model, v).kind in ("mask", "bias_mask") and (_typed(v)[1] or (1,))[-1] > 2 for v in inputs):
        yield _inputs(
            model,
            "masks with holes",
            lambda name, shape, dtype, role: _random(_rng(0, name), shape, dtype, role, holes=True),
        )


def extremes(model: Model) -> Inputs:
    """Floats at the largest of their format, of both signs, and integers at both ends of their range: where a model
    that overflows earlier than another shows."""
    return _inputs(model, "extremes", _both_ends)


def _inputs(model: Model, label: str, fill) -> Inputs:
    made = Inputs(label)
    for value in model.graph.inputs:
        if value.is_initializer():  # before IR 4 weights are inputs too; they keep their values
            continue
        name, shape, dtype = _typed(value)
        role = settled(model, value)
        made[name], words = fill(name, shape, dtype, role)
        made.why[name] = words
    return made


def settled(model: Model, value: Value) -> Role:
    """The one role of an input: the tightest of those its uses give, else what its name says, else 'plain'."""
    name, _, dtype = _typed(value)
    found = roles(model, value)
    bounded = [r for r in found if r.kind in ("index", "length", "count") and r.high is not None]
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    integer = dtype.kind in "iu"
    if bounded and (integer or is_float(dtype)):  # a float becomes an index by a Cast
        high = min(r.high for r in bounded if r.high is not None)
        tightest = min(bounded, key=lambda r: r.high if r.high is not None else math.inf)
        return Role(tightest.kind, max(r.low for r in bounded), high, tightest.why)
    if integer and (choice := next((r for r in found if r.kind == "choice"), None)) is not None:
        return choice
    if "mask" in words and not is_float(dtype):
        return next((r for r in found if r.kind == "mask"), Role("mask", why="it is called a mask"))
    for kind in ("mask", "flag", "bias_mask", "positive", "denominator", "range"):
        role = next((r for r in found if r.kind == kind), None)
        if role is not None and (kind != "mask" or integer or dtype == np.bool_ or "mask" in words):
            return role
    if "mask" in words and is_float(dtype):
        return Role("bias_mask", why="it is a float mask")
    if words & {"length", "lengths", "len", "lens"} and integer:
        return Role("length", 1, UNBOUNDED, "it is called a length")
    return Role("plain")


def _random(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype,
    role: Role,
    holes: bool = False,
    scale: float = 1,
) -> tuple[np.ndarray, str]:
    masked, padded = (_holes, "with holes") if holes else (_mask, "padded at the right")
    match role.kind:
        case "choice":
            return np.full(shape, role.low, dtype), f"{role.low}: {role.why}"
        case "index" | "length" | "count" if _counts(dtype):
            high = max(role.high if role.high is not None else UNBOUNDED, role.low + 1)
            return rng.integers(role.low, high, shape).astype(dtype), f"{role.low} to {high - 1}: {role.why}"
        case "mask":
            return masked(rng, shape).astype(dtype), f"0 and 1, {padded}: {role.why}"
        case "bias_mask":
            off = -1e4  # far below any score, and finite in every float format of 16 bits
            return np.where(masked(rng, shape), 0.0, off).astype(dtype), f"0 and {off:g}, {padded}: {role.why}"
        case "flag" if dtype == np.bool_:
            return np.ones(shape, dtype), f"true: {role.why}"
        case "positive" | "denominator" if is_float(dtype):
            x = rng.uniform(0.5, 2.0, shape)
            return _cast(x, dtype), f"0.5 to 2: {role.why}"
        case "range" if _counts(dtype):
            least, most = role.span
            beyond = (most - least) / 8 if role.why.startswith("cut") else 0.0
            return _between(rng, shape, dtype, least - beyond, most + beyond), f"{least:g} to {most:g}: {role.why}"
        case "denominator" if dtype.kind in "iu":
            return rng.integers(1, UNBOUNDED, shape).astype(dtype), f"1 to {UNBOUNDED - 1}: {role.why}"
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype), "false and true"
    if is_float(dtype):
        return _cast(
            rng.standard_normal(shape) * scale, dtype
        ), "standard normal" if scale == 1 else f"{scale:g} x normal"
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype), "standard normal"
    small = formats.FORMATS.get(dtype.name)
    if small is not None and small.bits <= 8:
        values = rng.integers(int(small.min), int(small.max) + 1, shape)
        return values.astype(np.int64).astype(dtype), f"all of {dtype.name}"
    return rng.integers(0, UNBOUNDED, shape).astype(dtype), f"0 to {UNBOUNDED - 1}: no use bounds it"


def _constant(shape: tuple[int, ...], dtype: np.dtype, role: Role, fill: int | None) -> tuple[np.ndarray, str]:
    """`fill` brought into the range of the role; None is the upper end of it."""
    if role.kind in ("index", "length", "count", "choice") and _counts(dtype):
        high = max(role.high if role.high is not None else UNBOUNDED, role.low + 1) - 1
        value = high if fill is None else min(max(fill, role.low), high)
        return np.full(shape, value, dtype), f"all {value}: {role.why}"
    if role.kind == "mask":
        mask = np.ones(shape, bool)
        if fill == 0 and mask.ndim:
            mask[..., 1:] = False
        return mask.astype(dtype), "only the first is on" if fill == 0 else "all on"
    if role.kind == "bias_mask":
        return np.zeros(shape, dtype), "nothing masked"
    if role.kind == "flag" and dtype == np.bool_:
        return np.ones(shape, dtype), "true"
    if role.kind == "range" and _counts(dtype):
        end = role.span[1] if fill is None else min(max(fill, role.span[0]), role.span[1])
        return np.full(shape, end).astype(dtype), f"all {end:g}: {role.why}"
    if role.kind in ("positive", "denominator"):
        return np.full(shape, 2 if fill is None else 1).astype(dtype), f"all {2 if fill is None else 1}: {role.why}"
    constant: float = fill if fill is not None else 1 if dtype == np.bool_ else 3
    small = formats.FORMATS.get(dtype.name)
    if fill is None and small is not None and small.bits <= 8:
        constant = int(small.max) if not small.is_float else constant
    return _cast(np.full(shape, constant), dtype), f"all {constant}"


def _both_ends(name: str, shape: tuple[int, ...], dtype: np.dtype, role: Role) -> tuple[np.ndarray, str]:
    known = formats.FORMATS.get(dtype.name)
    turned = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape) % 3 == 1
    if role.kind == "range" and _counts(dtype):
        ends = f"{role.span[0]:g} and {role.span[1]:g}: {role.why}"
        return np.where(turned, *role.span).astype(dtype), ends
    if role.kind in ("index", "length", "count") and _counts(dtype):
        high = max(role.high if role.high is not None else UNBOUNDED, role.low + 1) - 1
        return np.where(turned, role.low, high).astype(dtype), f"{role.low} and {high}: {role.why}"
    free = role.kind == "plain" and known is not None and (known.is_float or known.bits <= 16)
    if not free or known is None:
        return _constant(shape, dtype, role, None)
    least, largest = (x if known.is_float else int(x) for x in (known.min, known.max))
    return np.where(turned, least, largest).astype(dtype), f"{least:g} and {largest:g}"


def _counts(dtype: np.dtype) -> bool:
    """Whether whole numbers of a role can be of this type."""
    return dtype.kind in "iu" or is_float(dtype)


def _between(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype, least: float, most: float
) -> np.ndarray:
    """Uniform numbers of the type, whole ones where it has no others."""
    if is_float(dtype):
        return _cast(rng.uniform(least, most, shape), dtype)
    ends = np.iinfo(dtype)
    low, high = max(math.floor(least), int(ends.min)), min(math.ceil(most), int(ends.max))
    return rng.integers(low, high + 1, shape).astype(dtype)


def _mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Each row on up to a random place, some rows all on, the first column always: no softmax row is empty."""
    if not shape:
        return np.ones(shape, bool)
    length = shape[-1]
    kept = rng.integers(max(1, length // 2), length + 1, (*shape[:-1], 1))
    return np.arange(length) < kept


def _holes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of each row on, at random places; the first column is off where another is on, the last always on."""
    mask = rng.integers(0, 2, shape).astype(bool)
    if shape:
        mask[..., 0], mask[..., -1] = False, True
    return mask


def _cast(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.asarray(x, np.float32).astype(dtype) if dtype.itemsize < 4 else np.asarray(x).astype(dtype)


def _rng(seed: int, name: str) -> np.random.Generator:
    """Every input has its own stream, so that an input more or less leaves the others alone."""
    return np.random.default_rng([seed, *name.encode()])


def _typed(value: Value) -> tuple[str, tuple[int, ...], np.dtype]:
    shape, dtype = graph.shape(value), graph.dtype(value)
    if shape is None:
        raise PorterError(
            f"input '{value.name}'",
            expected="a static shape to draw values for",
            found=str(value.shape),
            hint="bind its dims: --dim NAME=N",
        )
    if dtype is None or dtype.kind in "OUS":
        raise PorterError(
            f"input '{value.name}'", expected="numbers", found=str(value.type), hint="give its values: --inputs X.npz"
        )
    return value.name or "", shape, dtype
