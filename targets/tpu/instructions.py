"""What Mosaic has: how each elementwise operation, reduction and matrix product of a tile is spelled in a Pallas
kernel.

What stands here was compiled by libtpu 0.0.51 for v5e, v6e and v7x; tests/targets/tpu compiles each spelling again.
What is missing (expm1, the inverse and hyperbolic functions, cbrt, products of integers wider than 8 bits, float16,
reductions by mul, Precision.HIGH) has no lowering there, and a kernel that needs it goes to XLA as StableHLO.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from porter.tile.target import CannotEmit

# {0}, {1}, {2} are the arguments.
SPELLING: dict[str, str] = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "rem": "jnp.fmod({0}, {1})",
    "max": "jnp.maximum({0}, {1})", "min": "jnp.minimum({0}, {1})", "pow": "jnp.power({0}, {1})",
    "atan2": "jnp.arctan2({0}, {1})", "neg": "-{0}", "abs": "jnp.abs({0})",
    "floor": "jnp.floor({0})", "ceil": "jnp.ceil({0})", "round": "lax.round({0}, lax.RoundingMethod.TO_NEAREST_EVEN)",
    "exp": "jnp.exp({0})", "exp2": "jnp.exp2({0})", "log": "jnp.log({0})", "log1p": "jnp.log1p({0})",
    "sqrt": "jnp.sqrt({0})", "rsqrt": "lax.rsqrt({0})", "sin": "jnp.sin({0})", "cos": "jnp.cos({0})",
    "tan": "jnp.tan({0})", "tanh": "jnp.tanh({0})", "erf": "lax.erf({0})", "logistic": "lax.logistic({0})",
    "isfinite": "jnp.isfinite({0})",
    "sign": "jnp.where({0} > 0, 1.0, jnp.where({0} < 0, -1.0, {0}))",  # jnp.sign asks for the device, which AOT lacks
    "eq": "{0} == {1}", "ne": "{0} != {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}",
    "shl": "jnp.left_shift({0}, {1})", "shr": "jnp.right_shift({0}, {1})",
    "select": "jnp.where({0}, {1}, {2})",
}  # fmt: skip

FOR_INTEGERS = {
    "div": "lax.div(*jnp.broadcast_arrays({0}, {1}))",
    "sign": "jnp.where({0} > 0, 1, jnp.where({0} < 0, -1, 0))",
}
SELECT_OF_PREDICATES = "({0} & {1}) | (~{0} & {2})"  # Mosaic has no layout for a select of bools

REDUCTION = {"add": "jnp.sum", "max": "jnp.max", "min": "jnp.min"}
PREDICATE_REDUCTION = {"or": "jnp.any", "max": "jnp.any", "and": "jnp.all", "min": "jnp.all"}

# Of float32 operands. HIGHEST is six bf16 passes on every matrix unit that has no fp32.
PRECISION = {"fp32": "HIGHEST", "bf16x6": "HIGHEST", "bf16": "DEFAULT"}
PRODUCT = {"HIGHEST": "bf16x6", "HIGH": "bf16x3", "DEFAULT": "bf16"}

# Types in a Pallas kernel. 64-bit integers become 32-bit ones (device indices are int32, checked at the border).
NARROW = {"int64": "int32", "uint64": "uint32"}
HELD = tuple("float32 bfloat16 int32 uint32 int16 int8 uint8 int4 bool float8_e4m3fn float8_e5m2".split())

TRANSCENDENTAL = frozenset(
    "exp exp2 log log1p sqrt rsqrt sin cos tan tanh erf logistic pow atan2 div".split()
)  # counted apart by pl.CostEstimate


def held(dtype: str) -> str:
    """The dtype as the kernel holds it. Raises CannotEmit for one that Mosaic has no vectors of."""
    dtype = NARROW.get(dtype, dtype)
    if dtype not in HELD:
        raise CannotEmit(f"Mosaic has no vectors of {dtype}")
    return dtype


def is_float(dtype: str) -> bool:
    return dtype == "float32" or "float" in dtype


def is_narrow_float(dtype: str) -> bool:
    return is_float(dtype) and dtype != "float32"


def elementwise(op: str, dtype: str, result: str) -> str:
    """The spelling of an operation on operands of this dtype."""
    if op == "select" and result == "bool":
        return SELECT_OF_PREDICATES
    if not is_float(dtype) and op in FOR_INTEGERS:
        return FOR_INTEGERS[op]
    if op not in SPELLING:
        raise CannotEmit(f"Mosaic has no {op}")
    return SPELLING[op]


def reduction(op: str, dtype: str) -> str:
    """The spelling of a reduction of this dtype."""
    table = PREDICATE_REDUCTION if dtype == "bool" else REDUCTION
    if op not in table:
        raise CannotEmit(f"Mosaic has no reduction by {op} of {dtype}")
    return table[op]


def literal(value: float | int | bool, dtype: str) -> str:
    """A number as Python, equal after rounding to the dtype; the ends of a 64-bit range are those of the 32 bits that hold it.

    Raises CannotEmit for another integer that these cannot hold."""
    if dtype == "bool":
        return str(bool(value))
    if not is_float(dtype):
        number, info = int(value), ml_dtypes.iinfo(dtype)
        if info.min <= number <= info.max:
            return str(number)
        wide = [np.iinfo(w) for w, narrow in NARROW.items() if narrow == dtype]
        if any(number == w.max for w in wide):
            return str(info.max)
        if any(number == w.min for w in wide):
            return str(info.min)
        raise CannotEmit(f"a TPU program holds integers in 32 bits, and {number} has more")
    x = float(value)
    if np.isnan(x):
        return "jnp.nan"
    if np.isinf(x):
        return "jnp.inf" if x > 0 else "-jnp.inf"
    return repr(x)
