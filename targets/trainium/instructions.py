"""What Trainium's engines can do to elements: every operator, where it is legal, and what it means.

An operator is spelled `nl.<name>` and handed to an instruction as its `op`. Arithmetic operators compute in float32
whatever the tiles hold; bitvec operators take integers and keep their bits. Activation functions exist on the Scalar
engine alone, are piecewise polynomials, and some are right only within a range: porter reduces the range before.

Source: aws-neuron/aws-neuron-sdk nki/api/nki.api.shared.rst (commit 81ce03ae), tables "Supported Math Operators by NKI
ISA" and "Supported Activation Functions by NKI ISA".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  (numpy learns the codes)
import numpy as np

from porter.tile.elementwise import ELEMENTWISE


@dataclass(frozen=True)
class Operator:
    """meaning: on numpy arrays (float32, or integers for bitvec). reduces: tensor_reduce takes it."""

    name: str
    meaning: Callable[..., np.ndarray]
    bitvec: bool = False
    reduces: bool = False


@dataclass(frozen=True)
class Activation:
    """A table function of the Scalar engine; inputs outside [low, high] give invalid results."""

    name: str
    meaning: Callable[[np.ndarray], np.ndarray]
    low: float = -math.inf
    high: float = math.inf


def _logical_right(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Zeros come in from the left: the engine has no arithmetic shift right."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}") if a.dtype.kind == "i" else a.dtype
    return np.right_shift(a.view(unsigned), np.asarray(b).astype(unsigned)).view(a.dtype)


def _truth(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *x: f(*x).astype(np.float32)


OPERATORS: dict[str, Operator] = {o.name: o for o in (
    Operator("bitwise_and", np.bitwise_and, bitvec=True, reduces=True),
    Operator("bitwise_or", np.bitwise_or, bitvec=True, reduces=True),
    Operator("bitwise_xor", np.bitwise_xor, bitvec=True, reduces=True),
    Operator("invert", lambda a, _=0: np.invert(a), bitvec=True),
    Operator("left_shift", np.left_shift, bitvec=True),
    Operator("right_shift", _logical_right, bitvec=True),
    Operator("add", np.add, reduces=True),
    Operator("subtract", np.subtract, reduces=True),
    Operator("multiply", np.multiply, reduces=True),
    Operator("maximum", np.maximum, reduces=True),
    Operator("minimum", np.minimum, reduces=True),
    Operator("rsqrt", lambda a, _=0: np.float32(1) / np.sqrt(a)),
    Operator("abs_max", lambda a, b: np.maximum(np.abs(a), np.abs(b))),
    Operator("power", lambda a, b: np.power(a, b)),
    Operator("equal", _truth(np.equal)),
    Operator("not_equal", _truth(np.not_equal)),
    Operator("less", _truth(np.less)),
    Operator("less_equal", _truth(np.less_equal)),
    Operator("greater", _truth(np.greater)),
    Operator("greater_equal", _truth(np.greater_equal)),
)}  # fmt: skip


def _of(op: str) -> Callable[[np.ndarray], np.ndarray]:
    return ELEMENTWISE[op][1]


ACTIVATIONS: dict[str, Activation] = {a.name: a for a in (
    Activation("copy", lambda x: x),
    Activation("square", np.square),
    Activation("abs", np.abs),
    Activation("sign", np.sign),
    Activation("relu", lambda x: np.maximum(x, np.float32(0))),
    Activation("exp", np.exp),
    Activation("tanh", np.tanh),
    Activation("erf", _of("erf")),
    Activation("sigmoid", _of("logistic")),
    Activation("log", np.log, 2.0**-64, 2.0**64),
    Activation("sin", np.sin, -math.pi, math.pi),
    Activation("arctan", np.arctan, -math.pi / 2, math.pi / 2),
)}  # fmt: skip


def _erf(x: np.ndarray) -> np.ndarray:
    return ELEMENTWISE["erf"][1](x)


# Table functions that a tile program spells in several steps; right everywhere, computed in float64 and rounded once.
COMPOSED: dict[str, Activation] = {a.name: a for a in (
    Activation("gelu", lambda x: x * 0.5 * (1 + _erf(x * math.sqrt(0.5)))),
    Activation("gelu_apprx_tanh", lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    Activation("silu", lambda x: x / (1 + np.exp(-x))),
    Activation("softplus", lambda x: np.logaddexp(x, 0)),
    Activation("mish", lambda x: x * np.tanh(np.logaddexp(x, 0))),
)}  # fmt: skip
ACTIVATIONS |= COMPOSED

# A tile program's operation: the ALU operator that is it, operand for operand (select, division and the rest are made
# of several: see expand.py).
ALU: dict[str, str] = {
    "add": "add", "sub": "subtract", "mul": "multiply", "max": "maximum", "min": "minimum", "pow": "power",
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "shl": "left_shift", "shr": "right_shift",
}  # fmt: skip
COMMUTES = frozenset({"add", "mul", "max", "min", "eq", "ne", "and", "or", "xor"})

# A tile program's operation that is one table function.
TABLE: dict[str, str] = {
    "exp": "exp", "tanh": "tanh", "erf": "erf", "logistic": "sigmoid", "abs": "abs", "sign": "sign", "log": "log",
    "sin": "sin", "atan": "arctan",
}  # fmt: skip

# A tile program's operation that is a function of nki.language, which returns a new tile.
LANGUAGE: dict[str, str] = {"floor": "floor", "ceil": "ceil"}

REDUCE: dict[str, str] = {
    "add": "add",
    "mul": "multiply",
    "max": "maximum",
    "min": "minimum",
    "and": "minimum",
    "or": "maximum",
}  # fmt: skip  of booleans: 0 and 1

# Engines that run a forced operator.
GPSIMD_ONLY = frozenset({"power"})

# numpy's names of the element types, spelled in nki.language. 64-bit integers become 32-bit ones, booleans a byte.
DTYPES: dict[str, str] = {
    "float32": "float32", "bfloat16": "bfloat16", "float16": "float16",
    "float8_e4m3": "float8_e4m3", "float8_e5m2": "float8_e5m2", "float8_e4m3fn": "float8_e4m3fn",
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "bool": "uint8", "int64": "int32", "uint64": "uint32",
}  # fmt: skip

# Number formats that NKI has no word for: a code lies in a byte, and porter.tile.codes spells out what it stands for.
CODES = frozenset(
    {"float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"}
)
DTYPES |= dict.fromkeys(sorted(CODES), "uint8")


def held(value: float | int | bool, dtype: str) -> float | int:
    """A constant as memory holds it: a code's byte, an integer within the range of the stored type."""
    if dtype in CODES:
        return int(np.asarray(value).astype(np.dtype(dtype)).view(np.uint8))
    kind = np.dtype(DTYPES[dtype])
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return int(min(max(int(value), info.min), info.max))
    return float(value)


# Products of 8-bit floats that double_row mode runs at twice the rate [nki.isa.nc_matmul].
DOUBLED = frozenset({"float8_e4m3", "float8_e4m3fn", "float8_e5m2"})

# Of nc_matmul_mx: partitions of a quadrant of SBUF, how many of them hold scales, how many of codes share one
# [nki.isa.nc_matmul_mx, nki/guides/architecture/trainium3_arch.rst].
QUADRANT, SCALES, GROUP = 32, 4, 8
