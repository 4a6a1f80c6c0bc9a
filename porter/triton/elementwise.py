"""How Triton spells each elementwise operation, and which functions of library.py that takes."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np

from porter.tile.target import CannotEmit

# numpy's dtype name: (Triton's word, its word in a kernel's signature). A bool lies in memory as a byte of 0 or 1.
TYPES: dict[str, tuple[str, str]] = {
    "bool": ("tl.int1", "i8"),
    "int8": ("tl.int8", "i8"), "int16": ("tl.int16", "i16"), "int32": ("tl.int32", "i32"), "int64": ("tl.int64", "i64"),
    "uint8": ("tl.uint8", "u8"), "uint16": ("tl.uint16", "u16"), "uint32": ("tl.uint32", "u32"),
    "uint64": ("tl.uint64", "u64"),
    "float16": ("tl.float16", "fp16"), "bfloat16": ("tl.bfloat16", "bf16"),
    "float32": ("tl.float32", "fp32"), "float64": ("tl.float64", "fp64"),
    "float8_e4m3fn": ("tl.float8e4nv", "fp8e4nv"), "float8_e5m2": ("tl.float8e5", "fp8e5"),
}  # fmt: skip
# Codes that Triton has no type for lie in bytes; porter.tile.codes spells out what they mean.
CODES = frozenset(
    {"float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"}
)
SATURATING = frozenset({"float8_e4m3fn", "float8_e5m2"})  # cvt.rn.satfinite
TYPES |= dict.fromkeys(CODES, TYPES["uint8"])
NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")

_BINARY = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
           "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>"}  # fmt: skip
_BUILTIN = {"exp": "tl.exp", "exp2": "tl.exp2", "log": "tl.log", "rsqrt": "tl.rsqrt", "sin": "tl.sin", "cos": "tl.cos",
            "erf": "tl.erf", "floor": "tl.floor", "ceil": "tl.ceil"}  # fmt: skip
_LIBRARY = {"expm1", "log1p", "tanh", "sinh", "cosh", "asinh", "acosh", "atanh", "tan", "asin", "acos", "atan", "atan2",
            "cbrt"}  # fmt: skip
_FOLDS = {"add": "add", "mul": "multiply", "max": "larger", "min": "smaller", "and": "bitwise_and", "or": "bitwise_or"}


def kind(dtype: str) -> str:
    """'bool', 'integer', 'unsigned' or 'float'."""
    if dtype == "bool":
        return "bool"
    if dtype in CODES:
        return "unsigned"
    letter = np.dtype(_ml(dtype)).kind
    return {"i": "integer", "u": "unsigned"}.get(letter, "float")


def _ml(dtype: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def word(dtype: str) -> str:
    """Triton's word for a dtype. Raises CannotEmit for a type it lacks."""
    if dtype not in TYPES:
        raise CannotEmit(f"Triton has no type {dtype}")
    return TYPES[dtype][0]


def literal(value: float | int | bool, dtype: str) -> str | None:
    """The value as a literal that Triton reads as this dtype beside a tile of it; None where that widens the tile."""
    if dtype in CODES:
        return str(int(np.asarray(value).astype(_ml(dtype)).view(np.uint8)))
    if kind(dtype) == "bool":
        return str(bool(value))
    if kind(dtype) != "float":
        return str(int(value))
    x = float(value)
    if dtype != "float64":
        x = float(str(np.float32(x)))  # the shortest decimal that is this float32
        if x != 0 and abs(x) < 2.0**-126:
            return None  # Triton reads a subnormal literal as float64
    if np.isfinite(x):
        return repr(x)
    return 'float("nan")' if np.isnan(x) else f'float("{"-" if x < 0 else ""}inf")'


def fold(op: str) -> str:
    """The function of library.py that combines two partial results of a reduction."""
    return _FOLDS[op]


def expression(op: str, args: list[str], dtype: str) -> tuple[str, str | None]:
    """The expression for an operation on arguments of this dtype (select: of its branches), and a library function.

    Arguments are names, slices of names or literals; at least one is a tile. Narrow floats must have been widened.
    """
    what = kind(dtype)
    a, b = (*args, "")[:2]
    if op == "select":
        return f"tl.where({', '.join(args)})", None
    if op in _BINARY:
        return f"{a} {_BINARY[op]} {b}", None
    match op, what:
        case "not", "bool":
            return f"{a} == 0", None
        case "not", _:
            return f"~{a}", None
        case "max" | "min", "bool":
            return f"{a} {'|' if op == 'max' else '&'} {b}", None
        case "max" | "min", "float":
            return f"tl.{op}imum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)", None
        case "max" | "min", _:
            return f"tl.{op}imum({a}, {b})", None
        case "neg", "unsigned":
            return f"0 - {a}", None
        case "neg", _:
            return f"-{a}", None
        case "abs", "unsigned":
            return a, None
        case "abs", _:
            return f"tl.abs({a})", None
        case "div", "float":
            return f"{a} / {b}", None
        case "div", _:
            return f"{a} // {b}", None
        case "rem", _:
            return f"{a} % {b}", None
        case "pow", "integer" | "unsigned":
            return f"integer_pow({a}, {b})", "integer_pow"
        case "sign", "float":
            return f"tl.where({a} > 0, 1.0, tl.where({a} < 0, -1.0, {a}))", None
        case "sign", "unsigned":
            return f"({a} > 0).to({word(dtype)})", None
        case "sign", "integer":
            return f"({a} > 0).to({word(dtype)}) - ({a} < 0).to({word(dtype)})", None
        case "isfinite", "float":
            return f'tl.abs({a}) < float("inf")', None
        case "isfinite", _:
            return f"{a} == {a}", None
        case "floor" | "ceil" | "round", "integer" | "unsigned":
            return a, None
        case "logistic", "float":
            return f"1.0 / (1.0 + tl.exp(-{a}))", None
        case "sqrt", "float":
            return (f"tl.sqrt_rn({a})" if dtype == "float32" else f"tl.sqrt({a})"), None
        case _, "float" if op in _BUILTIN:
            return f"{_BUILTIN[op]}({a})", None
    if dtype == "float32":
        function = {"round": "nearest", "pow": "pow"}.get(op, op if op in _LIBRARY else None)
        if function:
            return f"{function}({', '.join(args)})", function
    elif dtype == "float64":
        if function := {"round": "nearest", "pow": "pow_float64"}.get(op):
            return f"{function}({', '.join(args)})", function
        if op in _LIBRARY:
            raise CannotEmit(f"Triton has no {op} of float64, and porter's is of float32")
    raise CannotEmit(f"Triton has no {op} of {dtype}")


@cache
def _library() -> dict[str, tuple[str, tuple[str, ...]]]:
    """name: (source text, names of library functions that it calls). Read as text: triton need not be there."""
    text = (Path(__file__).parent / "library.py").read_text()
    functions = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
    lines = text.splitlines()
    found = {}
    for name, f in functions.items():
        first = f.decorator_list[0].lineno
        calls = {n.func.id for n in ast.walk(f) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        found[name] = "\n".join(lines[first - 1 : f.end_lineno]), tuple(sorted(calls & functions.keys()))
    return found


def library(names: set[str]) -> list[str]:
    """The source of these functions and of those they call, callees first."""
    table, order = _library(), []

    def visit(name: str) -> None:
        if name not in order:
            for callee in table[name][1]:
                visit(callee)
            order.append(name)

    for name in sorted(names):
        visit(name)
    return [table[name][0] for name in order]


def library_names() -> frozenset[str]:
    """Every name that library.py defines: a kernel's own names stay clear of them."""
    return frozenset(_library())
