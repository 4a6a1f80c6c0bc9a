"""Kernels that go to XLA as StableHLO: their meaning, exported, in 32-bit integers, at the precision that is asked."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax import lax

from porter.tile.program import Cast, Dot, Program, types, walk
from porter.tile.target import CannotEmit
from porter.xla import hlo, narrow, products


def asked(program: Program) -> tuple[str, ...]:
    """The schemes by which a tile program asks its float32 products to be computed on a matrix unit of bf16 passes.

    Operands that the unit does not take are float32 in XLA's text (of narrow floats only two bfloat16 stay), and so is
    what the program multiplies element by element, where XLA says a product: all of them exactly, in six passes.
    """
    kinds = types(program)
    found = set()
    for s in walk(program.body):
        if isinstance(s, Dot):
            a, b = kinds[s.a].dtype, kinds[s.b].dtype
            if a == b == "float32":
                found.add({"fp32": "bf16x6"}.get(s.precision, s.precision))
            elif not a == b == "bfloat16":
                found.add("bf16x6")
    return tuple(sorted(found)) or ("bf16x6",)


def stablehlo(program: Program, meaning: Any, fp8: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """The text of a kernel's meaning, and the schemes of its float32 products. Raises CannotEmit for a scheme XLA
    lacks.

    fp8   8-bit floats that the unit multiplies faster than bfloat16; integers where the program multiplies them
    """
    kinds = types(program)
    for s in walk(program.body):
        if isinstance(s, Cast) and s.bits and (both := {s.type.dtype, kinds[s.arg].dtype}) & narrow.NARROW.keys():
            raise CannotEmit(
                f"bits read as {' and '.join(sorted(both))}: 64-bit integers are 32-bit ones in a TPU program"
            )
    wanted = asked(program)
    table = {scheme: word for word, scheme in products.SCHEME.items()}
    if unknown := [w for w in wanted if w not in table]:
        raise CannotEmit(f"XLA has no product of float32 as {', '.join(unknown)}")
    # Every product of a meaning is in float32; the strictest scheme that the program asks for serves them all.
    word = max((table[w] for w in wanted), key=["DEFAULT", "HIGH", "HIGHEST"].index, default="HIGHEST")
    with jax.enable_x64(narrow.is_double(meaning)):
        arguments = [
            jax.ShapeDtypeStruct(v.aval.shape, narrow.narrow_dtype(v.aval.dtype)) for v in meaning.jaxpr.invars
        ]
        slim = narrow.narrowed(meaning, lax.Precision[word], (*fp8, *_integers(program)))
        text = hlo.stablehlo(slim, arguments, "tpu", identifier(program.name))
    return text, realized(text)


def _integers(program: Program) -> set[str]:
    """The integers that a program multiplies as they lie."""
    kinds = types(program)
    pairs = [{kinds[s.a].dtype, kinds[s.b].dtype} for s in walk(program.body) if isinstance(s, Dot)]
    return {"int8"} if {"int8"} in pairs else set()


def realized(text: str) -> tuple[str, ...]:
    """The products that StableHLO text asks for: schemes of float32 ones, operand types of the others."""
    found = products.products(text)
    return tuple(sorted({scheme if kind == "f32" else _TYPES.get(kind, kind) for _, kind, scheme in found}))


_TYPES = {
    "bf16": "bfloat16", "i8": "int8", "ui8": "uint8", "i32": "int32", "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2",
}  # fmt: skip


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def run(text: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The text on XLA's CPU, its float32 products in the passes that a TPU makes of their precision."""
    with jax.enable_x64(doubles(text)):
        return hlo.run_text(text, inputs, passes=True)


def doubles(text: str) -> bool:
    """Whether a text computes in float64, which XLA for TPU does in pairs of float32."""
    return "f64" in hlo.element_types(text)


def wide(array: np.ndarray, dtype: str) -> np.ndarray:
    """A result in the type that the program declares."""
    return array if array.dtype == np.dtype(dtype) else array.astype(np.dtype(dtype))
