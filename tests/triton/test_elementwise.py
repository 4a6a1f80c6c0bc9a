"""Every elementwise operation of tiles, run as Triton, against float64; and all of them compiled at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from porter.tile.elementwise import COMPARISONS, ELEMENTWISE
from porter.tile.text import parse
from porter.triton.elementwise import library, library_names, literal
from porter.triton.emit import emit

pytest.importorskip("triton", reason="the gpu extra is not installed")
from porter.triton import harness

sys.path.insert(0, str(Path(__file__).parent))

BITS = {"and", "or", "xor", "not", "shl", "shr"}
# The arguments that a function is asked about, where not (-20, 20).
RANGES = {
    "exp": (-80, 80), "exp2": (-100, 100), "expm1": (-5, 5), "log": (1e-6, 1e6), "log1p": (-0.999, 50),
    "sqrt": (0, 1e6), "rsqrt": (1e-6, 1e6), "asin": (-1, 1), "acos": (-1, 1), "acosh": (1, 1e4),
    "atanh": (-0.999, 0.999), "tan": (-1.5, 1.5), "erf": (-5, 5), "sinh": (-80, 80), "cosh": (-80, 80),
    "tanh": (-12, 12),
}  # fmt: skip
# Units in the last place of float32, of the worst of 4096 arguments. Functions that Triton itself has are numpy's in
# the interpreter (exp within 3, sin and cos within 2); those of library.py combine a few such steps.
ULPS = {"exp": 3, "sin": 2, "cos": 2, "tan": 4, "sinh": 6, "cosh": 6, "asinh": 4, "acosh": 6, "atanh": 4, "expm1": 5,
        "log1p": 4, "asin": 4, "acos": 4, "atan": 3, "atan2": 4, "tanh": 3, "cbrt": 2, "pow": 3, "logistic": 4,
        "rsqrt": 2}  # fmt: skip


def program_of(op: str, dtype: str, n: int):
    arity = ELEMENTWISE[op][0]
    result = "bool" if op in COMPARISONS else dtype
    types = ["bool", dtype, dtype] if op == "select" else [dtype] * arity
    lines = [f"kernel {op}_k {{"]
    lines += [f"  in a{i}: {t}[{n}]" for i, t in enumerate(types)]
    lines += [f"  out y: {result}[{n}]", f"  axis i: {n} by 256 grid"]
    lines += [f"  t{i}: {t}<i> = load a{i}({n})[i]" for i, t in enumerate(types)]
    lines += [f"  r: {result}<i> = {op} {', '.join(f't{i}' for i in range(arity))}", f"  store y({n})[i] = r", "}"]
    return parse("\n".join(lines))


def run(program, inputs):
    source = emit(program)
    return harness.run(source.text, program.name, program.params, inputs, source.grid)[0]


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    wanted = exact.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert np.array_equal(got[~finite & ~np.isnan(wanted)], wanted[~finite & ~np.isnan(wanted)])
    spacing = np.spacing(np.maximum(np.abs(wanted[finite]), np.float32(2.0**-126))).astype(np.float64)
    return float(np.max(np.abs(got[finite].astype(np.float64) - exact[finite]) / spacing, initial=0))


@pytest.mark.parametrize("op", sorted(set(ELEMENTWISE) - BITS))
def test_float32(op: str) -> None:
    n = 4096
    rng = np.random.default_rng(0)
    low, high = RANGES.get(op, (-20, 20))
    inputs = [rng.uniform(low, high, n).astype(np.float32) for _ in range(ELEMENTWISE[op][0])]
    if low < 0 < high:
        inputs[0][::4] *= np.float32(1e-3)  # near zero relative accuracy is lost first
    if op == "select":
        inputs[0] = inputs[0] > 0
    if op == "pow":
        inputs[0] = np.abs(inputs[0])
        inputs[1] /= 2
    if op == "round":
        inputs[0][:64] = np.arange(-32, 32) + 0.5
    with np.errstate(all="ignore"):
        exact = ELEMENTWISE[op][1](*(x if x.dtype == bool else x.astype(np.float64) for x in inputs))
    got = run(program_of(op, "float32", n), inputs)
    if op in COMPARISONS:
        assert np.array_equal(got, exact)
    else:
        assert ulps(got, exact) <= ULPS.get(op, 1)


SPECIAL = np.float32([0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, np.inf, -np.inf, np.nan, 1e-40, 1e30, -1e30])
ENDS = ("tanh sinh cosh expm1 log1p asinh acosh atanh atan asin acos cbrt round sign logistic floor isfinite "
        "pow atan2 max min")  # fmt: skip
INTEGER = "add sub mul div rem max min neg abs sign eq ne lt le gt ge and or xor not shl shr pow select isfinite"


@pytest.mark.parametrize("op", ENDS.split())
def test_the_ends_of_float32(op: str) -> None:
    arity = ELEMENTWISE[op][0]
    grids = np.meshgrid(*[SPECIAL] * arity)
    inputs = [g.reshape(-1).copy() for g in grids]
    with np.errstate(all="ignore"):
        exact = np.asarray(ELEMENTWISE[op][1](*(x.astype(np.float64) for x in inputs)))
    if op == "atan2":  # the sign of a zero is not kept; on the axis a negative x may give either end of the cut
        keep = (inputs[0] != 0) | (inputs[1] > 0)
        both = np.isinf(inputs[0]) & np.isinf(inputs[1]) & (inputs[1] < 0)
        inputs, exact = [np.where(keep, x, np.float32(1)) for x in inputs], np.where(keep, exact, np.pi / 4)
        assert both.any()
    got = run(program_of(op, "float32", len(inputs[0])), inputs)
    if op in COMPARISONS:
        assert np.array_equal(got, exact)
    else:
        with np.errstate(over="ignore"):
            assert ulps(got, np.where(np.abs(exact) > 3.4028235e38, np.sign(exact) * np.inf, exact)) <= 8


@pytest.mark.parametrize("reach", [1, 20, 300])
def test_a_power_of_float64_is_right_to_an_ulp(reach: int) -> None:
    rng = np.random.default_rng(0)
    x, y = np.exp(rng.uniform(-3, 3, 4096)), rng.uniform(-reach, reach, 4096)
    exact = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    got = run(program_of("pow", "float64", len(x)), [x, y])
    held = (exact > 1e-300) & (exact < 1e300)
    assert held.mean() > 0.8
    assert np.max(np.abs(got - exact)[held] / np.spacing(exact[held].astype(np.float64))) < 0.8


def test_a_power_of_float64_that_is_an_integer_is_that_integer() -> None:
    """An integer to a float32 exponent is computed in float64 and cut off: 3 to the 6th must not be 728.99..."""
    pairs = [(b, e) for b in range(2, 200) for e in range(53) if b**e < 2**53]
    x, y = (np.array(v, np.float64) for v in zip(*pairs, strict=True))
    got = run(program_of("pow", "float64", len(x)), [x, y])
    assert got.tolist() == [float(b**e) for b, e in pairs]


def test_the_ends_of_a_power_of_float64() -> None:
    x, y = (v.ravel() for v in np.meshgrid(SPECIAL.astype(np.float64), SPECIAL.astype(np.float64)))
    with np.errstate(all="ignore"):
        wanted = np.power(x, y)
    got = run(program_of("pow", "float64", len(x)), [x, y])
    here = ~np.isnan(wanted)
    assert np.array_equal(np.signbit(got[here]), np.signbit(wanted[here]))
    assert np.allclose(got, wanted, rtol=2.0**-52, atol=0, equal_nan=True)


@pytest.mark.parametrize("x", [np.arange(-8, 8) / 2, np.array([2.0**52 + 1, -1e300, np.inf, -0.3])])
def test_float64_is_rounded_to_even(x: np.ndarray) -> None:
    assert np.array_equal(run(program_of("round", "float64", len(x)), [x]), np.rint(x))


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8", "bool"])
@pytest.mark.parametrize("op", INTEGER.split())
def test_integers(op: str, dtype: str) -> None:
    if dtype == "bool" and op not in ("eq", "ne", "and", "or", "xor", "not", "max", "min", "select"):
        pytest.skip("not an operation on booleans")
    if dtype.startswith("uint") and op in ("neg", "sign", "abs"):
        pytest.skip("the tile program has these for signed numbers")
    n = 300
    rng = np.random.default_rng(1)
    low = 0 if dtype.startswith("u") or dtype == "bool" else -11
    kind = np.dtype(dtype)
    inputs = [rng.integers(low, 2 if dtype == "bool" else 12, n).astype(kind) for _ in range(ELEMENTWISE[op][0])]
    if op in ("div", "rem"):
        inputs[1][inputs[1] == 0] = 3
    if op in ("shl", "shr"):
        inputs[1] = rng.integers(0, 6, n).astype(kind)
    if op == "pow":
        inputs[1] = rng.integers(0, 4, n).astype(kind)
    if op == "select":
        inputs[0] = rng.integers(0, 2, n).astype(bool)
    with np.errstate(all="ignore"):
        wanted = np.asarray(ELEMENTWISE[op][1](*inputs))
    assert np.array_equal(run(program_of(op, dtype, n), inputs), wanted.astype("bool" if op in COMPARISONS else kind))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_computed_in_float32_and_rounded_once(dtype: str) -> None:
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(512).astype(np.float32).astype(kind) for _ in range(2))
    wanted = (a.astype(np.float32) * b.astype(np.float32)).astype(kind)
    assert np.array_equal(run(program_of("mul", dtype, 512), [a, b]), wanted)
    got = run(program_of("tanh", dtype, 512), [a]).astype(np.float64)
    assert np.max(np.abs(got - np.tanh(a.astype(np.float64)))) <= 2.0**-8


@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16", "int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16", "int32", "int64", "uint8", "bool"])
def test_casts(source: str, target: str) -> None:
    import ml_dtypes

    def kind(name: str) -> np.dtype:
        return np.dtype(getattr(ml_dtypes, name, name))

    program = parse(f"""kernel cast_k {{
      in x: {source}[256]
      out y: {target}[256]
      axis i: 256 by 128 grid
      t: {source}<i> = load x(256)[i]
      c: {target}<i> = cast t
      store y(256)[i] = c
    }}""")
    x = (np.random.default_rng(3).standard_normal(256) * 40).astype(np.float32)
    x = np.abs(x) if "uint8" in (source, target) else x
    x = x.astype(kind(source)) if source != "bool" else x > 0
    wide = x.astype(np.float32) if x.dtype.kind == "V" else x
    assert np.array_equal(run(program, [x]), wide.astype(kind(target)))


def test_literals_keep_a_tile_its_dtype() -> None:
    assert literal(0.1, "float32") == "0.1"
    assert literal(0.7071067811865476, "float32") == "0.70710677"
    assert literal(1e-50, "float32") == "0.0"  # Triton reads 1e-50 as float64
    assert literal(1e-40, "float32") is None  # and this one too, though float32 has it
    assert literal(float("-inf"), "float32") == 'float("-inf")'
    assert literal(3, "float32") == "3.0" and literal(3.0, "int64") == "3" and literal(1, "bool") == "True"


def test_a_subnormal_constant_does_not_widen_the_tile() -> None:
    program = parse("""kernel small {
      in x: float32[8]
      out y: float32[8]
      axis i: 8 by 8 resident
      t: float32<i> = load x(8)[i]
      e: float32<> = full 1e-40
      s: float32<i> = add t, e
      store y(8)[i] = s
    }""")
    x = np.zeros(8, np.float32)
    assert np.array_equal(run(program, [x]), x + np.float32(1e-40))


def test_a_library_function_comes_with_what_it_calls() -> None:
    text = "\n".join(library({"asinh", "acos"}))
    assert text.index("def log1p") < text.index("def asinh") and "def asin_small" in text
    assert {"tanh", "pow", "larger"} <= library_names()


@pytest.mark.slow
def test_every_operation_compiles() -> None:
    from porter.triton.compile import Job, compile

    jobs = []
    for op in ELEMENTWISE:
        for dtype in ("float32", "int32", "bool"):
            exists = {"float32": op not in BITS, "int32": op in INTEGER.split(), "bool": op in BITS - {"shl", "shr"}}
            if not exists[dtype]:
                continue
            program = program_of(op, dtype, 4096)
            jobs.append(Job(program.name, emit(program).text))
    for job, result in zip(jobs, compile(jobs), strict=True):
        assert result.ok, f"{job.name}: {result.message}"
