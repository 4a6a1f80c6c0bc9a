"""Operations one at a time: what no engine has is composed, and stays right to the ends of the range."""

from __future__ import annotations

import numpy as np
import pytest
from trainium_support import device, distance, lowered

from porter.targets.trainium import target
from porter.targets.trainium.expand import expand
from porter.tile.affine import Affine
from porter.tile.elementwise import COMPARISONS, ELEMENTWISE
from porter.tile.interpret import run
from porter.tile.program import Access, Axis, Cast, Elementwise, Index, Load, Param, Program, Store, Tile

EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-30, -1e-30, 1e30, 3e38, 2.0**-140]
rng = np.random.default_rng(0)
WIDE = np.concatenate([rng.standard_normal(107) * np.repeat([1e-6, 1e-2, 1, 5, 80], 22)[:107], EDGES]).astype(
    np.float32
)
X = WIDE.reshape(8, 15)
Y = rng.standard_normal((8, 15)).astype(np.float32)
INTEGERS = rng.integers(-(2**31), 2**31, (8, 15)).astype(np.int32)
SMALL = rng.integers(1, 30, (8, 15)).astype(np.int32) * rng.choice([-1, 1], (8, 15)).astype(np.int32)

# operation: (inputs, relative error allowed, in units of float32's 2**-24). Table functions are exact in the
# simulator, so
# what is left is the composition's own: a product rounds once, a reduced argument loses what k * 2 pi cancels.
FLOATS = {
    "exp2": ((np.clip(X, -100, 100),), 128), "expm1": ((np.clip(X, -80, 80),), 8), "log1p": ((np.abs(X),), 8),
    "log": ((np.abs(X),), 4), "sqrt": ((np.abs(X),), 2), "rsqrt": ((np.abs(X) + np.float32(1e-30),), 2),
    "cbrt": ((X,), 64), "sinh": ((np.clip(X, -85, 85),), 8), "cosh": ((np.clip(X, -85, 85),), 8), "asinh": ((X,), 8),
    "acosh": ((np.abs(X) + 1,), 8), "atanh": ((np.clip(X, -0.9, 0.9),), 16), "asin": ((np.clip(X, -1, 1),), 16),
    "acos": ((np.clip(X, -1, 0.9),), 16), "atan": ((X,), 8), "atan2": ((X, Y), 8), "round": ((X,), 0),
    "floor": ((X,), 0), "ceil": ((X,), 0), "div": ((Y, X[:, ::-1] + 2), 4), "rem": ((Y * 7, Y[::-1]), 0),
    "pow": ((np.clip(np.abs(X), 1e-5, 1e5), Y), 2), "neg": ((X,), 0), "abs": ((X,), 0), "sign": ((X,), 0),
}  # fmt: skip
PERIODIC = {"sin": 3e-7, "cos": 3e-7, "tan": 2e-5}  # absolute, for arguments up to 300: tan is steep
WHOLE = {
    "div": (INTEGERS, SMALL), "rem": (INTEGERS, SMALL),
    "shr": (INTEGERS, np.abs(SMALL) % 31), "shl": (SMALL, np.abs(SMALL) % 8),
    "add": (INTEGERS, SMALL), "mul": (SMALL, SMALL), "max": (INTEGERS, INTEGERS[::-1]),
    "abs": (SMALL,), "sign": (SMALL,),
    "and": (INTEGERS, SMALL), "or": (INTEGERS, SMALL), "xor": (INTEGERS, SMALL), "not": (INTEGERS,), "neg": (SMALL,),
}  # fmt: skip


def one(op: str, *inputs: np.ndarray, result: str | None = None) -> Program:
    """out = op(inputs), element by element."""
    shape = inputs[0].shape
    axes = (Axis("i", shape[0], shape[0], "resident"), Axis("j", shape[1], shape[1], "resident"))
    index = (Index(Affine.of("i")), Index(Affine.of("j")))
    dtype = result or inputs[0].dtype.name
    params = (*(Param(f"p{n}", shape, x.dtype.name) for n, x in enumerate(inputs)), Param("out0", shape, dtype, True))
    loads = [Load(f"x{n}", Tile(x.dtype.name, ("i", "j")), Access(f"p{n}", shape, index)) for n, x in enumerate(inputs)]
    names = tuple(s.name for s in loads)
    t = Tile(dtype, ("i", "j"))
    value = Cast("y", t, "x0") if op == "cast" else Elementwise("y", t, op, names)
    return Program(f"{op}_kernel", params, axes, (*loads, value, Store(Access("out0", shape, index), "y")))


def both(op: str, *inputs: np.ndarray, result: str | None = None, on: str = "trn2") -> tuple[np.ndarray, np.ndarray]:
    """What the text computes, and what the tile program computes."""
    p = one(op, *inputs, result=result)
    return target.execute(lowered(p, on), inputs, device(on))[0], run(p, inputs)[0]


@pytest.mark.parametrize("op", FLOATS)
def test_a_float_operation_is_right_to_the_ends_of_its_range(op: str) -> None:
    inputs, units = FLOATS[op]
    got, wanted = both(op, *(x.astype(np.float32) for x in inputs))
    finite = np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite], equal_nan=True)
    apart = np.abs(got[finite].astype(np.float64) - wanted[finite])
    assert (apart <= units * 2.0**-24 * np.abs(wanted[finite].astype(np.float64)) + 2.0**-149).all()


KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_an_integer_keeps_its_lowest_bits_in_another_type(old: str, new: str) -> None:
    info = np.iinfo(old)
    x = np.concatenate([rng.integers(info.min, info.max, 116, dtype=old, endpoint=True),
                        np.array([info.min, info.max, 0, 1], old)]).reshape(8, 15)  # fmt: skip
    got, wanted = both("cast", x, result=new)
    assert np.array_equal(wanted, x.astype(new))
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "neg"])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_wrap_around(op: str, kind: str) -> None:
    info = np.iinfo(kind)
    x, y = (rng.integers(info.min, info.max, (8, 15), dtype=kind, endpoint=True) for _ in range(2))
    got, wanted = both(op, *((x,) if op == "neg" else (x, y)))
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("op", ["abs", "sign", "max", "min", "div", "rem", "shr", *sorted(COMPARISONS - {"isfinite"})])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_exact_to_the_ends_of_their_range(kind: str, op: str) -> None:
    info = np.iinfo(kind)
    x = np.concatenate([rng.integers(info.min, info.max, 90, kind, endpoint=True),
                        np.array([info.min, info.max, 0, 1, 7, 100] * 5, kind)]).reshape(8, 15)  # fmt: skip
    y = np.concatenate([rng.integers(info.min, info.max, 60, kind, endpoint=True), rng.integers(1, 9, 30, kind),
                        np.array([info.min, info.max, 3, 1, 2, 100] * 5, kind)]).reshape(8, 15)  # fmt: skip
    y = np.where((y == 0) | ((y == -1) & (x == info.min)), np.ones_like(y), y)
    y = y % np.asarray(info.bits, kind) if op == "shr" else y
    got, wanted = both(op, *((x,) if op in ("abs", "sign") else (x, y)), result="bool" if op in COMPARISONS else None)
    assert np.array_equal(got, wanted)
    if op in ("div", "rem"):
        whole = np.trunc(x.astype(np.longdouble) / y.astype(np.longdouble)).astype(np.int64)
        assert np.array_equal(wanted, whole if op == "div" else x.astype(np.int64) - whole * y)


@pytest.mark.parametrize("op", PERIODIC)
def test_a_periodic_function_reduces_its_argument_first(op: str) -> None:
    x = np.clip(X, -300, 300)
    got, wanted = both(op, x)
    steep = np.maximum(1, wanted.astype(np.float64) ** 2) if op == "tan" else 1.0
    assert (np.abs(got - wanted.astype(np.float64)) <= PERIODIC[op] * steep).all()


@pytest.mark.parametrize("op", WHOLE)
def test_integers_are_exact(op: str) -> None:
    got, wanted = both(op, *WHOLE[op])
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("op", sorted(COMPARISONS - {"isfinite"}))
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_comparisons_are_exact(op: str, kind: str) -> None:
    pair = (X, np.where(Y > 0, X, Y)) if kind == "float32" else (INTEGERS, np.where(Y > 0, INTEGERS, INTEGERS - 1))
    got, wanted = both(op, *pair, result="bool")
    assert got.dtype == bool and np.array_equal(got, wanted)


def test_what_is_finite() -> None:
    got, wanted = both(
        "isfinite", np.where(Y > 1, np.inf, np.where(Y < -1, np.nan, X)).astype(np.float32), result="bool"
    )
    assert np.array_equal(got, wanted)


def test_select_takes_from_either_side() -> None:
    condition = rng.integers(0, 2, X.shape).astype(bool)
    got, wanted = both("select", condition, X, Y, result="float32")
    assert np.array_equal(got, wanted)


CASTS = """float32>bfloat16 bfloat16>float32 float32>int32 int32>float32 bool>float32 float32>bool int64>int32
    int32>bool float32>float16 int8>float32 uint8>int32""".split()


@pytest.mark.parametrize("pair", CASTS)
def test_casts(pair: str) -> None:
    old, new = pair.split(">")
    x = (Y * 60).astype(np.dtype(old))
    got, wanted = both("cast", x, result=new)
    assert got.dtype == wanted.dtype
    assert np.array_equal(got.astype(np.float64), wanted.astype(np.float64))


def test_every_elementwise_operation_of_tile_programs_is_tried() -> None:
    here = {*FLOATS, *PERIODIC, *WHOLE, *COMPARISONS, "select", "exp", "tanh", "erf", "logistic", "sub", "min"}
    assert here == set(ELEMENTWISE)


@pytest.mark.parametrize("op", ["exp", "tanh", "erf", "logistic", "sub", "min"])
def test_what_an_engine_has_is_one_instruction(op: str) -> None:
    inputs = (np.clip(X, -80, 80), Y)[: ELEMENTWISE[op][0]]
    got, wanted = both(op, *inputs)
    assert np.array_equal(got, wanted)
    text = lowered(one(op, *inputs)).text
    assert sum(text.count(f"nisa.{i}(") for i in ("activation", "tensor_tensor", "tensor_scalar")) == 1


@pytest.mark.parametrize("op", ["log", "sin", "asinh", "expm1", "round"])
def test_the_expanded_program_is_still_a_tile_program(op: str) -> None:
    x = np.clip(np.abs(X), 1e-6, 300).astype(np.float32)
    p = one(op, x)
    assert distance(run(expand(p), [x]), run(p, [x])) < 2.0**-18


@pytest.mark.parametrize("on", ["trn1", "trn3"])
def test_other_generations_agree(on: str) -> None:
    got, wanted = both("log1p", np.abs(X), on=on)
    assert distance([got], [wanted]) < 2.0**-18
